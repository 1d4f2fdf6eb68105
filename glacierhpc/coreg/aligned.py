"""The aligned cube: every scene resampled once from its original pixels, or moved by whole pixels only.

Where the scenes lie is found in `stack`; the cube's layout is in `glacierhpc.cube`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from glacierhpc.cube import Variable, create_cube, finish_cube, open_cube, write_time
from glacierhpc.errors import InputError
from glacierhpc.fanout import Tally, run_all
from glacierhpc.grid import Grid
from glacierhpc.kernels.warp import KERNELS, warp

UNRESAMPLED = "none"
ALIGNED_KERNELS = (*KERNELS, UNRESAMPLED)
OBSERVED_SHARE = 0.999  # of a pixel's bilinear weight, on observed pixels
OFFSET_MEANING = (
    "metres to add to the {axis} coordinates of this date to reach the aligned place: the scene was moved by whole "
    "pixels and not resampled, this is the rest of its shift"
)


def write_aligned(
    dataset: xr.Dataset,
    cube: str,
    store: Path,
    matrices: Mapping[int, np.ndarray],
    kernel: str,
    attrs: Mapping[str, Any],
    executor: Executor | None,
    tally: Tally,
) -> None:
    """Write the scenes that have a matrix onto the common grid.

    Parameters
    ----------
    dataset, cube
        The cube as `open_cube` returns it, and its path.
    matrices : mapping of time position to (3, 3)
        Frame pixel to scene pixel.
    kernel : {"cubic", "lanczos", "linear", "none"}
        With "none" the coordinates ``offset_x_m`` and ``offset_y_m`` (time) tell what whole pixels cannot.
    """
    grid, kept = Grid.from_dataset(dataset), sorted(matrices)
    per_time = [name for name in dataset.coords if dataset[name].dims == ("time",) and name != "time"]
    coords = {str(name): dataset[name].values[kept] for name in per_time}
    if kernel == UNRESAMPLED:
        offsets = np.array([rest_m(matrices[index], grid) for index in kept])
        coords |= {"offset_x_m": offsets[:, 0], "offset_y_m": offsets[:, 1]}
    create_cube(
        store,
        grid,
        times=dataset["time"].values[kept],
        bands=[str(name) for name in dataset["band"].values],
        variables={
            "data": Variable(
                ("time", "band", "y", "x"), "float32", attrs=_plain_attrs(dataset["data"].attrs)
            ),
            "valid": Variable(("time", "y", "x"), "bool", False, dataset["valid"].attrs),
            "filled": Variable(("time", "y", "x"), "bool", False),
        },
        coords=coords,
        attrs={**dataset.attrs, **attrs},
    )
    if kernel == UNRESAMPLED:
        for axis in ("x", "y"):
            told = {"units": "m", "long_name": OFFSET_MEANING.format(axis=axis)}
            zarr.open_array(store / f"offset_{axis}_m", mode="r+").attrs.update(told)
    calls = (
        (cube, index, str(store.resolve()), position, matrices[index], kernel)
        for position, index in enumerate(kept)
    )
    for _ in run_all(executor, _resample_scene, calls, tally=tally):
        pass
    finish_cube(store)


def check_kernel(kernel: str, motion: str) -> None:
    """Refuse to move by whole pixels what is turned or stretched."""
    if kernel == UNRESAMPLED and motion != "translation":
        raise InputError(
            f"align.kernel 'none' moves scenes by whole pixels, which align.motion {motion!r} does not allow; write "
            "align.motion: translation, or align.kernel: cubic"
        )


def rest_m(matrix: np.ndarray, grid: Grid) -> tuple[float, float]:
    """Return what is left of a shift when whole pixels are moved: metres to add to x and y coordinates.

    Parameters
    ----------
    matrix : (3, 3)
        A pure shift, frame pixel to scene pixel.
    """
    x, y = matrix[:2, 2] - np.rint(matrix[:2, 2])
    a, b, _, d, e, _ = grid.transform
    return float(-(a * x + b * y)), float(-(d * x + e * y))


def scene_transform(cube: xr.Dataset, time: int) -> tuple[float, ...]:
    """Return the affine transform of one date of an aligned cube, with what whole pixels could not move.

    Parameters
    ----------
    cube : Dataset
        As `open_cube` returns it.
    time : int
        Position on the time axis.

    Returns
    -------
    tuple of 6 float
        Metres from pixel (column, row): ``x = a column + b row + c``, ``y = d column + e row + f``; the grid's own
        where the cube was resampled.
    """
    a, b, c, d, e, f = Grid.from_dataset(cube).transform
    if "offset_x_m" not in cube.coords:
        return a, b, c, d, e, f
    offset_x_m, offset_y_m = (float(cube[f"offset_{axis}_m"].values[time]) for axis in ("x", "y"))
    return a, b, c + offset_x_m, d, e, f + offset_y_m


def _plain_attrs(attrs: Any) -> dict[str, Any]:
    return {key: value for key, value in attrs.items() if key not in ("grid_mapping", "_FillValue")}


def _resample_scene(cube: str, index: int, store: str, position: int, matrix: np.ndarray, kernel: str) -> int:
    """Move all bands of one scene and write them; only the task's position comes back."""
    scene = open_cube(cube).isel(time=index)
    move: Callable[..., tuple[np.ndarray, np.ndarray]] = _whole_pixels if kernel == UNRESAMPLED else resample
    out, valid = move(scene["data"].to_numpy(), scene["valid"].to_numpy(), matrix, kernel)
    has_value = np.isfinite(out).all(axis=0)
    write_time(store, position, {"data": out, "valid": valid, "filled": has_value & ~valid})
    return position


def resample(
    data: np.ndarray, observed: np.ndarray, matrix: np.ndarray, kernel: str
) -> tuple[np.ndarray, np.ndarray]:
    """Resample bands (band, y, x); returns them and where they are made of `observed` pixels (y, x) alone."""
    share, _ = warp(observed.astype(np.float32), matrix, kernel="linear")
    seen = np.stack([warp(band, matrix, valid=observed, kernel=kernel)[0] for band in data])
    valid = np.isfinite(seen).all(axis=0) & (share >= OBSERVED_SHARE)
    if not (np.isfinite(data) & ~observed).any():
        return seen, valid
    # invented pixels lend their value to invented ones only: the wide kernels reach further than `share` tells
    everything = np.stack([warp(band, matrix, kernel=kernel)[0] for band in data])
    return np.where(valid, seen, everything), valid


def _whole_pixels(
    data: np.ndarray, observed: np.ndarray, matrix: np.ndarray, _: str
) -> tuple[np.ndarray, np.ndarray]:
    """Move bands (band, y, x) and their mask by the nearest whole pixels; their values stay what they are."""
    rows, columns = observed.shape
    x, y = (int(shift) for shift in np.rint(matrix[:2, 2]))
    out = np.full(data.shape, np.nan, np.float32)
    valid = np.zeros(observed.shape, bool)
    if abs(x) < columns and abs(y) < rows:
        to = slice(max(0, -y), rows - max(0, y)), slice(max(0, -x), columns - max(0, x))
        fro = slice(max(0, y), rows + min(0, y)), slice(max(0, x), columns + min(0, x))
        out[:, *to], valid[to] = data[:, *fro], observed[fro]
    return out, valid
