"""One pass over a dataset, with or without learning; which passes make a run, `loop` says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.training.batches import Batch, Feed, epoch_batches, micro_batches
from glacierhpc.training.checkpoint import Progress
from glacierhpc.training.distributed import Backend
from glacierhpc.training.losses import Loss, count_valid, find_loss
from glacierhpc.training.meters import Meter
from glacierhpc.training.precision import Precision
from glacierhpc.training.pulse import Pulse
from glacierhpc.training.recipe import Recipe
from glacierhpc.training.schedules import rate_share
from glacierhpc.training.stopping import StopRequest
from glacierhpc.training.teacher import draw, teacher_share

MAX_SKIPPED = 25
"""Steps in a row that may be skipped: the scale of fp16, 65536 at first, has by then been halved to 0.002."""

Teacher = tuple[Tensor, Tensor, Tensor]
"""(frames (B, T', C, H, W), valid (B, T', H, W) bool, use (B, T') bool)."""


class Stopped(Exception):
    """Some rank has been asked to stop; all ranks stand between the same two steps."""


@dataclass
class _Pending:
    """What a step gave, on the device, where it may still be being computed."""

    values: Tensor
    """(2,) float64: sum of the loss over all ranks, norm of the gradient."""
    count: int
    epoch: int
    step: int


@dataclass
class Engine:
    """Takes the steps of one rank, in agreement with the others."""

    model: nn.Module
    wrapped: nn.Module
    """The model as the backend gave it, which shares gradients."""
    optimizer: Optimizer
    backend: Backend
    recipe: Recipe
    precision: Precision
    stop: StopRequest
    pulse: Pulse = field(default_factory=Pulse)
    _loss: Loss = field(init=False)
    _learning: list[nn.Parameter] = field(init=False)
    _pending: _Pending | None = None
    _skipped_in_a_row: int = 0

    def __post_init__(self) -> None:
        self._loss = find_loss(self.recipe.loss)
        self._learning = [p for p in self.model.parameters() if p.requires_grad]

    def train_epoch(self, feed: Feed, progress: Progress, meter: Meter) -> Iterator[int]:
        """Take the steps of an epoch that are left after `progress`; yield the number there are after each.

        What a step gave enters `progress` with the next one, or with `settle`: a GPU has it ready by then, and is
        not kept waiting for the question.

        Raises
        ------
        Stopped
            Before a step, if any rank has been asked to stop.
        GlacierError
            If a loss or gradient is not finite.
        """
        _train_mode(self.wrapped)
        batches = self._shares(feed, epoch=progress.epoch, shuffle=True)
        self.pulse.in_step(progress.epoch, progress.step)
        for micro in self._read(feed, batches[progress.step :], meter):
            count = self._agree(sum(count_valid(batch.targets, batch.targets_valid) for batch in micro))
            self._set_rate(progress, len(batches))
            pending = self._learn(micro, count, progress, feed, len(batches)) if count else None
            self.settle(progress, meter)
            self._pending = pending
            meter.samples += self._global_length(feed, progress.step)
            progress.step += 1
            self.pulse.in_step(progress.epoch, progress.step)
            yield len(batches)
        self.settle(progress, meter)

    def settle(self, progress: Progress, meter: Meter) -> None:
        """Add what the latest step gave to `progress` and `meter`."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        total, norm = pending.values.tolist()
        if not (math.isfinite(total) and math.isfinite(norm)):
            self._refuse_or_skip(pending, total, norm)
            meter.skipped += 1
            return
        self._skipped_in_a_row = 0
        progress.total, progress.count = progress.total + total, progress.count + pending.count
        meter.norms, meter.steps = meter.norms + norm, meter.steps + 1

    @property
    def rate(self) -> float:
        """The learning rate of the latest step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def shown_share(self, gone: float) -> float:
        """Return the share of forecast steps that start from the truth, after so many epochs."""
        if not getattr(self.model, "taught", False):
            return 0.0
        recipe = self.recipe
        return teacher_share(recipe.teacher_forcing, recipe.teacher_decay, gone=gone, epochs=recipe.epochs)

    @torch.no_grad()
    def mean_loss(self, feed: Feed) -> float:
        """Return the loss over a whole dataset, a mean over its valid values.

        Raises
        ------
        Stopped
            Before a batch, if any rank has been asked to stop.
        """
        self.wrapped.eval()
        total, count = torch.zeros((), dtype=torch.float64, device=self.backend.device), 0
        batches = self._read(feed, self._shares(feed, epoch=0, shuffle=False), Meter())
        for step, micro in enumerate(batches):
            self.pulse.in_step(self.pulse.epoch, step, part="validation")
            count += self._agree(sum(count_valid(batch.targets, batch.targets_valid) for batch in micro))
            self.pulse.at("forward")
            for batch in micro:
                # not by `wrapped`: DDP would wait for the other ranks at every call
                total += self._total(self.model, batch.to(self.backend.device), None)
        if count == 0:
            raise InputError(
                "no validation target holds a valid pixel: loosen the masks or give another split"
            )
        return float(self.backend.sum(total)) / count

    def _learn(self, micro: list[Batch], count: int, progress: Progress, feed: Feed, steps: int) -> _Pending:
        """Take one step on this rank's share of a global batch that has `count` valid values."""
        recipe, backend, scaler = self.recipe, self.backend, self.precision.scaler
        teachers = self._teachers(micro, progress, feed, steps)
        self.optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64, device=backend.device)
        for number, (batch, use) in enumerate(zip(micro, teachers), start=1):
            with backend.no_sync(self.wrapped) if number < len(micro) else nullcontext():
                self.pulse.at("forward")
                part = self._total(self.wrapped, batch.to(backend.device), use)
                # gradients are averaged over the ranks: times size, over the global count, gives the global mean's
                self.pulse.at("backward")
                scaler.scale(part * (backend.size / count)).backward()
            total += part.detach()
        self.pulse.at("exchange")
        total = backend.sum(total)
        backend.synchronize(self.optimizer)
        self.pulse.at("update")
        scaler.unscale_(self.optimizer) if self.precision.scales else None
        norm = _clipped(self._learning, recipe.gradient_clip)
        # all ranks see the same two numbers; asking for them makes a GPU wait, so that it is an option
        if recipe.on_nonfinite == "stop" or self.precision.scales or bool((total + norm).isfinite()):
            scaler.step(self.optimizer)
        scaler.update()
        return _Pending(torch.stack([total, norm.double()]), count, progress.epoch, progress.step)

    def _total(self, model: nn.Module, batch: Any, use: Tensor | None) -> Tensor:
        """Return the loss of a batch, summed over its valid values."""
        given: dict[str, Teacher] = {}
        if use is not None:
            given["teacher"] = (batch.targets, batch.targets_valid, use)
        with self.precision.autocast():
            forecast = model(**batch.inputs, **given)
        return self._loss(forecast.to(batch.targets.dtype), batch.targets, batch.targets_valid)[0]

    def _agree(self, count: int) -> int:
        """Return the sum of a count over the ranks; all leave here if any has been asked to stop."""
        self.pulse.at("agreement")
        told = [float(count), float(bool(self.stop))]
        if self.backend.size > 1:
            values = torch.tensor(told, dtype=torch.float64, device=self.backend.device)
            told = self.backend.sum(values).tolist()
        if told[1]:
            raise Stopped
        return int(told[0])

    def _set_rate(self, progress: Progress, steps: int) -> None:
        """Set the learning rate of the middle of a step, so that the first one of a warm-up is not lost."""
        recipe = self.recipe
        share = rate_share(
            recipe.schedule,
            gone=progress.epoch + (progress.step + 0.5) / steps,
            epochs=recipe.epochs,
            warmup_epochs=recipe.warmup_epochs,
            losses=[row["valid_loss"] for row in progress.rows],
        )
        for group in self.optimizer.param_groups:
            group["lr"] = share * recipe.learning_rate

    def _teachers(
        self, micro: list[Batch], progress: Progress, feed: Feed, steps: int
    ) -> list[Tensor | None]:
        """Return for each micro-batch where the truth is shown, (B, T') bool, or None where it never is."""
        share = self.shown_share(progress.epoch + progress.step / steps)
        if share == 0:
            return [None] * len(micro)
        use = draw(
            share,
            samples=self._global_length(feed, progress.step),
            steps=micro[0].targets.shape[1],
            seed=self.recipe.seed,
            epoch=progress.epoch,
            step=progress.step,
        ).to(self.backend.device)
        mine = use[self.backend.rank :: self.backend.size]
        if len(mine) == 0:  # the stand-in of a rank that has no share of a short batch
            mine = use[:1]
        return list(mine.split([len(batch.targets) for batch in micro]))

    def _read(self, feed: Feed, batches: list[list[int]], meter: Meter) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each batch."""
        parts = [micro_batches(share, self.recipe.accumulate) for share in batches]
        stream = feed.read([piece for pieces in parts for piece in pieces])
        for pieces in parts:
            self.pulse.at("data")
            with meter.waiting():
                micro = list(islice(stream, len(pieces)))
            yield micro

    def _shares(self, feed: Feed, *, epoch: int, shuffle: bool) -> list[list[int]]:
        place = {"rank": self.backend.rank, "size": self.backend.size}
        size, seed = self.recipe.batch_size, self.recipe.seed
        return epoch_batches(len(feed), batch_size=size, seed=seed, epoch=epoch, shuffle=shuffle, **place)

    def _global_length(self, feed: Feed, step: int) -> int:
        return min(self.recipe.batch_size, len(feed) - step * self.recipe.batch_size)

    def _refuse_or_skip(self, pending: _Pending, total: float, norm: float) -> None:
        place = f"at epoch {pending.epoch}, step {pending.step}"
        self._skipped_in_a_row += 1
        if not self.precision.scales and self.recipe.on_nonfinite == "stop":
            what, value = ("loss", total) if not math.isfinite(total) else ("norm of the gradient", norm)
            raise GlacierError(
                f"the training {what} is {value!r} {place}: lower train.learning_rate, give train.warmup_epochs or a "
                "smaller train.gradient_clip, look for extreme values in the data, or set train.on_nonfinite to skip"
            )
        if self._skipped_in_a_row > MAX_SKIPPED:
            what = "fp16 has overflowed" if self.precision.scales else "loss or gradient was not finite"
            raise GlacierError(
                f"{what} in {self._skipped_in_a_row} steps in a row, last {place} (loss {total!r}): set "
                "train.precision to bf16 or fp32 and train.compression to none where they are not, lower "
                "train.learning_rate, or look for extreme values in the data"
            )


def _clipped(parameters: list[nn.Parameter], limit: float | None) -> Tensor:
    """Return the norm of the gradient, and shorten it to the limit."""
    if limit is not None:
        return nn.utils.clip_grad_norm_(parameters, limit)
    norms = [torch.linalg.vector_norm(p.grad) for p in parameters if p.grad is not None]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


def _train_mode(model: nn.Module) -> None:
    """Let a model learn; batch norms whose weights are frozen keep the statistics that belong to them."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            own = list(module.parameters())
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()
