"""SimVP with gated spatiotemporal attention (gSTA); the form of its forecast is that of `anchored`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from glacierhpc.errors import InputError
from glacierhpc.models.anchored import (
    Anchor,
    Head,
    Outlook,
    ahead_channels,
    anchored,
    dated_channels,
    fine_channels,
)
from glacierhpc.models.inputs import PixelNorm, padded

_DILATION = 3
"""Of the second of the two convolutions that stand for one large kernel (section 3.3 of the paper)."""


class SimVP(nn.Module):
    """Forecast the next composites with a spatial encoder, a translator over time and space, and a spatial decoder.

    The encoder takes every frame by itself down to a coarser grid; the translator sees the frames side by side as
    channels and mixes them with large gated kernels; the decoder takes every lead by itself back, helped by what the
    encoder's first layer saw. Unlike the original, numbers of inputs and of leads are free of each other (the
    translator's last layer has the channels of the leads), norms are over the channels of single pixels, and forecasts
    have the form of `anchored.anchored`: an untrained model is climatology, or persistence without one. Any image size;
    of another number of inputs than `steps_in` the latest count, missing ones are invalid.

    Parameters
    ----------
    bands, steps_in, steps_out : int
    width : int
        Channels of a frame in the encoder and the decoder.
    hidden : int
        Channels of the translator.
    blocks : int
        Of the translator.
    levels : int
        Times the encoder halves the resolution.
    kernel : int
        Width of the attention's kernels, cells of the coarsest grid.
    dropout : float
        Share of channels dropped in the blocks, in training.
    head : int
        Channels between the decoder and the forecast.
    means, deviations : sequence of float, optional
        Band statistics of the training data; 0 and 1 by default.
    value_range : (float, float), optional
        Forecasts are clipped to it outside of training.

    References
    ----------
    Tan et al. (2022), SimVP: towards simple yet powerful spatiotemporal predictive learning, arXiv:2211.12509
    Gao et al. (2022), SimVP: simpler yet better video prediction, CVPR, arXiv:2206.05099
    """

    def __init__(
        self,
        *,
        bands: int = 1,
        steps_in: int = 4,
        steps_out: int = 4,
        width: int = 16,
        hidden: int = 64,
        blocks: int = 4,
        levels: int = 2,
        kernel: int = 21,
        dropout: float = 0.0,
        head: int = 16,
        means: Sequence[float] | None = None,
        deviations: Sequence[float] | None = None,
        value_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        sizes = (bands, steps_in, steps_out, width, hidden, blocks, levels, head)
        if min(sizes) < 1 or kernel < _DILATION or not 0 <= dropout < 1:
            raise InputError(
                f"a SimVP cannot have bands={bands!r}, steps_in={steps_in!r}, steps_out={steps_out!r}, "
                f"width={width!r}, hidden={hidden!r}, blocks={blocks!r}, levels={levels!r}, kernel={kernel!r}, "
                f"dropout={dropout!r}, head={head!r}: give positive numbers, kernel >= {_DILATION}, 0 <= dropout < 1"
            )
        self.steps_in, self.steps_out, self.multiple = steps_in, steps_out, 2**levels
        self.anchor = Anchor(
            bands=bands, steps_out=steps_out, means=means, deviations=deviations, value_range=value_range
        )
        self.enter = _layer(dated_channels(bands), width)
        self.down = nn.Sequential(*(_halving(width) for _ in range(levels)))
        self.translator = nn.Sequential(
            nn.Conv2d(steps_in * width + steps_out * ahead_channels(bands), hidden, 1),
            *(GatedBlock(hidden, kernel, dropout) for _ in range(blocks)),
            nn.Conv2d(hidden, steps_out * width, 1),
        )
        self.up = nn.Sequential(*(_doubling(width) for _ in range(levels)))
        self.skip = nn.Conv2d(steps_in * width, steps_out * width, 1)
        self.leave = _layer(2 * width, width)
        self.head = Head(width + fine_channels(bands), bands=bands, gains=2 + steps_in, width=head)

    def forward(self, images: Tensor, images_valid: Tensor | None = None, **known: Tensor | None) -> Tensor:
        """Return the forecast (B, T', C, H, W) of images (B, T, C, H, W) and what `Anchor.forward` takes."""
        outlook = self.anchor(images, images_valid, **known).of_steps(self.steps_in)
        height, width = images.shape[-2:]
        forecasts = []
        for lead, state in enumerate(self._states(outlook).unbind(dim=1)):
            step = self.steps_in + lead
            features = torch.cat([state[..., :height, :width], outlook.fine(step)], dim=1)
            forecasts.append(anchored(outlook, step, *self.head(features)))
        return self.anchor.undo(forecasts)

    def _states(self, outlook: Outlook) -> Tensor:
        """Return what the network makes of each lead, (B, T', width, H, W), of the padded size."""
        batch = len(outlook.last)
        leads = range(self.steps_in, self.steps_in + self.steps_out)
        frames = torch.stack([outlook.dated(step) for step in range(self.steps_in)], dim=1)
        seen = self.enter(padded(frames.flatten(0, 1), self.multiple))
        ahead = padded(torch.cat([outlook.ahead(step) for step in leads], dim=1), self.multiple)
        coarse = [
            self.down(seen).unflatten(0, (batch, -1)).flatten(1, 2),
            functional.avg_pool2d(ahead, self.multiple),
        ]
        translated = self.translator(torch.cat(coarse, dim=1)).unflatten(1, (self.steps_out, -1))
        skipped = self.skip(seen.unflatten(0, (batch, -1)).flatten(1, 2)).unflatten(1, (self.steps_out, -1))
        both = torch.cat([self.up(translated.flatten(0, 1)), skipped.flatten(0, 1)], dim=1)
        return self.leave(both).unflatten(0, (batch, -1))


class GatedBlock(nn.Module):
    """One block of the translator: attention by a large gated kernel, then a mixing of channels (gSTA).

    Parameters
    ----------
    channels : int
    kernel : int
        Width of the attention's kernel.
    dropout : float
        Share of channels dropped.
    """

    def __init__(self, channels: int, kernel: int, dropout: float) -> None:
        super().__init__()
        near, far = 2 * _DILATION - 1, kernel // _DILATION
        far += 1 - far % 2  # odd, so that the kernel has a centre
        self.before, self.between = PixelNorm(channels), PixelNorm(channels)
        self.enter, self.leave = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.large = nn.Sequential(
            nn.Conv2d(channels, channels, near, padding=near // 2, groups=channels),
            nn.Conv2d(
                channels,
                channels,
                far,
                padding=_DILATION * (far // 2),
                dilation=_DILATION,
                groups=channels,
            ),
            nn.Conv2d(channels, 2 * channels, 1),
        )
        wide = 4 * channels
        self.mix = nn.Sequential(
            nn.Conv2d(channels, wide, 1),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide),
            nn.GELU(),
            nn.Conv2d(wide, channels, 1),
        )
        self.drop = nn.Dropout2d(dropout)
        # a block starts close to the identity: deep translators train from the first step on
        self.scales = nn.Parameter(torch.full((2, channels, 1, 1), 0.01))

    def forward(self, features: Tensor) -> Tensor:
        """Return features (B, channels, h, w) with what attention and mixing add to them."""
        features = features + self.drop(self.scales[0] * self._attended(self.before(features)))
        return features + self.drop(self.scales[1] * self.mix(self.between(features)))

    def _attended(self, features: Tensor) -> Tensor:
        values, gate = self.large(functional.gelu(self.enter(features))).chunk(2, dim=1)
        return self.leave(torch.sigmoid(gate) * values) + features


def _layer(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, stride=stride, padding=1), PixelNorm(width), nn.SiLU())


def _halving(width: int) -> nn.Sequential:
    return nn.Sequential(_layer(width, width, stride=2), _layer(width, width))


def _doubling(width: int) -> nn.Sequential:
    return nn.Sequential(_layer(width, width), nn.Conv2d(width, 4 * width, 1), nn.PixelShuffle(2))
