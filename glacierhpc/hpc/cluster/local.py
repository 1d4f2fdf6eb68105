"""Worker processes on this machine, for one step; who may give them tasks is said by TLS even here."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dask
from distributed import Client, LocalCluster, Security

from glacierhpc.hpc.cluster import owned
from glacierhpc.hpc.cluster.results import ResultExecutor
from glacierhpc.hpc.cluster.serving import PAGE
from glacierhpc.hpc.cluster.wish import WORKER_ENVIRONMENT

log = logging.getLogger(__name__)

PREFIX = "glacierhpc-workers-"


@contextmanager
def local(workers: int, cores: int, memory_gb: float | None, scratch: Path | None) -> Iterator[Executor]:
    """Start worker processes on this machine and stop them at the end."""
    with ExitStack() as stack:
        folder = stack.enter_context(_scratch(scratch or Path(tempfile.gettempdir())))
        stack.enter_context(_environment(WORKER_ENVIRONMENT))
        stack.enter_context(_nannies_heard())
        stack.enter_context(dask.config.set(PAGE))
        with _interrupts_ignored():
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=cores,
                    memory_limit=f"{memory_gb}GiB" if memory_gb else "auto",
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
        yield ResultExecutor(client, pure=False)


@contextmanager
def _scratch(parent: Path) -> Iterator[str]:
    """Make a folder for what workers spill, and remove it at the end, with those that killed runs have left here."""
    owned.sweep(parent, PREFIX, shared=False)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent, ignore_cleanup_errors=True) as folder:
        owned.own(Path(folder))
        yield folder


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
