"""A U-Net on all input frames at once, or on the last one alone; the form of its forecast is that of `anchored`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
from glacierhpc.models.teaching import Teacher, previous_frame

Norm = Callable[[int], nn.Module]


class UNetBody(nn.Module):
    """The contracting and the expanding path, joined by skip connections.

    Parameters
    ----------
    channels : int
        Of the image.
    widths : sequence of int
        Channels at each resolution, from the full one down; each is half of the one before.
    norm : callable
        channels -> the normalisation after each convolution.

    References
    ----------
    Ronneberger et al. (2015), U-Net, MICCAI, doi:10.1007/978-3-319-24574-4_28
    """

    def __init__(self, channels: int, widths: Sequence[int], norm: Norm) -> None:
        super().__init__()
        self.enter = _twice(channels, widths[0], norm)
        pairs = list(zip(widths, widths[1:]))
        self.down = nn.ModuleList(_twice(wide, narrow, norm) for wide, narrow in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, stride=2) for high, low in reversed(pairs))
        self.join = nn.ModuleList(_twice(2 * high, high, norm) for high, _ in reversed(pairs))

    def forward(self, image: Tensor) -> Tensor:
        """Return features (N, widths[0], H, W) of an image (N, channels, H, W)."""
        features = self.enter(image)
        skips = []
        for block in self.down:
            skips.append(features)
            features = block(functional.max_pool2d(features, 2))
        for grow, block, skip in zip(self.up, self.join, reversed(skips)):
            features = block(torch.cat([skip, _fitted(grow(features), skip)], dim=1))
        return features


class UNet(nn.Module):
    """Forecast the next composites from the last ones with a U-Net, the frames side by side as channels.

    All targets are forecast at once. With ``autoregressive`` it sees the last input alone and then its own forecasts,
    one after another, as the published work has it: to show what the other frames are worth. Forecasts have the form of
    `anchored.anchored`: an untrained model is climatology, or persistence without one. Any image size; of another
    number of inputs than `steps_in` the latest count, missing ones are invalid.

    Parameters
    ----------
    bands, steps_in, steps_out : int
    base : int
        Channels at full resolution; they double with each level.
    levels : int
        Times the resolution is halved.
    autoregressive : bool
    dropout : float
        Share of the channels between the network and the forecast that are dropped, in training.
    head : int
        Channels between the network and the forecast of each lead.
    means, deviations : sequence of float, optional
        Band statistics of the training data; 0 and 1 by default.
    value_range : (float, float), optional
        Forecasts are clipped to it outside of training.
    """

    taught = False
    """True of an autoregressive one."""

    def __init__(
        self,
        *,
        bands: int = 1,
        steps_in: int = 4,
        steps_out: int = 4,
        base: int = 8,
        levels: int = 3,
        autoregressive: bool = False,
        dropout: float = 0.0,
        head: int = 16,
        means: Sequence[float] | None = None,
        deviations: Sequence[float] | None = None,
        value_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if min(bands, steps_in, steps_out, base, levels, head) < 1 or not 0 <= dropout < 1:
            raise InputError(
                f"a U-Net cannot have bands={bands!r}, steps_in={steps_in!r}, steps_out={steps_out!r}, base={base!r}, "
                f"levels={levels!r}, head={head!r}, dropout={dropout!r}: give positive numbers and 0 <= dropout < 1"
            )
        self.steps_in, self.steps_out, self.multiple = steps_in, steps_out, 2**levels
        self.taught = autoregressive
        self.anchor = Anchor(
            bands=bands, steps_out=steps_out, means=means, deviations=deviations, value_range=value_range
        )
        frames, leads = (1, 1) if autoregressive else (steps_in, steps_out)
        channels = frames * dated_channels(bands) + leads * ahead_channels(bands)
        self.body = UNetBody(channels, [base * 2**level for level in range(levels + 1)], PixelNorm)
        self.drop = nn.Dropout2d(dropout)
        self.leave = nn.Conv2d(base, leads * head, 1)
        gains = 2 if autoregressive else 2 + steps_in
        self.head = Head(head + fine_channels(bands), bands=bands, gains=gains, width=head)

    def forward(
        self,
        images: Tensor,
        images_valid: Tensor | None = None,
        *,
        teacher: Teacher | None = None,
        **known: Tensor | None,
    ) -> Tensor:
        """Return the forecast (B, T', C, H, W) of images (B, T, C, H, W) and what `Anchor.forward` takes.

        Parameters
        ----------
        teacher : Teacher, optional
            True frames for an autoregressive one to follow instead of its own, see `teaching.previous_frame`.
        """
        outlook = self.anchor(images, images_valid, **known)
        if self.taught:
            return self.anchor.undo(self._one_by_one(outlook, teacher))
        return self.anchor.undo(self._at_once(outlook.of_steps(self.steps_in)))

    def _at_once(self, outlook: Outlook) -> list[Tensor]:
        leads = range(self.steps_in, self.steps_in + self.steps_out)
        inputs = [outlook.dated(step) for step in range(self.steps_in)]
        states = self._network([*inputs, *(outlook.ahead(step) for step in leads)]).chunk(
            self.steps_out, dim=1
        )
        return [self._decode(outlook, step, state) for step, state in zip(leads, states)]

    def _one_by_one(self, outlook: Outlook, teacher: Teacher | None) -> list[Tensor]:
        frame = outlook.dated(outlook.steps_in - 1)
        forecasts: list[Tensor] = []
        for lead in range(self.steps_out):
            step = outlook.steps_in + lead
            if lead:
                before = previous_frame(forecasts[-1], lead, teacher, self.anchor.scaling)
                frame = outlook.dated_frame(before, step - 1, torch.ones_like(outlook.valid[:, 0]))
            forecasts.append(self._decode(outlook, step, self._network([frame, outlook.ahead(step)])))
        return forecasts

    def _network(self, channels: list[Tensor]) -> Tensor:
        """Return the state of every lead side by side, (B, leads * head, H, W)."""
        height, width = channels[0].shape[-2:]
        image = padded(torch.cat(channels, dim=1), self.multiple)
        return self.leave(self.drop(self.body(image)))[..., :height, :width]

    def _decode(self, outlook: Outlook, step: int, state: Tensor) -> Tensor:
        return anchored(outlook, step, *self.head(torch.cat([state, outlook.fine(step)], dim=1)))


def _twice(channels: int, width: int, norm: Norm) -> nn.Sequential:
    """Return two 3 x 3 convolutions, each with its norm and ReLU; the norm has the bias."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        norm(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        norm(width),
        nn.ReLU(inplace=True),
    )


def _fitted(image: Tensor, like: Tensor) -> Tensor:
    """Return an image with a rim of zeros, to the size of `like`: halving drops the last row of an odd number."""
    missing = [large - small for large, small in zip(like.shape[-2:], image.shape[-2:])]
    sides = [missing[1] // 2, missing[1] - missing[1] // 2, missing[0] // 2, missing[0] - missing[0] // 2]
    return functional.pad(image, sides) if any(missing) else image
