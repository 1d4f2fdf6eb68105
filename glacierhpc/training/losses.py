"""Losses over valid pixels, by name; each gives a sum and a count, so that batches and ranks of any size add up."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from glacierhpc.errors import InputError, unknown_name

Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(prediction, target, valid) -> (sum over valid values, their number): the number of `count_valid`."""

HUBER_DELTA = 0.1
"""Where the Huber loss turns linear, in the target's unit: a tenth of a normalised difference's half range."""
SSIM_WEIGHT = 0.1
"""Of 1 - SSIM in the mix: with it both terms are of one size at a mean squared error of 0.05 and an SSIM of 0.5."""
SSIM_WINDOW_PX = 7
SSIM_MIN_VALID = 0.5
"""Window and least valid share of it: as in ``evaluation.metrics``, so that what is learnt is what is judged."""
DATA_RANGE = 2.0
"""Width of the range of a normalised difference, for the constants of SSIM."""
GRADIENT_WEIGHT = 1.0
"""Of the gradient difference beside the squared errors: Mathieu et al.'s lambda_gdl and lambda_lp are both 1."""


def count_valid(target: Tensor, valid: Tensor) -> int:
    """Return how many values of a target (B, T, C, H, W) count where pixels (B, T, H, W) are valid."""
    return int(valid.sum()) * target.shape[2]


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


def ssim_mse(
    prediction: Tensor, target: Tensor, valid: Tensor, *, data_range: float = DATA_RANGE
) -> tuple[Tensor, Tensor]:
    """Squared errors, and `SSIM_WEIGHT` times 1 - SSIM at the pixels where `dissimilarity` counts."""
    squared, count = mse(prediction, target, valid)
    return squared + SSIM_WEIGHT * dissimilarity(
        prediction, target, valid, data_range=data_range
    ).sum(), count


def gradient_difference(prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Squared errors, and `GRADIENT_WEIGHT` times how much neighbours differ in the steepness between them.

    Pairs of neighbours count where both are valid. Sharpens edges that squared errors alone blur.

    References
    ----------
    Mathieu et al. (2016), Deep multi-scale video prediction beyond mean square error, ICLR, arXiv:1511.05440,
    equation 6 with alpha = 1
    """
    squared, count = mse(prediction, target, valid)
    total = squared
    for axis in (-2, -1):
        length = target.shape[axis] - 1
        pair = (valid.narrow(axis, 1, length) & valid.narrow(axis, 0, length)).unsqueeze(2)
        # masked before the absolute value, whose gradient at NaN is NaN
        steep, truly = (torch.where(pair, image.diff(dim=axis), 0.0).abs() for image in (prediction, target))
        total = total + GRADIENT_WEIGHT * (steep - truly).abs().sum()
    return total, count


def dissimilarity(
    prediction: Tensor, target: Tensor, valid: Tensor, *, data_range: float = DATA_RANGE
) -> Tensor:
    """Return 1 - SSIM around each pixel (B, T, C, H, W), 0 where it does not count.

    Means, variances and the covariance of a window are taken over its valid pixels. A pixel counts if it is valid
    and at least `SSIM_MIN_VALID` of its window is.

    References
    ----------
    Wang et al. (2004), IEEE TIP 13(4), doi:10.1109/TIP.2003.819861, equation 13
    """
    mask = valid.unsqueeze(2).expand_as(target)
    x, y = (torch.where(mask, image, 0.0) for image in (prediction, target))
    share = _window_mean(valid.unsqueeze(2).to(x.dtype))
    weight = share.clamp(min=1e-12)
    mean_x, mean_y = _window_mean(x) / weight, _window_mean(y) / weight
    var_x = (_window_mean(x * x) / weight - mean_x**2).clamp(min=0)
    var_y = (_window_mean(y * y) / weight - mean_y**2).clamp(min=0)
    covariance = _window_mean(x * y) / weight - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return torch.where(mask & (share >= SSIM_MIN_VALID), 1 - similarity, 0.0)


def _window_mean(values: Tensor) -> Tensor:
    """Return the mean over the window around each pixel of (B, T, C, H, W); beyond the image stands 0."""
    flat = values.flatten(0, 2).unsqueeze(1)
    means = functional.avg_pool2d(flat, SSIM_WINDOW_PX, stride=1, padding=SSIM_WINDOW_PX // 2)
    return means.view_as(values)


LOSSES: dict[str, Loss] = {
    "mse": mse,
    "mae": mae,
    "huber": huber,
    "ssim_mse": ssim_mse,
    "gradient_difference": gradient_difference,
}


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
