"""Where tasks run: here, or on the workers of a Dask cluster; the tasks themselves live elsewhere."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from distributed import Client, LocalCluster, Security

from glacierhpc.errors import unknown_name

log = logging.getLogger(__name__)

WORKER_ENVIRONMENT = {
    # one level of parallelism: Dask runs many serial kernels
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    # glibc returns freed scene buffers to the system instead of keeping them per thread
    "MALLOC_TRIM_THRESHOLD_": "0",
}


def make_cluster(
    kind: str,
    *,
    workers: int,
    cores: int = 1,
    memory_gb: float | None = None,
    scratch: Path | None = None,
) -> AbstractContextManager[Executor | None]:
    """Start the workers of one step and stop them at its end.

    Workers are new processes that import the caller's main module: a script of one's own keeps its work
    under ``if __name__ == "__main__":``.

    Parameters
    ----------
    kind : {"local", "serial"}
        ``local`` starts worker processes on this machine, which take tasks from nobody else on it (TLS, with
        credentials made for this step); ``serial`` runs every task in this process.
    workers : int
        Worker processes.
    cores : int
        Threads of each worker. Reading waits for the network, so a step that reads asks for more threads
        than there are cores.
    memory_gb : float, optional
        Limit of each worker; by default the machine's memory is shared out.
    scratch : path, optional
        Folder for spilled data, node-local; by default the system's temporary folder.

    Returns
    -------
    context manager
        Gives a `concurrent.futures.Executor`, or None where tasks run in the caller.

    Raises
    ------
    InputError
        If `kind` is not known.
    """
    if kind not in CLUSTERS:
        raise unknown_name("cluster.kind", kind, CLUSTERS)
    return CLUSTERS[kind](workers, cores, memory_gb, scratch)


@contextmanager
def _serial(*_: object) -> Iterator[None]:
    yield None


@contextmanager
def _local(workers: int, cores: int, memory_gb: float | None, scratch: Path | None) -> Iterator[Executor]:
    with ExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="glacierhpc-", dir=scratch, ignore_cleanup_errors=True)
        )
        stack.enter_context(_environment(WORKER_ENVIRONMENT))
        stack.enter_context(_nannies_heard())
        with _interrupts_ignored():
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=cores,
                    memory_limit=f"{memory_gb}GB" if memory_gb else "auto",
                    # whoever reaches a scheduler can run code as its owner, and every user of a node
                    # reaches its loopback
                    security=Security.temporary(),
                    protocol="tls://",
                    host="127.0.0.1",
                    # a free port of the loopback only: the dashboard has no password
                    dashboard_address="127.0.0.1:0",
                    local_directory=folder,
                    # a task's error reaches the caller as an exception; the workers' own words would come twice
                    silence_logs=logging.CRITICAL,
                )
            )
        client = stack.enter_context(Client(cluster, set_as_default=False))
        # an impure task is never mistaken for an earlier one with the same arguments
        yield client.get_executor(pure=False)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the processes started meanwhile, and put all back at the end.

    Dask's own setting yields to what a job has set, and leaves its values in this process, where training would
    find one thread.
    """
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Let children be born deaf to Ctrl-C, which a terminal sends to all: the caller ends them in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Forward(logging.Handler):
    """Says in the package's own log what another package logs."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        log.log(record.levelno, "%s", record.getMessage())


@contextmanager
def _nannies_heard() -> Iterator[None]:
    """Let through what is not said twice: a worker short of memory, or killed."""
    logger, handler = logging.getLogger("distributed.nanny"), _Forward(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


CLUSTERS: dict[str, Callable[..., AbstractContextManager[Executor | None]]] = {
    "local": _local,
    "serial": _serial,
}
