"""The worst, median and best scene in turn with their reference, before and after alignment.

The page changes the images itself, so that the reader can hold either; how they take turns is in ``page.css``.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import xarray as xr
from PIL import Image

from glacierhpc.report.alignment_rows import aligned, alignment_rows, worst_median_best
from glacierhpc.report.blocks import Blink, Block, Flicker, Note, number
from glacierhpc.report.drawing import data_uri
from glacierhpc.report.ground import glacier_rings, inside
from glacierhpc.report.losses import day
from glacierhpc.report.run_files import RunFiles, setting

CROP_PX = 112  # small enough that a shift of one pixel is seen, large enough to recognise the place
READ_PX = 1000  # the crop is looked for in the middle of larger cubes
REFERENCE_SCENES = 9  # enough for a median without clouds, few enough to be read at once
MAX_BYTES = 40_000  # of one image: 112 by 112 px of grey with an opacity are at most 25 kB
LEAST_VALID = 0.02  # of a crop: with less there is nothing to see


@dataclass(frozen=True)
class Cubes:
    """The two cubes of a run, one band of their middle."""

    run: RunFiles
    clean: xr.Dataset
    aligned: xr.Dataset
    band: str

    @cached_property
    def before(self) -> dict[str, xr.DataArray]:
        """The images as they were, by scene, not read yet."""
        return _images(self.clean, self.band)

    @cached_property
    def after(self) -> dict[str, xr.DataArray]:
        """The aligned images by scene, not read yet."""
        return _images(self.aligned, self.band)

    @cached_property
    def ice(self) -> np.ndarray | None:
        """Where the glaciers are, (y, x) bool; None where that is not known."""
        rings = glacier_rings(self.run, self.aligned)
        return (
            inside(rings, (self.aligned.sizes["y"], self.aligned.sizes["x"]))[_window(self.aligned)]
            if rings
            else None
        )

    def pair(self, scene: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a scene before and after alignment, each (y, x) float32 with NaN."""
        return (
            self.run.pixels("clean.zarr", self.before[scene]),
            self.run.pixels("aligned.zarr", self.after[scene]),
        )

    def reference(self, scenes: list[str]) -> np.ndarray:
        """Return the median of aligned scenes, (y, x) float32 with NaN where none has data."""
        images = np.stack([self.run.pixels("aligned.zarr", self.after[scene]) for scene in scenes])
        median = np.full(images.shape[1:], np.nan, np.float32)
        for row, line in enumerate(np.moveaxis(images, 1, 0)):  # by rows: nanmedian holds several copies
            seen = np.isfinite(line).any(axis=0)
            median[row, seen] = np.nanmedian(line[:, seen], axis=0)
        return median


def blink(run: RunFiles) -> list[Block]:
    """Let the worst, median and best scene take turns with their reference, before and after alignment."""
    rows = aligned(alignment_rows(run))
    if rows.empty:
        return []
    cubes = _open(run)
    rows = rows[rows["scene"].isin(cubes.after.keys() & cubes.before.keys())]
    if len(rows) < 2:
        return [
            Note("With fewer than two aligned scenes there is nothing to compare a scene with.", "missing")
        ]
    columns = [
        column
        for title, row in worst_median_best(rows).items()
        if (column := _column(cubes, title, row, companions(rows, row))) is not None
    ]
    if not columns:
        return [Note("No scene has ground in common with its reference to be shown.", "bad")]
    off_ice = " outside the glaciers" if cubes.ice is not None else ""
    caption = (
        f"Reference and scene in turn where there is most texture{off_ice}, band {cubes.band}, {CROP_PX} px "
        f"({_width(cubes)}) wide: what jumps in the upper row and stands still in the lower one was put right. The "
        f"reference is the median of up to {REFERENCE_SCENES} other aligned scenes, of the same season where there "
        "are enough. Upper and lower row have the same contrast; where a scene has no data its reference stays. "
        "Snow, shadows and moving ice change in both rows."
    )
    if "whole pixels" in str(cubes.aligned.attrs.get("alignment", "")):
        caption += (
            " Scenes of this run are moved by whole pixels only: up to half a pixel is left in the lower row."
        )
    return [Blink(tuple(columns), caption)]


def companions(rows: pd.DataFrame, row: pd.Series) -> list[str]:
    """Return the scenes whose median a scene is compared with: others, of its season if known, the best first."""
    others = rows[rows["scene"] != row["scene"]]
    same = others[(others["season"] == row["season"]) & (others["season"] != "")]
    chosen = same if len(same) >= min(3, len(others)) else others
    return chosen.sort_values("residual_px", kind="stable")["scene"].head(REFERENCE_SCENES).tolist()


