"""The settings of a training run in one place: checked at the door, and told apart on resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

from glacierhpc.errors import InputError, unknown_name
from glacierhpc.training.losses import Loss, find_loss
from glacierhpc.training.precision import PRECISIONS
from glacierhpc.training.schedules import SCHEDULES
from glacierhpc.training.teacher import DECAYS

SGD_MOMENTUM = 0.9
"""Of Sutskever et al. (2013), ICML 28, and of nearly all that was trained with it since."""

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adamw": AdamW,
    "adam": Adam,
    "sgd": partial(SGD, momentum=SGD_MOMENTUM, nesterov=True),
}

FORMAT = 2
"""Of checkpoints; one of another format is of another training."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: everything but the model, the data, and where it runs."""

    loss: str | Loss = "mse"
    """Name in ``LOSSES``, or a function giving a sum over valid values and their number."""
    optimizer: str = "adamw"
    """Name in `OPTIMIZERS`."""
    epochs: int = 30
    """At most."""
    batch_size: int = 16
    """Of all ranks together."""
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    gradient_clip: float | None = 1.0
    """Largest norm of the gradient."""
    patience: int | None = 8
    """Epochs without a better loss after which training stops."""
    seed: int = 0
    """Of the order of samples and of what the model draws."""
    precision: str = "fp32"
    """Name in ``PRECISIONS``."""
    accumulate: int = 1
    """Parts in which each rank takes its share of a batch, one after the other, to save memory."""
    schedule: str = "constant"
    """Of the learning rate, a name in ``SCHEDULES``."""
    warmup_epochs: float = 0.0
    """Over which the learning rate first rises."""
    teacher_forcing: float = 0.0
    """Share of forecast steps that start from the truth, at the start."""
    teacher_decay: str = "none"
    """How that share falls to 0, a name in ``DECAYS``."""
    on_nonfinite: str = "stop"
    """``"stop"`` ends the training at a loss or gradient that is not finite, ``"skip"`` leaves that step out. Under
    precision fp16 steps are left out in any case: its scaling finds the largest scale so."""

    def __post_init__(self) -> None:
        find_loss(self.loss)
        for what, names in (
            ("optimizer", OPTIMIZERS),
            ("precision", PRECISIONS),
            ("schedule", SCHEDULES),
            ("teacher_decay", DECAYS),
            ("on_nonfinite", ("stop", "skip")),
        ):
            if getattr(self, what) not in names:
                raise unknown_name(what, getattr(self, what), names)
        counts = {name: getattr(self, name) for name in ("epochs", "batch_size", "patience", "accumulate")}
        if any(value is not None and value < 1 for value in counts.values()):
            told = ", ".join(f"{name}={value!r}" for name, value in counts.items())
            raise InputError(f"training cannot have {told}: give 1 or more")
        clip = 1.0 if self.gradient_clip is None else self.gradient_clip
        if not (self.learning_rate > 0 and self.weight_decay >= 0 and clip > 0):
            raise InputError(
                f"training cannot have learning_rate={self.learning_rate!r}, weight_decay={self.weight_decay!r}, "
                f"gradient_clip={self.gradient_clip!r}: give a rate above 0, a decay of 0 or more, and a clip above 0 "
                "or None for no clipping"
            )
        if self.accumulate > self.batch_size:
            raise InputError(
                f"a batch of {self.batch_size!r} cannot be taken in accumulate={self.accumulate!r} parts: "
                "give a smaller accumulate or a larger batch_size"
            )
        if not 0 <= self.warmup_epochs < self.epochs:
            raise InputError(
                f"warmup_epochs={self.warmup_epochs!r} does not fit into {self.epochs!r} epochs: give 0 to less"
            )
        if not 0 <= self.teacher_forcing <= 1:
            raise InputError(
                f"teacher_forcing={self.teacher_forcing!r} is no share: give a number from 0 to 1"
            )

    def identity(self, samples: int, others: Mapping[str, str]) -> dict[str, Any]:
        """Return what a checkpoint must have been trained with to be gone on from.

        The number of epochs counts only where the rate or the teacher depends on it: else a run may be prolonged.
        Nor does what is done about a step that is not finite: a checkpoint holds none, whatever was chosen before.
        """
        free = ("epochs", "patience", "on_nonfinite")
        told = {name: value for name, value in vars(self).items() if name not in free}
        told |= {"format": FORMAT, "samples": samples, "loss": _called(self.loss), "identity": dict(others)}
        if self.schedule == "cosine" or (self.teacher_forcing and self.teacher_decay != "none"):
            told["epochs"] = self.epochs
        return told

    def make_optimizer(self, parameters: list[torch.nn.Parameter]) -> Optimizer:
        """Return the optimiser over the weights that learn.

        Raises
        ------
        InputError
            If none does.
        """
        if not parameters:
            raise InputError(
                "every weight of the model is frozen, so there is nothing to train: freeze fewer of them, "
                "or skip training"
            )
        return OPTIMIZERS[self.optimizer](parameters, lr=self.learning_rate, weight_decay=self.weight_decay)


def _called(loss: str | Loss) -> str:
    """Return a name that is the same in every process, as that of an object with its address in it is not."""
    if isinstance(loss, partial):
        return f"{_called(loss.func)} of {loss.args!r} {sorted(loss.keywords.items())!r}"
    return loss if isinstance(loss, str) else str(getattr(loss, "__name__", type(loss).__name__))
