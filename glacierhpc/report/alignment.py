"""How far the scenes were off, how well they fit now, and which could not be aligned.

The scenes themselves are aligned elsewhere; here their table and images are only shown.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from glacierhpc.report import animation, drawing
from glacierhpc.report.blocks import Block, Note, Picture, number, plural, table, words
from glacierhpc.report.drawing import BLUE, ORANGE
from glacierhpc.report.losses import day
from glacierhpc.report.run_files import RunFiles, median, on_stable_ground, setting

COLUMNS = (
    "scene", "time", "ok", "reason", "shift_px", "shift_m", "shift_row_px", "shift_col_px",
    "residual_before_px", "residual_px",
)  # fmt: skip
CROP_PX = 112  # small enough that a shift of one pixel is seen, large enough to recognise the place
READ_PX = 1000  # the crop is looked for in the middle of larger cubes
REFERENCE_SCENES = 9


def intro(run: RunFiles) -> str:
    """Say what was done, and on which ground it was judged."""
    ground = (
        "judged on ground outside the glaciers"
        if on_stable_ground(run)
        else "judged over the whole area, moving ice included"
    )
    return f"Scenes of one place lie up to a few pixels apart. Each is shifted onto a common reference, {ground}."


def shifts(run: RunFiles) -> list[Block]:
    """Draw the shift of every aligned scene over time, in pixels and metres, and as a target."""
    rows = _aligned(run)
    if rows.empty:
        return [Note("No scene could be aligned; the table below says why.", "bad")]
    metres = median(rows["shift_m"] / rows["shift_px"].where(rows["shift_px"] > 0))

    def over_time(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.vlines(rows["time"], 0, rows["shift_px"], color=drawing.RULE, linewidth=1.2)
        axes.scatter(rows["time"], rows["shift_px"], s=24, c=BLUE, linewidths=0)
        axes.set(ylabel="shift found, px", ylim=(0, None))
        axes.grid(True, axis="y")
        if np.isfinite(metres):
            right = axes.secondary_yaxis(
                "right", functions=(partial(_times, metres), partial(_times, 1 / metres))
            )
            right.set_ylabel("shift found, m")
        drawing.date_axis(axes, max_ticks=8)

    def as_target(figure: Figure) -> None:
        axes = figure.add_subplot()
        reach = max(1.0, float(np.ceil(rows["shift_px"].max())))
        for radius in np.arange(1, reach + 1, max(1, round(reach / 4))):
            axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor=drawing.RULE, linewidth=1))
        axes.axhline(0, color=drawing.RULE, linewidth=1)
        axes.axvline(0, color=drawing.RULE, linewidth=1)
        axes.scatter(rows["shift_col_px"], rows["shift_row_px"], s=24, c=BLUE, linewidths=0, alpha=0.85)
        axes.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal")
        axes.set(xlabel="shift to the right, px", ylabel="shift downwards, px")

    middle = median(rows["shift_px"])
    how_far = (
        f"median {number(middle)} px ({number(middle * metres)} m)"
        if np.isfinite(metres)
        else f"{middle:.2f} px"
    )
    half = {"width_in": drawing.HALF_IN, "height_in": 3.2}
    return [
        Picture(drawing.draw(over_time, **half), f"Shift of each scene over time, {how_far}",
                f"How far each scene lay from the reference, {how_far}.", layout="half"),
        Picture(drawing.draw(as_target, **half), "Shift of each scene as column and row offset",
                "The same shifts by direction: one dot per scene, a ring per pixel.", layout="half"),
    ]  # fmt: skip


def residuals(run: RunFiles) -> list[Block]:
    """Draw the misfit to the reference, before and after, per scene."""
    rows = _aligned(run)
    rows = rows[rows["residual_px"].notna() | rows["residual_before_px"].notna()]
    if rows.empty:
        return [Note("No residual was measured: too little ground with texture.", "missing")]
    stable = on_stable_ground(run)
    before, after = rows["residual_before_px"].astype(float), rows["residual_px"].astype(float)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.vlines(rows["time"], after, before, color=drawing.RULE, linewidth=1.2)
        axes.scatter(
            rows["time"],
            before,
            s=26,
            c="none",
            marker="s",
            edgecolors=ORANGE,
            linewidths=1.4,
            label="before alignment",
        )
        axes.scatter(rows["time"], after, s=26, c=BLUE, marker="o", linewidths=0, label="after alignment")
        axes.axhline(median(after), color=BLUE, linewidth=1, linestyle="--", label="median after")
        axes.set(ylabel="misfit on stable ground, px" if stable else "misfit, px", ylim=(0, None))
        axes.grid(True, axis="y")
        drawing.date_axis(axes)
        figure.legend(loc="outside upper left", ncols=3)

    ground = "on ground outside the glaciers" if stable else "over the whole area"
    worse = int((after > before).sum())
    caption = (
        f"Misfit to the reference {ground}: median {number(median(before), 2)} px before, "
        f"{number(median(after), 2)} px after alignment. "
        + (
            f"{plural(worse, 'scene')} fit worse than before."
            if worse
            else "No scene fits worse than before."
        )
    )
    return [Picture(drawing.draw(paint, height_in=2.8), "Residual before and after alignment", caption)]


def rejected(run: RunFiles) -> list[Block]:
    """List the scenes that could not be aligned."""
    rows = run.table("alignment.parquet", columns=COLUMNS)
    lost = rows[~rows["ok"].astype(bool)]
    if lost.empty:
        return [Note(f"All {plural(len(rows), 'scene')} could be aligned.", "good")]
    cells = [(r.scene, day(r.time), words(r.reason)) for r in lost.itertuples()]
    caption = f"Not aligned, and therefore not used: {len(lost)} of {plural(len(rows), 'scene')}."
    return [table(caption, ("scene", "date", "reason"), cells, source="alignment.parquet")]


def blink(run: RunFiles) -> list[Block]:
    """Animate worst, median and best scene against the reference, before and after alignment."""
    rows = _aligned(run)
    aligned, clean = (
        run.cube("aligned.zarr", variables=("data",)),
        run.cube("clean.zarr", variables=("data",)),
    )
    rows = rows[rows["scene"].isin(_scenes(aligned)) & rows["scene"].isin(_scenes(clean))]
    if rows.empty:
        return [Note("No aligned scene is left to compare with the reference.", "bad")]
    band = setting(run.settings(), "align.band", "nir08")
    band = band if band in aligned["band"].values else str(aligned["band"].values[0])
    after, before = (_middle(cube["data"].sel(band=band)) for cube in (aligned, clean))
    chosen = _worst_median_best(rows)
    pairs = {
        title: (
            run.pixels("clean.zarr", before.isel(time=_scenes(clean).index(row.scene))),
            run.pixels("aligned.zarr", after.isel(time=_scenes(aligned).index(row.scene))),
        )
        for title, row in chosen.items()
    }
    reference = _reference(run, after)
    crop = best_crop(reference, [image for pair in pairs.values() for image in pair])
    titles = [f"{title}: {day(row.time)}\nshift {row.shift_px:.2f} px" for title, row in chosen.items()]
    frames = [_blink_frame(reference[crop], pairs, crop, titles, show) for show in ("reference", "scene")]
    caption = (
        f"Reference (median of the aligned scenes) and scene in turn, band {band}, {CROP_PX} px wide: upper row "
        "before, lower row after alignment. What jumps above and stands still below was put right; seasonal snow, "
        "shadows and the glacier itself change in both. Worst, median and best by the misfit left."
    )
    alt = "Blink comparison of three scenes with the reference before and after alignment"
    return [
        Picture(
            animation.gif(frames, seconds=0.8, palette=animation.palette("gray")),
            alt,
            caption,
            still=animation.still(frames[1]),
        )
    ]


def best_crop(
    reference: np.ndarray, images: list[np.ndarray], *, size_px: int = CROP_PX
) -> tuple[slice, slice]:
    """Return the window with most texture where all images have data.

    Parameters
    ----------
    reference, images : (y, x) float32
        NaN is invalid.
    """
    valid = np.isfinite(reference) & np.logical_and.reduce([np.isfinite(image) for image in images])
    rows, columns = reference.shape
    step = max(1, size_px // 2)
    best, best_score = (slice(0, size_px), slice(0, size_px)), -1.0
    for top in range(0, max(1, rows - size_px + 1), step):
        for left in range(0, max(1, columns - size_px + 1), step):
            crop = (slice(top, top + size_px), slice(left, left + size_px))
            inside = valid[crop]
            score = (
                float(inside.mean()) ** 2 * float(np.std(reference[crop][inside])) if inside.any() else 0.0
            )
            if score > best_score:
                best, best_score = crop, score
    return best


def _blink_frame(
    reference: np.ndarray,
    pairs: dict[str, tuple[np.ndarray, np.ndarray]],
    crop: tuple[slice, slice],
    titles: list[str],
    show: str,
) -> np.ndarray:
    def paint(figure: Figure) -> None:
        grid = figure.subplots(2, len(pairs), squeeze=False)
        for column, pair in enumerate(pairs.values()):
            for row, image in enumerate(pair):
                axes = grid[row, column]
                drawing.raster(
                    axes, drawing.stretch(reference if show == "reference" else image[crop]), cmap="gray"
                )
                for spine in axes.spines.values():
                    spine.set_visible(False)
            grid[0, column].set_title(titles[column])
        grid[0, 0].set_ylabel("before alignment")
        grid[1, 0].set_ylabel("after alignment")
        figure.suptitle(f"now shown: {show}", color=ORANGE if show == "scene" else drawing.SKY, fontsize=11)

    return drawing.frame(paint, width_in=9.0, height_in=6.6)


def _reference(run: RunFiles, stack: xr.DataArray) -> np.ndarray:
    """Return the median of a few evenly spread aligned scenes: enough to look at, bounded in memory."""
    count = stack.sizes["time"]
    picked = np.unique(np.linspace(0, count - 1, min(count, REFERENCE_SCENES)).round().astype(int))
    images = np.stack([run.pixels("aligned.zarr", stack.isel(time=index)) for index in picked])
    median = np.full(images.shape[1:], np.nan, np.float32)
    for row, line in enumerate(np.moveaxis(images, 1, 0)):  # by rows: nanmedian holds several copies
        seen = np.isfinite(line).any(axis=0)
        median[row, seen] = np.nanmedian(line[:, seen], axis=0)
    return median


def _times(factor: float, values: Any) -> Any:
    return np.asarray(values) * factor


def _worst_median_best(rows: pd.DataFrame) -> dict[str, pd.Series]:
    measure = "residual_px" if rows["residual_px"].notna().any() else "shift_px"
    ordered = rows[rows[measure].notna()].sort_values(measure, ascending=False)
    places = {"best": len(ordered) - 1, "median": len(ordered) // 2, "worst": 0}
    names = {
        place: title for title, place in places.items()
    }  # of two scenes the first is worst, the other median
    return {names[place]: ordered.iloc[place] for place in sorted(names)}


def _aligned(run: RunFiles) -> pd.DataFrame:
    rows = run.table("alignment.parquet", columns=COLUMNS)
    return rows[rows["ok"].astype(bool)].sort_values("time")


def _scenes(cube: xr.Dataset) -> list[str]:
    return [str(scene) for scene in cube["scene"].values]


def _middle(stack: xr.DataArray) -> xr.DataArray:
    def centred(size: int) -> slice:
        start = max(0, (size - READ_PX) // 2)
        return slice(start, min(size, start + READ_PX))

    return stack.isel(y=centred(stack.sizes["y"]), x=centred(stack.sizes["x"]))
