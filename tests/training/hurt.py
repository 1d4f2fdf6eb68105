"""Trainings of three ranks in which one gets hurt; test_watch runs this and looks at how all of them end.

    python -m tests.training.hurt BACKEND HOW@RANK:WATCHDOG_S ...

Imports once and forks for every rank, so that many trainings take little time. Prints what came of each as JSON.
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
PATIENCE_S = 120
"""For a training to end on a busy machine."""


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


def place(name: str, rank: int, port: int) -> dict[str, Any]:
    """The variables of a launcher; Horovod's are those of our script for srun without MPI."""
    if name == "ddp":
        return {"RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": RANKS,
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
    given = {"RANK": rank, "SIZE": RANKS, "LOCAL_RANK": rank, "LOCAL_SIZE": RANKS, "CROSS_RANK": 0, "CROSS_SIZE": 1,
             "HOSTNAME": "localhost", "CONTROLLER": "gloo", "CPU_OPERATIONS": "gloo", "GLOO_IFACE": "lo",
             "GLOO_RENDEZVOUS_ADDR": "127.0.0.1", "GLOO_RENDEZVOUS_PORT": port}  # fmt: skip
    return {f"HOROVOD_{key}": value for key, value in given.items()}


def forked(name: str, how: str, whom: int, watchdog_s: float, rank: int, port: int, out: int) -> int:
    """Start a rank and return its process."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.environ |= {key: str(value) for key, value in place(name, rank, port).items()}
        code = train(name, how, whom, watchdog_s)
    except BaseException as error:  # noqa: BLE001 - a forked child must not come back
        sys.stderr.write(f"rank {rank} fails: {error!r}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


def hurt(name: str, how: str, whom: int, watchdog_s: float) -> dict[str, Any]:
    """Return how each rank ended and what it wrote, and the time from the first one's end to the last one's."""
    with Store("127.0.0.1") as store, tempfile.TemporaryDirectory() as folder:
        port = free_port() if name == "ddp" else store.server_address[1]
        texts = [open(f"{folder}/{rank}", "w+b") for rank in range(RANKS)]  # noqa: SIM115 - closed below
        outs = [text.fileno() for text in texts]
        children = [forked(name, how, whom, watchdog_s, rank, port, outs[rank]) for rank in range(RANKS)]
        if name == "horovod":
            threading.Thread(target=store.serve_forever, daemon=True).start()
        codes, ended = awaited(children, spared=whom if how in ("stopped", "held") else -1)
        if name == "horovod":
            store.shutdown()
        told = []
        for text in texts:
            text.seek(0)
            told.append(text.read().decode(errors="replace"))
            text.close()
    return {"codes": codes, "told": told, "seconds": max(ended, default=0) - min(ended, default=0)}


def awaited(children: list[int], *, spared: int) -> tuple[list[int], list[float]]:
    """Wait for all but the spared rank, which is killed a bit later, as by a launcher; one that stays has code 124."""
    codes: dict[int, int] = {}
    ended: list[float] = []
    end = time.monotonic() + PATIENCE_S
    while len(codes) < len(children):
        for rank, child in enumerate(children):
            if rank in codes:
                continue
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                codes[rank] = os.waitstatus_to_exitcode(status)
                ended.append(time.monotonic())
        left = [rank for rank in range(len(children)) if rank not in codes]
        if left and (left == [spared] or time.monotonic() > end):
            time.sleep(5)
            for rank in left:
                os.kill(children[rank], signal.SIGKILL)
                os.waitpid(children[rank], 0)
                codes[rank] = -9 if rank == spared else 124
        time.sleep(0.02)
    return [codes[rank] for rank in range(len(children))], ended


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def main(name: str, scenarios: list[str]) -> None:
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # it imports much more, here once for all
    if name == "horovod":
        import horovod.torch  # noqa: F401
    told = {}
    for scenario in scenarios:
        how, whom, limit = re.split("[@:]", scenario)
        told[scenario] = hurt(name, how, int(whom), float(limit))
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
