"""One rank of a small forecast training, for tests that start several: every scenario, one after the other.

    torchrun --nproc-per-node 2 tests/training/ranks.py ddp FOLDER plain clipped ...

Writes what each rank got to FOLDER/<scenario>.<rank>.pt; rank 0 alone is the run that the others are compared with.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glacierhpc.errors import GlacierError
from glacierhpc.models import build_model
from glacierhpc.training.checkpoint import Checkpoints
from glacierhpc.training.distributed import Backend, open_backend
from glacierhpc.training.loop import fit

SIZE, STEPS_IN, STEPS_OUT = 8, 3, 2

# 21 samples in batches of 5: shares of 3 and 2, and in the last batch of 1 and 0
COMMON: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 5,
    "learning_rate": 0.02,
    "optimizer": "adamw",
    "gradient_clip": None,
    "patience": None,
    "seed": 5,
}
SCENARIOS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sgd": {"optimizer": "sgd"},
    "clipped": {"optimizer": "sgd", "gradient_clip": 0.01},
    "accumulated": {"optimizer": "sgd", "accumulate": 2},
    "normalised": {"model": "normalised"},
    "channels_last": {"optimizer": "sgd", "channels_last": True},
    "stopped": {"optimizer": "sgd", "stop_at": 7},
    "resumed": {"optimizer": "sgd", "resume": "stopped"},
    "resumed_from_one": {"optimizer": "sgd", "resume": "one"},
    "failed": {"fail_at": 3},
    "passes": {"optimizer": "sgd", "accumulate": 2, "exchange": {"backward_passes_per_step": 2}},
    "more_passes": {"optimizer": "sgd", "accumulate": 3, "exchange": {"backward_passes_per_step": 2}},
    "compressed": {"optimizer": "sgd", "exchange": {"compression": "fp16"}},
    "overflowed": {"optimizer": "sgd", "exchange": {"compression": "fp16"}, "scale": 1e7},
    "adasum": {"optimizer": "sgd", "gradient_clip": 1.0, "exchange": {"adasum": True}},
    "adasum_accumulated": {"epochs": 1, "accumulate": 2, "exchange": {"adasum": True}},
}


@dataclass
class Forecasts:
    inputs: dict[str, Tensor]
    targets: Tensor
    targets_valid: Tensor

    def to(self, device: Any) -> Forecasts:
        return self


class Waves:
    """Moving waves with gaps; on one rank reading may stop the run or fail at some batch."""

    def __init__(self, count: int, *, seed: int, scale: float = 1.0, at: int = -1, act: Any = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        phase = torch.rand(count, 1, 1, 1, 1, generator=generator) * 6
        when = torch.arange(STEPS_IN + STEPS_OUT).view(1, -1, 1, 1, 1) * 0.7
        where = torch.arange(SIZE).view(1, 1, 1, 1, SIZE) * 0.5
        self.frames = scale * torch.sin(phase + when + where).expand(-1, -1, 1, SIZE, SIZE).contiguous()
        self.valid = torch.rand(count, STEPS_IN + STEPS_OUT, SIZE, SIZE, generator=generator) < 0.8
        self.at, self.act, self.reads = at, act, 0

    def __len__(self) -> int:
        return len(self.frames)

    def __getitems__(self, items: Any) -> Forecasts:
        self.reads += 1
        if self.reads == self.at and self.act is not None:
            self.act()
        frames, valid = self.frames[items], self.valid[items]
        inputs = {"images": frames[:, :STEPS_IN], "images_valid": valid[:, :STEPS_IN]}
        return Forecasts(inputs, frames[:, STEPS_IN:], valid[:, STEPS_IN:])


class Normalised(torch.nn.Module):
    """The last frame, changed by a convolution with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(1)

    def forward(self, images: Tensor, images_valid: Tensor) -> Tensor:
        last = (images * images_valid[:, :, None])[:, -1]
        return (last + self.norm(self.layer(last)))[:, None].expand(-1, STEPS_OUT, -1, -1, -1)


