"""What is left on the ground after alignment, place by place, as arrows: of three scenes and of all together.

The offsets were measured when the scenes were aligned; here they are thinned and drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from glacierhpc.report import drawing
from glacierhpc.report.alignment_rows import aligned, alignment_rows, metres_per_px, worst_median_best
from glacierhpc.report.blocks import Block, Note, Picture, number, plural
from glacierhpc.report.drawing import BLUE, ORANGE
from glacierhpc.report.ground import glacier_rings
from glacierhpc.report.losses import day
from glacierhpc.report.run_files import RunFiles

VECTOR_COLUMNS = ("scene", "x", "y", "dx_px", "dy_px", "weight")
ARROWS = 16  # along the longer side: more are not told apart in a panel of 2 inches
FAINTEST = 0.02  # weight and opacity: what had less had no say, and is not drawn
LEAST_ARROWS = 4  # a scene with fewer is not ranked by their median
LONGEST = 2.5  # cells: a longer arrow would cross its neighbours, and is cut
SIDE_IN = 2.2


@dataclass(frozen=True)
class Field:
    """The arrows of one panel."""

    title: str
    arrows: pd.DataFrame
    """x, y (reference pixels), dx_px, dy_px, weight."""

    @property
    def lengths(self) -> np.ndarray:
        """Length of each arrow, px."""
        return np.hypot(self.arrows["dx_px"].to_numpy(), self.arrows["dy_px"].to_numpy())

    @property
    def scale_px(self) -> float:
        """The round length of the panel's scale arrow, px: near that of its long, but not its longest arrows."""
        lengths, weights = self.lengths, self.arrows["weight"].to_numpy()
        return drawing.nice(max(0.005, weighted_quantile(lengths, weights, 0.9)))


def vectors(run: RunFiles) -> list[Block]:
    """Draw the offsets left on stable ground in the worst, median and best scene, and the median of all."""
    rows = alignment_rows(run)
    if aligned(rows).empty:
        return []
    given = run.table("alignment_vectors.parquet", columns=VECTOR_COLUMNS)
    with run.understanding("alignment_vectors.parquet"):
        given = given.astype({name: np.float64 for name in VECTOR_COLUMNS[1:]})
        given = given[np.isfinite(given[list(VECTOR_COLUMNS[1:])]).all(axis=1)]
        given["scene"] = given["scene"].astype(str)
    good, (shape, rings) = aligned(rows), _ground(run, given)
    inside = given["x"].between(0, shape[1] - 1) & given["y"].between(0, shape[0] - 1)
    given = given[inside & given["scene"].isin(good["scene"])]
    if given.empty:
        return [
            Note(
                "There are no residual vectors: no aligned scene has ground with texture to measure.",
                "missing",
            )
        ]
    fields = chosen_fields(good, given, shape)
    metres = metres_per_px(rows)
    height_in = 0.75 + SIDE_IN * min(1.6, max(0.45, shape[0] / shape[1]))
    source = drawing.draw(
        partial(paint_fields, fields=fields, shape=shape, rings=rings, metres=metres), height_in=height_in
    )
    cut = sum(int((field.lengths > longest_px(field)).sum()) for field in fields)
    caption = (
        "Where the ground still lies apart from the reference after alignment, and which way. Every panel has its own "
        "scale: the arrow below it. Worst, median and best by the median length; pale arrows had little weight in the "
        "result, those without any are left out. Arrows in all directions are noise; arrows that agree in one part of "
        "the area are a rotation, a distortion or ground that moved."
    )
    caption += f" Orange: {plural(cut, 'arrow')} longer than drawn." if cut else ""
    caption += " Grey lines: glacier outlines." if rings else ""
    alt = f"Offsets left on stable ground as arrows: {', '.join(field.title.split(chr(10))[0] for field in fields)}"
    return [Picture(source, alt, caption)]


def chosen_fields(good: pd.DataFrame, given: pd.DataFrame, shape: tuple[int, int]) -> list[Field]:
    """Return the panels: worst, median and best scene by the median length of their vectors, and the median of all."""
    own = {str(scene): vectors for scene, vectors in given.groupby("scene", sort=False)}
    seen = good[good["scene"].isin(own.keys())]
    ranked = {scene: _median_px(one) for scene, one in own.items() if _heard(one) >= LEAST_ARROWS}
    ordered = seen.assign(left_px=seen["scene"].map(ranked if ranked else {}))
    fields = []
    for title, row in worst_median_best(ordered, "left_px").items():
        vectors = own[row["scene"]]
        fields.append(Field(f"{title}: {day(row['time'])}\n{_typical(vectors)}", thinned(vectors, shape)))
    if len(seen) > 1 or not fields:
        every = thinned(given, shape)
        fields.append(Field(f"median of {plural(len(seen), 'scene')}\n{_typical(every)}", every))
    return fields


