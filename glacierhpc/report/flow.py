"""Apparent motion of the index image in target and prediction, beside the control of no motion at all.

This is never ice velocity: that is measured from image pairs, in metres per year, elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

from glacierhpc.report import drawing
from glacierhpc.report.blocks import Block, Note, Picture, number, table
from glacierhpc.report.run_files import RunFiles

SHOWS = "apparent motion of the index image, not ice velocity"
ARROWS = 12  # along the longer side
SIDE_PX = 320
MOST_LEADS = 4
PER_STEP = "Measured from each pixel's latest input to the lead and divided by the steps between."
FIELDS = ("u_target", "v_target", "u_prediction", "v_prediction")


@dataclass(frozen=True)
class Motion:
    """Motion fields of some leads, px per step, (lead, y, x) float32 with NaN where not valid."""

    leads: np.ndarray
    """Numbers of the leads, from 1."""
    observed: tuple[np.ndarray, np.ndarray]
    """Along x (columns) and y (rows, downwards)."""
    predicted: tuple[np.ndarray, np.ndarray]
    top: float
    """Length at the end of the one scale of all fields, px per step."""

    @property
    def error(self) -> np.ndarray:
        """Length of the difference between the two."""
        return np.hypot(*(p - o for p, o in zip(self.predicted, self.observed, strict=True)))

    @property
    def aspect(self) -> float:
        """Height over width."""
        return self.error.shape[1] / self.error.shape[2]


def read_motion(run: RunFiles) -> Motion | None:
    """Read the motion fields of at most `MOST_LEADS` leads, small enough to be shown; None where there is no lead."""
    cube = run.cube("flow.zarr", variables=FIELDS)
    count = cube.sizes["lead"]
    if count == 0:
        return None
    picked = np.unique(np.linspace(0, count - 1, min(count, MOST_LEADS)).round().astype(int))
    per_step = 1 / (picked + 1.0).astype(np.float32)[:, None, None]
    u_seen, v_seen, u_told, v_told = (
        run.pixels("flow.zarr", cube[name].isel(lead=picked), max_side_px=SIDE_PX) * per_step
        for name in FIELDS
    )
    top = drawing.robust_range([np.hypot(u_seen, v_seen), np.hypot(u_told, v_told)], high=98)[1]
    return Motion(picked + 1, (u_seen, v_seen), (u_told, v_told), max(0.1, top))


def fields(run: RunFiles) -> list[Block]:
    """Draw observed and predicted motion side by side, twice: by the colours of a wheel, and as arrows."""
    motion = read_motion(run)
    if motion is None:
        return [Note("There is no motion field: the forecast has no lead.", "bad")]
    return [_wheel_picture(motion), _error_picture(motion), _arrow_picture(motion)]


def colours(u: np.ndarray, v: np.ndarray, top: float) -> np.ndarray:
    """Return motion as colour, (..., 4) float: hue is direction, white is no motion, full colour is `top` or more.

    Transparent where not valid. v grows downwards, as rows do. After the colour code of Baker et al. (2011),
    doi:10.1007/s11263-010-0390-2.
    """
    known = np.isfinite(u) & np.isfinite(v)
    right, up = (np.where(known, part, 0.0) for part in (u, -v))
    hue = np.arctan2(up, right) / (2 * np.pi) % 1.0
    strength = np.minimum(np.hypot(right, up) / top, 1.0)
    painted = hsv_to_rgb(np.stack([hue, strength, np.full_like(hue, 0.95)], axis=-1))
    return np.concatenate([painted, known[..., None].astype(float)], axis=-1)


def _wheel_picture(motion: Motion) -> Picture:
    names = ("observed", "predicted")

    def paint(figure: Figure) -> None:
        figure.set_layout_engine("compressed")  # images keep their shape: draw them together
        grid = figure.subplots(2, len(motion.leads) + 1, squeeze=False)
        for row, (name, field) in enumerate(zip(names, (motion.observed, motion.predicted), strict=True)):
            for axes, u, v in zip(grid[row], *field):
                drawing.raster(axes, colours(u, v, motion.top))
            grid[row, 0].set_ylabel(name)
        for axes, lead in zip(grid[0], motion.leads):
            axes.set_title(f"to lead {lead}")
        _draw_wheel(grid[0, -1], motion.top)
        grid[1, -1].set_axis_off()

    caption = (
        f"Direction and speed by colour, observed above predicted, on one scale: {SHOWS}. The wheel is the legend: its "
        f"hue is where to, its rim {number(motion.top)} px per step or more, its white centre no motion. {PER_STEP} "
        "Hatched grey: not known."
    )
    return _picture(paint, motion, wheel=True, caption=caption, alt="Motion by colour wheel")


def _draw_wheel(axes: Axes, top: float) -> None:
    """Draw the legend: each place of a disc in the colour of the motion from its centre to there."""
    x, down = np.meshgrid(*[np.linspace(-1, 1, 161)] * 2)
    disc = colours(x * top, down * top, top)
    disc[..., 3] = np.hypot(x, down) <= 1
    axes.imshow(disc, extent=(-top, top, -top, top))
    axes.set_axis_off()
    axes.set_title("px per step", fontsize=8, loc="center")
    axes.plot([0, top], [0, 0], color=drawing.PANEL, linewidth=0.8)
    axes.text(top, 0, f" {number(top)}", va="center", fontsize=8)
    axes.text(-top, 0, "left ", va="center", ha="right", fontsize=7)
    axes.text(0, -top, "down", va="top", ha="center", fontsize=7)


def _error_picture(motion: Motion) -> Picture:
    caption = (
        "End-point error, the length of predicted minus observed motion, above that of the control, which says that "
        f"nothing moves, on one scale: {SHOWS}. {PER_STEP} Where the upper row is darker, the prediction is better."
    )
    rows = {"of the prediction": motion.error, "of no motion": np.hypot(*motion.observed)}

    def add(axes: Axes, row: int, lead: int) -> None:
        axes.set_xlabel(_error_words(list(rows.values())[row][lead]), fontsize=8, color=drawing.MUTED)

    paint = _lengths(motion, rows, add, label="end-point error, px per step")
    return _picture(paint, motion, caption=caption, alt="End-point errors of prediction and of no motion")


def _arrow_picture(motion: Motion) -> Picture:
    caption = (
        f"The same as arrows, all on one scale: {SHOWS}. Colour: length. {PER_STEP} "
        "A retreating snow line shows as motion although nothing moved."
    )
    fields = {"observed": motion.observed, "predicted": motion.predicted}

    def add(axes: Axes, row: int, lead: int) -> None:
        u, v = list(fields.values())[row]
        _arrows(axes, u[lead], v[lead], motion.top)

    rows = {name: np.hypot(*field) for name, field in fields.items()}
    paint = _lengths(motion, rows, add, label="apparent motion, px per step")
    return _picture(paint, motion, caption=caption, alt="Motion fields of observed and predicted images")


def _lengths(
    motion: Motion, rows: Mapping[str, np.ndarray], add: Callable[[Axes, int, int], None], *, label: str
) -> Callable[[Figure], None]:
    """Return what draws lengths in px per step on one scale: a row for each name, a column for each lead.

    `add` puts more onto one panel: axes, number of its row, number of its column.
    """

    def paint(figure: Figure) -> None:
        figure.set_layout_engine("compressed")
        grid = figure.subplots(len(rows), len(motion.leads), squeeze=False)
        for row, (name, lengths) in enumerate(rows.items()):
            for column, axes in enumerate(grid[row]):
                drawing.raster(axes, lengths[column], cmap="viridis", vmin=0, vmax=motion.top)
                add(axes, row, column)
            grid[row, 0].set_ylabel(name)
        for axes, lead in zip(grid[0], motion.leads):
            axes.set_title(f"to lead {lead}")
        drawing.colour_bar(figure, grid[0, 0].images[0], list(grid.flat), label, fraction=0.02)

    return paint


def _picture(
    paint: Callable[[Figure], None], motion: Motion, *, caption: str, alt: str, wheel: bool = False
) -> Picture:
    panel_in, width = drawing.panels(len(motion.leads) + wheel)
    width -= 0.9 if wheel else 0.0  # it stands in place of a colour bar
    height = 2 * (panel_in * motion.aspect + 0.2) + 0.4
    return Picture(drawing.draw(paint, width_in=width, height_in=height), alt, caption)


def _error_words(error: np.ndarray) -> str:
    known = error[np.isfinite(error)].astype(float)
    if known.size == 0:
        return "not known"
    return f"mean {number(float(known.mean()))}, median {number(float(np.median(known)))}"


def control(run: RunFiles) -> list[Block]:
    """Compare the predicted motion with assuming none."""
    flow = run.json("flow.json", keys=("leads",))
    with run.understanding("flow.json"):
        rows = [_row(lead) for lead in flow["leads"]]
        losing = [str(lead["lead"]) for lead in flow["leads"] if not _wins(lead)]
    if not rows:
        return [Note("No lead has a motion field.", "bad")]
    columns = (
        "lead", "median motion observed, px", "median motion predicted, px",
        "end-point error, px: mean", "median", "of no motion, px: mean", "median", "verdict",
    )  # fmt: skip
    said = (
        Note(
            f"At lead {', '.join(losing)} assuming no motion at all is at least as good as the predicted motion.",
            "bad",
        )
        if losing
        else Note(
            "At every lead the predicted motion is closer to the observed one than no motion at all.", "good"
        )
    )
    return [said, table(f"The control, over all steps to the lead: {SHOWS}.", columns, rows)]


def _row(lead: dict[str, Any]) -> tuple[str, ...]:
    names = ("median_px_target", "median_px_prediction", "epe_px")
    medians = ("epe_median_px", "epe_zero_flow_px", "epe_zero_flow_median_px")  # the medians came later
    verdict = "better than no motion" if _wins(lead) else "no better than no motion"
    figures = [number(_value(lead[name])) for name in names]
    figures += [
        number(_value(lead[name] if name == "epe_zero_flow_px" else lead.get(name))) for name in medians
    ]
    return (str(lead["lead"]), *figures, verdict)


def _wins(lead: dict[str, Any]) -> bool:
    return _value(lead["epe_px"]) < _value(lead["epe_zero_flow_px"])


def _value(given: Any) -> float:
    return float("nan") if given is None else float(given)


def _arrows(axes: Axes, u: np.ndarray, v: np.ndarray, top: float) -> None:
    """Draw arrows on a coarse grid; v grows downwards, as rows do."""
    step = max(1, max(u.shape) // ARROWS)
    rows, columns = np.mgrid[step // 2 : u.shape[0] : step, step // 2 : u.shape[1] : step]
    axes.quiver(
        columns, rows, u[rows, columns], v[rows, columns], angles="xy", scale_units="xy", scale=top / (1.3 * step),
        color="white", width=0.011, headwidth=3.6, edgecolor=drawing.PANEL, linewidth=0.7,
    )  # fmt: skip