class Told(logging.Handler):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def run(backend: Backend, scenario: str, folder: Path) -> dict[str, Any]:
    """Return losses, weights, what was logged, and the error if there was one."""
    options = {**COMMON, **SCENARIOS[scenario]}
    options.pop("exchange", None)
    resume, stop_at, fail_at = (options.pop(name, None) for name in ("resume", "stop_at", "fail_at"))
    scale = options.pop("scale", 1.0)
    torch.manual_seed(backend.rank)  # weights differ until rank 0's are taken
    if options.pop("model", "") == "normalised":
        model: torch.nn.Module = Normalised()
    else:
        sizes = {"hidden": (4,), "reduction": 2, "attention": 4, "head": 4}
        model = build_model("convlstm", seed=backend.rank, steps_out=STEPS_OUT, **sizes)
    checkpoints = None
    if resume or stop_at:
        place = folder / f"checkpoints-{scenario}"
        if resume and backend.rank == 0:
            shutil.copytree(folder / f"checkpoints-{resume}", place)
        backend.barrier()
        checkpoints = Checkpoints(place)

    def act() -> None:
        if backend.rank == backend.size - 1:
            if stop_at:
                os.kill(os.getpid(), signal.SIGUSR1)
            else:
                raise RuntimeError("the disk of the last rank is gone")

    train = Waves(21, seed=1, scale=scale, at=stop_at or fail_at or -1, act=act)
    told, logger = Told(), logging.getLogger("glacierhpc")
    result: dict[str, Any] = {"losses": [], "error": ""}
    with ExitStack() as stack:
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.INFO)
        logger.addHandler(told)
        stack.callback(logger.removeHandler, told)
        try:
            history = fit(
                model,
                train,
                Waves(7, seed=2, scale=scale),
                backend=backend,
                checkpoints=checkpoints,
                **options,
            )
            result["losses"] = [(row["train_loss"], row["valid_loss"]) for row in history.rows]
        except GlacierError as error:
            result["error"] = f"{type(error).__name__}: {error}"
    result["weights"] = torch.cat([value.double().reshape(-1) for value in model.state_dict().values()])
    return {**result, "told": told.lines}


def exchange(backend: Backend) -> dict[str, Any]:
    """Return what the operations between ranks give."""
    rank = backend.rank
    gathered = backend.gather(torch.arange(rank + 2, dtype=torch.uint8) + 10 * rank)
    summed = backend.sum(torch.full((2, 3), rank + 1.0, dtype=torch.float64))
    flags = [backend.any(False), backend.any(rank == backend.size - 1), backend.any(True)]
    backend.barrier()
    return {
        "gathered": [part.tolist() for part in gathered],
        "sum": summed.tolist(),
        "scalar": float(backend.sum(torch.tensor(2.5))),
        "any": flags,
        "place": [backend.rank, backend.size],
        "momentum": shared_momentum(backend),
    }


def shared_momentum(backend: Backend) -> list[float]:
    """Return the state of an optimiser that each rank filled with a number of its own, once it is wrapped."""
    model = backend.wrap_model(torch.nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.full_like(parameter, backend.rank + 3.0)
    wrapped = backend.wrap_optimizer(optimizer, model)
    return [float(wrapped.state[parameter]["momentum_buffer"]) for parameter in model.parameters()]


def main(name: str, folder: Path, scenarios: list[str]) -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO)
    backend = open_backend(name, device="cpu")
    try:
        for scenario in scenarios:
            result = played(scenario, name, backend, folder)
            torch.save(result, folder / f"{scenario}.{backend.rank}.pt")
    finally:
        backend.close()


def played(scenario: str, name: str, backend: Backend, folder: Path) -> dict[str, Any]:
    """Return what a scenario gave, on a backend with the options it asks for."""
    if scenario == "exchange":
        return exchange(backend)
    if scenario == "ddp_too":
        return exchange(open_backend("ddp", device="cpu"))
    if options := SCENARIOS[scenario].get("exchange"):
        try:
            backend = open_backend(name, device="cpu", **options)
        except GlacierError as error:
            return {"error": str(error)}
    return run(backend, scenario, folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