def thinned(given: pd.DataFrame, shape: tuple[int, int], *, most: int = ARROWS) -> pd.DataFrame:
    """Return one arrow for each cell of a coarse grid: the weighted median of the offsets in it.

    Parameters
    ----------
    given : DataFrame
        x, y, dx_px, dy_px, weight.
    shape : (rows, columns)
        Of the reference, px.
    most : int
        Cells along the longer side.
    """
    cell = max(shape) / most
    names = ["x", "y", "dx_px", "dy_px", "weight"]
    found = [
        (
            group["x"].mean(),
            group["y"].mean(),
            weighted_quantile(group["dx_px"].to_numpy(), group["weight"].to_numpy(), 0.5),
            weighted_quantile(group["dy_px"].to_numpy(), group["weight"].to_numpy(), 0.5),
            group["weight"].mean(),
        )
        for _, group in given[names].groupby([given["y"] // cell, given["x"] // cell])
    ]
    few = pd.DataFrame(found, columns=names)
    return few[few["weight"] >= FAINTEST] if (few["weight"] >= FAINTEST).any() else few


def weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """Return the value below which lies `share` of the weight; all count alike where none has weight."""
    order = np.argsort(values, kind="stable")
    weights = np.clip(weights[order], 0, None)
    weights = weights if weights.sum() > 0 else np.ones(len(values))
    middle = (np.cumsum(weights) - weights / 2) / weights.sum()
    return float(np.interp(share, middle, values[order]))


def longest_px(field: Field) -> float:
    """Return the offset from which on an arrow is cut, px."""
    return LONGEST * field.scale_px


def paint_fields(
    figure: Figure,
    *,
    fields: Sequence[Field],
    shape: tuple[int, int],
    rings: Sequence[np.ndarray],
    metres: float,
) -> None:
    """Draw the panels side by side, each with its scale arrow below."""
    grid = figure.subplots(1, max(3, len(fields)), squeeze=False)[0]
    for axes in grid[len(fields) :]:
        axes.set_visible(False)
    for axes, field in zip(grid, fields, strict=False):
        for ring in rings:
            axes.plot(*ring.T, color=drawing.MUTED, linewidth=0.7, alpha=0.8)
        axes.set(
            xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5), aspect="equal", xticks=[], yticks=[]
        )
        for spine in axes.spines.values():
            spine.set_visible(True)
        axes.set_title(field.title)
        _arrows(axes, field, shape, metres)


def _arrows(axes: Axes, field: Field, shape: tuple[int, int], metres: float) -> None:
    arrows, lengths = field.arrows, field.lengths
    cell, limit = max(shape) / ARROWS, longest_px(field)
    cut = np.minimum(1.0, limit / np.maximum(lengths, 1e-12))
    opacity = np.clip(arrows["weight"].to_numpy(), FAINTEST, 1.0)
    colours = np.where((cut < 1)[:, None], to_rgba(ORANGE), to_rgba(BLUE))
    colours[:, 3] = opacity
    drawn = axes.quiver(
        arrows["x"], arrows["y"], arrows["dx_px"] * cut, arrows["dy_px"] * cut, color=colours,
        angles="xy", scale_units="xy", scale=field.scale_px / (1.2 * cell), width=0.009, headwidth=3.6,
        headlength=4, headaxislength=3.6, minlength=0.5,
    )  # fmt: skip
    drawn.set_in_layout(False)
    in_metres = f" = {number(field.scale_px * metres, 2)} m" if np.isfinite(metres) else ""
    key = axes.quiverkey(
        drawn, 0.04, -0.07, field.scale_px, f"{number(field.scale_px, 1)} px{in_metres}", labelpos="E",
        coordinates="axes", color=drawing.INK, labelcolor=drawing.INK, labelsep=0.06,
    )  # fmt: skip
    key.set_in_layout(False)
    axes.set_xlabel(" ", fontsize=13)  # keeps the place of the key


def _typical(own: pd.DataFrame) -> str:
    return f"{number(_median_px(own), 2)} px in the median"


def _median_px(own: pd.DataFrame) -> float:
    lengths = np.hypot(own["dx_px"].to_numpy(), own["dy_px"].to_numpy())
    return weighted_quantile(lengths, own["weight"].to_numpy(), 0.5)


def _heard(own: pd.DataFrame) -> int:
    return int((own["weight"] >= FAINTEST).sum())


def _ground(run: RunFiles, given: pd.DataFrame) -> tuple[tuple[int, int], list[np.ndarray]]:
    """Return the shape of the reference and the glacier outlines on it, in pixels; without a cube what is known."""
    name = next((name for name in ("clean.zarr", "aligned.zarr") if run.has(name)), None)
    if name is None and given.empty:
        return (1, 1), []
    if name is None:
        return (int(given["y"].max()) + 1, int(given["x"].max()) + 1), []
    cube = run.cube(name)
    return (cube.sizes["y"], cube.sizes["x"]), glacier_rings(run, cube)
