"""Small GeoTIFFs and their STAC items, for tests that need no realistic scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine

from glacierhpc.grid import Grid
from glacierhpc.scenes.archive.index import index

GRID = Grid("EPSG:32643", (30.0, 0.0, 600015.0, 0.0, -30.0, 3540015.0), (40, 50))
SCALE, OFFSET = 2.75e-05, -0.2
BANDS = {"green": "B3", "nir08": "B5", "swir16": "B6"}
SCENES = 6


def write_raster(
    path: Path, values: np.ndarray, *, grid: Grid = GRID, nodata: float | None = 0, block: int = 16
) -> Path:
    """Write (band, y, x) or (y, x) as a small tiled GeoTIFF."""
    values = values if values.ndim == 3 else values[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(values),
        height=values.shape[1],
        width=values.shape[2],
        dtype=values.dtype,
        crs=grid.crs,
        transform=Affine(*grid.transform),
        nodata=nodata,
        tiled=True,
        blockxsize=block,
        blockysize=block,
        compress="deflate",
    ) as target:
        target.write(values)
    return path


def small_archive(folder: Path) -> Path:
    """Write `SCENES` Landsat scenes of `BANDS` with their quality, all clear, and the catalogue of them."""
    for scene in range(SCENES):
        stem = f"LC08_L2SP_147038_2015010{scene + 1}_20200908_02_T1"
        for number, name in enumerate(BANDS.values()):
            write_raster(folder / f"{stem}_SR_{name}.TIF", numbers(10 * scene + number))
        write_raster(folder / f"{stem}_QA_PIXEL.TIF", numbers(0) * 0 + 64, nodata=1)
    index(folder, collection="landsat-c2-l2")
    return folder


def landsat_item(
    folder: Path,
    name: str,
    when: str,
    images: dict[str, np.ndarray],
    *,
    qa: np.ndarray | None = None,
    grid: Grid = GRID,
    cloud_cover: float = 10.0,
) -> dict[str, Any]:
    """Write one scene and return its item in the manner of Planetary Computer."""
    assets: dict[str, Any] = {}
    for band, values in images.items():
        path = write_raster(folder / name / f"{band}.tif", values, grid=grid)
        assets[band] = {
            "href": str(path),
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data"],
            "raster:bands": [{"scale": SCALE, "offset": OFFSET, "nodata": 0, "data_type": "uint16"}],
        }
    if qa is not None:
        path = write_raster(folder / name / "qa.tif", qa, grid=grid, nodata=1)
        assets["qa_pixel"] = {"href": str(path), "type": "image/tiff; application=geotiff"}
    west, south, east, north = grid.bounds_lonlat()
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "landsat-c2-l2",
        "bbox": [west, south, east, north],
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[west, south], [east, south], [east, north], [west, north], [west, south]]],
        },
        "properties": {
            "datetime": when,
            "platform": "landsat-8",
            "eo:cloud_cover": cloud_cover,
            "proj:epsg": int(grid.crs.split(":")[1]),
            "proj:shape": list(grid.shape),
            "proj:transform": list(grid.transform),
        },
        "links": [],
        "assets": assets,
    }


def numbers(seed: int, shape: tuple[int, int] = GRID.shape) -> np.ndarray:
    """Return plausible digital numbers, none of them 0."""
    return np.random.default_rng(seed).integers(7500, 43000, shape).astype(np.uint16)
