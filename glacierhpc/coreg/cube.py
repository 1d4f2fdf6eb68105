"""Alignment of all scenes of a cube against a common reference, and the aligned cube.

One pair is in `pair`, its check by the residual in `confirm`.
Nothing here holds more than one scene, or one block of all scenes, in memory.
"""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from glacierhpc.coreg.confirm import confirmed
from glacierhpc.coreg.pair import AlignmentResult, align_pair
from glacierhpc.coreg.reference import reference_blocks, write_reference
from glacierhpc.cube import Variable, create_cube, finish_cube, open_cube, write_time
from glacierhpc.errors import InputError, unknown_name
from glacierhpc.fanout import Progress, Tally, run_all
from glacierhpc.files import scratch_folder
from glacierhpc.grid import Grid
from glacierhpc.kernels.ecc import MOTIONS
from glacierhpc.kernels.warp import KERNELS, warp

logger = logging.getLogger(__name__)

REFERENCE_PASSES = 2  # the median of scenes that are off is blurred towards each of them; the second is not


@dataclass(frozen=True)
class _Task:
    """What a worker needs to know: paths and plain values, never an open file."""

    cube: str
    band: str
    reference: str
    """Raw float32 of `shape`. Raw bytes, not .npy: reading that header fails now and then in threads."""
    stable: str | None
    """Raw bool of `shape`."""
    shape: tuple[int, int]
    motion: str
    max_shift_px: float
    min_correlation: float
    min_overlap_share: float
    window_px: int


