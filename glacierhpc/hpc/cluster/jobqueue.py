"""Workers that are jobs of a batch system, each submitted by itself."""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dask_jobqueue.lsf import lsf_detect_units
from distributed import Security

from glacierhpc.errors import InputError, unknown_name
from glacierhpc.hpc import quoting
from glacierhpc.hpc.cluster.queues import QUEUES
from glacierhpc.hpc.cluster.script import WORKER, arguments, prologue, python_words, slurm_directives
from glacierhpc.hpc.cluster.serving import serving
from glacierhpc.hpc.cluster.tls import PREFIX, Credentials
from glacierhpc.hpc.cluster.wish import DEATH_TIMEOUT_S, Worker, WorkerJobs, mebibytes
from glacierhpc.hpc.slurm.client import call
from glacierhpc.hpc.slurm.states import UNKNOWN, VERDICTS, JobState, job_states

NAME = "glacierhpc-worker"
PLAIN_WORD = re.compile(r"[\w.@:+/=,-]+")
UNITS = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}


@contextmanager
def jobqueue(workers: int, cores: int, memory_gb: float | None, jobs: WorkerJobs) -> Iterator[Executor]:
    """Submit workers as jobs, replace those that vanish, cancel all at the end."""
    worker, folder = _worker(cores, memory_gb, jobs), shared_folder(jobs)
    _check_program(jobs.scheduler)
    (folder / "logs").mkdir(parents=True, exist_ok=True)

    def make(known: Credentials | None) -> Any:
        cluster = QUEUES[jobs.scheduler](
            security=known.security if known else None,
            protocol="tls://" if known else "tcp://",
            scheduler_options=scheduler_options(jobs),
            silence_logs="critical",
            **_keywords(worker, folder, str(folder / "logs")),
        )
        cluster.watched = True
        return cluster

    ask = _ask_slurm if jobs.scheduler == "slurm" else _ask_nobody
    with serving(make, workers, jobs, folder, ask=ask) as executor:
        yield executor


def script(cores: int, memory_gb: float | None, jobs: WorkerJobs) -> str:
    """Return the job script of a worker; see `worker_script`."""
    worker, folder = _worker(cores, memory_gb, jobs), shared_folder(jobs)
    keys = folder / f"{PREFIX}<token>"
    security = Security(
        tls_ca_file=str(keys / "ca.pem"),
        tls_worker_cert=str(keys / "worker.pem"),
        tls_worker_key=str(keys / "worker.key"),
    )
    keywords = _keywords(worker, folder, str(folder / "logs"))
    with tempfile.TemporaryDirectory(prefix="glacierhpc-") as logs:
        if "log_directory" in keywords:  # the original makes this folder
            keywords["log_directory"] = logs
        job = QUEUES[jobs.scheduler].job_cls(
            "tcp://<scheduler>" if jobs.insecure else "tls://<scheduler>",
            name="worker",
            config_name=jobs.scheduler,
            protocol="tcp://" if jobs.insecure else "tls://",
            security=None if jobs.insecure else security,
            **keywords,
        )
        return job.job_script().replace(logs, str(folder / "logs"))


def shared_folder(jobs: WorkerJobs) -> Path:
    """Return the folder for certificates and logs, which all nodes must see."""
    return (jobs.folder or Path(".glacierhpc")).absolute()


def scheduler_options(jobs: WorkerJobs) -> dict[str, Any]:
    """Return where the scheduler listens: on the network between the nodes; its page on this machine only."""
    interface = {"interface": jobs.site.interface} if jobs.site.interface else {}
    return {"dashboard_address": "127.0.0.1:0", **interface}


def _worker(cores: int, memory_gb: float | None, jobs: WorkerJobs) -> Worker:
    if jobs.scheduler not in QUEUES:
        raise unknown_name("cluster.scheduler", jobs.scheduler, QUEUES)
    return Worker(cores, mebibytes(memory_gb, jobs.cpus), jobs)


def _check_program(scheduler: str) -> None:
    program = QUEUES[scheduler].job_cls.submit_command.split()[0]
    if not shutil.which(program):
        raise InputError(
            f"cluster.kind='jobqueue' submits workers to {scheduler} with {program}, which is not here; give the "
            "command on a node where it is, not in an image that lacks it, or write cluster.kind=local"
        )


def _keywords(worker: Worker, folder: Path, logs: str) -> dict[str, Any]:
    """Return what dask-jobqueue's class of a batch system takes for such a worker."""
    jobs = worker.jobs
    return {
        "cores": worker.cores,
        "memory": f"{worker.memory_mib}MiB",
        "processes": 1,
        "nanny": True,
        "interface": jobs.site.interface,
        "death_timeout": DEATH_TIMEOUT_S,
        "local_directory": "$TMPDIR",
        "worker_command": WORKER,
        "worker_extra_args": arguments(worker),
        "python": python_words(worker, [str(folder), os.getcwd()]),
        "job_script_prologue": prologue(worker, shell="sh" if jobs.scheduler == "htcondor" else "bash"),
        "job_name": NAME,
        "job_extra_directives": [],
        "job_directives_skip": [],
        "shebang": "#!/usr/bin/env bash",
        **HEADERS[jobs.scheduler](worker, logs),
    }


