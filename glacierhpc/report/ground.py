"""Where the glaciers lie on the grid of the images, in pixels; how they are drawn is the maps' business."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from PIL import Image, ImageDraw

from glacierhpc.report.maps import outlines
from glacierhpc.report.run_files import RunFiles, cube_crs


def glacier_rings(run: RunFiles, cube: xr.Dataset) -> list[np.ndarray]:
    """Return the configured glacier outlines as rings (n, 2) of x, y in pixels of a cube; none without outlines."""
    x, y = cube["x"].values.astype(float), cube["y"].values.astype(float)
    if len(x) < 2 or len(y) < 2:
        return []
    rings = outlines(run, cube_crs(cube))[0]
    return [(ring - (x[0], y[0])) / (x[1] - x[0], y[1] - y[0]) for ring in rings]


def inside(rings: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Return the pixels (y, x) bool inside an odd number of rings: within glaciers, without their holes."""
    covered = np.zeros(shape, bool)
    for ring in rings:
        mask = Image.new("1", shape[::-1])
        ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in ring], fill=1)
        covered ^= np.asarray(mask)
    return covered
