"""Where tasks run: here, or on the workers of a Dask cluster; the tasks themselves live elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from glacierhpc.errors import unknown_name
from glacierhpc.hpc.apptainer import check_signed
from glacierhpc.hpc.cluster.wish import WorkerJobs

__all__ = ["CLUSTERS", "WorkerJobs", "make_cluster", "worker_script"]


def make_cluster(
    kind: str,
    *,
    workers: int,
    cores: int = 1,
    memory_gb: float | None = None,
    scratch: Path | None = None,
    jobs: WorkerJobs | None = None,
) -> AbstractContextManager[Executor | None]:
    """Start the workers of one step and stop them at its end.

    Workers are new processes that import the caller's main module: a script of one's own keeps its work
    under ``if __name__ == "__main__":``. Tasks may be done twice where a worker is lost: they write whole files under
    their final name at the end, and return little.

    Parameters
    ----------
    kind : {"local", "serial", "jobqueue", "allocation"}
        ``local`` starts worker processes on this machine; ``serial`` runs every task in this process; ``jobqueue``
        submits each worker as a job of its own and replaces those that vanish; ``allocation`` starts each worker by
        ``srun`` on the nodes of the job that this process is in. All but ``serial`` take tasks from nobody else
        (TLS, with certificates made for this step).
    workers : int
        Worker processes.
    cores : int
        Threads of each worker. Reading waits for the network, so a step that reads asks for more threads
        than there are cores.
    memory_gb : float, optional
        Limit of each worker, GiB; by default the machine's memory is shared out, and jobs get 2 GiB for each core.
    scratch : path, optional
        Folder for spilled data of local workers, node-local; by default the system's temporary folder.
    jobs : WorkerJobs, optional
        Site, image and limits of the workers of ``jobqueue`` and ``allocation``.

    Returns
    -------
    context manager
        Gives a `concurrent.futures.Executor`, or None where tasks run in the caller.

    Raises
    ------
    InputError
        If `kind` is not known, or something that it needs is not here.
    GlacierError
        Inside the context, from any result, if workers cannot be had; names the jobs and their last words.
    """
    if kind not in CLUSTERS:
        raise unknown_name("cluster.kind", kind, CLUSTERS)
    jobs = jobs or WorkerJobs()
    if jobs.own_image:
        check_signed(jobs.own_image, jobs.site.signed_by)
    return CLUSTERS[kind](workers, cores, memory_gb, scratch, jobs)


def worker_script(*, cores: int = 1, memory_gb: float | None = None, jobs: WorkerJobs | None = None) -> str:
    """Return the job script of one worker of ``jobqueue``, as it would be submitted; nothing is written or started.

    The address of the scheduler and the folder of the certificates stand in it as words in angle brackets.

    Raises
    ------
    InputError
        If the batch system is not known, or a value cannot stand in a script.
    """
    from glacierhpc.hpc.cluster.jobqueue import script

    return script(cores, memory_gb, jobs or WorkerJobs())


@contextmanager
def _serial(*_: object) -> Iterator[None]:
    yield None


def _local(
    workers: int, cores: int, memory_gb: float | None, scratch: Path | None, _: WorkerJobs
) -> AbstractContextManager[Executor]:
    from glacierhpc.hpc.cluster.local import local

    return local(workers, cores, memory_gb, scratch)


def _jobqueue(
    workers: int, cores: int, memory_gb: float | None, _: Path | None, jobs: WorkerJobs
) -> AbstractContextManager[Executor]:
    from glacierhpc.hpc.cluster.jobqueue import jobqueue

    return jobqueue(workers, cores, memory_gb, jobs)


def _allocation(
    workers: int, cores: int, memory_gb: float | None, _: Path | None, jobs: WorkerJobs
) -> AbstractContextManager[Executor]:
    from glacierhpc.hpc.cluster.allocation import allocation

    return allocation(workers, cores, memory_gb, jobs)


CLUSTERS: dict[str, Callable[..., AbstractContextManager[Executor | None]]] = {
    "local": _local,
    "serial": _serial,
    "jobqueue": _jobqueue,
    "allocation": _allocation,
}
