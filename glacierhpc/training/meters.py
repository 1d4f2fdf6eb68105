"""What a training run tells of itself while it runs: speed, waiting, memory; and who listens to its progress."""

from __future__ import annotations

import logging
import math
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch

logger = logging.getLogger(__name__)


class ProgressListener(Protocol):
    """Something that shows how far an epoch has come, such as a bar."""

    def update(self, step: int, steps: int, row: dict[str, float]) -> None:
        """Take in that `step` of `steps` batches of an epoch are done.

        `row` holds epoch, epochs, loss (the mean of this epoch so far), samples_per_s, data_wait_share and
        peak_memory_mb.
        """
        ...


def progress_text(row: dict[str, float]) -> str:
    """Return what a bar or a log line says of an epoch at work, from the row of `ProgressListener.update`."""
    # the first step's loss is read when the second one is under way
    loss = "no loss yet" if math.isnan(row["loss"]) else f"loss {row['loss']:.5f}"
    return (
        f"epoch {row['epoch'] + 1} of {row['epochs']}: {loss}, {row['samples_per_s']:.1f} samples/s, "
        f"{row['data_wait_share']:.1%} data wait, peak {row['peak_memory_mb']:.0f} MB"
    )


class ProgressLog:
    """Logs a plain line now and then; a handler may make a bar of it (``done`` and ``total`` of the record)."""

    def __init__(self, *, every_s: float = 60.0) -> None:
        self._every_s, self._last = every_s, time.monotonic()

    def update(self, step: int, steps: int, row: dict[str, float]) -> None:
        if time.monotonic() - self._last < self._every_s:
            return
        self._last = time.monotonic()
        text, told = "step %d of %d of %s", (step, steps, progress_text(row))
        logger.info(text, *told, extra={"done": step, "total": steps})


@dataclass
class Meter:
    """Counts and times one epoch; `samples` are those of all ranks."""

    started: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    samples: int = 0
    norms: float = 0.0
    steps: int = 0
    skipped: int = 0
    """Steps that fp16 skipped because gradients overflowed."""

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for data."""
        asked = time.perf_counter()
        try:
            yield
        finally:
            self.waited += time.perf_counter() - asked

    @property
    def seconds(self) -> float:
        """Since the start."""
        return max(time.perf_counter() - self.started, 1e-9)

    def row(self, device: torch.device) -> dict[str, float]:
        """Return speed, share of waiting, mean norm of the gradients and peak memory, for the history."""
        norm = self.norms / self.steps if self.steps else float("nan")
        return {"gradient_norm": norm, **self.so_far(device), "seconds": self.seconds}

    def so_far(self, device: torch.device) -> dict[str, float]:
        """Return speed, share of waiting and peak memory."""
        seconds = self.seconds
        return {
            "samples_per_s": self.samples / seconds,
            "data_wait_share": self.waited / seconds,
            "peak_memory_mb": peak_memory_mb(device),
        }


def forget_peak(device: torch.device) -> None:
    """Measure the peak of a CUDA device's memory from now on; that of a process cannot be forgotten."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """Return the most memory in use so far, MB: of tensors on a CUDA device, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): kilobytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
