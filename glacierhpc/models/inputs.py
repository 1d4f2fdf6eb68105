"""What every sequence model does with its inputs, scaling, masks, dates and sizes, and the norm between its layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from glacierhpc.errors import InputError

DATE_CHANNELS = 3
"""Of `date_channels`."""


class Scaling(nn.Module):
    """Band statistics that travel with the weights: values enter a model as (value - mean) / deviation."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, bands: int, means: Sequence[float] | None, deviations: Sequence[float] | None) -> None:
        super().__init__()
        means = [0.0] * bands if means is None else list(means)
        deviations = [1.0] * bands if deviations is None else list(deviations)
        if len(means) != bands or len(deviations) != bands or min(deviations) <= 0:
            raise InputError(
                f"means {means!r} and deviations {deviations!r} do not scale {bands} bands: "
                "give one mean and one deviation > 0 per band"
            )
        self.register_buffer("mean", torch.tensor(means, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviations, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor, valid: Tensor) -> Tensor:
        """Return scaled (B, T, C, H, W), exactly 0 where `valid` (B, T, 1, H, W) is False, whatever stood there."""
        if images.shape[-3] != len(self.mean):
            # one band would be spread over all without a word
            raise InputError(
                f"images of shape {tuple(images.shape)!r} have {images.shape[-3]} bands, the model {len(self.mean)}: "
                f"give (B, T, C, H, W) with C = {len(self.mean)}, or build the model with their bands"
            )
        return torch.where(valid, (images - self.mean) / self.deviation, 0.0)

    def undo(self, scaled: Tensor) -> Tensor:
        """Return values in the unit of the images."""
        return scaled * self.deviation + self.mean


def mask_or_all(images: Tensor, valid: Tensor | None) -> Tensor:
    """Return a mask (B, T, 1, H, W) of images (B, T, C, H, W) from one (B, T, H, W); all valid without one."""
    if valid is None:
        return torch.ones_like(images[:, :, :1], dtype=torch.bool)
    if valid.shape != (*images.shape[:2], *images.shape[3:]):
        raise InputError(
            f"a mask of shape {tuple(valid.shape)!r} does not fit images of {tuple(images.shape)!r}: "
            "give (B, T, H, W) for (B, T, C, H, W)"
        )
    return valid.unsqueeze(2)


def last_valid(scaled: Tensor, valid: Tensor) -> Tensor:
    """Return each pixel's latest valid value, (B, C, H, W); 0, the mean, where there was none.

    Parameters
    ----------
    scaled : (B, T, C, H, W)
    valid : (B, T, 1, H, W) bool
    """
    latest = torch.zeros_like(scaled[:, 0])
    for step in range(scaled.shape[1]):
        latest = torch.where(valid[:, step], scaled[:, step], latest)
    return latest


def date_channels(dates: Tensor | None, batch: int, steps: int, last_input: int, like: Tensor) -> Tensor:
    """Return (batch, steps, 3): sine and cosine of the season, and years since the last input.

    Without dates all three are zero.

    Parameters
    ----------
    dates : (batch, steps) float or None
        Years since 2000.
    last_input : int
        Position of the last input among the steps.
    """
    if dates is None:
        return torch.zeros(batch, steps, 3, dtype=like.dtype, device=like.device)
    if dates.shape != (batch, steps):
        raise InputError(
            f"dates of shape {tuple(dates.shape)!r} do not fit: give ({batch}, {steps}), one per step"
        )
    phase = 2 * torch.pi * (dates - torch.floor(dates))
    age = dates - dates[:, last_input : last_input + 1]
    return torch.stack([torch.sin(phase), torch.cos(phase), age], dim=-1).to(like.dtype)


def spread(vector: Tensor, like: Tensor) -> Tensor:
    """Return a vector (B, K) as constant channels (B, K, H, W) on the plane of `like`."""
    return vector[..., None, None].expand(-1, -1, *like.shape[-2:])


def padded(frame: Tensor, multiple: int) -> Tensor:
    """Return a frame extended below and to the right, by its rim, to whole multiples of so many pixels."""
    missing = [-length % multiple for length in frame.shape[-2:]]
    return functional.pad(frame, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else frame


class PixelNorm(nn.Module):
    """Layer norm over the channels of each pixel by itself.

    Batch norm would know of the other sequences, so that accumulated, distributed and single training differ; a norm
    over the image would know of the rest of the tile, so that neighbouring tiles of a scene differ.

    References
    ----------
    Ba et al. (2016), Layer normalization, arXiv:1607.06450
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return features (N, channels, H, W), normalised."""
        return self.norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
