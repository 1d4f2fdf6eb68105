"""A convolutional LSTM encoder and forecaster; the form of its forecast is that of `anchored`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from glacierhpc.errors import InputError
from glacierhpc.models.anchored import Anchor, Head, Outlook, ahead_channels, dated_channels, fine_channels
from glacierhpc.models.inputs import DATE_CHANNELS, padded, spread

State = tuple[Tensor, Tensor]
"""Hidden state and memory of a cell, each (B, hidden, H, W)."""


class ConvLSTMCell(nn.Module):
    """One convolutional LSTM step (without the peephole terms of the paper's equation 3)."""

    def __init__(self, channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = nn.Conv2d(channels + hidden, 4 * hidden, kernel, padding=kernel // 2)
        bias = self.gates.bias.detach()  # type: ignore[union-attr]
        bias[hidden : 2 * hidden] = 1.0  # the forget gate starts open: gradients reach the early steps

    def forward(self, frame: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the next (hidden, memory), each (B, hidden, H, W), from a frame (B, channels, H, W)."""
        hidden, memory = state
        enter, forget, leave, candidate = self.gates(torch.cat([frame, hidden], dim=1)).chunk(4, dim=1)
        memory = torch.sigmoid(forget) * memory + torch.sigmoid(enter) * torch.tanh(candidate)
        return torch.sigmoid(leave) * torch.tanh(memory), memory


class ConvLSTM(nn.Module):
    """Forecast the next composites from the last ones with an encoder and a forecaster of ConvLSTM cells.

    The forecast of each pixel is

        expected + fade * anomaly + share * regional + gate * (recalled - expected) + change

    where `expected` is the climatology of the target's season and `anomaly` how far the latest valid input is
    from the climatology of its own; where no climatology is known, `expected` is that latest input and
    `anomaly` 0. `regional` is the anomaly of all inputs around the pixel. `recalled` is a mean of the pixel's
    valid inputs weighted by attention between the target step and the input steps (so "as it was a year ago" is
    within reach at full resolution). `fade`, `share` and `gate` in (-1, 1) and `change` are decoded from the
    state. All four start at zero: an untrained model *is* climatology, or persistence without one. The cells run
    on a grid coarser by `reduction`. Any patch size, number of bands and number of input steps; targets have the
    bands of the inputs.

    Parameters
    ----------
    bands : int
    steps_out : int
        T', composites to forecast.
    hidden : sequence of int
        Channels of each layer of cells.
    kernel : int
        Odd width of the cells' kernels, cells of the reduced grid.
    reduction : int
        Pixels to a cell of the reduced grid, each way.
    attention : int
        Width of the keys and queries of the attention.
    head : int
        Channels, at full resolution, between the state and the forecast.
    means, deviations : sequence of float, optional
        Band statistics of the training data; 0 and 1 by default.
    value_range : (float, float), optional
        Forecasts are clipped to it outside of training, for example (-1, 1) for a normalised difference.

    References
    ----------
    Shi et al. (2015), Convolutional LSTM network, NeurIPS 28, arXiv:1506.04214
    """

    def __init__(
        self,
        *,
        bands: int = 1,
        steps_out: int = 4,
        hidden: Sequence[int] = (16,),
        kernel: int = 3,
        reduction: int = 4,
        attention: int = 8,
        head: int = 16,
        means: Sequence[float] | None = None,
        deviations: Sequence[float] | None = None,
        value_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not hidden or min(bands, steps_out, reduction, attention, head, *hidden) < 1 or kernel % 2 == 0:
            raise InputError(
                f"a ConvLSTM cannot have bands={bands!r}, steps_out={steps_out!r}, hidden={hidden!r}, "
                f"kernel={kernel!r}, reduction={reduction!r}, attention={attention!r}, head={head!r}: "
                "give positive numbers and an odd kernel"
            )
        self.bands, self.steps_out, self.reduction = bands, steps_out, reduction
        self.anchor = Anchor(
            bands=bands, steps_out=steps_out, means=means, deviations=deviations, value_range=value_range
        )
        first, top = hidden[0], hidden[-1]
        self.embed = nn.Conv2d(dated_channels(bands), first, reduction + 2, stride=reduction, padding=1)
        self.encoder = cells(first, hidden, kernel)
        self.forecaster = cells(ahead_channels(bands), hidden, kernel)
        self.key = nn.Conv2d(top + DATE_CHANNELS, attention, 1)
        self.query = nn.Conv2d(top + DATE_CHANNELS, attention, 1)
        # cos 0 against cos 90 degrees: weight 20 to 1 for the same season against a neighbouring one
        self.season = nn.Parameter(torch.tensor(3.0))
        # of the fade, of the share and of the gate
        self.head = Head(top + fine_channels(bands) + bands, bands=bands, gains=3, width=head)

    def forward(self, images: Tensor, images_valid: Tensor | None = None, **known: Tensor | None) -> Tensor:
        """Return the forecast (B, T', C, H, W) of images (B, T, C, H, W) and what `Anchor.forward` takes."""
        outlook = self.anchor(images, images_valid, **known)
        keys, states = self._encode(outlook)
        forecasts = []
        for step in range(outlook.steps_in, outlook.steps_in + self.steps_out):
            expected = outlook.expected(step)
            states = advance(self.forecaster, self._ahead(outlook, step), states)
            recalled = self._recalled(outlook, step, keys, states[-1][0])
            gains, change = self._decode(outlook, step, states[-1][0], recalled - expected)
            fade, share, gate = gains.split(1, dim=1)
            usual = expected + fade * outlook.anomaly + share * outlook.regional
            forecasts.append(usual + gate * (recalled - expected) + change)
        return self.anchor.undo(forecasts)

    def _encode(self, outlook: Outlook) -> tuple[Tensor, list[State]]:
        """Return the keys of the input steps (B, T, attention, h, w) and the cells' final states."""
        keys: list[Tensor] = []
        states: list[State] = []
        for step in range(outlook.steps_in):
            frame = functional.silu(self.embed(padded(outlook.dated(step), self.reduction)))
            states = advance(self.encoder, frame, states or empty_states(self.encoder, frame))
            keys.append(self.key(torch.cat([states[-1][0], spread(outlook.when[:, step], frame)], dim=1)))
        return torch.stack(keys, dim=1), states

    def _ahead(self, outlook: Outlook, step: int) -> Tensor:
        """Return what is known of a target step, on the reduced grid."""
        known = torch.cat([outlook.usual[:, step], outlook.known[:, step].to(outlook.usual.dtype)], dim=1)
        known = functional.avg_pool2d(padded(known, self.reduction), self.reduction)
        return torch.cat([known, spread(outlook.when[:, step], known)], dim=1)

    def _recalled(self, outlook: Outlook, step: int, keys: Tensor, top: Tensor) -> Tensor:
        """Return what attention finds among the inputs for a target step, (B, C, H, W)."""
        season, inputs = outlook.when[:, step], outlook.when[:, : outlook.steps_in]
        query = self.query(torch.cat([top, spread(season, top)], dim=1))
        alike = self.season * (inputs[..., :2] * season[:, None, :2]).sum(dim=-1)
        return _recall(query, keys, alike, outlook.scaled, outlook.valid, outlook.last, self.reduction)

    def _decode(self, outlook: Outlook, step: int, top: Tensor, recalled: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gains (B, 3, H, W) and the change (B, C, H, W) at full resolution."""
        height, width = recalled.shape[-2:]
        state = functional.interpolate(top, scale_factor=self.reduction, mode="bilinear", align_corners=False)
        known = outlook.known[:, step].to(recalled.dtype)
        fine = [outlook.expected(step), outlook.anomaly, outlook.regional, recalled, known]
        return self.head(torch.cat([state[..., :height, :width], *fine], dim=1))


def cells(channels: int, hidden: Sequence[int], kernel: int) -> nn.ModuleList:
    """Return a stack of cells, the widths of their states from the first to the last."""
    widths = [channels, *hidden]
    return nn.ModuleList(ConvLSTMCell(below, own, kernel) for below, own in zip(widths, widths[1:]))


def empty_states(stack: nn.ModuleList, frame: Tensor) -> list[State]:
    """Return the state of every cell before it has seen anything, on the plane of `frame`."""
    batch, _, height, width = frame.shape
    zeros = [frame.new_zeros(batch, int(cell.hidden), height, width) for cell in stack]  # type: ignore[arg-type]
    return [(zero, zero) for zero in zeros]


def advance(stack: nn.ModuleList, frame: Tensor, states: list[State]) -> list[State]:
    """Return the states of a stack after it has seen one more frame."""
    following: list[State] = []
    for cell, state in zip(stack, states):
        following.append(cell(frame, state))
        frame = following[-1][0]
    return following


def _recall(
    query: Tensor,
    keys: Tensor,
    alike: Tensor,
    scaled: Tensor,
    masked: Tensor,
    last: Tensor,
    reduction: int,
) -> Tensor:
    """Return the attention-weighted mean of a pixel's valid inputs, (B, C, H, W); `last` where it has none.

    Parameters
    ----------
    query : (B, K, h, w)
        Of the target step, on the reduced grid.
    keys : (B, T, K, h, w)
    alike : (B, T)
        Likeness of the seasons, added to the logits.
    scaled : (B, T, C, H, W)
    masked : (B, T, 1, H, W) bool
    last : (B, C, H, W)
    reduction : int
        Pixels to a cell of the reduced grid, each way.
    """
    coarse = (query.unsqueeze(1) * keys).sum(dim=2) / query.shape[1] ** 0.5 + alike[:, :, None, None]
    fine = coarse.repeat_interleave(reduction, dim=-2).repeat_interleave(reduction, dim=-1)
    logits = fine[..., : scaled.shape[-2], : scaled.shape[-1]].unsqueeze(2)
    weights = torch.softmax(logits.masked_fill(~masked, -1e4), dim=1)
    recalled = (weights * scaled).sum(dim=1)
    return torch.where(masked.any(dim=1), recalled, last)
