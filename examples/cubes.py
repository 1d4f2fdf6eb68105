"""Cubes of one's own for ``input.cube``, from three kinds of public series: pictures, an index, measured velocity.

    python examples/cubes.py pictures FOLDER OUT.zarr --easting 497000 [--months 3]
    python examples/cubes.py ndvi FILE.npz OUT.zarr
    python examples/cubes.py velocity FOLDER OUT.zarr

Each writes data(time, band, y, x) with what glacierhpc needs to know of it, and is meant to be copied and changed.
tests/DATA.md says where the data sets are published. Use a cube with: input: {cube: OUT.zarr}
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import rasterio
import xarray as xr
from pyproj import CRS


def cube_of(
    images: np.ndarray,
    times: np.ndarray,
    bands: list[str],
    *,
    crs: str,
    left_m: float,
    top_m: float,
    pixel_m: float,
    shows: str,
    units: str,
    valid_range: tuple[float, float],
) -> xr.Dataset:
    """Return a cube of images (time, band, y, x) with NaN where nothing was measured, in the order of their dates."""
    rows, columns = images.shape[-2:]
    cube = xr.Dataset(
        {"data": (("time", "band", "y", "x"), images.astype(np.float32))},
        coords={
            "time": np.asarray(times, "datetime64[ns]"),
            "band": np.array(bands, object),
            "y": top_m - pixel_m * (np.arange(rows) + 0.5),
            "x": left_m + pixel_m * (np.arange(columns) + 0.5),
            "spatial_ref": ((), 0, {"crs_wkt": CRS(crs).to_wkt()}),
        },
    )
    cube["data"].attrs.update(shows=shows, units=units, valid_range=list(valid_range))
    return cube.sortby("time")


def pictures(folder: Path, *, easting_m: float, months: int | None) -> xr.Dataset:
    """Grey pictures of one glacier (PNG, the date as eight digits in the name); 0 is outside the scene.

    Where they lie is not recorded: the place is invented, and must differ from glacier to glacier. With `months`, the
    median of each window of months; windows without a picture stay empty.
    """
    files = sorted(folder.glob("*.png"))
    found = [re.search(r"_(\d{8})_", path.name) for path in files]
    times = pd.to_datetime([match[1] for match in found if match], format="%Y%m%d").to_numpy()
    grey = np.stack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in files]).astype(np.float32)
    images = np.where(grey > 0, grey / 255, np.nan)[:, None]
    cube = cube_of(
        images, times, ["green"], crs="EPSG:32622", left_m=easting_m, top_m=7_674_500.0, pixel_m=30.0,
        shows="brightness of Landsat pictures (not calibrated, place invented), not ice motion", units="1",
        valid_range=(0.0, 1.0),
    )  # fmt: skip
    cube = cube.groupby("time").median(keep_attrs=True).transpose("time", "band", "y", "x")  # two of one day
    return cube if months is None else _by_windows(cube, months)


def _by_windows(cube: xr.Dataset, months: int) -> xr.Dataset:
    windows = cube.resample(time=f"{months}MS").median(keep_attrs=True)
    middle = windows.time.values + np.timedelta64(15 * months, "D")
    return windows.assign_coords(time=middle).transpose("time", "band", "y", "x")


def ndvi(file: Path) -> xr.Dataset:
    """The greenness of a square kilometre in Slovenia on 68 dates of Sentinel-2; clouds are left out."""
    with np.load(file, allow_pickle=False) as series:
        images = np.where((series["clm"] == 0) & series["is_valid"], series["ndvi"], np.nan)[:, None]
        times = pd.to_datetime([str(text)[:19] for text in series["timestamps"]]).to_numpy()
        left, _, _, top = series["bounds_epsg32633"]
    return cube_of(
        images, times, ["ndvi"], crs="EPSG:32633", left_m=float(left), top_m=float(top), pixel_m=10.0,
        shows="vegetation (NDVI values), not ice motion", units="1", valid_range=(-1.0, 1.0),
    )  # fmt: skip


def velocity(folder: Path) -> xr.Dataset:
    """The velocity of Kaskawulsh Glacier between pairs of Landsat scenes, east and north, with its gaps."""
    images, times = [], []
    for east in sorted(folder.glob("*_vx_*.tif")):
        layers = []
        for path in (east, east.with_name(east.name.replace("_vx_", "_vy_"))):
            with rasterio.open(path) as source:
                layers.append(source.read(1, masked=True).filled(np.nan) * 365.25)  # m/day
                transform, crs = source.transform, str(source.crs)
        first, second = (pd.Timestamp(text) for text in re.findall(r"\d{8}", east.name)[-2:])
        images.append(np.stack(layers))
        times.append(first + (second - first) / 2)
    return cube_of(
        np.stack(images), np.array(times, "datetime64[ns]"), ["vx", "vy"], crs=crs, left_m=transform.c,
        top_m=transform.f, pixel_m=transform.a, shows="measured ice velocity, east and north", units="meter/year",
        valid_range=(-1500.0, 1500.0),
    )  # fmt: skip


def main() -> None:
    """Write the cube that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("pictures", "ndvi", "velocity"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument(
        "--easting", type=float, default=497_000.0, help="pictures: left edge of the invented place, m"
    )
    parser.add_argument("--months", type=int, help="pictures: combine windows of so many months")
    given = parser.parse_args()
    if given.kind == "pictures":
        cube = pictures(given.source, easting_m=given.easting, months=given.months)
    else:
        cube = {"ndvi": ndvi, "velocity": velocity}[given.kind](given.source)
    cube.to_zarr(given.target, mode="w", zarr_format=3, consolidated=False)


if __name__ == "__main__":
    main()
