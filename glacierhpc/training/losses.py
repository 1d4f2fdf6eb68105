"""Losses over valid pixels, by name; each gives a sum and a count, so that batches and ranks of any size add up."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from glacierhpc.errors import InputError, unknown_name

Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(prediction, target, valid) -> (sum over valid values, their number)."""

HUBER_DELTA = 0.1
"""Where the Huber loss turns linear, in the target's unit: a tenth of a normalised difference's half range."""


def masked_errors(prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return prediction - target (B, T, C, H, W), 0 where not valid (B, T, H, W), and how many values are valid.

    Masked before any formula: the gradient of a masked square of NaN would be NaN.
    """
    mask = valid.unsqueeze(2).expand_as(target)
    return torch.where(mask, prediction - target, 0.0), mask.sum()


def mse(prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Squared errors."""
    errors, count = masked_errors(prediction, target, valid)
    return (errors**2).sum(), count


def mae(prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute errors."""
    errors, count = masked_errors(prediction, target, valid)
    return errors.abs().sum(), count


def huber(prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Huber's errors: squared up to `HUBER_DELTA`, linear beyond (doi:10.1214/aoms/1177703732)."""
    errors, count = masked_errors(prediction, target, valid)
    return functional.huber_loss(errors, torch.zeros_like(errors), reduction="sum", delta=HUBER_DELTA), count


LOSSES: dict[str, Loss] = {"mse": mse, "mae": mae, "huber": huber}


def find_loss(loss: str | Loss) -> Loss:
    """Return a loss by name, or the function itself.

    Raises
    ------
    InputError
        If the name is not known.
    """
    if callable(loss):
        return loss
    if not isinstance(loss, str):
        raise InputError(f"a loss cannot be {loss!r}: give one of {', '.join(LOSSES)}, or a function")
    if loss not in LOSSES:
        raise unknown_name("loss", loss, LOSSES)
    return LOSSES[loss]
