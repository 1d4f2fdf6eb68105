"""The architectures of the published glacier-movement work, as they were: the comparison, not the recommendation.

From the code of Glacier_Movement_Prediction (jonasmueler): number of layers, widths, and what feeds on what. They use
neither dates nor climatology. Values enter on the scale of ``value_range``, that is unchanged for the index in
[-1, 1] that they were published with; invalid pixels enter as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from glacierhpc.errors import InputError
from glacierhpc.models.convlstm import advance, cells, empty_states
from glacierhpc.models.inputs import Scaling, mask_or_all
from glacierhpc.models.teaching import Teacher, previous_frame
from glacierhpc.models.unet import UNetBody

_LAYERS, _DROPOUT = 3, 0.1
_ENCODER, _DECODER = (128, 64, 32), (32, 64, 32)
_UNET = (64, 128, 256, 512, 1024)


class PaperLSTM(nn.Module):
    """Forecast with a three-layer LSTM that reads and one that writes, as wide as an image has values.

    The writer starts from the reader's states and last output, and then follows the frame before. Its hidden state
    *is* the forecast, so that forecasts lie in (-1, 1) on the scale of `value_range`. 300.12 million parameters at
    50 x 50 pixels. The published training is always taught (a share of 1 that does not decay).

    Parameters
    ----------
    bands, steps_out : int
    size : int
        Edge length of the images, pixels; no other size can be forecast.
    value_range : (float, float), optional
        Of the data; (-1, 1) by default.
    """

    taught = True

    def __init__(
        self,
        *,
        bands: int = 1,
        steps_out: int = 4,
        size: int = 50,
        value_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        _check(bands=bands, steps_out=steps_out, size=size)
        self.shape, self.steps_out = (bands, size, size), steps_out
        self.scaling = _range_scaling(bands, value_range)
        width = bands * size * size
        self.encoder = nn.LSTM(width, width, _LAYERS, batch_first=True, dropout=_DROPOUT)
        self.decoder = nn.LSTM(width, width, _LAYERS, batch_first=True, dropout=_DROPOUT)

    def forward(
        self,
        images: Tensor,
        images_valid: Tensor | None = None,
        *,
        teacher: Teacher | None = None,
        **_: Any,
    ) -> Tensor:
        """Return the forecast (B, T', C, H, W) from images (B, T, C, H, W) and their mask (B, T, H, W)."""
        outputs, state = self.encoder(_flat(self.scaling, images, images_valid, self.shape))
        frame = outputs[:, -1]
        forecasts: list[Tensor] = []
        for lead in range(self.steps_out):
            if lead:
                frame = previous_frame(forecasts[-1], lead, teacher, self.scaling).flatten(1)
            written, state = self.decoder(frame.unsqueeze(1), state)
            forecasts.append(written[:, 0].unflatten(1, self.shape))
        return self.scaling.undo(torch.stack(forecasts, dim=1))


class PaperAttentionLSTM(nn.Module):
    """Forecast with a three-layer LSTM, self-attention over its last outputs and one linear layer (the paper's model).

    After each forecast the frame is put behind the outputs, the oldest one is dropped, and the LSTM reads them again,
    outputs and frames mixed, as published. 200.07 million parameters at 50 x 50 pixels and four inputs. The published
    training is always taught (a share of 1 that does not decay).

    Parameters
    ----------
    bands, steps_in, steps_out : int
        Of more inputs than `steps_in` the latest count; fewer are refused.
    size : int
        Edge length of the images, pixels; no other size can be forecast.
    heads : int
        Of the attention; where the values of an image cannot be shared among so many, the next smaller number that
        they can.
    value_range : (float, float), optional
        Of the data; (-1, 1) by default.
    """

    taught = True

    def __init__(
        self,
        *,
        bands: int = 1,
        steps_in: int = 4,
        steps_out: int = 4,
        size: int = 50,
        heads: int = 5,
        value_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        _check(bands=bands, steps_in=steps_in, steps_out=steps_out, size=size, heads=heads)
        self.shape, self.steps_in, self.steps_out = (bands, size, size), steps_in, steps_out
        self.scaling = _range_scaling(bands, value_range)
        width = bands * size * size
        heads = next(number for number in range(heads, 0, -1) if width % number == 0)
        self.encoder = nn.LSTM(width, width, _LAYERS, batch_first=True, dropout=_DROPOUT)
        self.attention = nn.MultiheadAttention(width, heads, dropout=_DROPOUT, batch_first=True)
        self.linear = nn.Linear(steps_in * width, width)

    def forward(
        self,
        images: Tensor,
        images_valid: Tensor | None = None,
        *,
        teacher: Teacher | None = None,
        **_: Any,
    ) -> Tensor:
        """Return the forecast (B, T', C, H, W) from images (B, T, C, H, W) and their mask (B, T, H, W)."""
        if images.shape[1] < self.steps_in:
            raise InputError(
                f"{images.shape[1]} inputs are too few for a model built with steps_in={self.steps_in!r}: "
                "give as many, or build the model with fewer"
            )
        outputs, _state = self.encoder(_flat(self.scaling, images, images_valid, self.shape))
        outputs = outputs[:, -self.steps_in :]
        forecasts: list[Tensor] = []
        for lead in range(self.steps_out):
            if lead:
                frame = previous_frame(forecasts[-1], lead, teacher, self.scaling).flatten(1)
                outputs, _state = self.encoder(torch.cat([outputs[:, 1:], frame.unsqueeze(1)], dim=1))
            attended = self.attention(outputs, outputs, outputs, need_weights=False)[0]
            forecasts.append(self.linear(attended.flatten(1)).unflatten(1, self.shape))
        return self.scaling.undo(torch.stack(forecasts, dim=1))


class PaperConvLSTM(nn.Module):
    """Forecast with three ConvLSTM layers that read and three that write, 3 x 3, and a convolution to the image.

    The writer starts from nothing at every lead: first it runs over the reader's outputs, then over its own output of
    the lead before. No forecast is fed back, and none is taught. 1.55 million parameters. Forget gates start open,
    which the published ones did not.

    Parameters
    ----------
    bands, steps_out : int
    size : int
        Of no consequence: any image can be forecast. Taken so that all four are built alike.
    value_range : (float, float), optional
        Of the data; (-1, 1) by default.
    """

    def __init__(
        self,
        *,
        bands: int = 1,
        steps_out: int = 4,
        size: int = 50,
        value_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        _check(bands=bands, steps_out=steps_out, size=size)
        self.steps_out = steps_out
        self.scaling = _range_scaling(bands, value_range)
        self.encoder = cells(bands, _ENCODER, 3)
        self.decoder = cells(_ENCODER[-1], _DECODER, 3)
        self.conv = nn.Conv2d(_DECODER[-1], bands, 3, padding=1)

    def forward(self, images: Tensor, images_valid: Tensor | None = None, **_: Any) -> Tensor:
        """Return the forecast (B, T', C, H, W) from images (B, T, C, H, W) and their mask (B, T, H, W)."""
        scaled = self.scaling(images, mask_or_all(images, images_valid))
        tops = _run(self.encoder, list(scaled.unbind(dim=1)))
        forecasts = []
        for _lead in range(self.steps_out):
            tops = _run(self.decoder, tops)[-1:]
            forecasts.append(self.conv(tops[0]))
        return self.scaling.undo(torch.stack(forecasts, dim=1))


class PaperUNet(nn.Module):
    """Forecast with a U-Net of 64 to 1024 channels that sees the last frame alone, and then its own forecasts.

    Batch norm and transposed convolutions; 31.0 million parameters.

    Parameters
    ----------
    bands, steps_out : int
    size : int
        Edge length of the images, pixels, 16 or more: they are halved four times. Others can be forecast, too.
    value_range : (float, float), optional
        Of the data; (-1, 1) by default.
    """

    taught = True

    def __init__(
        self,
        *,
        bands: int = 1,
        steps_out: int = 4,
        size: int = 50,
        value_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        _check(bands=bands, steps_out=steps_out, size=size)
        if size < 2 ** (len(_UNET) - 1):
            raise InputError(
                f"a patch of {size!r} px cannot be halved {len(_UNET) - 1} times: give 16 or more, "
                "or take 'unet' with fewer levels"
            )
        self.steps_out = steps_out
        self.scaling = _range_scaling(bands, value_range)
        self.body = UNetBody(bands, _UNET, nn.BatchNorm2d)
        self.conv = nn.Conv2d(_UNET[0], bands, 1)

    def forward(
        self,
        images: Tensor,
        images_valid: Tensor | None = None,
        *,
        teacher: Teacher | None = None,
        **_: Any,
    ) -> Tensor:
        """Return the forecast (B, T', C, H, W) from images (B, T, C, H, W) and their mask (B, T, H, W)."""
        frame = self.scaling(images, mask_or_all(images, images_valid))[:, -1]
        forecasts: list[Tensor] = []
        for lead in range(self.steps_out):
            if lead:
                frame = previous_frame(forecasts[-1], lead, teacher, self.scaling)
            forecasts.append(self.conv(self.body(frame)))
        return self.scaling.undo(torch.stack(forecasts, dim=1))


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise InputError(f"a published model cannot have {name}={value!r}: give 1 or more")


def _range_scaling(bands: int, value_range: Sequence[float] | None) -> Scaling:
    """Return the scaling of a range of values to (-1, 1)."""
    low, high = (-1.0, 1.0) if value_range is None else value_range
    if not low < high:
        raise InputError(f"value_range={value_range!r} is no range: give the least and the greatest value")
    return Scaling(bands, [(low + high) / 2] * bands, [(high - low) / 2] * bands)


def _flat(scaling: Scaling, images: Tensor, valid: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """Return scaled images as vectors (B, T, C H W), invalid pixels 0."""
    if images.shape[2:] != shape:
        raise InputError(
            f"images of shape {tuple(images.shape)!r} cannot be forecast by a model built for (C, H, W) = {shape!r}: "
            "build it with their bands and size"
        )
    return scaling(images, mask_or_all(images, valid)).flatten(2)


def _run(stack: nn.ModuleList, frames: list[Tensor]) -> list[Tensor]:
    """Return the last layer's output for every frame of a sequence, from empty states."""
    states = empty_states(stack, frames[0])
    tops = []
    for frame in frames:
        states = advance(stack, frame, states)
        tops.append(states[-1][0])
    return tops
