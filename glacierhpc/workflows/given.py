"""Images made elsewhere in place of composites: a cube of one's own, checked and written as the run's own.

For series that do not come from scenes: velocity mosaics, products of an index, pictures. From here on the task
is the same. The steps from `search` to `align` are skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from pyproj import CRS

from glacierhpc.config import Config
from glacierhpc.cube import Variable, create_cube, finish_cube, write_time
from glacierhpc.errors import InputError
from glacierhpc.grid import Grid
from glacierhpc.rundir import RunDirectory, atomic_path
from glacierhpc.workflows.index_facts import IndexFacts
from glacierhpc.workflows.tasks import Summary

log = logging.getLogger(__name__)

AXES = ("time", "band", "y", "x")


def composite(config: Config, run: RunDirectory) -> Summary:
    """Take the images of ``input.cube`` over as the run's composites: ``composite.zarr``."""
    path = config.input.cube
    if path is None:
        raise InputError("no cube made elsewhere is given: write input.cube")
    cube = read_given(path)
    facts = _facts(config, cube, path)
    grid, times = _grid(cube, path), cube.time.values.astype("datetime64[ns]")
    seen = outside = total = 0
    with atomic_path(run.composite) as store:
        _create(store, grid, cube, {**facts.to_attributes(), "source": str(path)})
        for position in range(len(times)):
            values, valid = _image(cube, position)
            write_time(store, position, {"data": values, "valid": valid, "looks": valid.astype(np.int16)})
            low, high = facts.value_range
            seen, total = seen + int(valid.sum()), total + valid.size
            outside += int((((values < low) | (values > high)).any(axis=0) & valid).sum())
        finish_cube(store)
        if seen == 0:
            raise InputError(f"input.cube {str(path)!r} has no valid pixel: all are NaN or not valid")
    if outside:
        log.warning("%d pixels lie outside input.value_range %s", outside, list(facts.value_range))
    return {
        "table": [
            ["images", f"{len(times)} of {str(times[0])[:10]} to {str(times[-1])[:10]}"],
            ["shows", facts.shows],
            ["bands", ", ".join(str(band) for band in cube.band.values)],
            ["grid", f"{grid.shape[0]} x {grid.shape[1]} px of {grid.resolution_m:g} m, {grid.crs}"],
            ["valid share", f"{seen / total:.1%}"],
            ["outside of the range of values", f"{outside / seen:.2%} of the valid pixels"],
        ]
    }


def read_given(path: Path) -> xr.Dataset:
    """Open a cube made elsewhere, lazily, and check that it is one.

    Needed: ``data(time, band, y, x)``; ascending dates; names of the bands; y and x of the pixel centres in metres, on
    square pixels; ``spatial_ref`` with a projected CRS. ``valid(time, y, x)`` may be left out: NaN is invalid in
    any case.

    Raises
    ------
    InputError
        With everything that is wrong, and what to write instead.
    """
    try:
        cube = xr.open_zarr(path, chunks=None, consolidated=False, decode_coords="all")
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise InputError(f"input.cube {str(path)!r} is not a Zarr group that xarray opens: {err}") from err
    faults = list(_faults(cube))
    if faults:
        raise InputError(f"input.cube {str(path)!r} cannot be used: " + "; ".join(faults))
    return cube


def _faults(cube: xr.Dataset) -> Iterator[str]:
    if "data" not in cube:
        found = ", ".join(map(str, cube.data_vars)) or "nothing"
        yield f"it holds {found} and no 'data'; rename it: cube.rename({{...: 'data'}})"
        return
    if cube["data"].dims != AXES:
        yield f"data has the axes {cube['data'].dims}, not {AXES}; use expand_dims(band=['name']) and transpose"
        return
    if "valid" in cube and (
        cube["valid"].dims != ("time", "y", "x") or cube["valid"].dtype.kind not in "bui"
    ):
        yield f"valid is {cube['valid'].dtype} of {cube['valid'].dims}; write bool of (time, y, x), or leave it out"
    missing = [axis for axis in AXES if axis not in cube.coords]
    if missing:
        yield f"the axes {', '.join(missing)} have no coordinates; assign dates, names of bands, and y and x in metres"
        return
    yield from _time_faults(cube["time"].values)
    yield from _place_faults(cube)


def _time_faults(times: np.ndarray) -> Iterator[str]:
    if times.dtype.kind != "M" or np.isnat(times).any():
        yield f"time is {times.dtype}; write datetime64, UTC, without gaps"
    elif not (np.diff(times) > np.timedelta64(0)).all():
        yield "its dates do not ascend, or one stands there twice; use sortby('time') and keep one image of each date"


