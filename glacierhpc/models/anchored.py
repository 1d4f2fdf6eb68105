"""The form that the families of this project forecast in: what is usual, plus what a network adds to it.

Each family's network lives in a file of its own; the published models (`paper`) do not use this form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from glacierhpc.errors import InputError
from glacierhpc.models.inputs import DATE_CHANNELS, Scaling, date_channels, last_valid, mask_or_all, spread

REGION_PX = 33
"""Edge of the square over which `regional_anomaly` is a mean: a kilometre at 30 m."""
REGION_FADE = 0.8
"""How much less each earlier input counts in it: what lasts half a year has lost as much in a month or two."""
REGION_PRIOR = 0.5
"""Inputs' worth of no anomaly that are counted in, so that a glimpse between clouds is not taken for the truth."""
REGION_SCALE = 4.0
"""Means are smaller than what single pixels do; gains are held below 1, and the snow line moves many pixels."""


@dataclass(frozen=True, eq=False)
class Outlook:
    """All that is known before a forecast, scaled; steps 0 to T - 1 are inputs, T to T + T' - 1 targets."""

    scaled: Tensor
    """(B, T, C, H, W), 0 where invalid."""
    valid: Tensor
    """(B, T, 1, H, W) bool."""
    usual: Tensor
    """(B, T + T', C, H, W), the climatology of each step, 0 where not known."""
    known: Tensor
    """(B, T + T', 1, H, W) bool."""
    when: Tensor
    """(B, T + T', 3): sine and cosine of the season, years since the last input."""
    last: Tensor
    """(B, C, H, W), each pixel's latest valid input; 0, the mean, where there was none."""
    anomaly: Tensor
    """(B, C, H, W), how far `last` is from the climatology of its own season; 0 where that is not known."""
    regional: Tensor
    """(B, C, H, W), how far the inputs all around are from what is usual, see `regional_anomaly`."""

    @property
    def steps_in(self) -> int:
        """T."""
        return self.scaled.shape[1]

    def of_steps(self, steps_in: int) -> Outlook:
        """Return the outlook with so many input steps: the latest ones, or with wholly invalid ones before them.

        For networks whose layers fix the number of inputs; what `last` has seen of older steps stays.
        """
        extra = steps_in - self.steps_in
        if extra == 0:
            return self
        series = {name: getattr(self, name) for name in ("scaled", "valid", "usual", "known", "when")}
        if extra < 0:
            return replace(self, **{name: tensor[:, -extra:] for name, tensor in series.items()})
        before = {name: torch.zeros_like(tensor[:, :1]) for name, tensor in series.items()}
        return replace(
            self, **{name: torch.cat([before[name]] * extra + [series[name]], dim=1) for name in series}
        )

    def expected(self, step: int) -> Tensor:
        """Return what a target is before a network has its say, (B, C, H, W): climatology, or `last` without one."""
        return torch.where(self.known[:, step], self.usual[:, step], self.last)

    def dated(self, step: int) -> Tensor:
        """Return an input step as channels (B, 2 C + 5, H, W), see `dated_frame`."""
        return self.dated_frame(self.scaled[:, step], step, self.valid[:, step])

    def dated_frame(self, scaled: Tensor, step: int, valid: Tensor) -> Tensor:
        """Return any scaled values at a step as channels: value, anomaly, where each is valid, and the date.

        Parameters
        ----------
        scaled : (B, C, H, W)
        step : int
            Whose climatology and date they have.
        valid : (B, 1, H, W) bool

        Returns
        -------
        (B, 2 C + 5, H, W)
        """
        both = valid & self.known[:, step]
        anomaly = torch.where(both, scaled - self.usual[:, step], 0.0)
        masks = [valid.to(scaled.dtype), both.to(scaled.dtype)]
        return torch.cat([scaled, anomaly, *masks, spread(self.when[:, step], scaled)], dim=1)

    def ahead(self, step: int) -> Tensor:
        """Return what is known of a target step as channels (B, C + 4, H, W): climatology, where known, date."""
        known = self.known[:, step].to(self.usual.dtype)
        return torch.cat([self.usual[:, step], known, spread(self.when[:, step], known)], dim=1)

    def fine(self, step: int) -> Tensor:
        """Return what `Head` sees of a target step at full resolution, (B, 3 C + 1, H, W)."""
        known = self.known[:, step].to(self.usual.dtype)
        return torch.cat([self.expected(step), self.anomaly, self.regional, known], dim=1)

    def departures(self, step: int) -> Tensor:
        """Return how far each input lies from what is expected, (B, T, C, H, W); 0 where it is invalid.

        From the climatology of the input's own season; where the target has none, from the latest valid value.
        """
        own = self.known[:, : self.steps_in] & self.known[:, step].unsqueeze(1)
        base = torch.where(own, self.usual[:, : self.steps_in], self.last.unsqueeze(1))
        comparable = self.valid & (own | ~self.known[:, step].unsqueeze(1))
        return torch.where(comparable, self.scaled - base, 0.0)


def dated_channels(bands: int) -> int:
    """Return the channels of `Outlook.dated`."""
    return 2 * bands + 2 + DATE_CHANNELS


def ahead_channels(bands: int) -> int:
    """Return the channels of `Outlook.ahead`."""
    return bands + 1 + DATE_CHANNELS


def fine_channels(bands: int) -> int:
    """Return the channels of `Outlook.fine`."""
    return 3 * bands + 1


