"""What is asked of workers that are jobs or steps of a job; how they are started is elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from glacierhpc.hpc.site import PLAIN, Site
from glacierhpc.hpc.slurm.job import Kind

SCHEDULERS = ("slurm", "pbs", "lsf", "sge", "htcondor")
"""Batch systems that worker jobs can be written for. Only Slurm is asked what became of a job."""

WORKER_ENVIRONMENT = {
    # one level of parallelism: Dask runs many serial kernels
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    # glibc returns freed scene buffers to the system instead of keeping them per thread
    "MALLOC_TRIM_THRESHOLD_": "0",
}

DEATH_TIMEOUT_S = 300
"""A worker that does not reach its scheduler for so long ends; at least this, as starts from a busy file system are
slow and a login node may hang for minutes."""
ALLOWED_FAILURES = 10
"""How many workers may be lost with a task on them before the task is held to be the cause; Dask's 3 is soon reached
on a preemptible partition."""


@dataclass(frozen=True)
class WorkerJobs:
    """How workers of the kinds ``jobqueue`` and ``allocation`` are run."""

    site: Site = PLAIN
    """The computing centre: account, partition, options, network interface, image, folders."""
    scheduler: str = "slurm"
    """One of `SCHEDULERS`."""
    cpus: int = 1
    """Cores that each worker asks for; reading asks for more threads than cores."""
    hours: float = 1.0
    """Walltime of each worker's job. A worker that meets it is replaced."""
    image: str | None = None
    """Image that workers run in; None: that of the site, or none."""
    folder: Path | None = None
    """Folder that all nodes see, of the user's own: for certificates and logs. None: ``.glacierhpc`` here."""
    kind: Kind = "cpu"
    """What the partition must have."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Further options of the batch system, such as ``{"qos": "short"}``."""
    insecure: bool = False
    """Whether to do without TLS: then everybody on the network can run programs as the caller."""
    lifetime_s: float | None = None
    """How long a worker takes tasks, seconds; None: from the walltime."""
    look_s: float = 10.0
    """Time between two looks at the jobs, seconds."""
    first_wait_s: float = 2.0
    """Wait before a job that started badly is replaced, seconds; doubled each time, at most five minutes."""
    bad_starts: int = 5
    """After so many bad starts in a row, and no fewer than there are workers, nothing more is submitted."""

    @property
    def own_image(self) -> str | None:
        """Image that workers run in."""
        return self.image or self.site.image


@dataclass(frozen=True)
class Worker:
    """One worker, as its job has to start it."""

    cores: int
    """Threads for tasks."""
    memory_mib: int
    jobs: WorkerJobs

    @property
    def lifetime_s(self) -> tuple[int, int]:
        """Return how long it takes tasks, and by how much that is varied so that not all end at once, seconds.

        What is running at its end is done again elsewhere, and before the scheduler would cut it off.
        """
        if self.jobs.lifetime_s is not None:
            return math.ceil(self.jobs.lifetime_s), math.floor(self.jobs.lifetime_s / 10)
        walltime_s = self.jobs.hours * 3600
        margin, stagger = min(300.0, walltime_s / 6), min(240.0, walltime_s / 12)
        return math.floor(walltime_s - margin - stagger), math.floor(stagger)


def mebibytes(memory_gb: float | None, cpus: int) -> int:
    """Return the memory of a worker in MiB, of what is asked for in GiB; 2 GiB for each core where nothing is."""
    return math.ceil((2.0 * cpus if memory_gb is None else memory_gb) * 1024)
