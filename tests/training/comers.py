"""One process of a training whose ranks come and go, for tests that start several.

    python -m tests.training.comers FOLDER [PART]

Writes what it got to FOLDER/HOST.pt, by the name that its host is given: losses, weights, and its rank and the number
of ranks in each attempt.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from glacierhpc.models import build_model
from glacierhpc.training.backends.seats import own_seat
from glacierhpc.training.checkpoint import Checkpoints
from glacierhpc.training.distributed import Backend, Single, open_backend, rejoining
from glacierhpc.training.loop import fit
from tests.training.ranks import COMMON, STEPS_OUT, Waves

OPTIONS = {**COMMON, "optimizer": "sgd", "epochs": 3}
EVERY_STEPS = 2
"""Between two checkpoints; an epoch has 5 steps."""
WAIT_S = 240
"""For another process on a busy machine; many times what it takes."""


def lost() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def waits() -> None:
    seat, end = own_seat(), time.monotonic() + WAIT_S
    assert seat is not None
    while not seat.changed and time.monotonic() < end:
        time.sleep(0.05)


PARTS: dict[str, list[tuple[int, Any]]] = {
    "waits_and_is_lost": [(8, waits), (4, lost)],
    "is_lost": [(8, lost)],
}
"""By attempt, at which batch that a process reads what happens; both lie between two checkpoints."""


def trained(backend: Backend, folder: Path, at: int = -1, act: Any = None) -> dict[str, Any]:
    """Train from the last checkpoint on and return losses and weights."""
    sizes = {"hidden": (4,), "reduction": 2, "attention": 4, "head": 4}
    model = build_model("convlstm", seed=backend.rank, steps_out=STEPS_OUT, **sizes)
    checkpoints = Checkpoints(folder / "checkpoints", every_steps=EVERY_STEPS)
    train = Waves(21, seed=1, at=at, act=act)
    history = fit(model, train, Waves(7, seed=2), backend=backend, checkpoints=checkpoints, **OPTIONS)
    return {
        "losses": [(row["train_loss"], row["valid_loss"]) for row in history.rows],
        "weights": torch.cat([value.double().reshape(-1) for value in model.state_dict().values()]),
    }


def main(folder: Path, part: str = "") -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO)
    seen: list[list[int]] = []

    def attempt() -> dict[str, Any]:
        backend = open_backend("horovod", device="cpu")
        happens = dict(enumerate(PARTS.get(part, []))).get(len(seen), (-1, None))
        seen.append([backend.rank, backend.size])
        try:
            return trained(backend, folder, *happens)
        finally:
            backend.close()

    torch.save(
        {**rejoining("horovod", attempt), "seen": seen}, folder / f"{os.environ['HOROVOD_HOSTNAME']}.pt"
    )


def alone(folder: Path) -> dict[str, Any]:
    """What one process gets that nothing happens to."""
    torch.set_num_threads(1)
    return trained(Single("cpu"), folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
