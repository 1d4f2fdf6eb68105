"""Glacier outlines as masks on a grid; making outlines from images is not done here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rasterio.features import geometry_mask, rasterize

from glacierhpc.errors import InputError, missing_package
from glacierhpc.grid import Grid


def glacier_mask(path: Path | str, grid: Grid) -> np.ndarray:
    """Return which pixels lie on a glacier.

    Parameters
    ----------
    path : path
        Polygons in any CRS and any format that GDAL reads (RGI GeoPackage or shapefile).
    grid : Grid

    Returns
    -------
    (y, x) bool
        True where a polygon touches the pixel: ground that is surely stable is then outside.

    Raises
    ------
    InputError
        If the file cannot be read, has no CRS, or has no polygon on the grid.
    """
    shapes = _read(path, grid).geometry
    mask = geometry_mask(shapes, grid.shape, grid.geobox.affine, all_touched=True, invert=True)
    if not mask.any():
        raise InputError(
            f"area.outlines {str(path)!r} has no polygon in the area {_rounded(grid.bounds_lonlat())}; "
            "give the outlines of this region, or leave area.outlines empty"
        )
    return mask


def glacier_labels(path: Path | str, grid: Grid, *, most: int = 12) -> tuple[np.ndarray, dict[int, str]]:
    """Return the number of the glacier that each pixel's centre lies on, and the names of the numbers.

    Parameters
    ----------
    path : path
        As for `glacier_mask`.
    most : int
        The largest so many on the grid have numbers of their own; all others share one.

    Returns
    -------
    labels : (y, x) int32
        0 outside all glaciers.
    names : dict
        Number -> name or RGI id of the glacier, as far as the file has them.
    """
    outlines = _read(path, grid)
    labels = np.zeros(grid.shape, np.int32)
    if len(outlines) == 0:
        return labels, {}
    shapes = ((shape, number) for number, shape in enumerate(outlines.geometry, start=1))
    found = rasterize(shapes, grid.shape, transform=grid.geobox.affine, dtype="int32")
    numbers, pixels = np.unique(found[found > 0], return_counts=True)
    largest = numbers[np.argsort(-pixels, kind="stable")][:most]
    for label, number in enumerate(largest, start=1):
        labels[found == number] = label
    labels[(found > 0) & (labels == 0)] = len(largest) + 1
    names = {label: _name(outlines.iloc[number - 1], number) for label, number in enumerate(largest, start=1)}
    return labels, {**names, len(largest) + 1: "smaller glaciers"}


def _name(row: Any, number: int) -> str:
    """Return the name in RGI 7 or RGI 6, else its id."""
    for column in ("glac_name", "Name", "rgi_id", "RGIId"):
        value = row.get(column)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return f"glacier {number}"


def _read(path: Path | str, grid: Grid) -> Any:
    """Return the outlines in the CRS of a grid, without empty ones."""
    try:
        import geopandas
        from pyogrio.errors import DataSourceError
    except ImportError as err:
        raise missing_package("geopandas", "mapping") from err
    try:
        outlines = geopandas.read_file(path)
    except (DataSourceError, OSError) as err:
        raise InputError(f"area.outlines {str(path)!r} cannot be read as polygons: {err}") from err
    if outlines.crs is None:
        raise InputError(f"area.outlines {str(path)!r} has no CRS; write it with one, e.g. EPSG:4326")
    outlines = outlines.to_crs(grid.crs)
    return outlines[~outlines.geometry.is_empty & outlines.geometry.notna()]


def _rounded(values: tuple[float, ...]) -> list[float]:
    return [round(value, 3) for value in values]
