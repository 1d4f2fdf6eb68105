"""Workers on the nodes of the job that this process is in: one step of it each, nothing is submitted."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Scheduler, Security, SpecCluster
from distributed.core import Status
from distributed.deploy.cluster import Cluster
from distributed.deploy.spec import ProcessInterface

from glacierhpc.errors import InputError
from glacierhpc.hpc.cluster.jobqueue import scheduler_options, shared_folder
from glacierhpc.hpc.cluster.script import step_script
from glacierhpc.hpc.cluster.serving import serving
from glacierhpc.hpc.cluster.tls import Credentials
from glacierhpc.hpc.cluster.wish import Worker, WorkerJobs, mebibytes
from glacierhpc.hpc.slurm.client import outside
from glacierhpc.hpc.slurm.states import JobState

PATIENCE_S = 120
"""How long a step waits for cores of the job that others use, before it counts as a bad start."""
END_S = 20.0
"""How long a step may take to end."""


@contextmanager
def allocation(workers: int, cores: int, memory_gb: float | None, jobs: WorkerJobs) -> Iterator[Executor]:
    """Start workers by ``srun`` within this job, replace those that vanish, end all at the end."""
    job = _this_job(os.environ)
    worker, folder = Worker(cores, mebibytes(memory_gb, jobs.cpus), jobs), shared_folder(jobs)
    (folder / "logs").mkdir(parents=True, exist_ok=True)

    def make(known: Credentials | None) -> Any:
        protocol, security = ("tls://", known.security) if known else ("tcp://", None)
        options = {**scheduler_options(jobs), "protocol": protocol, "security": security}
        steps = {"worker": worker, "folder": folder, "job": job, "security": security}
        return Steps(
            scheduler={"cls": Scheduler, "options": options}, worker={"cls": Step, "options": steps},
            security=security, name="glacierhpc", silence_logs="critical",
        )  # fmt: skip

    with serving(make, workers, jobs, folder, ask=_ask) as executor:
        yield executor


def _this_job(environ: Mapping[str, str]) -> str:
    job = environ.get("SLURM_JOB_ID")
    if not job:
        raise InputError(
            "cluster.kind='allocation' starts workers within a job of Slurm, and this process is in none; submit it, "
            "or write cluster.kind=jobqueue (each worker is a job) or local"
        )
    if not shutil.which("srun"):
        raise InputError(
            "cluster.kind='allocation' starts workers with srun, which is not here; in an image it is not: run "
            "glacierhpc itself outside of it and name the image by cluster.image, or write cluster.kind=local"
        )
    return job


def srun_command(worker: Worker, job: str, *, inside_step: bool) -> list[str]:
    """Return the command that starts one worker as a step, without the script it runs.

    Parameters
    ----------
    inside_step : bool
        Whether this process is itself in a step, which holds cores that the workers are to share.
    """
    memory = [] if worker.jobs.site.memory == "none" else [f"--mem={worker.memory_mib}M"]
    return [
        "srun", f"--jobid={job}", "--nodes=1", "--ntasks=1", f"--cpus-per-task={worker.jobs.cpus}", *memory,
        "--overlap" if inside_step else "--exact", "--mpi=none", f"--immediate={PATIENCE_S}", "--export=ALL",
        "--job-name=glacierhpc-worker", *worker.jobs.site.srun,
    ]  # fmt: skip


class Step(ProcessInterface):
    """A worker as a step of this job."""

    def __init__(
        self,
        scheduler: str,
        name: str,
        *,
        worker: Worker,
        folder: Path,
        job: str,
        security: Security | None,
    ) -> None:
        """Take the address of the scheduler and the name that the worker has there."""
        super().__init__()
        self.name, self.job_id = name, f"{job}-{name}"
        folders = [str(folder), os.getcwd()]
        text = step_script(worker, scheduler, name, security, folders)
        inside = "SLURM_STEP_ID" in os.environ
        self._command = [*srun_command(worker, job, inside_step=inside), "bash", "-c", text]
        self._log = folder / "logs" / f"worker-{self.job_id}.log"
        self._environ = {**outside(os.environ), "SLURM_JOB_ID": job}
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start the step."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environ,
                start_new_session=True,  # Ctrl-C is for this process, which ends its workers in order
            )  # fmt: skip
        await super().start()

    async def close(self) -> None:
        """End the step, and wait for that."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                await asyncio.to_thread(self.process.wait, END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                await asyncio.to_thread(self.process.wait)
        self.status = Status.closed

    @property
    def state(self) -> JobState:
        """What became of it."""
        code = None if self.process is None else self.process.poll()
        if code is None:
            return JobState("running", "RUNNING", source="srun")
        return JobState("failed" if code else "done", "ended", abs(code), source="srun")


class Steps(SpecCluster):
    """A scheduler in this process and workers that are steps; lost ones are left to the watch."""

    def _update_worker_status(self, op: str, msg: Any) -> None:
        Cluster._update_worker_status(self, op, msg)


def _ask(workers: Sequence[Step]) -> dict[str, JobState]:
    return {worker.name: worker.state for worker in workers}