def _slurm(worker: Worker, logs: str) -> dict[str, Any]:
    asked = slurm_directives(worker, NAME, f"{quoting.file_pattern(logs)}/worker-%j.log")
    return {"header": [quoting.directive(option, value) for option, value in asked.items()]}


def _common(worker: Worker, logs: str, account: str) -> dict[str, Any]:
    jobs = worker.jobs
    hours, minutes, _ = quoting.walltime(jobs.hours).split(":")
    asked = {
        account: jobs.site.account,
        "queue": jobs.site.use.get(jobs.kind),
        "walltime": f"{hours}:{minutes}" if jobs.scheduler == "lsf" else f"{hours}:{minutes}:00",
        "log_directory": logs,
    }
    for what, value in asked.items():
        if value is not None and not PLAIN_WORD.fullmatch(value):
            raise InputError(
                f"{what} {value!r} cannot stand in a job script of {jobs.scheduler}, which knows no quotes; write "
                "letters, digits and . @ : + / = , - _"
            )
    return asked


def _further(worker: Worker, *without: str) -> list[str]:
    return [f"-{key} {value}" for key, value in worker.jobs.options.items() if key not in without]


def _pbs(worker: Worker, logs: str) -> dict[str, Any]:
    memory = "" if worker.jobs.site.memory == "none" else f":mem={worker.memory_mib}mb"
    return {
        **_common(worker, logs, "account"),
        "resource_spec": f"select=1:ncpus={worker.jobs.cpus}{memory}",
        "job_extra_directives": [*_further(worker), "-r n"],
    }


def _lsf(worker: Worker, logs: str) -> dict[str, Any]:
    unit = lsf_detect_units()[:1]
    number = math.ceil(worker.memory_mib / 1024 ** (UNITS[unit] - 2))
    return {
        **_common(worker, logs, "project"),
        "ncpus": worker.jobs.cpus,
        # the original counts in thousands, LSF in 1024
        "mem": number * 1000 ** UNITS[unit],
        "lsf_units": f"{unit}b",
        "job_directives_skip": ["#BSUB -M "] if worker.jobs.site.memory == "none" else [],
        "job_extra_directives": _further(worker),
        "use_stdin": True,
    }


def _sge(worker: Worker, logs: str) -> dict[str, Any]:
    cpus, options = worker.jobs.cpus, worker.jobs.options
    slots = [f"-pe {options.get('pe', f'smp {cpus}')}"] if cpus > 1 or "pe" in options else []
    memory = None if worker.jobs.site.memory == "none" else f"h_vmem={math.ceil(worker.memory_mib / cpus)}M"
    return {
        **_common(worker, logs, "project"),
        "resource_spec": memory,
        "job_extra_directives": [*slots, *_further(worker, "pe"), "-r n"],
    }


def _htcondor(worker: Worker, logs: str) -> dict[str, Any]:
    options = dict(worker.jobs.options)
    group = {"accounting_group": account} if (account := worker.jobs.site.account) else {}
    return {
        "disk": options.pop("disk", "4GiB"),
        "log_directory": logs,
        "job_extra_directives": {
            "MY.DaskWorkerCores": worker.jobs.cpus,
            "+MaxRuntime": math.floor(worker.jobs.hours * 3600),
            **group,
            **options,
        },
    }


HEADERS = {"slurm": _slurm, "pbs": _pbs, "lsf": _lsf, "sge": _sge, "htcondor": _htcondor}
"""How each batch system is asked for a worker's cores, memory and time."""


def _ask_slurm(workers: Sequence[Any]) -> dict[str, JobState]:
    """Return what Slurm knows of workers: of most by one look into the queue, of those that left it by one each."""
    ids = {str(worker.job_id): str(worker.name) for worker in workers if worker.job_id}
    answer = call(["squeue", "--me", "--noheader", "--format=%A|%T|%r"])
    known: dict[str, JobState] = {}
    for line in answer.out.splitlines() if answer.ok else ():
        job, state, reason = (*line.split("|"), "", "")[:3]
        if job in ids:
            known[job] = JobState(VERDICTS.get(state, "unknown"), state, reason=reason, source="queue")
    left = [job for job in ids if job not in known or not known[job].active]
    return {ids[job]: state for job, state in {**known, **(job_states(left) if left else {})}.items()}


def _ask_nobody(workers: Sequence[Any]) -> dict[str, JobState]:
    return {str(worker.name): UNKNOWN for worker in workers}
