"""The image cube on disk: its Zarr v3 layout, and how it is written and opened.

What the numbers mean (bands, masks, indices) is decided by the callers; nothing here reads a scene.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
import zarr.codecs

from glacierhpc.errors import InputError
from glacierhpc.grid import Grid

CHUNK_PX = 512  # 0.5 MB of uint16: one compressed read serves a patch and its neighbours
SHARD_PX = 4096  # 32 MB of uint16 in one file: few inodes, one task still holds a whole shard


@dataclass(frozen=True)
class Variable:
    """One array of a cube: dimensions, type and CF attributes."""

    dims: tuple[str, ...]
    """Out of ``time, band, y, x``; time first where it occurs."""
    dtype: str
    fill_value: float | int | bool | None = None
    """Value of pixels that were never written; integers also get it as CF ``_FillValue``."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    bands_together: bool = True
    """One shard file holds all bands of a date; False gives a file per band."""


def create_cube(
    path: Path | str,
    grid: Grid,
    *,
    times: Sequence[np.datetime64] | np.ndarray,
    bands: Sequence[str],
    variables: Mapping[str, Variable],
    coords: Mapping[str, Sequence[Any] | np.ndarray] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> None:
    """Create an empty cube: coordinates and metadata, no pixels. An existing one is replaced.

    Parameters
    ----------
    path : path
        The Zarr folder.
    times : (time,) datetime64
        UTC, in the order of the time axis.
    bands : sequence of str
        Common names.
    variables : mapping of name to Variable
    coords : mapping of name to (time,) values, optional
        Per-date coordinates: scene ids, platforms, cloud cover.
    attrs : mapping, optional
        Plain JSON values.
    """
    path = Path(path)
    shutil.rmtree(path, ignore_errors=True)
    per_time = {name: ("time", _plain(values)) for name, values in (coords or {}).items()}
    frame = xr.Dataset(
        coords={
            "time": ("time", np.asarray(times, "datetime64[ns]"), {"standard_name": "time", "axis": "T"}),
            "band": ("band", np.asarray(bands, object), {"long_name": "band common name"}),
            "y": ("y", grid.y, _axis_attrs("y")),
            "x": ("x", grid.x, _axis_attrs("x")),
            "spatial_ref": ((), np.int32(0), grid.cf_attributes()),
            **per_time,
        },
        attrs={"Conventions": "CF-1.8", **(attrs or {})},
    )
    encoding: dict[str, Any] = {"time": {"units": "seconds since 1970-01-01", "dtype": "int64"}}
    frame.to_zarr(path, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    sizes = {"time": len(times), "band": len(bands), "y": grid.shape[0], "x": grid.shape[1]}
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    for name, variable in variables.items():
        _create_array(group, name, variable, sizes)


def _create_array(group: zarr.Group, name: str, variable: Variable, sizes: Mapping[str, int]) -> None:
    chunks, shards = _layout(variable, sizes)
    attributes = {"grid_mapping": "spatial_ref", **variable.attrs}
    fill = (
        np.nan
        if variable.fill_value is None and np.dtype(variable.dtype).kind == "f"
        else variable.fill_value
    )
    if fill is not None and np.dtype(variable.dtype).kind in "iu":
        attributes["_FillValue"] = int(fill)
    group.create_array(
        name,
        shape=tuple(sizes[dim] for dim in variable.dims),
        dtype=variable.dtype,
        chunks=chunks,
        shards=shards,
        fill_value=fill,
        # lz4 behind a byte shuffle: the cheapest codec that still halves satellite integers
        compressors=zarr.codecs.BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
        dimension_names=variable.dims,
        attributes=attributes,
    )


def _layout(variable: Variable, sizes: Mapping[str, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunks and shards: one date to a shard, so that a task that writes a date writes whole files."""
    chunks, shards = [], []
    for dim in variable.dims:
        if dim in ("y", "x"):
            chunk = min(CHUNK_PX, max(1, sizes[dim]))
            per_shard = min(math.ceil(sizes[dim] / chunk), SHARD_PX // chunk)
            chunks.append(chunk)
            shards.append(chunk * max(1, per_shard))
        else:
            chunks.append(1)
            together = dim == "band" and variable.bands_together
            shards.append(max(1, sizes[dim]) if together else 1)
    return tuple(chunks), tuple(shards)


def create_like(
    path: Path | str,
    cube: xr.Dataset,
    *,
    keep: Sequence[int],
    variables: Mapping[str, Variable],
    attrs: Mapping[str, Any] | None = None,
) -> None:
    """Create an empty cube on the grid, bands and per-date coordinates of an opened one.

    Parameters
    ----------
    cube : Dataset
        What `open_cube` gave.
    keep : sequence of int
        Positions on its time axis that the new cube has.
    attrs : mapping, optional
        Laid over the attributes of `cube`.
    """
    dates = cube.isel(time=list(keep))
    per_time = [name for name in dates.coords if dates[name].dims == ("time",) and name != "time"]
    create_cube(
        path,
        Grid.from_dataset(cube),
        times=dates["time"].values,
        bands=[str(band) for band in dates["band"].values],
        variables=variables,
        coords={str(name): dates[name].values for name in per_time},
        attrs={**cube.attrs, **(attrs or {})},
    )


def write_time(path: Path | str, index: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Write all pixels of one date: whole shards, so that writers of different dates never meet.

    Parameters
    ----------
    index : int
        Position on the time axis.
    arrays : mapping of variable name to (band, y, x) or (y, x)
    """
    for name, values in arrays.items():
        array = zarr.open_array(Path(path) / name, mode="r+")
        if values.shape != array.shape[1:]:
            raise ValueError(f"{name} of one date has shape {array.shape[1:]}, not {values.shape}")
        if (array.shards or array.chunks)[0] != 1:
            raise ValueError(
                f"{name} keeps several dates in one file, so that dates cannot be written one by one"
            )
        array[index] = values


def write_lazy(path: Path | str, arrays: Mapping[str, Any]) -> None:
    """Compute Dask arrays into the arrays of an existing cube, each task writing whole files.

    Chunks that do not fit the files are refused before anything is written: two tasks that write parts of one
    file each read, change and write all of it, and one of the two is lost without an error
    (github.com/dask/dask/issues/12583).

    Parameters
    ----------
    arrays : mapping of variable name to dask.array.Array
        In the shape that the cube's array has.

    Raises
    ------
    InputError
        If shape or chunks of one of them do not fit; says how to rechunk.
    """
    import dask.array

    targets: dict[str, Any] = {name: zarr.open_array(Path(path) / name, mode="r+") for name in arrays}
    for name, values in arrays.items():
        _check_chunks(name, values.shape, values.chunks, targets[name])
    dask.array.store(list(arrays.values()), list(targets.values()), lock=False)


def _check_chunks(
    name: str, shape: tuple[int, ...], chunks: Sequence[Sequence[int]], array: zarr.Array
) -> None:
    if shape != array.shape:
        raise InputError(
            f"{name!r} has shape {shape}, and the cube's {name!r} {array.shape}; write all of it at once"
        )
    files = array.shards or array.chunks
    names = getattr(array.metadata, "dimension_names", None) or [f"axis {axis}" for axis in range(len(files))]
    wrong = {
        str(dim): step
        for dim, step, sizes in zip(names, files, chunks)
        if any(size % step for size in list(sizes)[:-1])
    }
    if wrong:
        raise InputError(
            f"{name!r} comes in chunks that end inside the cube's files ({files} along {tuple(names)}): tasks would "
            f"overwrite each other's pixels; rechunk before writing, .chunk({wrong})"
        )


def finish_cube(path: Path | str) -> None:
    """Note how many pieces there are and consolidate the metadata: the last act of writing a cube, done once."""
    zarr.open_group(path, mode="r+", use_consolidated=False).attrs["pieces"] = _count_pieces(Path(path))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Consolidated metadata.*")
        zarr.consolidate_metadata(path)


def missing_pieces(path: Path | str) -> dict[str, int]:
    """Return how many files each array of a finished cube has lost; empty when all are there.

    A piece that is gone (a purge of the scratch file system, a copy that stopped) reads as fill without an
    error. Folders are listed, files are not opened: what is inside is not looked at.
    """
    noted: Any = zarr.open_group(path, mode="r", use_consolidated=False).attrs.get("pieces", {})
    there = _count_pieces(Path(path))
    lost = {name: count - there.get(name, 0) for name, count in dict(noted).items()}
    return {name: count for name, count in lost.items() if count > 0}


def _count_pieces(path: Path) -> dict[str, int]:
    arrays = sorted(file.parent for file in path.glob("*/zarr.json"))
    return {array.name: sum(file.is_file() for file in (array / "c").rglob("*")) for array in arrays}


def open_cube(path: Path | str) -> xr.Dataset:
    """Open a cube lazily, scaled integers as float32 with NaN where invalid.

    Plain ``xarray.open_zarr`` reads the same values as float64, because attributes in JSON carry no type.

    Raises
    ------
    InputError
        If there is no complete cube at `path`.
    """
    path = Path(path)
    if not (path / "zarr.json").is_file():
        raise InputError(f"there is no cube at {str(path)!r}; run the step that writes it first")
    consolidated = "consolidated_metadata" in (path / "zarr.json").read_text(encoding="utf-8")
    raw = xr.open_zarr(
        path, mask_and_scale=False, chunks=None, consolidated=consolidated, decode_coords=False
    )
    for name in raw.data_vars:
        for key in ("scale_factor", "add_offset"):
            if key in raw[name].attrs:
                raw[name].attrs[key] = np.float32(raw[name].attrs[key])
        if raw[name].dtype.kind == "b" or "flag_masks" in raw[name].attrs:
            raw[name].attrs.pop("_FillValue", None)
    dataset = xr.decode_cf(raw, decode_coords="all")
    text = [name for name in dataset.coords if dataset[name].dtype.kind in "TUO"]
    return dataset.assign_coords({name: dataset[name].astype(object) for name in text})


def _plain(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    array = np.asarray(values)
    return array.astype(object) if array.dtype.kind in "UO" else array


def _axis_attrs(axis: str) -> dict[str, str]:
    return {"standard_name": f"projection_{axis}_coordinate", "units": "m", "axis": axis.upper()}