def align_cube(
    cube: xr.Dataset | Path,
    store: Path,
    *,
    motion: str = "translation",
    band: str = "nir08",
    stable: np.ndarray | None = None,
    max_shift_px: float = 16.0,
    min_correlation: float = 0.2,
    min_overlap_share: float = 0.05,
    kernel: str = "cubic",
    window_px: int = 48,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Align every scene of a cube to the temporal median of all and write the aligned cube.

    The median is made twice: of the scenes as they are, then of the aligned ones. The matrices are found on
    one band and applied to all bands, each pixel resampled once. Invented (gap-filled) pixels never take
    part in finding a matrix and stay marked. A matrix that leaves stable ground further apart than it was gives
    way to the median offset of small windows (``rho`` is NaN then). A scene that cannot be aligned is a row with
    a reason and is left out of the aligned cube; where none can, no store is written. The store's attribute
    ``stable_ground`` says whether `stable` was given.

    Parameters
    ----------
    cube : Dataset or path
        ``data`` (time, band, y, x) with NaN where empty, ``valid`` (time, y, x); a Dataset as `open_cube`
        returns it, because workers open its files themselves.
    store : path
        Where the aligned cube goes; replaced if it exists.
    motion : {"translation", "euclidean", "affine", "homography"}
    band : str
        The band that the matrices are found on: one with terrain texture, such as the near infrared.
    stable : (y, x) bool, optional
        Ground that does not move; all of it by default.
    max_shift_px, min_correlation, min_overlap_share
        As in `align_pair`.
    kernel : {"cubic", "lanczos", "linear"}
    window_px : int
        Windows of the residuals, see `local_offsets`; down to half of it where stable ground is scarce.
    executor : concurrent.futures.Executor, optional
        Runs the scenes; here, one after another, by default. Workers must see the same paths.
    progress : callable, optional
        Called with what is done and what there is to do, of blocks and scenes in all passes.

    Returns
    -------
    pandas.DataFrame
        A row per scene: scene, time, ok, reason, motion, m00 .. m22 (reference pixel to moving pixel), rho,
        rho_before, iterations, shift_px, shift_m, shift_row_px, shift_col_px, residual_before_px,
        residual_px (median length of window offsets on stable ground), valid_share, overlap_share, seconds.

    Raises
    ------
    InputError
        If the band, the motion or the kernel is unknown, or `stable` is not on the cube's grid.
    """
    dataset = cube if isinstance(cube, xr.Dataset) else open_cube(cube)
    source, store = _source(dataset), Path(store)
    grid = Grid.from_dataset(dataset)
    bands = [str(name) for name in dataset["band"].values]
    if band not in bands:
        raise unknown_name("align.band", band, bands)
    if motion not in MOTIONS:
        raise unknown_name("align.motion", motion, MOTIONS)
    if kernel not in KERNELS:
        raise unknown_name("align.kernel", kernel, KERNELS)
    if stable is not None and stable.shape != grid.shape:
        raise InputError(
            f"`stable` has shape {stable.shape}, the cube's grid {grid.shape}; rasterise it on the grid"
        )
    if stable is not None and not stable.any():
        raise InputError("`stable` is False everywhere: without stable ground nothing can be aligned to it")
    scenes = dataset.sizes["time"]
    tally = Tally(REFERENCE_PASSES * (len(reference_blocks(grid.shape, scenes)) + scenes) + scenes, progress)
    with scratch_folder(store.parent) as scratch:
        task = _Task(
            cube=source,
            band=band,
            reference=str(scratch / "reference.f4"),
            stable=None if stable is None else str(scratch / "stable.bool"),
            shape=grid.shape,
            motion=motion,
            max_shift_px=max_shift_px,
            min_correlation=min_correlation,
            min_overlap_share=min_overlap_share,
            window_px=window_px,
        )
        if stable is not None:
            stable.astype(np.bool_).tofile(scratch / "stable.bool")
        table = _find_matrices(dataset, grid, task, executor, tally)
        attrs = {
            "alignment": f"resampled once, {kernel} kernel, onto the temporal median",
            "stable_ground": stable is not None,
        }
        _write_aligned(dataset, grid, source, store, table, kernel, attrs, executor, tally)
    return table


def _find_matrices(
    dataset: xr.Dataset, grid: Grid, task: _Task, executor: Executor | None, tally: Tally
) -> pd.DataFrame:
    """Align all scenes to their median, and again to the median of the aligned ones."""
    scenes = dataset.sizes["time"]
    band = [str(name) for name in dataset["band"].values].index(task.band)
    matrices = np.broadcast_to(np.eye(3), (scenes, 3, 3))
    for _ in range(REFERENCE_PASSES):
        write_reference(task.reference, task.cube, grid.shape, matrices, band, executor, tally)
        calls = ((task, index) for index in range(scenes))
        table = _table(dataset, list(run_all(executor, _align_scene, calls, tally=tally)), grid.resolution_m)
        matrices = table[_MATRIX].to_numpy(np.float64).reshape(-1, 3, 3)
        if not table["ok"].any():
            break
    return table


def _source(dataset: xr.Dataset) -> str:
    source = dataset.encoding.get("source")
    if not source or not Path(source).is_dir():
        raise InputError(
            f"this dataset does not come from a folder (source {source!r}); write it and open it with open_cube"
        )
    return str(Path(source).resolve())


def _read_scene(task: _Task, index: int) -> tuple[np.ndarray, np.ndarray]:
    scene = open_cube(task.cube).isel(time=index)
    return scene["data"].sel(band=task.band).to_numpy().astype(np.float32), scene["valid"].to_numpy()


def _align_scene(task: _Task, index: int) -> dict[str, Any]:
    """Align one scene and measure what is left; the row of the table without the scene's name."""
    image, valid = _read_scene(task, index)
    reference = np.fromfile(task.reference, np.float32).reshape(task.shape)
    stable = None if task.stable is None else np.fromfile(task.stable, np.bool_).reshape(task.shape)
    result = align_pair(
        reference,
        image,
        motion=task.motion,
        moving_valid=valid,
        stable=stable,
        max_shift_px=task.max_shift_px,
        min_correlation=task.min_correlation,
        min_overlap_share=task.min_overlap_share,
    )
    moving = np.where(valid, image, np.float32(np.nan))
    result, residuals = confirmed(reference, moving, result, stable, task.window_px, task.max_shift_px)
    return _row(result, valid_share=float(valid.mean()), **residuals)


def _row(result: AlignmentResult, **more: float) -> dict[str, Any]:
    values = asdict(result)
    matrix = values.pop("matrix")
    entries = dict(zip(_MATRIX, matrix.ravel().tolist(), strict=True))
    return {**values, **entries, **more}


_MATRIX = [f"m{i}{j}" for i in range(3) for j in range(3)]
_COLUMNS = [
    *("scene", "time", "ok", "reason", "motion", *_MATRIX, "rho_before", "rho", "iterations"),
    *("shift_px", "shift_m", "shift_row_px", "shift_col_px", "residual_before_px", "residual_px"),
    *("valid_share", "overlap_share", "seconds"),
]


def _table(dataset: xr.Dataset, rows: list[dict[str, Any]], resolution_m: float) -> pd.DataFrame:
    names = dataset["scene"].values if "scene" in dataset.coords else [str(t) for t in dataset["time"].values]
    table = pd.DataFrame(rows)
    table.insert(0, "scene", [str(name) for name in names])
    table.insert(1, "time", dataset["time"].values)
    table["shift_m"] = table["shift_px"] * resolution_m
    return table[_COLUMNS]


def _write_aligned(
    dataset: xr.Dataset,
    grid: Grid,
    cube: str,
    store: Path,
    table: pd.DataFrame,
    kernel: str,
    attrs: dict[str, Any],
    executor: Executor | None,
    tally: Tally,
) -> None:
    kept = np.flatnonzero(table["ok"].to_numpy())
    if kept.size == 0:
        logger.error("no scene of %s could be aligned: %s is not written", cube, store)
        shutil.rmtree(store, ignore_errors=True)
        return
    per_time = [name for name in dataset.coords if dataset[name].dims == ("time",) and name != "time"]
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
        coords={str(name): dataset[name].values[kept] for name in per_time},
        attrs={**dataset.attrs, **attrs},
    )
    matrices = table[_MATRIX].to_numpy(np.float64).reshape(-1, 3, 3)
    calls = (
        (cube, int(index), str(store.resolve()), position, matrices[index], kernel)
        for position, index in enumerate(kept)
    )
    tally.add(len(table) - kept.size)
    for _ in run_all(executor, _resample_scene, calls, tally=tally):
        pass
    finish_cube(store)


