"""Writes the archive's rasters: scenes as COGs, truth as GeoTIFFs; and says what ground a scene covers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from pyproj import Transformer
from rasterio.transform import Affine
from scipy import ndimage
from shapely import box
from shapely.geometry import Polygon
from shapely.geometry.polygon import orient

from glacierhpc.grid import Grid
from glacierhpc.scenes.archive.items import asset_file
from glacierhpc.scenes.archive.noise import sample
from glacierhpc.scenes.archive.sensor import PixelToGround, Product, Wedge, seen
from glacierhpc.scenes.archive.surface import Surface
from glacierhpc.scenes.archive.terrain import Ground
from glacierhpc.scenes.archive.weather import Clouds


def write_scene(folder: Path, scene: str, product: Product, grid: Grid) -> None:
    """Write one COG per band and ``QA_PIXEL``, as the archive names them."""
    folder.mkdir(parents=True)
    for band, pixels in product.bands.items():
        write_cog(folder / asset_file(scene, band), pixels, grid, nodata=0, resampling="AVERAGE")
    # A bit field cannot be averaged.
    write_cog(folder / asset_file(scene, "qa_pixel"), product.qa_pixel, grid, nodata=1, resampling="NEAREST")


def write_cog(path: Path, pixels: np.ndarray, grid: Grid, *, nodata: float, resampling: str) -> None:
    """Write one (y, x) array as a tiled, deflated COG with overviews."""
    rows, columns = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="COG",
        width=columns,
        height=rows,
        count=1,
        dtype=pixels.dtype.name,
        crs=grid.crs,
        transform=Affine(*grid.transform),
        nodata=nodata,
        blocksize=256 if max(rows, columns) > 256 else 128,
        compress="DEFLATE",
        predictor="STANDARD",
        overview_resampling=resampling,
    ) as target:
        target.write(pixels, 1)


def footprint(
    grid: Grid, ground_crs: str, centre: tuple[float, float], wedge: Wedge | None
) -> tuple[dict[str, Any], list[float]]:
    """Return the GeoJSON polygon with data and its box, in degrees."""
    outline = np.array(box(*grid.bounds).segmentize((grid.bounds[2] - grid.bounds[0]) / 4).exterior.coords)
    x, y = outline.T
    if grid.crs != ground_crs:
        x, y = Transformer.from_crs(grid.crs, ground_crs, always_xy=True).transform(x, y)
    shape = Polygon(np.column_stack([np.asarray(x) - centre[0], np.asarray(y) - centre[1]]))
    if wedge:
        shape = shape.intersection(_swath(wedge, 3 * (grid.bounds[2] - grid.bounds[0])))
    east, north = np.array(orient(shape).exterior.coords).T
    to_lonlat = Transformer.from_crs(ground_crs, "EPSG:4326", always_xy=True)
    lon, lat = to_lonlat.transform(east + centre[0], north + centre[1])
    ring = [(round(float(a), 7), round(float(b), 7)) for a, b in zip(lon, lat, strict=True)]
    geometry = {"type": "Polygon", "coordinates": [[list(point) for point in ring]]}
    west, south, east_, north_ = Polygon(ring).bounds
    return geometry, [west, south, east_, north_]


def _swath(wedge: Wedge, reach: float) -> Polygon:
    """Return the strip between the swath's edges as a polygon, metres from the centre."""
    across = np.array([np.cos(wedge.angle), -np.sin(wedge.angle)])
    along = np.array([np.sin(wedge.angle), np.cos(wedge.angle)])
    low, high = max(wedge.low_m, -reach), min(wedge.high_m, reach)
    return Polygon(
        [a * across + b * along for a, b in ((low, -reach), (high, -reach), (high, reach), (low, reach))]
    )


def write_truth(folder: Path, ground: Ground, surface: Surface, grid: Grid, place: PixelToGround) -> None:
    """Write ``velocity.tif``, ``terrain.tif`` and ``reference.tif`` on the perfect grid.

    The reference is a cloudless noon-like summer picture without noise or pointing error, as the sensor would
    see it; a scene aligned to it should return its matrix in the truth.
    """
    x, y = np.meshgrid(np.arange(grid.shape[1], dtype=float), np.arange(grid.shape[0], dtype=float))
    row, col = ground.rows_and_columns(*place(x, y))
    fields = {"vx": np.zeros(ground.shape, np.float32), "vy": np.zeros(ground.shape, np.float32)}
    number = np.zeros(ground.shape, np.float32)
    for index, field in enumerate(ground.glaciers, start=1):
        fields["vx"][field.mask], fields["vy"][field.mask] = field.vx, field.vy
        number[field.mask] = index
    linear = {name: ndimage.map_coordinates(value, (row, col), order=1) for name, value in fields.items()}
    _write_bands(folder / "velocity.tif", linear, grid, "metre/year")
    terrain = {
        "elevation": sample(ground.elevation_m, row, col),
        "glacier": ndimage.map_coordinates(number, (row, col), order=0),
        "debris": ndimage.map_coordinates(surface.debris(), (row, col), order=1),
        "water": ndimage.map_coordinates(ground.water, (row, col), order=1),
    }
    _write_bands(folder / "terrain.tif", terrain, grid, "metre, number, share, share")
    picture = surface.look(
        0.0,
        snow_line=0.62,
        melt=0.7,
        green=0.8,
        sun_azimuth=130.0,
        sun_elevation=55.0,
        clouds=Clouds.none(ground.shape),
    )
    blur = {name: seen(value, row, col) for name, value in picture.reflectance.items()}
    _write_bands(folder / "reference.tif", blur, grid, "reflectance")


def _write_bands(path: Path, bands: dict[str, np.ndarray], grid: Grid, units: str) -> None:
    rows, columns = grid.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=columns,
        height=rows,
        count=len(bands),
        dtype="float32",
        crs=grid.crs,
        transform=Affine(*grid.transform),
        compress="DEFLATE",
    ) as target:
        target.update_tags(units=units)
        for index, (name, pixels) in enumerate(bands.items(), start=1):
            target.write(pixels.astype(np.float32), index)
            target.set_band_description(index, name)