def best_crop(
    reference: np.ndarray,
    images: list[np.ndarray],
    *,
    moving: np.ndarray | None = None,
    size_px: int = CROP_PX,
) -> tuple[slice, slice]:
    """Return the window with most texture where all images have data.

    Parameters
    ----------
    reference, images : (y, x) float32
        NaN is invalid.
    moving : (y, x) bool, optional
        Ice, which does not count.
    """
    valid = np.isfinite(reference) & np.logical_and.reduce([np.isfinite(image) for image in images])
    if moving is not None and (valid & ~moving).any():
        valid &= ~moving
    rows, columns = reference.shape
    step = max(1, size_px // 4)
    best, best_score = (slice(0, size_px), slice(0, size_px)), -1.0
    for top in _starts(rows, size_px, step):
        for left in _starts(columns, size_px, step):
            crop = (slice(top, top + size_px), slice(left, left + size_px))
            inside = valid[crop]
            score = (
                float(inside.mean()) ** 2 * float(np.std(reference[crop][inside])) if inside.any() else 0.0
            )
            if score > best_score:
                best, best_score = crop, score
    return best


def grey(image: np.ndarray, low: float, high: float) -> str:
    """Return an image (y, x) as a PNG data address, black at `low`, white at `high`, clear where it is NaN."""
    seen = np.isfinite(image)
    shown = np.clip((np.where(seen, image, low) - low) / max(high - low, 1e-6), 0, 1)
    levels = np.round(255 * shown).astype(np.uint8)
    picture = Image.fromarray(np.stack([levels, np.where(seen, 255, 0).astype(np.uint8)], axis=-1), "LA")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    if len(buffer.getvalue()) > MAX_BYTES:
        raise ValueError(
            f"a blink image of {image.shape} takes {len(buffer.getvalue())} bytes, over {MAX_BYTES}"
        )
    return data_uri(buffer.getvalue(), "image/png")


def contrast(values: list[np.ndarray]) -> tuple[float, float]:
    """Return the 2nd and 98th percentile of known values: one stretch for all images they are from."""
    low, high = np.percentile(np.concatenate(values), [2, 98])
    return float(low), float(high)


def _column(cubes: Cubes, title: str, row: pd.Series, others: list[str]) -> Flicker | None:
    reference, (before, after) = cubes.reference(others), cubes.pair(row["scene"])
    crop = best_crop(reference, [before, after], moving=cubes.ice)
    reference, before, after = reference[crop], before[crop], after[crop]
    seen = np.isfinite(reference) & np.isfinite(before) & np.isfinite(after)
    if seen.mean() < LEAST_VALID:
        return None
    scene_range = contrast([before[seen], after[seen]])
    ground = contrast([reference[seen]])
    misfit = f"misfit {number(row['residual_px'], 2)} px, " if np.isfinite(row["residual_px"]) else ""
    season = f", {row['season']}" if row["season"] else ""
    return Flicker(
        title=f"{title}: {day(row['time'])}",
        detail=f"{misfit}shift {number(row['shift_px'])} px ({number(row['shift_m'])} m){season}",
        reference=grey(reference, *ground),
        before=grey(before, *scene_range),
        after=grey(after, *scene_range),
        alt=f"{title} scene of {day(row['time'])} in turn with its reference",
    )


def _open(run: RunFiles) -> Cubes:
    clean = run.cube("clean.zarr", variables=("data",))
    moved = run.cube("aligned.zarr", variables=("data",))
    band = setting(run.settings(), "align.band", "nir08")
    return Cubes(run, clean, moved, band if band in moved["band"].values else str(moved["band"].values[0]))


def _images(cube: xr.Dataset, band: str) -> dict[str, xr.DataArray]:
    rows, columns = _window(cube)
    stack = cube["data"].sel(band=band).isel(y=rows, x=columns)
    return {str(scene): stack.isel(time=index) for index, scene in enumerate(cube["scene"].values)}


def _window(cube: xr.Dataset) -> tuple[slice, slice]:
    """Return the rows and columns of a cube's middle."""
    starts = {axis: max(0, (cube.sizes[axis] - READ_PX) // 2) for axis in ("y", "x")}
    rows, columns = (slice(start, min(cube.sizes[axis], start + READ_PX)) for axis, start in starts.items())
    return rows, columns


def _starts(size: int, window: int, step: int) -> list[int]:
    """Return where windows begin along an axis, the last one flush with its end."""
    last = max(0, size - window)
    return sorted({*range(0, last + 1, step), last})


def _width(cubes: Cubes) -> str:
    x = cubes.aligned["x"].values.astype(float)
    return f"{number(min(CROP_PX, len(x)) * abs(x[1] - x[0]) / 1000, 2)} km" if len(x) > 1 else "1 px"
