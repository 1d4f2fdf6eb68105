"""Trainings in which one rank gets hurt; test_watch runs this and looks at how all of them end.

    python -m tests.training.hurt BACKEND HOW@RANK:WATCHDOG_S ...

Imports once and forks for every rank, and lets those that wait for the watch wait together, so that many trainings
take little time. Prints what came of each as JSON.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import re
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from glacierhpc.errors import GlacierError
from glacierhpc.hpc.rendezvous import Store
from glacierhpc.training import watch
from glacierhpc.training.distributed import open_backend
from glacierhpc.training.loop import fit
from tests.training.lines import Line, LineData

RANKS, AT = 3, 8
"""How many there are, and at which batch it happens to one."""
START_S, PATIENCE_S = 240, 60
"""For a training to come to its first end, and for the other ranks to follow; more is a hang, on any machine."""
SPARED_S = 5
"""For a rank whose threads are held to have its stacks written, after the others have ended."""


def run_out_of_memory() -> None:
    """Ask for more than there may be, as `ulimit -v` and most systems answer it."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**30, now + 2**30))
    torch.ones(2**30)


def fail() -> None:
    raise RuntimeError("the disk of the last rank is gone")


def hold_all_threads() -> None:
    """Sleep in C, and let no other thread of Python run meanwhile."""
    ctypes.PyDLL(None).sleep(1000)


HOWS = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "lost": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "paused": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "asleep": lambda: time.sleep(1000),
    "held": hold_all_threads,
    "memory": run_out_of_memory,
    "fails": fail,
}


class Hurting(LineData):
    """Data at whose reading something happens."""

    def __init__(self, how: str) -> None:
        super().__init__(48)
        self.reads, self.how = 0, how

    def __getitems__(self, items: Any) -> Any:
        self.reads += 1
        if self.reads == AT:
            HOWS[self.how]()
        return super().__getitems__(items)


def train(name: str, how: str, whom: int, watchdog_s: float) -> int:
    """Be one rank, and return its exit code."""
    watch.BACKSTOP_S = 2.0  # as the test has not a minute
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    backend = open_backend(name, device="cpu")
    hurt = how in HOWS and backend.rank == whom
    fewer = how == "uneven" and backend.rank == whom
    data = Hurting(how) if hurt else LineData(32 if fewer else 48)
    options = {"epochs": 3, "batch_size": 8, "patience": None, "watchdog_s": watchdog_s}
    try:
        fit(Line(), data, backend=backend, **options)
    except GlacierError as error:
        sys.stderr.write(f"rank {backend.rank} says: {error}\n")
        return error.exit_code
    finally:
        backend.close()
    return 0


def place(name: str, rank: int, address: str, port: int) -> dict[str, Any]:
    """The variables of a launcher; Horovod's are those of our script for srun without MPI."""
    if name == "single":
        return {}
    if name == "ddp":
        return {"RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": RANKS,
                "MASTER_ADDR": address, "MASTER_PORT": port}  # fmt: skip
    given = {"RANK": rank, "SIZE": RANKS, "LOCAL_RANK": rank, "LOCAL_SIZE": RANKS, "CROSS_RANK": 0, "CROSS_SIZE": 1,
             "HOSTNAME": "localhost", "CONTROLLER": "gloo", "CPU_OPERATIONS": "gloo", "GLOO_IFACE": "lo",
             "GLOO_RENDEZVOUS_ADDR": address, "GLOO_RENDEZVOUS_PORT": port}  # fmt: skip
    return {f"HOROVOD_{key}": value for key, value in given.items()}


def forked(
    name: str, how: str, whom: int, watchdog_s: float, rank: int, where: tuple[str, int], out: int
) -> int:
    """Start a rank and return its process."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(out, 2)
        # of the lost one, the exchange gives up before the watch
        os.environ["HOROVOD_GLOO_TIMEOUT_SECONDS"] = "15" if how == "lost" else str(START_S)
        os.environ |= {key: str(value) for key, value in place(name, rank, *where).items()}
        code = train(name, how, whom, watchdog_s)
    except BaseException as error:  # noqa: BLE001 - a forked child must not come back
        sys.stderr.write(f"rank {rank} fails: {error!r}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


class Hurt:
    """A training that has begun: its processes, and what they have written so far."""

    def __init__(self, name: str, how: str, whom: int, watchdog_s: float) -> None:
        self.how, self.whom, self.watchdog_s = how, whom, watchdog_s
        self.codes: dict[int, int] = {}
        self.paused_at: float | None = None
        self.since = time.monotonic()
        self.store = Store("127.0.0.1")
        where = ("127.0.0.1", free_port()) if name == "ddp" else self.store.place
        ranks = range(1 if name == "single" else RANKS)
        self.texts = [tempfile.TemporaryFile() for _ in ranks]  # noqa: SIM115 - closed by told
        self.children = [
            forked(name, how, whom, watchdog_s, rank, where, self.texts[rank].fileno()) for rank in ranks
        ]

    @property
    def left(self) -> list[int]:
        return [rank for rank in range(len(self.children)) if rank not in self.codes]

    def look(self) -> None:
        """Take in who has ended. Those that stay have code 124; the hurt one is ended as by a launcher."""
        for rank in self.left:
            pid, status = os.waitpid(self.children[rank], os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                self.paused_at = time.monotonic()
            elif pid:
                self.codes[rank] = os.waitstatus_to_exitcode(status)
                self.since = time.monotonic()
        waited_s = time.monotonic() - self.since
        if self.how == "paused" and self.left:
            if self.paused_at is not None and time.monotonic() - self.paused_at > self.watchdog_s + 2:
                os.kill(self.children[self.whom], signal.SIGCONT)
        elif self.left == [self.whom] and waited_s > {"stopped": 0, "lost": 0, "held": SPARED_S}.get(
            self.how, START_S
        ):
            self._end(self.whom, -signal.SIGKILL)
        if waited_s > (PATIENCE_S if self.codes else START_S):
            for rank in self.left:
                self._end(rank, 124)

    def _end(self, rank: int, code: int) -> None:
        os.kill(self.children[rank], signal.SIGKILL)
        os.waitpid(self.children[rank], 0)
        self.codes[rank] = code

    def told(self) -> dict[str, Any]:
        """Return how each rank ended and what it wrote."""
        told = []
        for text in self.texts:
            text.seek(0)
            told.append(text.read().decode(errors="replace"))
            text.close()
        codes = [self.codes[rank] for rank in range(len(self.children))]
        return {"codes": codes, "told": told, "paused": self.paused_at is not None}


def hurt(name: str, scenarios: list[str]) -> dict[str, Any]:
    """Return what came of trainings that run at the same time."""
    given = [re.split("[@:]", scenario) for scenario in scenarios]
    begun = [Hurt(name, how, int(whom), float(limit)) for how, whom, limit in given]
    for each in begun:  # no thread before the last fork
        threading.Thread(target=each.store.serve_forever, daemon=True).start()
    while any(each.left for each in begun):
        for each in begun:
            each.look()
        time.sleep(0.02)
    for each in begun:
        each.store.shutdown()
        each.store.server_close()
    return {scenario: each.told() for scenario, each in zip(scenarios, begun)}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def main(name: str, scenarios: list[str]) -> None:
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # it imports much more, here once for all
    if name == "horovod":
        import horovod.torch  # noqa: F401
    told: dict[str, Any] = {}
    for scenario in scenarios:
        if scenario.endswith(":0"):
            told |= hurt(name, [scenario])
    told |= hurt(name, [scenario for scenario in scenarios if scenario not in told])
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
