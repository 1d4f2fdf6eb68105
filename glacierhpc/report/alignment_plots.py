"""Shifts and misfits of all scenes over time, and where the refused ones stand.

The closure of links has its own module, `closure`; so have the arrows on the ground, `vectors`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from glacierhpc.report import drawing
from glacierhpc.report.alignment_rows import NOISE_PX, aligned, alignment_rows, metres_per_px, refused
from glacierhpc.report.blocks import Block, Note, Picture, number, plural
from glacierhpc.report.drawing import BLUE, ORANGE, RED
from glacierhpc.report.run_files import RunFiles, median, on_stable_ground

AXES = (("shift_row_px", "down"), ("shift_col_px", "right"))
FLOOR_PX = 0.005  # a misfit of nothing at all, of a scene with itself, has no place on a logarithmic axis
ROOM = 1.12  # of the axis beyond the outermost value
DOT = 0.05  # of the largest shift: half the height of a dot
CUT = 4.0  # times the 90th percentile: what lies further would press all others into a line


def shifts(run: RunFiles) -> list[Block]:
    """Draw the shift of every aligned scene over time with its predicted error, and all as a target."""
    rows = alignment_rows(run)
    good, lost = aligned(rows), refused(rows)
    if good.empty:
        return [Note("There are no shifts, misfits or images to show: no scene was aligned.", "bad")]
    metres, reach = metres_per_px(rows), shift_reach(good)
    source = drawing.draw(partial(paint_shifts, good=good, lost=lost, metres=metres), height_in=3.9)
    middle = median(good["shift_px"])
    in_metres = f" ({number(middle * metres)} m)" if np.isfinite(metres) else ""
    how_far = f"median length {number(middle)} px{in_metres}"
    error = median(good["error_px"])
    rings = f"rings every {_ring_step(reach):g} px"
    said = [
        f"How far each scene lay from the common frame, {how_far}: over time, and by direction ({rings})."
    ]
    if np.isfinite(error):
        hidden = "; most are hidden by their dot" if error < DOT * reach else ""
        said.append(f"Bars: predicted error, median {number(error, 2)} px{hidden}.")
    if len(lost):
        said.append(f"Triangles at the edge: {plural(len(lost), 'scene')} refused.")
    if (beyond := int((_longest(good) > reach).sum())) > 0:
        said.append(f"Crosses at the edge: {plural(beyond, 'scene')} shifted further than drawn.")
    return [Picture(source, f"Shift of each scene over time in row and column, {how_far}", " ".join(said))]


def shift_reach(good: pd.DataFrame) -> float:
    """Return the largest shift that is drawn, px: that of the furthest scene unless it is far beyond the others."""
    length = _longest(good).dropna()
    if length.empty:
        return 1.0
    usual = CUT * max(0.25, float(np.percentile(length, 90)))
    return max(0.5, float(length[length <= usual].max() if (length <= usual).any() else usual))


def paint_shifts(figure: Figure, *, good: pd.DataFrame, lost: pd.DataFrame, metres: float) -> None:
    """Draw shifts downwards and to the right over time, one above the other, and as a target beside them."""
    reach = shift_reach(good)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.95, 1))
    first = figure.add_subplot(grid[0, 0])
    second = figure.add_subplot(grid[1, 0], sharex=first)
    for axes, (name, towards) in zip((first, second), AXES, strict=True):
        _over_time(axes, good, name, reach)
        axes.set_ylabel(f"{towards}, px")
        if np.isfinite(metres) and metres > 0:
            right = axes.secondary_yaxis(
                "right", functions=(partial(_times, metres), partial(_times, 1 / metres))
            )
            right.set_ylabel(f"{towards}, m")
    known = lost[lost["time"].notna()]
    if len(known):
        first.scatter(
            known["time"], np.full(len(known), -ROOM * reach), s=26, c=RED, marker="v", linewidths=0,
            label=f"refused ({len(lost)})", zorder=4, clip_on=False,
        )  # fmt: skip
        figure.legend(*first.get_legend_handles_labels(), loc="outside upper left")
    first.tick_params(labelbottom=False)
    drawing.date_axis(second)
    target = figure.add_subplot(grid[:, 1])
    _target(target, good, reach)
    for axes in (first, second, target):
        drawing.flatten_many(axes, len(good))


def residuals(run: RunFiles) -> list[Block]:
    """Draw the misfit to the reference, before and after, per scene."""
    good = aligned(alignment_rows(run))
    if good.empty:
        return []
    good = good[good["residual_px"].notna() | good["residual_before_px"].notna()]
    if good.empty:
        return [Note("No misfit was measured: too little ground with texture.", "missing")]
    stable = on_stable_ground(run)
    before, after = good["residual_before_px"], good["residual_px"]
    source = drawing.draw(partial(paint_residuals, rows=good, stable=stable), height_in=2.8)
    ground = "on ground outside the glaciers" if stable else "over the whole area"
    worse = int((after > before + NOISE_PX).sum())
    which = f"{plural(worse, 'scene')} fit{'s' if worse == 1 else ''}" if worse else "No scene fits"
    alone = " A square or dot that stands alone could be measured only once." if _lonely(good) else ""
    caption = (
        f"Misfit to the reference {ground}: median {number(median(before), 2)} px before, "
        f"{number(median(after), 2)} px after alignment. {which} worse than before by more than the noise of "
        f"{NOISE_PX:g} px.{alone}"
    )
    return [Picture(source, "Misfit before and after alignment by scene over time", caption)]


def paint_residuals(figure: Figure, *, rows: pd.DataFrame, stable: bool) -> None:
    """Draw squares before, dots after, and a line from one to the other."""
    axes = figure.add_subplot()
    before, after = (rows[name].clip(lower=FLOOR_PX) for name in ("residual_before_px", "residual_px"))
    axes.vlines(rows["time"], after, before, color=drawing.RULE, linewidth=1.2)
    axes.scatter(
        rows["time"], before, s=22, c="none", marker="s", edgecolors=ORANGE, linewidths=1.3,
        label="before alignment",
    )  # fmt: skip
    axes.scatter(rows["time"], after, s=22, c=BLUE, marker="o", linewidths=0, label="after alignment")
    if np.isfinite(middle := median(after)):
        axes.axhline(middle, color=BLUE, linewidth=1, linestyle="--", label="median after")
    axes.set(ylabel="misfit on stable ground, px" if stable else "misfit, px")
    if np.nanmax([before, after]) > 10 * np.nanmin([before, after]):
        axes.set_yscale("log")
        drawing.plain_log_axis(axes)
    else:
        axes.set_ylim(0, None)
    axes.grid(True, axis="y")
    drawing.date_axis(axes)
    drawing.flatten_many(axes, len(rows))
    figure.legend(loc="outside upper left", ncols=3)


def _lonely(rows: pd.DataFrame) -> bool:
    return bool((rows["residual_before_px"].isna() != rows["residual_px"].isna()).any())


def _over_time(axes: Axes, good: pd.DataFrame, name: str, reach: float) -> None:
    inside = good[name].abs() <= reach
    near, far = good[inside], good[~inside & good[name].notna()]
    axes.axhline(0, color=drawing.MUTED, linewidth=0.8, zorder=0)
    if near["error_px"].notna().any():
        axes.vlines(
            near["time"], near[name] - near["error_px"], near[name] + near["error_px"],
            color=BLUE, linewidth=1, alpha=0.55,
        )  # fmt: skip
    axes.scatter(near["time"], near[name], s=13, c=BLUE, linewidths=0)
    if len(far):
        edge = np.sign(far[name]) * ROOM * reach
        axes.scatter(far["time"], edge, s=22, c=ORANGE, marker="x", linewidths=1.4, clip_on=False, zorder=4)
    axes.set_ylim(ROOM * reach, -ROOM * reach)  # downwards is down, as in the images
    axes.grid(True, axis="y")


def _target(axes: Axes, good: pd.DataFrame, reach: float) -> None:
    step = _ring_step(reach)
    edge = step * np.ceil(reach / step)
    for radius in np.arange(step, edge + step / 2, step):
        axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor=drawing.RULE, linewidth=1))
    axes.axhline(0, color=drawing.RULE, linewidth=1)
    axes.axvline(0, color=drawing.RULE, linewidth=1)
    near = good[_longest(good) <= reach]
    axes.scatter(near["shift_col_px"], near["shift_row_px"], s=16, c=BLUE, linewidths=0, alpha=0.8)
    axes.set(xlim=(-edge, edge), ylim=(edge, -edge), aspect="equal")
    axes.set(xlabel="right, px", ylabel="down, px")


def _ring_step(reach: float) -> float:
    return drawing.nice(max(reach, 0.05) / 3)


def _longest(good: pd.DataFrame) -> pd.Series:
    """Return the larger of a scene's two shifts, px."""
    return good[["shift_row_px", "shift_col_px"]].abs().max(axis=1)


def _times(factor: float, values: Any) -> Any:
    return np.asarray(values) * factor
