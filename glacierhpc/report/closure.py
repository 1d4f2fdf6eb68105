"""Whether the links between scenes agree: closure errors, and the links that were and were not used.

How links are made and adjusted is told by `glacierhpc.coreg`; here their table is only shown.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from glacierhpc.report import drawing
from glacierhpc.report.alignment_rows import aligned, alignment_rows, by_reason, metres_per_px
from glacierhpc.report.blocks import Block, Note, Picture, number, plural, table
from glacierhpc.report.drawing import BLUE, ORANGE
from glacierhpc.report.run_files import RunFiles, median

LINK_COLUMNS = ("first", "second", "kind", "used", "reason", "rho", "error_px", "misfit_px")
KINDS = {
    "reference": "scene to reference",
    "neighbour": "scene to scene",
    "rescue": "scene to scene, for want of a reference",
    "georeferencing": "reference to reference",
}
BINS = 24


def closure(run: RunFiles) -> list[Block]:
    """Draw the closure errors, how often and of which scene; says so where the run has none."""
    rows = alignment_rows(run)
    good = aligned(rows)
    if good.empty:
        return []
    known = good[good["closure_px"].notna()]
    if known.empty:
        return [
            Note(
                "No closure error is known: no three scenes of this run are linked to one another.", "missing"
            )
        ]
    top = closure_top(known["closure_px"])
    middle, metres = median(known["closure_px"]), metres_per_px(rows)
    typical = f"median {number(middle, 2)} px" + (
        f" ({number(middle * metres, 2)} m)" if np.isfinite(metres) else ""
    )
    beyond = int((known["closure_px"] > top).sum())
    others = len(good) - len(known)
    far = f" Crosses at the edge, and the last bar: {plural(beyond, 'scene')} beyond." if beyond else ""
    none = f" {plural(others, 'aligned scene')} without a triangle." if others else ""
    half = {"width_in": drawing.HALF_IN, "height_in": 2.7}
    errors = known["closure_px"]
    return [
        Picture(drawing.draw(partial(paint_distribution, errors=errors, top=top), **half),
                f"Distribution of the scenes' closure errors, {typical}",
                f"How large closure errors are, {typical} (dashed). A scene counts with the median of its triangles.",
                layout="half"),
        Picture(drawing.draw(partial(paint_by_scene, known=known, top=top), **half),
                "Closure error of each scene over time",
                f"The same scene by scene, over time.{far}{none}", layout="half"),
    ]  # fmt: skip


def closure_top(errors: pd.Series) -> float:
    """Return where the axis of closure errors ends, px: at all of them, or at three times the 95th percentile."""
    usual = 3 * float(np.percentile(errors, 95))
    return max(0.01, min(float(errors.max()), usual))


def paint_distribution(figure: Figure, *, errors: pd.Series, top: float) -> None:
    """Draw how many scenes have which closure error; what is beyond the axis is in its last bar."""
    axes = figure.add_subplot()
    axes.hist(np.minimum(errors, top), bins=np.linspace(0, top, BINS + 1).tolist(), color=BLUE, rwidth=0.88)
    axes.axvline(median(errors), color=drawing.INK, linewidth=1, linestyle="--")
    axes.set(xlabel="closure error, px", ylabel="scenes", xlim=(0, top))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.grid(True, axis="y")


def paint_by_scene(figure: Figure, *, known: pd.DataFrame, top: float) -> None:
    """Draw the closure error of each scene over time; what is beyond the axis is at its edge."""
    axes: Axes = figure.add_subplot()
    near, far = known[known["closure_px"] <= top], known[known["closure_px"] > top]
    axes.vlines(near["time"], 0, near["closure_px"], color=drawing.RULE, linewidth=1)
    axes.scatter(near["time"], near["closure_px"], s=13, c=BLUE, linewidths=0)
    if len(far):
        axes.scatter(far["time"], np.full(len(far), top), s=22, c=ORANGE, marker="x", clip_on=False, zorder=4)
    axes.set(ylabel="closure error, px", ylim=(0, 1.06 * top))
    axes.grid(True, axis="y")
    drawing.date_axis(axes, max_ticks=7)
    drawing.flatten_many(axes, len(known))


def links(run: RunFiles) -> list[Block]:
    """Count the links by kind, used and not, and say how far they are from the adjusted network."""
    given = run.table("alignment_links.parquet", columns=LINK_COLUMNS)
    if given.empty:
        return [Note("No link between scenes was made.", "missing")]
    with run.understanding("alignment_links.parquet"):
        given["used"] = given["used"].fillna(False).astype(bool)
        cells = [_kind(kind, given[given["kind"] == kind]) for kind in _kinds(given)]
    headings = (
        "links", "made", "used", "correlation, median", "predicted error, px", "off the network, px", "at most, px",
    )  # fmt: skip
    caption = "The links that hold the scenes together. Off the network: how far a used link lies from what all say."
    blocks: list[Block] = [table(caption, headings, cells, folded=False)]
    unused = given.loc[~given["used"], "reason"].fillna("").replace("", "no reason is stated")
    if len(unused):
        reasons = [(count, reason) for reason, count in by_reason(unused.astype(str))]
        blocks.append(table("Links that were not used, by reason.", ("links", "reason"), reasons))
    return blocks


def _kinds(given: pd.DataFrame) -> list[str]:
    present = list(given["kind"].unique())
    return [kind for kind in KINDS if kind in present] + sorted(set(present) - set(KINDS))


def _kind(kind: str, some: pd.DataFrame) -> tuple[object, ...]:
    used = some[some["used"]]
    return (
        KINDS.get(kind, kind),
        len(some),
        len(used),
        median(used["rho"]),
        median(used["error_px"]),
        median(used["misfit_px"]),
        float(used["misfit_px"].max()),
    )
