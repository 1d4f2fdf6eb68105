"""Cubes as users bring them, written by plain xarray, and configurations of quick runs on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from pyproj import CRS

from glacierhpc.config import Config

EDGE, COUNT = 24, 40
ORIGIN = (500000.0, 3600000.0)


def given_cube(
    *, seed: int = 0, origin: tuple[float, float] = ORIGIN, start: str = "2010-02-15"
) -> xr.Dataset:
    """Ten years of quarters: a season over a slope that drifts, with noise, and a rim without data."""
    random = np.random.default_rng(seed)
    steps = np.arange(COUNT)[:, None, None]
    season = 0.3 * np.cos(np.pi / 2 * steps) + 0.2 * np.sin(steps / 5)
    data = season + np.linspace(-0.3, 0.3, EDGE)[:, None] + 0.03 * random.normal(size=(COUNT, EDGE, EDGE))
    data[:, :3, :] = np.nan
    days = (np.arange(COUNT) * 91.31).astype(int) * np.timedelta64(1, "D")
    cube = xr.Dataset(
        {"data": (("time", "band", "y", "x"), data[:, None].astype(np.float32))},
        coords={
            "time": np.datetime64(start, "ns") + days,
            "band": np.array(["ndvi"], object),
            "y": origin[1] - 30.0 * (np.arange(EDGE) + 0.5),
            "x": origin[0] + 30.0 * (np.arange(EDGE) + 0.5),
            "spatial_ref": ((), 0, {"crs_wkt": CRS("EPSG:32643").to_wkt()}),
        },
    )
    cube["data"].attrs.update(
        valid_range=[-1.0, 1.0], units="1", shows="greenness (NDVI values), not ice motion"
    )
    return cube


def store(cube: xr.Dataset, path: Path, *, zarr_format: int = 3) -> Path:
    """Write a cube as a user would."""
    cube.to_zarr(path, mode="w", consolidated=False, zarr_format=zarr_format)
    return path


def given_config(folder: Path, cube: Path, **sections: Any) -> Config:
    """A configuration that is trained in a second."""
    values: dict[str, Any] = {
        "name": "own",
        "run_dir": folder,
        "input": {"cube": cube},
        "sequences": {"size_px": 8, "stride_px": 8, "steps_in": 2, "steps_out": 2},
        "model": {"parameters": {"hidden": [2], "head": 2, "attention": 2}},
        "train": {"epochs": 1, "batch_size": 32},
        "evaluate": {"bootstrap_samples": 10, "control": False},
        "cluster": {"kind": "serial"},
    }
    for name, section in sections.items():
        known = values.get(name)
        values[name] = {**known, **section} if isinstance(known, dict) else section
    return Config.model_validate(values)
