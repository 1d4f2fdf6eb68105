"""The composites at a glance: one small image per date window, with how often the ground was seen."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from glacierhpc.report import drawing
from glacierhpc.report.blocks import Block, Note, Picture, plural
from glacierhpc.report.drawing import BLUE
from glacierhpc.report.losses import day
from glacierhpc.report.run_files import RunFiles

MOST_THUMBNAILS = 24
PER_ROW = 6
THUMBNAIL_PX = 180


def thumbnails(run: RunFiles) -> list[Block]:
    """Draw the composites on one colour scale, each with its date and looks; empty windows are hatched."""
    cube = run.cube("composite.zarr", variables=("data", "looks"))
    count = cube.sizes["time"]
    if count == 0:
        return [Note("There is no composite: the period holds no whole date window.", "bad")]
    picked = np.unique(np.linspace(0, count - 1, min(count, MOST_THUMBNAILS)).round().astype(int))
    band = str(cube["band"].values[0])
    images = run.pixels("composite.zarr", cube["data"].isel(time=picked, band=0), max_side_px=THUMBNAIL_PX)
    looks = run.pixels("composite.zarr", cube["looks"].isel(time=picked), max_side_px=THUMBNAIL_PX)
    low, high = drawing.robust_range(list(images))
    rows = math.ceil(len(picked) / PER_ROW)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(rows, PER_ROW, squeeze=False)
        for axes, position in zip(grid.flat, range(rows * PER_ROW), strict=True):
            if position >= len(picked):
                axes.set_axis_off()
                continue
            shown = drawing.raster(axes, images[position], cmap="cividis", vmin=low, vmax=high)
            axes.set_title(_thumbnail_title(cube, int(picked[position]), looks[position]), fontsize=8)
        drawing.colour_bar(figure, shown, grid, band, fraction=0.02, aspect=40)

    aspect = images.shape[1] / images.shape[2]
    height_in = rows * (1.36 * aspect + 0.38) + 0.1
    left_out = f" {len(picked)} of {count} are shown, evenly chosen." if len(picked) < count else ""
    caption = (
        f"{plural(count, 'composite')} of {band}, one per date window, all on one colour scale; "
        "index values, not ice motion. Looks: median number of clear views of a pixel. "
        f"Hatched grey: no data; a window without any view stays empty.{left_out}"
    )
    return [
        Picture(
            drawing.draw(paint, height_in=height_in), f"Thumbnails of {count} composites of {band}", caption
        )
    ]


def looks(run: RunFiles) -> list[Block]:
    """Draw how often a pixel was seen in each window, and which windows are empty."""
    cube = run.cube("composite.zarr", variables=("data", "looks"))
    if cube.sizes["time"] == 0:
        return []
    seen = [
        run.pixels("composite.zarr", cube["looks"].isel(time=i), max_side_px=400)
        for i in range(cube.sizes["time"])
    ]
    mean, share = [float(one.mean()) for one in seen], [float((one > 0).mean()) for one in seen]
    empty = [index for index, value in enumerate(share) if value == 0]
    times = cube["time"].values
    spacing = np.diff(times).min() / np.timedelta64(1, "D") if len(times) > 1 else 30.0

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.bar(times, mean, width=0.8 * spacing, color=BLUE)
        axes.scatter(
            times[empty],
            np.zeros(len(empty)),
            s=30,
            c=drawing.RED,
            marker="x",
            label="no view at all",
            clip_on=False,
        )
        axes.set(ylabel="mean looks per pixel", ylim=(0, None))
        axes.grid(True, axis="y")
        drawing.date_axis(axes)
        if empty:
            figure.legend(loc="outside upper left")

    caption = (
        f"How often the ground was seen in each window. {len(empty)} of {len(seen)} windows have no view at all; "
        f"on average {100 * float(np.mean(share)):.0f} % of the area is seen at least once."
    )
    return [Picture(drawing.draw(paint, height_in=2.3), "Mean number of looks per composite window", caption)]


def _thumbnail_title(cube: xr.Dataset, index: int, looks: np.ndarray) -> str:
    start = (
        cube["window_start"].values[index] if "window_start" in cube.coords else cube["time"].values[index]
    )
    median = float(np.median(looks))
    return f"{day(start)[:7]}, {plural(int(median), 'look')}" if looks.any() else f"{day(start)[:7]}, no view"
