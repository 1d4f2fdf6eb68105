"""A convolutional LSTM encoder and forecaster that starts from what is usual; its inputs' treatment is in `inputs`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from glacierhpc.errors import InputError
from glacierhpc.models.inputs import Scaling, date_channels, last_valid

_DATE_CHANNELS = 3


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

        expected + fade * anomaly + gate * (recalled - expected) + change

    where `expected` is the climatology of the target's season and `anomaly` how far the latest valid input is
    from the climatology of its own; where no climatology is known, `expected` is that latest input and
    `anomaly` 0. `recalled` is a mean of the pixel's valid inputs weighted by attention between the target step
    and the input steps (so "as it was a year ago" is within reach at full resolution). `fade` and `gate` in
    (-1, 1) and `change` are decoded from the state. All three start at zero: an untrained model *is*
    climatology, or persistence without one. The cells run on a grid coarser by `reduction`. Any patch size,
    number of bands and number of input steps; targets have the bands of the inputs.

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
        self.value_range = tuple(value_range) if value_range is not None else None
        self.scaling = Scaling(bands, means, deviations)
        first, top = hidden[0], hidden[-1]
        self.embed = nn.Conv2d(
            2 * bands + 2 + _DATE_CHANNELS, first, reduction + 2, stride=reduction, padding=1
        )
        self.encoder = _layers(first, hidden, kernel)
        self.forecaster = _layers(bands + 1 + _DATE_CHANNELS, hidden, kernel)
        self.key = nn.Conv2d(top + _DATE_CHANNELS, attention, 1)
        self.query = nn.Conv2d(top + _DATE_CHANNELS, attention, 1)
        # cos 0 against cos 90 degrees: weight 20 to 1 for the same season against a neighbouring one
        self.season = nn.Parameter(torch.tensor(3.0))
        self.refine = nn.Conv2d(top + 3 * bands + 1, head, 3, padding=1)
        self.decode = nn.Conv2d(head, bands + 2, 1)
        nn.init.zeros_(self.decode.weight)
        nn.init.zeros_(self.decode.bias)  # type: ignore[arg-type]

    def forward(
        self,
        images: Tensor,
        images_valid: Tensor | None = None,
        *,
        dates: Tensor | None = None,
        climatology: Tensor | None = None,
        climatology_valid: Tensor | None = None,
    ) -> Tensor:
        """Return the forecast (B, T', C, H, W).

        Parameters
        ----------
        images : (B, T, C, H, W) float
            In their own unit; what stands at invalid pixels does not matter.
        images_valid : (B, T, H, W) bool, optional
            All valid by default.
        dates : (B, T + T') float, optional
            Years since 2000 of inputs and targets.
        climatology, climatology_valid : (B, T + T', C, H, W) float and (B, T + T', H, W) bool, optional
            What is usual at the place and season of each step, of inputs and targets; nothing is known by default.
        """
        batch, steps, _, height, width = images.shape
        valid = torch.ones_like(images[:, :, 0], dtype=torch.bool) if images_valid is None else images_valid
        when = date_channels(dates, batch, steps + self.steps_out, steps - 1, images)
        masked = valid.unsqueeze(2)
        scaled = self.scaling(images, masked)
        usual, known = self._usual(climatology, climatology_valid, scaled)
        keys, states = self._encode(scaled, masked, when[:, :steps], usual, known)
        last, last_usual = last_valid(scaled, masked), last_valid(usual[:, :steps], masked)
        anomaly = torch.where(
            last_valid(known[:, :steps].to(scaled.dtype), masked) > 0, last - last_usual, 0.0
        )
        forecasts = []
        for lead in range(self.steps_out):
            step = steps + lead
            expected = torch.where(known[:, step], usual[:, step], last)
            outlook = torch.cat([usual[:, step], known[:, step].to(scaled.dtype)], dim=1)
            outlook = functional.avg_pool2d(_padded(outlook, self.reduction), self.reduction)
            season = _spread(when[:, step], outlook)
            states = _advance(self.forecaster, torch.cat([outlook, season], dim=1), states)
            top = states[-1][0]
            query = self.query(torch.cat([top, season], dim=1))
            alike = self.season * (when[:, :steps, :2] * when[:, step, None, :2]).sum(dim=-1)
            recalled = _recall(query, keys, alike, scaled, masked, last, self.reduction)
            fine = torch.cat([expected, anomaly, recalled - expected, known[:, step].to(scaled.dtype)], dim=1)
            fade, gate, change = self._decode(top, fine)
            forecasts.append(expected + fade * anomaly + gate * (recalled - expected) + change)
        forecast = self.scaling.undo(torch.stack(forecasts, dim=1))
        if self.value_range is not None and not self.training:
            forecast = forecast.clamp(*self.value_range)
        return forecast

    def _usual(
        self, climatology: Tensor | None, valid: Tensor | None, scaled: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the scaled climatology (B, T + T', C, H, W) and where it is known (B, T + T', 1, H, W)."""
        batch, steps, _, height, width = scaled.shape
        if climatology is None:
            steps += self.steps_out
            nothing = scaled.new_zeros(batch, steps, self.bands, height, width)
            return nothing, torch.zeros_like(nothing[:, :, :1], dtype=torch.bool)
        known = torch.isfinite(climatology).all(dim=2) if valid is None else valid
        return self.scaling(climatology, known.unsqueeze(2)), known.unsqueeze(2)

    def _encode(
        self, scaled: Tensor, masked: Tensor, when: Tensor, usual: Tensor, known: Tensor
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return the keys of the input steps (B, T, attention, h, w) and the cells' final states."""
        keys, states = [], None
        for step in range(scaled.shape[1]):
            both = masked[:, step] & known[:, step]
            anomaly = torch.where(both, scaled[:, step] - usual[:, step], 0.0)
            masks = [masked[:, step].to(scaled.dtype), both.to(scaled.dtype)]
            frame = torch.cat([scaled[:, step], anomaly, *masks, _spread(when[:, step], scaled)], dim=1)
            frame = functional.silu(self.embed(_padded(frame, self.reduction)))
            states = _advance(self.encoder, frame, states or _empty_states(self.encoder, frame))
            keys.append(self.key(torch.cat([states[-1][0], _spread(when[:, step], frame)], dim=1)))
        if states is None:
            raise InputError(
                "a forecast needs at least one input step: give images of shape (B, T, C, H, W), T > 0"
            )
        return torch.stack(keys, dim=1), states

    def _decode(self, top: Tensor, fine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return fade, gate (B, 1, H, W) and change (B, C, H, W) at the resolution of `fine`."""
        height, width = fine.shape[-2:]
        state = functional.interpolate(top, scale_factor=self.reduction, mode="bilinear", align_corners=False)
        features = functional.silu(self.refine(torch.cat([state[..., :height, :width], fine], dim=1)))
        fade, gate, change = self.decode(features).split([1, 1, self.bands], dim=1)
        return torch.tanh(fade), torch.tanh(gate), change


def _layers(channels: int, hidden: Sequence[int], kernel: int) -> nn.ModuleList:
    widths = [channels, *hidden]
    return nn.ModuleList(ConvLSTMCell(below, own, kernel) for below, own in zip(widths, widths[1:]))


def _empty_states(cells: nn.ModuleList, frame: Tensor) -> list[tuple[Tensor, Tensor]]:
    batch, _, height, width = frame.shape
    zeros = [frame.new_zeros(batch, int(cell.hidden), height, width) for cell in cells]  # type: ignore[arg-type]
    return [(zero, zero) for zero in zeros]


def _advance(
    cells: nn.ModuleList, frame: Tensor, states: list[tuple[Tensor, Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    following = []
    for cell, state in zip(cells, states):
        following.append(cell(frame, state))
        frame = following[-1][0]
    return following


def _spread(vector: Tensor, like: Tensor) -> Tensor:
    """Return a vector (B, K) as constant channels (B, K, H, W) on the plane of `like`."""
    return vector[..., None, None].expand(-1, -1, *like.shape[-2:])


def _padded(frame: Tensor, multiple: int) -> Tensor:
    """Return a frame extended below and to the right, by its rim, to whole cells of the reduced grid."""
    missing = [-length % multiple for length in frame.shape[-2:]]
    return functional.pad(frame, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else frame


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
