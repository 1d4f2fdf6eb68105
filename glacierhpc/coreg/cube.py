"""Alignment of all scenes of a cube against a common reference, and the aligned cube.

One pair is in `pair`. Nothing here holds more than one scene, or one block of all scenes, in memory.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from glacierhpc.coreg.pair import AlignmentResult, align_pair
from glacierhpc.coreg.reference import write_reference
from glacierhpc.coreg.residual import fitting_window_px, local_offsets, stable_residual_px
from glacierhpc.coreg.tasks import run_all
from glacierhpc.cube import Variable, create_cube, finish_cube, open_cube, write_time
from glacierhpc.errors import InputError, unknown_name
from glacierhpc.grid import Grid
from glacierhpc.kernels.ecc import MOTIONS
from glacierhpc.kernels.warp import KERNELS, warp

logger = logging.getLogger(__name__)

REFERENCE_PASSES = 2  # the median of scenes that are off is blurred towards each of them; the second is not
# a right alignment raises the residual by its noise, 0.1 px; wrong ones of real scenes raised it by 0.66 px and more
MAX_RESIDUAL_RISE_PX = 0.4
WINDOW_PASSES = 3  # windows that are far apart share less and see their offset a fifth too short


@dataclass(frozen=True)
class _Task:
    """What a worker needs to know: paths and plain values, never an open file."""

    cube: str
    band: str
    reference: str
    stable: str | None
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
) -> pd.DataFrame:
    """Align every scene of a cube to the temporal median of all and write the aligned cube.

    The median is made twice: of the scenes as they are, then of the aligned ones. The matrices are found on
    one band and applied to all bands, each pixel resampled once. Invented (gap-filled) pixels never take
    part in finding a matrix and stay marked. A matrix that leaves stable ground further apart than it was gives
    way to the median offset of small windows (``rho`` is NaN then). A scene that cannot be aligned is a row with
    a reason and is left out of the aligned cube; where none can, no store is written.

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
    store.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{store.name}-", dir=store.parent))
    try:
        task = _Task(
            cube=source,
            band=band,
            reference=str(scratch / "reference.npy"),
            stable=None if stable is None else str(scratch / "stable.npy"),
            motion=motion,
            max_shift_px=max_shift_px,
            min_correlation=min_correlation,
            min_overlap_share=min_overlap_share,
            window_px=window_px,
        )
        if stable is not None:
            np.save(scratch / "stable.npy", stable.astype(np.bool_), allow_pickle=False)
        matrices = np.broadcast_to(np.eye(3), (dataset.sizes["time"], 3, 3))
        for _ in range(REFERENCE_PASSES):
            write_reference(task.reference, source, grid.shape, matrices, bands.index(band), executor)
            rows = list(run_all(executor, _align_scene, ((task, i) for i in range(dataset.sizes["time"]))))
            table = _table(dataset, rows, grid.resolution_m)
            matrices = table[_MATRIX].to_numpy(np.float64).reshape(-1, 3, 3)
            if not table["ok"].any():
                break
        _write_aligned(dataset, grid, source, store, table, kernel, executor)
    finally:
        shutil.rmtree(scratch)
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
    reference = np.load(task.reference, allow_pickle=False)
    stable = None if task.stable is None else np.load(task.stable, allow_pickle=False)
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
    result, residuals = _confirmed(reference, moving, result, stable, task.window_px)
    return _row(result, valid_share=float(valid.mean()), **residuals)


def _confirmed(
    reference: np.ndarray,
    moving: np.ndarray,
    result: AlignmentResult,
    stable: np.ndarray | None,
    window_px: int,
) -> tuple[AlignmentResult, dict[str, float]]:
    """Check a result by the residual, which knows nothing of how it was found.

    Where it leaves the ground further apart than it was, something that moved was followed (an ice front, say):
    the median offset of the windows takes its place, which few windows that moved cannot pull, and where that
    is no better the scene is refused. Where a residual cannot be measured (NaN), the correlation alone decides.
    """
    usable = np.isfinite(reference) & np.isfinite(moving)
    window_px = fitting_window_px(usable if stable is None else usable & stable, window_px)

    def offsets(image: np.ndarray) -> np.ndarray:
        return local_offsets(reference, image, window_px=window_px, stable=stable)

    def residual_of(matrix: np.ndarray) -> float:
        return stable_residual_px(offsets(warp(moving, matrix, kernel="cubic")[0]))

    unmoved = offsets(moving)
    before = stable_residual_px(unmoved)
    after = residual_of(result.matrix) if result.ok else float("nan")
    if after > before + MAX_RESIDUAL_RISE_PX:
        by_windows = _shifted(result, *np.median(unmoved, axis=0))
        for _ in range(WINDOW_PASSES - 1):
            left = offsets(warp(moving, by_windows.matrix, kernel="cubic")[0])
            if len(left):
                by_windows = _shifted(result, *(by_windows.matrix[:2, 2] + np.median(left, axis=0)))
        again = residual_of(by_windows.matrix)
        if again <= before + MAX_RESIDUAL_RISE_PX:
            result, after = by_windows, again
        else:
            reason = f"the residual on stable ground rose from {before:.2f} to {after:.2f} px"
            result = replace(result, ok=False, reason=reason, matrix=np.full((3, 3), np.nan))
    return result, {"residual_before_px": before, "residual_px": after}


def _shifted(result: AlignmentResult, x: float, y: float) -> AlignmentResult:
    """Return the result with another displacement in place of its matrix; its correlation is not known."""
    matrix = np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])
    return replace(
        result,
        matrix=matrix,
        motion="translation",
        rho=float("nan"),
        shift_px=float(np.hypot(x, y)),
        shift_col_px=float(x),
        shift_row_px=float(y),
    )


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
    executor: Executor | None,
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
        attrs={**dataset.attrs, "alignment": f"resampled once, {kernel} kernel, onto the temporal median"},
    )
    matrices = table[_MATRIX].to_numpy(np.float64).reshape(-1, 3, 3)
    calls = (
        (cube, int(index), str(store.resolve()), position, matrices[index], kernel)
        for position, index in enumerate(kept)
    )
    for _ in run_all(executor, _resample_scene, calls):
        pass
    finish_cube(store)


def _plain_attrs(attrs: Any) -> dict[str, Any]:
    return {key: value for key, value in attrs.items() if key not in ("grid_mapping", "_FillValue")}


def _resample_scene(cube: str, index: int, store: str, position: int, matrix: np.ndarray, kernel: str) -> int:
    """Resample all bands of one scene and write them; only the task's position comes back."""
    scene = open_cube(cube).isel(time=index)
    data = scene["data"].to_numpy()
    observed, _ = warp(scene["valid"].to_numpy().astype(np.float32), matrix, kernel="linear")
    out = np.empty(data.shape, np.float32)
    for band in range(len(data)):
        out[band], _ = warp(data[band], matrix, kernel=kernel)
    # a pixel counts as observed only where no invented neighbour carried weight
    has_value = np.isfinite(out).all(axis=0)
    valid = has_value & (observed >= 0.999)
    write_time(store, position, {"data": out, "valid": valid, "filled": has_value & ~valid})
    return position
