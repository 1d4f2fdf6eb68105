"""One process of a training whose ranks come and go, for tests that start several.

    python -m tests.training.comers FOLDER NAME [lost | waits | joined]

``lost``: ends by SIGKILL in the second epoch. ``waits``: waits there until another process wants to come in.
``joined``: none of this. Writes what it got to FOLDER/NAME.pt: losses, weights, and the sizes it has seen.
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
AT = 8
"""The batch at which something happens: of 5 in an epoch, so that it lies between two checkpoints of the second."""
EVERY_STEPS = 2
WAIT_S = 300
"""For another process on a busy machine; many times what it takes."""


def lost() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def waits() -> None:
    seat, end = own_seat(), time.monotonic() + WAIT_S
    assert seat is not None
    while not seat.changed and time.monotonic() < end:
        time.sleep(0.05)


def trained(backend: Backend, folder: Path, act: Any = None) -> dict[str, Any]:
    """Train from the last checkpoint on and return losses and weights."""
    sizes = {"hidden": (4,), "reduction": 2, "attention": 4, "head": 4}
    model = build_model("convlstm", seed=backend.rank, steps_out=STEPS_OUT, **sizes)
    checkpoints = Checkpoints(folder / "checkpoints", every_steps=EVERY_STEPS)
    train = Waves(21, seed=1, at=AT if act else -1, act=act)
    history = fit(model, train, Waves(7, seed=2), backend=backend, checkpoints=checkpoints, **OPTIONS)
    return {
        "losses": [(row["train_loss"], row["valid_loss"]) for row in history.rows],
        "weights": torch.cat([value.double().reshape(-1) for value in model.state_dict().values()]),
    }


def main(folder: Path, name: str, part: str) -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO)
    seen: list[list[int]] = []

    def attempt() -> dict[str, Any]:
        backend = open_backend("horovod", device="cpu")
        seen.append([backend.rank, backend.size])
        # what happens, happens once
        act = {"lost": lost, "waits": waits}.get(part) if len(seen) == 1 else None
        try:
            return trained(backend, folder, act)
        finally:
            backend.close()

    torch.save({**rejoining("horovod", attempt), "seen": seen}, folder / f"{name}.pt")


def alone(folder: Path) -> dict[str, Any]:
    """What one process gets that nothing happens to."""
    return trained(Single("cpu"), folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