def _plain_attrs(attrs: Any) -> dict[str, Any]:
    return {key: value for key, value in attrs.items() if key not in ("grid_mapping", "_FillValue")}


def _resample_scene(cube: str, index: int, store: str, position: int, matrix: np.ndarray, kernel: str) -> int:
    """Resample all bands of one scene and write them; only the task's position comes back."""
    scene = open_cube(cube).isel(time=index)
    out, valid = _resample(scene["data"].to_numpy(), scene["valid"].to_numpy(), matrix, kernel)
    has_value = np.isfinite(out).all(axis=0)
    write_time(store, position, {"data": out, "valid": valid, "filled": has_value & ~valid})
    return position


def _resample(
    data: np.ndarray, observed: np.ndarray, matrix: np.ndarray, kernel: str
) -> tuple[np.ndarray, np.ndarray]:
    """Resample bands (band, y, x); returns them and where they are made of `observed` pixels (y, x) alone."""
    share, _ = warp(observed.astype(np.float32), matrix, kernel="linear")
    seen = np.stack([warp(band, matrix, valid=observed, kernel=kernel)[0] for band in data])
    valid = np.isfinite(seen).all(axis=0) & (share >= 0.999)
    if not (np.isfinite(data) & ~observed).any():
        return seen, valid
    # invented pixels lend their value to invented ones only: the wide kernels reach further than `share` tells
    everything = np.stack([warp(band, matrix, kernel=kernel)[0] for band in data])
    return np.where(valid, seen, everything), valid
