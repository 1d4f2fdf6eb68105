"""The training loop of all tasks, top to bottom; processes, losses, checkpoints and trackers are handed in.

`fit` knows of a model that it is called with ``batch.inputs``, of a dataset that it reads whole batches.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from glacierhpc.errors import GlacierError, InputError, unknown_name
from glacierhpc.training.batches import BatchedDataset, epoch_batches, load
from glacierhpc.training.checkpoint import Checkpoints, Progress
from glacierhpc.training.distributed import Backend, Single
from glacierhpc.training.losses import Loss, find_loss
from glacierhpc.training.trackers import Tracker

logger = logging.getLogger(__name__)

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adamw": partial(AdamW, foreach=False)}


@dataclass(frozen=True)
class History:
    """What a training run gave."""

    rows: tuple[dict[str, float], ...]
    """One per epoch: epoch, train_loss, valid_loss, learning_rate, samples_per_s, data_wait_share, seconds."""
    best_epoch: int
    """The epoch whose weights the model now has."""
    best_loss: float


def fit(
    model: nn.Module,
    train: BatchedDataset,
    valid: BatchedDataset | None = None,
    *,
    loss: str | Loss = "mse",
    optimizer: str = "adamw",
    backend: Backend | None = None,
    trackers: Sequence[Tracker] = (),
    checkpoints: Checkpoints | None = None,
    identity: Mapping[str, str] | None = None,
    epochs: int = 30,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    gradient_clip: float | None = 1.0,
    patience: int | None = 8,
    seed: int = 0,
    workers: int = 0,
) -> History:
    """Train a model and leave it with the weights of its best epoch.

    A run that was killed goes on from its last checkpoint; on a CPU the weights are then bit for bit those of
    a run that was not.

    Parameters
    ----------
    model : nn.Module
        Called as ``model(**batch.inputs)``; changed in place.
    train, valid : BatchedDataset
        Without `valid` (or with an empty one) the training loss decides which epoch is best.
    loss : str or callable
        Name in ``LOSSES``, or a function giving a sum and a count.
    optimizer : str
        Name in ``OPTIMIZERS``.
    backend : Backend, optional
        `Single` by default.
    checkpoints : Checkpoints, optional
        Without it nothing can be resumed, and the best weights are kept in memory.
    identity : mapping, optional
        What else the run is of, such as hashes of its data and split; a checkpoint of another identity is refused.
    epochs, batch_size, learning_rate, weight_decay
        The batch is the global one, of all ranks together.
    gradient_clip : float, optional
        Largest norm of the gradient.
    patience : int, optional
        Epochs without a better loss after which training stops.
    seed : int
        Of the order of samples and of what the model draws; the global random state is left as it was.
    workers : int
        Processes that read batches ahead.

    Returns
    -------
    History

    Raises
    ------
    InputError
        If there is nothing to train on, or the checkpoint is of another run.
    GlacierError
        If the loss is no longer finite.
    """
    _check(train, epochs=epochs, batch_size=batch_size, patience=patience, optimizer=optimizer)
    backend = backend or Single()
    run: dict[str, Any] = {
        "samples": len(train),
        "batch_size": batch_size,
        "seed": seed,
        "learning_rate": learning_rate,
    }
    run |= {
        "weight_decay": weight_decay,
        "gradient_clip": gradient_clip,
        "loss": str(getattr(loss, "__name__", loss)),
        "identity": dict(identity or {}),
    }
    with torch.random.fork_rng(devices=_cuda_devices(backend)):
        torch.manual_seed(seed + backend.rank)
        wrapped = backend.wrap_model(model)
        parameters = [p for p in model.parameters() if p.requires_grad]
        stepper = OPTIMIZERS[optimizer](parameters, lr=learning_rate, weight_decay=weight_decay)
        stepper = backend.wrap_optimizer(stepper, wrapped)
        progress = checkpoints.resume(model, stepper, run=run) if checkpoints else Progress()
        engine = _Engine(wrapped, stepper, find_loss(loss), backend, gradient_clip, batch_size, seed, workers)
        keeper = _Keeper(model, stepper, checkpoints, backend, run)
        logs = trackers if backend.rank == 0 else ()
        for tracker in logs:
            tracker.start(progress.rows)

        while progress.epoch < epochs and not _spent(progress, patience):
            row = engine.train_epoch(train, progress, keeper)
            row["valid_loss"] = engine.mean_loss(valid) if valid else row["train_loss"]
            progress.rows.append(row)
            better = row["valid_loss"] < progress.best_loss
            if better:
                progress.best_epoch, progress.best_loss = progress.epoch, row["valid_loss"]
            progress.epoch, progress.step, progress.total, progress.count = progress.epoch + 1, 0, 0.0, 0
            keeper.end_epoch(progress, better=better)
            logger.info(
                "epoch %d: train %.5f, valid %.5f", row["epoch"], row["train_loss"], row["valid_loss"]
            )
            for tracker in logs:
                tracker.log(row)

        keeper.restore_best()
    for tracker in logs:
        tracker.close()
    return History(tuple(progress.rows), progress.best_epoch, progress.best_loss)


@dataclass
class _Engine:
    """One pass over a dataset, with or without learning."""

    model: nn.Module
    optimizer: Optimizer
    loss: Loss
    backend: Backend
    gradient_clip: float | None
    batch_size: int
    seed: int
    workers: int

    def train_epoch(self, data: BatchedDataset, progress: Progress, keeper: _Keeper) -> dict[str, float]:
        """Go through the rest of an epoch from where `progress` stands, and return its row of the history."""
        self.model.train()
        started, waited, seen = time.perf_counter(), 0.0, 0
        stream = self._stream(data, epoch=progress.epoch, skip=progress.step, shuffle=True)
        while True:
            asked = time.perf_counter()
            batch = next(stream, None)
            waited += time.perf_counter() - asked
            if batch is None:
                break
            total, count = self._learn(batch.to(self.backend.device), progress)
            progress.step, progress.total, progress.count = (
                progress.step + 1,
                progress.total + total,
                progress.count + count,
            )
            seen += len(batch.targets) * self.backend.size
            keeper.after_step(progress)
        if progress.count == 0:
            raise InputError(
                "no training target holds a valid pixel: loosen the masks or lower min_valid_share"
            )
        seconds = max(time.perf_counter() - started, 1e-9)
        return {
            "epoch": progress.epoch,
            "train_loss": progress.total / progress.count,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "samples_per_s": seen / seconds,
            "data_wait_share": waited / seconds,
            "seconds": seconds,
        }

    def _learn(self, batch: Any, progress: Progress) -> tuple[float, int]:
        """Take one step and return the global batch's loss sum and count of values."""
        total, count = self.loss(self.model(**batch.inputs), batch.targets, batch.targets_valid)
        sums = self.backend.sum(torch.stack([total.detach().double(), count.double()])).tolist()
        if not math.isfinite(sums[0]):
            raise GlacierError(
                f"the training loss is {sums[0]!r} at epoch {progress.epoch}, step {progress.step}: "
                "lower train.learning_rate, or look for extreme values in the data"
            )
        if sums[1] == 0:
            return 0.0, 0
        self.optimizer.zero_grad()
        # gradients are averaged over the ranks: times size, over the global count, gives the global mean's
        (total * (self.backend.size / sums[1])).backward()
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.gradient_clip)
        self.optimizer.step()
        return sums[0], int(sums[1])

    @torch.no_grad()
    def mean_loss(self, data: BatchedDataset) -> float:
        """Return the loss over a whole dataset, a mean over its valid values."""
        self.model.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.backend.device)
        for batch in self._stream(data, epoch=0, skip=0, shuffle=False):
            batch = batch.to(self.backend.device)
            total, count = self.loss(self.model(**batch.inputs), batch.targets, batch.targets_valid)
            sums += torch.stack([total.double(), count.double()])
        total_, count_ = self.backend.sum(sums).tolist()
        if count_ == 0:
            raise InputError(
                "no validation target holds a valid pixel: loosen the masks or give another split"
            )
        return total_ / count_

    def _stream(self, data: BatchedDataset, *, epoch: int, skip: int, shuffle: bool) -> Any:
        place = {"rank": self.backend.rank, "size": self.backend.size}
        batches = epoch_batches(
            len(data), batch_size=self.batch_size, seed=self.seed, epoch=epoch, shuffle=shuffle, **place
        )
        return load(data, batches[skip:], workers=self.workers, pin=self.backend.device.type == "cuda")


