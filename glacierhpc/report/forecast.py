"""Targets, predictions and their difference: as maps by lead and as an animation.

How good the forecast is in numbers is told by skill.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from glacierhpc.report import animation, drawing
from glacierhpc.report.blocks import Block, Note, Picture, plural, signed
from glacierhpc.report.losses import day
from glacierhpc.report.run_files import RunFiles, shows

SIDE_PX = 320
MOST_LEADS = 6


@dataclass(frozen=True)
class Sequence:
    """One forecast of the whole area; images (step, y, x) float32 with NaN where unknown."""

    band: str
    inputs: np.ndarray
    input_days: list[str]
    targets: np.ndarray
    predictions: np.ndarray
    lead_days: list[str]
    low: float
    high: float
    limit: float
    """Bound of the error scale."""
    seams: tuple[float, float]
    """Gradient across tile borders over inside, of the first prediction and of what was observed; NaN if unknown."""

    @property
    def errors(self) -> np.ndarray:
        """Prediction minus target; NaN where the target is unknown."""
        return self.predictions - self.targets


def read_sequence(run: RunFiles) -> Sequence:
    """Read the first band of the forecast, small enough to be shown."""
    name = "prediction.zarr"
    cube = run.cube(name, variables=("prediction", "target"))
    predictions = run.pixels(name, cube["prediction"].isel(band=0), max_side_px=SIDE_PX)
    targets = run.pixels(name, cube["target"].isel(band=0), max_side_px=SIDE_PX)
    if "target_valid" in cube:
        valid = cube["target_valid"]
        known = run.pixels(name, valid.isel(band=0) if "band" in valid.dims else valid, max_side_px=SIDE_PX)
        targets = np.where(known, targets, np.float32(np.nan))
    inputs = np.empty((0, *targets.shape[1:]), np.float32)
    if "inputs" in cube:
        inputs = run.pixels(name, cube["inputs"].isel(band=0), max_side_px=SIDE_PX)
    low, high = drawing.robust_range([*targets, *inputs, *predictions])
    return Sequence(
        band=str(cube["band"].values[0]),
        inputs=inputs,
        input_days=_days(cube, "input_time", len(inputs)),
        targets=targets,
        predictions=predictions,
        lead_days=_days(cube, "lead_time", len(targets)),
        low=low,
        high=high,
        limit=max(0.1, drawing.symmetric_limit([predictions - targets])),
        seams=(_fact(cube, "seam_ratio"), _fact(cube, "seam_ratio_observed")),
    )


def maps(run: RunFiles) -> list[Block]:
    """Draw the inputs, then target, prediction and error for each lead, on common scales."""
    shown = read_sequence(run)
    count = len(shown.targets)
    if count == 0:
        return [Note("The forecast has no lead.", "bad")]
    blocks: list[Block] = []
    if len(shown.inputs):
        blocks.append(_inputs(shown))
    leads = np.unique(np.linspace(0, count - 1, min(count, MOST_LEADS)).round().astype(int))
    blocks.append(_leads(shown, leads))
    return blocks


def film(run: RunFiles) -> list[Block]:
    """Animate what went in, then target and prediction side by side with their difference."""
    shown = read_sequence(run)
    if len(shown.targets) == 0:
        return []
    frames = [
        _film_frame(shown, f"input {step + 1} of {len(shown.inputs)}: {date}", image, None, None)
        for step, (image, date) in enumerate(zip(shown.inputs, shown.input_days, strict=True))
    ]
    frames += [
        _film_frame(shown, f"lead {step + 1}: {date}", target, prediction, prediction - target)
        for step, (target, prediction, date) in enumerate(
            zip(shown.targets, shown.predictions, shown.lead_days, strict=True)
        )
    ]
    seconds = [0.7] * len(shown.inputs) + [1.4] * len(shown.targets)
    caption = (
        f"The sequence as a film: {plural(len(shown.inputs), 'input image')}, then "
        f"{plural(len(shown.targets), 'lead')} with the observed and the predicted {shown.band} side by side, "
        f"and the error. Shown: {shows(run)}."
    )
    alt = f"Animation of observed and predicted {shown.band}"
    return [
        Picture(
            animation.gif(frames, seconds=seconds, palette=animation.palette("cividis", "RdBu")),
            alt,
            caption,
            still=animation.still(frames[-1]),
        )
    ]


def _inputs(shown: Sequence) -> Picture:
    count = len(shown.inputs)

    def paint(figure: Figure) -> None:
        figure.set_layout_engine("compressed")  # images keep their shape: draw them together
        grid = figure.subplots(1, count, squeeze=False)[0]
        for axes, image, date in zip(grid, shown.inputs, shown.input_days, strict=True):
            mappable = drawing.raster(axes, image, cmap="cividis", vmin=shown.low, vmax=shown.high)
            axes.set_title(date)
        drawing.colour_bar(figure, mappable, list(grid), shown.band, fraction=0.02)

    panel_in, width = drawing.panels(count)
    height = panel_in * _aspect(shown) + 0.3
    caption = f"What the model was given: the last {plural(count, 'composite')} before the forecast."
    return Picture(
        drawing.draw(paint, width_in=width, height_in=height),
        f"{count} input composites of {shown.band}",
        caption,
    )


def _leads(shown: Sequence, leads: np.ndarray) -> Picture:
    images = (shown.targets, shown.predictions, shown.errors)
    names = ("observed", "predicted", "error")
    panel_in, width = drawing.panels(len(leads))

    def paint(figure: Figure) -> None:
        figure.set_layout_engine("compressed")  # images keep their shape: draw them together
        grid = figure.subplots(3, len(leads), squeeze=False)
        for column, lead in enumerate(leads):
            for row, stack in enumerate(images):
                _panel(grid[row, column], stack[lead], shown, error=row == 2)
            grid[0, column].set_title(f"lead {lead + 1}: {shown.lead_days[lead]}")
            grid[2, column].set_xlabel(_error_words(shown.errors[lead]), fontsize=8, color=drawing.MUTED)
        for row, name in enumerate(names):
            grid[row, 0].set_ylabel(name)
        drawing.colour_bar(
            figure, grid[0, 0].images[0], list(grid[:2].flat), shown.band, fraction=0.02, aspect=40
        )
        label = f"predicted minus observed {shown.band}"
        drawing.colour_bar(
            figure, grid[2, 0].images[0], list(grid[2]), label, fraction=0.02
        ).ax.yaxis.label.set_fontsize(7)

    height = 3 * panel_in * _aspect(shown) + 0.8
    caption = (
        f"Observed and predicted {shown.band} by lead, and the error (blue: predicted too high, red: too low). "
        "Below each error map: root of the mean squared error and mean error over pixels with an observation. "
        f"Hatched grey: no observation.{_seams(shown)}"
    )
    return Picture(
        drawing.draw(paint, width_in=width, height_in=height),
        f"Observed, predicted and error maps for {len(leads)} leads",
        caption,
    )


def _panel(axes: Axes, image: np.ndarray, shown: Sequence, *, error: bool) -> None:
    if error:
        drawing.raster(axes, image, cmap="RdBu", vmin=-shown.limit, vmax=shown.limit)
    else:
        drawing.raster(axes, image, cmap="cividis", vmin=shown.low, vmax=shown.high)


def _film_frame(
    shown: Sequence, title: str, target: np.ndarray, prediction: np.ndarray | None, error: np.ndarray | None
) -> np.ndarray:
    def paint(figure: Figure) -> None:
        grid = figure.subplots(1, 3)
        names = ("observed", "predicted", "error")
        for axes, image, name in zip(grid, (target, prediction, error), names, strict=True):
            blank = np.full_like(target, np.nan)
            _panel(axes, blank if image is None else image, shown, error=name == "error")
            axes.set_title(name)
            if image is None:
                axes.images[0].set_visible(False)
                for patch in axes.patches:
                    patch.set_visible(False)
                axes.set_facecolor(drawing.PANEL)
                axes.text(0.5, 0.5, "not yet", transform=axes.transAxes, ha="center", va="center", alpha=0.6)
        below = {"location": "bottom", "fraction": 0.06}
        drawing.colour_bar(figure, grid[0].images[0], list(grid[:2]), shown.band, aspect=50, **below)
        drawing.colour_bar(figure, grid[2].images[0], grid[2], "predicted minus observed", aspect=24, **below)
        figure.suptitle(title, fontsize=11)

    return drawing.frame(paint, width_in=9.0, height_in=min(6.0, 2.85 * _aspect(shown) + 1.25))


def _error_words(error: np.ndarray) -> str:
    known = error[np.isfinite(error)].astype(float)
    if known.size == 0:
        return "no observation"
    return f"rmse {np.sqrt((known**2).mean()):.3f}, mean {signed(float(known.mean()), 3)}"


def _seams(shown: Sequence) -> str:
    own, observed = shown.seams
    if not np.isfinite(own):
        return ""
    chance = f" (of what was observed there {observed:.2f})" if np.isfinite(observed) else ""
    return (
        " The forecast is blended from tiles: the mean gradient across their borders is "
        f"{own:.2f} times that inside{chance}; 1 is no seam."
    )


def _fact(cube: xr.Dataset, name: str) -> float:
    value = cube.attrs.get(name)
    return float(value) if isinstance(value, int | float) else float("nan")


def _aspect(shown: Sequence) -> float:
    return shown.targets.shape[1] / shown.targets.shape[2]


def _days(cube: xr.Dataset, name: str, count: int) -> list[str]:
    return [day(time) for time in cube[name].values] if name in cube.coords else [""] * count
