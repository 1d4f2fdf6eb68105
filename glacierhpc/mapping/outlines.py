"""Glacier outlines as masks on a grid; making outlines from images is not done here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rasterio.features import geometry_mask

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
    shapes = outlines.to_crs(grid.crs).geometry
    shapes = shapes[~shapes.is_empty & shapes.notna()]
    mask = geometry_mask(shapes, grid.shape, grid.geobox.affine, all_touched=True, invert=True)
    if not mask.any():
        raise InputError(
            f"area.outlines {str(path)!r} has no polygon in the area {_rounded(grid.bounds_lonlat())}; "
            "give the outlines of this region, or leave area.outlines empty"
        )
    return mask


def _rounded(values: tuple[float, ...]) -> list[float]:
    return [round(value, 3) for value in values]
