"""The scenes that benchmarks write: where they lie, and as what kind of files; what they show is each one's own."""

from __future__ import annotations

from typing import Any

from affine import Affine

from glacierhpc.grid import Grid

CRS, LEFT, TOP, PIXEL_M = "EPSG:32643", 600015.0, 3600015.0, 30.0


def grid_of(size_px: int, *, offset_px: int = 0) -> Grid:
    """Return a square grid so many pixels inside of the corner of the scenes."""
    left, top = LEFT + offset_px * PIXEL_M, TOP - offset_px * PIXEL_M
    return Grid(CRS, (PIXEL_M, 0.0, left, 0.0, -PIXEL_M, top), (size_px, size_px))


def cog(size_px: int, **more: Any) -> dict[str, Any]:
    """Return how rasterio is to write the file of a scene."""
    return {
        "driver": "COG",
        "width": size_px,
        "height": size_px,
        "count": 1,
        "dtype": "uint16",
        "crs": CRS,
        "transform": Affine(*grid_of(size_px).transform),
        "overviews": "NONE",
        **more,
    }