class Anchor(nn.Module):
    """Reads what a model is given into an `Outlook`, and turns scaled forecasts into those of the data's unit.

    Parameters
    ----------
    bands, steps_out : int
    means, deviations : sequence of float, optional
        Band statistics of the training data; 0 and 1 by default.
    value_range : (float, float), optional
        Forecasts are clipped to it outside of training.
    """

    def __init__(
        self,
        *,
        bands: int,
        steps_out: int,
        means: Sequence[float] | None,
        deviations: Sequence[float] | None,
        value_range: Sequence[float] | None,
    ) -> None:
        super().__init__()
        self.bands, self.steps_out = bands, steps_out
        self.value_range = tuple(value_range) if value_range is not None else None
        self.scaling = Scaling(bands, means, deviations)

    def forward(
        self,
        images: Tensor,
        images_valid: Tensor | None = None,
        *,
        dates: Tensor | None = None,
        climatology: Tensor | None = None,
        climatology_valid: Tensor | None = None,
    ) -> Outlook:
        """Return the outlook of a batch: what every family's own ``forward`` takes.

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
        batch, steps = images.shape[:2]
        if steps == 0:
            raise InputError(
                f"images of shape {tuple(images.shape)!r} have no step to forecast from: give (B, T, C, H, W), T > 0"
            )
        valid = mask_or_all(images, images_valid)
        when = date_channels(dates, batch, steps + self.steps_out, steps - 1, images)
        scaled = self.scaling(images, valid)
        usual, known = self._usual(climatology, climatology_valid, scaled)
        last, last_usual = last_valid(scaled, valid), last_valid(usual[:, :steps], valid)
        compared = last_valid(known[:, :steps].to(scaled.dtype), valid) > 0
        anomaly = torch.where(compared, last - last_usual, 0.0)
        regional = regional_anomaly(scaled - usual[:, :steps], valid & known[:, :steps])
        return Outlook(scaled, valid, usual, known, when, last, anomaly, regional)

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

    def undo(self, forecasts: Sequence[Tensor]) -> Tensor:
        """Return scaled forecasts (B, C, H, W), one per lead, as (B, T', C, H, W) in the unit of the images."""
        forecast = self.scaling.undo(torch.stack(list(forecasts), dim=1))
        if self.value_range is not None and not self.training:
            forecast = forecast.clamp(*self.value_range)
        return forecast


def regional_anomaly(anomalies: Tensor, valid: Tensor) -> Tensor:
    """Return the mean anomaly of the inputs around each pixel, (B, C, H, W), times `REGION_SCALE`.

    The anomaly of one pixel on one date is mostly noise, or under cloud; what a snowy winter leaves behind is common to
    the land around and fades over months. Drawn towards 0 where little was seen.

    Parameters
    ----------
    anomalies : (B, T, C, H, W)
        Inputs less their climatology; what stands at invalid pixels does not matter.
    valid : (B, T, 1, H, W) bool
        Where both are known.
    """
    ages = torch.arange(anomalies.shape[1] - 1, -1, -1, dtype=anomalies.dtype, device=anomalies.device)
    weights = (REGION_FADE**ages).view(-1, 1, 1, 1) * valid
    total = (weights * torch.where(valid, anomalies, 0.0)).sum(dim=1)
    return REGION_SCALE * _around(total) / (_around(weights.sum(dim=1)) + REGION_PRIOR)


def _around(image: Tensor) -> Tensor:
    """Return the mean over a square around each pixel; what lies beyond the image is left out."""
    half = REGION_PX // 2
    for kernel, padding in (((REGION_PX, 1), (half, 0)), ((1, REGION_PX), (0, half))):  # one pass each way
        image = functional.avg_pool2d(image, kernel, stride=1, padding=padding, count_include_pad=False)
    return image


class Head(nn.Module):
    """Decodes features into gains in (-1, 1) and a change; all are zero before training.

    So an untrained model *is* climatology, or persistence without one, and training starts from there.

    Parameters
    ----------
    channels : int
        Of the features.
    bands : int
    gains : int
        Maps of gain, one value per pixel for all bands.
    width : int
        Channels between the features and what is decoded.
    """

    def __init__(self, channels: int, *, bands: int, gains: int, width: int) -> None:
        super().__init__()
        self.gains, self.bands = gains, bands
        self.refine = nn.Conv2d(channels, width, 3, padding=1)
        self.decode = nn.Conv2d(width, bands + gains, 1)
        nn.init.zeros_(self.decode.weight)
        nn.init.zeros_(self.decode.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return gains (N, gains, H, W) and change (N, C, H, W) from features (N, channels, H, W)."""
        features = functional.silu(self.refine(features))
        gains, change = self.decode(features).split([self.gains, self.bands], dim=1)
        return torch.tanh(gains), change


def anchored(outlook: Outlook, step: int, gains: Tensor, change: Tensor) -> Tensor:
    """Return expected + fade * anomaly + share * regional + sum of weight * departure of the inputs + change.

    Parameters
    ----------
    outlook : Outlook
    step : int
        Of the target, from T on.
    gains : (B, 2 or 2 + T, H, W)
        The fade, the share, and then the weights of the inputs' departures where a family decodes them.
    change : (B, C, H, W)

    Returns
    -------
    (B, C, H, W)
    """
    forecast = outlook.expected(step) + gains[:, :1] * outlook.anomaly + gains[:, 1:2] * outlook.regional
    if gains.shape[1] > 2:
        forecast = forecast + (gains[:, 2:].unsqueeze(2) * outlook.departures(step)).sum(dim=1)
    return forecast + change