def _place_faults(cube: xr.Dataset) -> Iterator[str]:
    steps = {}
    for axis in ("y", "x"):
        values = np.asarray(cube[axis].values, dtype=np.float64)
        if len(values) < 2 or not np.allclose(np.diff(values), values[1] - values[0], rtol=1e-3):
            yield f"{axis} is not regular; write the centres of the pixels, equally far apart"
            return
        steps[axis] = abs(values[1] - values[0])
    if abs(steps["y"] / steps["x"] - 1) > 0.01:
        yield f"its pixels are {steps['x']:g} x {steps['y']:g}, not square; resample it to square pixels"
    crs = _crs(cube)
    if crs is None:
        yield (
            "it has no CRS; write one: cube.rio.write_crs('EPSG:32643') of rioxarray (pictures without a place: take "
            "a UTM zone and say so in input.shows)"
        )
    elif not crs.is_projected or crs.axis_info[0].unit_name not in ("metre", "meter"):
        yield f"its CRS {crs.name!r} does not count in metres; reproject it, for instance to its UTM zone"


def _crs(cube: xr.Dataset) -> CRS | None:
    if "spatial_ref" not in cube.variables:
        return None
    told = cube["spatial_ref"].attrs
    text = told.get("crs_code") or told.get("crs_wkt") or told.get("spatial_ref")
    return CRS.from_user_input(text) if text else None


def _grid(cube: xr.Dataset, path: Path) -> Grid:
    """Return the grid of a checked cube, north up: images of the other order are turned over when they are read."""
    crs = _crs(cube)
    assert crs is not None, path  # checked at the door
    authority = crs.to_authority()
    x, y = (np.asarray(cube[axis].values, dtype=np.float64) for axis in ("x", "y"))
    step_x, step_y = abs(x[1] - x[0]), abs(y[1] - y[0])
    transform = (step_x, 0.0, float(x.min() - step_x / 2), 0.0, -step_y, float(y.max() + step_y / 2))
    return Grid(":".join(authority) if authority else crs.to_wkt(), transform, (len(y), len(x)))


def _image(cube: xr.Dataset, position: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one date: values (band, y, x) float32 with NaN where invalid, and validity (y, x)."""
    flips = tuple(slice(None, None, -1 if wrong else 1) for wrong in _turned(cube))
    values = cube["data"][position].values.astype(np.float32)[(slice(None), *flips)]
    usable = np.isfinite(values).all(axis=0)
    if "valid" in cube:
        usable &= cube["valid"][position].values.astype(bool)[flips]
    valid = np.asarray(usable)
    return np.where(valid, values, np.float32(np.nan)), valid


def _turned(cube: xr.Dataset) -> tuple[bool, bool]:
    """Return whether y goes up, and whether x goes down."""
    y, x = cube["y"].values, cube["x"].values
    return bool(y[1] > y[0]), bool(x[1] < x[0])


def _facts(config: Config, cube: xr.Dataset, path: Path) -> IndexFacts:
    """Return what the values mean, as the configuration or the cube's attributes say."""
    given, told = config.input, {**cube.attrs, **cube["data"].attrs}
    value_range = given.value_range or told.get("valid_range")
    if value_range is None:
        low, high = (float(f(cube["data"])) for f in (np.nanmin, np.nanmax))
        raise InputError(
            f"input.cube {str(path)!r} does not say between which values its images can lie (attribute valid_range), "
            f"and neither does input.value_range; the images lie between {low:g} and {high:g}: write "
            "input.value_range: [least, greatest] from what is possible, not from what was seen"
        )
    low, high = (float(value) for value in value_range)
    threshold = given.threshold if given.threshold is not None else told.get("covered_above")
    return IndexFacts(
        str(given.shows or told.get("shows") or f"values of {path.name}, as they were given"),
        (low, high),
        None if threshold is None else float(threshold),
        str(given.units or told.get("units") or "1"),
    )


def _create(store: Path, grid: Grid, cube: xr.Dataset, attrs: dict[str, Any]) -> None:
    create_cube(
        store,
        grid,
        times=cube.time.values.astype("datetime64[ns]"),
        bands=[str(band) for band in cube.band.values],
        variables={
            "data": Variable(AXES, "float32", attrs={"units": attrs["units"], "long_name": attrs["shows"]}),
            "valid": Variable(("time", "y", "x"), "bool", False, {"long_name": "measured"}),
            "looks": Variable(
                ("time", "y", "x"), "int16", None, {"long_name": "number of images: 1 where measured"}
            ),
        },
        attrs=attrs,
    )
