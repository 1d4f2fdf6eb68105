"""What every cluster over several nodes shares: settings of Dask, certificates, a watch, an end in order."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import Client

from glacierhpc.hpc.cluster.results import ResultExecutor
from glacierhpc.hpc.cluster.tls import Credentials, credentials
from glacierhpc.hpc.cluster.watch import Ask, Watch
from glacierhpc.hpc.cluster.wish import ALLOWED_FAILURES, WorkerJobs

log = logging.getLogger(__name__)

# The page and what it is drawn with. Nothing asks who they are, on loopback as well: Dask's other routes would tell
# every user of the machine what the tasks are, and pass requests on to workers
PAGE = {"distributed.scheduler.http.routes": ["distributed.http.health", "distributed.http.statics"]}
SETTINGS = PAGE | {
    "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
    "distributed.comm.timeouts.tcp": "120s",
    # a result that was lost with its worker is asked for there for so long, once more for each retry, before the copy
    # that was made since is looked for: workers are more patient with this process than it is with them
    "distributed.comm.timeouts.connect": "30s",
    "distributed.comm.retry.count": 0,
}
LAST_LINES = 8
ENDS = (signal.SIGTERM, signal.SIGHUP)
"""What ends a process: the second comes when the terminal, or the connection to a login node, is gone."""


@contextmanager
def serving(
    make: Callable[[Credentials | None], Any], workers: int, jobs: WorkerJobs, folder: Path, *, ask: Ask
) -> Iterator[Executor]:
    """Start a cluster, keep its workers, and stop all of it at the end, whatever the end is.

    Parameters
    ----------
    make : callable
        Gives the cluster, without workers; called with the certificates, None for none.
    workers : int
        How many it is to have.
    folder : path
        For certificates and logs; all nodes see it.
    ask : callable
        What became of workers.
    """
    with ExitStack() as stack:
        stack.enter_context(_terminated_in_order())
        stack.enter_context(dask.config.set(SETTINGS))
        known = None if jobs.insecure else stack.enter_context(credentials(folder))
        if known is None:
            log.warning(
                "INSECURE: cluster.insecure=true switches TLS off; everybody who reaches this machine over the network "
                "can run programs as you. Remove it unless you know why it is there."
            )
        cluster = stack.enter_context(make(known))
        log.info("the scheduler of the workers is %s", cluster.scheduler_address)
        log.info("its page: %s", tunnel(cluster.scheduler.http_server.port))
        client = stack.enter_context(Client(cluster, set_as_default=False))
        # an impure task is never mistaken for an earlier one with the same arguments
        executor = ResultExecutor(client, pure=False)
        watch = Watch(
            cluster, workers, jobs, ask=ask, last_words=lambda job: last_words(log_of(folder, job)),
            touch=known.touch if known else lambda: None, give_up=lambda: executor.shutdown(wait=False),
        )  # fmt: skip
        cluster.sync(watch.start)
        stack.callback(cluster.sync, watch.stop)
        try:
            yield executor
        except Exception as err:
            if watch.fault is not None:
                raise watch.fault from err
            raise


def tunnel(port: int) -> str:
    """Return how the scheduler's page, which this machine alone can see, is looked at from another one."""
    return f"ssh -N -L 8787:127.0.0.1:{port} {socket.gethostname()}   then http://127.0.0.1:8787/status"


def log_of(folder: Path, job: Any) -> Path:
    """Return where the log of a worker is."""
    return folder / "logs" / f"worker-{job.job_id}.log"


def last_words(path: Path) -> str:
    """Return the end of a log, empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8000))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-LAST_LINES:])


@contextmanager
def _terminated_in_order() -> Iterator[None]:
    """Turn signals that end a process into an exception: keys are removed and jobs cancelled on the way out.

    Those that somebody else sees to, or ignores, are left alone.
    """
    main = threading.current_thread() is threading.main_thread()
    ours = [number for number in ENDS if main and signal.getsignal(number) is signal.SIG_DFL]

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