@dataclass
class _Keeper:
    """Keeps the last and the best state, on disk by rank 0 or in memory."""

    model: nn.Module
    optimizer: Optimizer
    checkpoints: Checkpoints | None
    backend: Backend
    run: dict[str, Any]
    best: dict[str, torch.Tensor] = field(default_factory=dict)

    def after_step(self, progress: Progress) -> None:
        """Write the last state if one is due."""
        if self.checkpoints and self.backend.rank == 0 and self.checkpoints.due(progress.step):
            self.checkpoints.save_last(progress, self.model, self.optimizer, run=self.run)

    def end_epoch(self, progress: Progress, *, better: bool) -> None:
        """Write the best state first: killed between the two, the epoch is done again and writes the same."""
        if self.checkpoints is None:
            if better:
                self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        elif self.backend.rank == 0:
            if better:
                self.checkpoints.save_best(progress, self.model)
            self.checkpoints.save_last(progress, self.model, self.optimizer, run=self.run)
        self.backend.barrier()

    def restore_best(self) -> None:
        """Put the best weights back into the model."""
        if self.checkpoints is not None:
            self.checkpoints.load_best(self.model)
        elif self.best:
            self.model.load_state_dict(self.best)


def _spent(progress: Progress, patience: int | None) -> bool:
    return patience is not None and progress.stale_epochs >= patience


def _cuda_devices(backend: Backend) -> list[int]:
    return [torch.cuda.current_device()] if backend.device.type == "cuda" else []


def _check(
    train: BatchedDataset, *, epochs: int, batch_size: int, patience: int | None, optimizer: str
) -> None:
    if len(train) == 0:
        raise InputError(
            "no training sequences: give a longer period, a smaller gap, or lower min_valid_share"
        )
    if epochs < 1 or batch_size < 1 or (patience is not None and patience < 1):
        raise InputError(
            f"training cannot have epochs={epochs!r}, batch_size={batch_size!r}, patience={patience!r}: give 1 or more"
        )
    if optimizer not in OPTIMIZERS:
        raise unknown_name("optimizer", optimizer, OPTIMIZERS)
