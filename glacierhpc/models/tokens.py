"""Images as tokens, one per patch of pixels, and back: what lets sequence networks take images of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from glacierhpc.models.anchored import Head, Outlook, anchored, fine_channels
from glacierhpc.models.inputs import padded


class PatchEmbedding(nn.Module):
    """Turns each patch of an image, with its neighbours, into a token.

    Parameters
    ----------
    channels : int
        Of the image.
    width : int
        Of a token.
    patch : int
        Edge length, pixels.
    """

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        # a token sees three patches each way, so that what moves across a border is not lost
        self.project = nn.Conv2d(channels, width, 3 * patch, stride=patch, padding=patch)

    def forward(self, image: Tensor) -> Tensor:
        """Return the tokens (B h w, width) of an image (B, channels, H, W); h and w are rounded up."""
        grid = self.project(padded(image, self.patch))
        return grid.permute(0, 2, 3, 1).flatten(0, 2)


class TokenHead(nn.Module):
    """Decodes a target's token, beside those of the inputs, into a forecast of the form of `anchored.anchored`.

    The weights of the inputs' departures are the likeness of their tokens to the target's; they are zero before
    training, as all that `anchored.Head` gives.

    Parameters
    ----------
    width : int
        Of a token.
    bands : int
    patch : int
        Edge length, pixels.
    head : int
        Channels, at full resolution, between the token and the forecast.
    dropout : float
        Share of a target's token that is dropped, in training.
    """

    def __init__(self, width: int, *, bands: int, patch: int, head: int, dropout: float) -> None:
        super().__init__()
        self.patch = patch
        self.drop = nn.Dropout(dropout)
        self.query = nn.Linear(width, width)
        nn.init.zeros_(self.query.weight)
        nn.init.zeros_(self.query.bias)
        # narrowed on the coarse grid: at full resolution every channel costs patch * patch times as much
        self.narrow = nn.Linear(width, head)
        self.head = Head(head + fine_channels(bands), bands=bands, gains=2, width=head)

    def forward(self, outlook: Outlook, step: int, target: Tensor, inputs: Tensor) -> Tensor:
        """Return the scaled forecast (B, C, H, W) of a step.

        Parameters
        ----------
        outlook : Outlook
        step : int
            Of the target, from T on.
        target : (B h w, width)
        inputs : (B h w, T, width)
        """
        likeness = (self.query(target).unsqueeze(1) * inputs).sum(dim=-1) / target.shape[-1] ** 0.5
        parts = (self.narrow(self.drop(target)), likeness.tanh())
        state, weights = (to_pixels(part, self.patch, outlook.last) for part in parts)
        gains, change = self.head(torch.cat([state, outlook.fine(step)], dim=1))
        return anchored(outlook, step, torch.cat([gains, weights], dim=1), change)


def to_pixels(tokens: Tensor, patch: int, like: Tensor) -> Tensor:
    """Return tokens (B h w, K) as an image (B, K, H, W) of the size of `like`, smooth across the patches' borders."""
    height, width = like.shape[-2:]
    rows, cols = -(-height // patch), -(-width // patch)
    grid = tokens.view(len(like), rows, cols, -1).permute(0, 3, 1, 2)
    image = functional.interpolate(grid, scale_factor=patch, mode="bilinear", align_corners=False)
    return image[..., :height, :width]
