"""Alignment of all scenes of a cube on disk, and the aligned cube.

How a stack is placed is in `stack`, how it is written in `aligned`.
Nothing here holds more than one scene, or one block of all scenes, in memory.
"""

from __future__ import annotations

import logging
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from glacierhpc.atomic import remove
from glacierhpc.coreg.aligned import ALIGNED_KERNELS, check_kernel, write_aligned
from glacierhpc.coreg.placing import Job, place, steps_of
from glacierhpc.coreg.sources import CubeImages, Raster
from glacierhpc.coreg.stack import MATRIX, StackResult, check_motion, check_stable, tables
from glacierhpc.coreg.stack_tasks import StackOptions
from glacierhpc.coreg.verdicts import judge
from glacierhpc.cube import open_cube
from glacierhpc.errors import InputError, unknown_name
from glacierhpc.fanout import Progress, Tally
from glacierhpc.files import scratch_folder, write_table
from glacierhpc.grid import Grid

logger = logging.getLogger(__name__)


def align_cube(
    cube: xr.Dataset | Path,
    store: Path,
    *,
    motion: str = "translation",
    band: str | tuple[str, str] = "nir08",
    gradient: bool = False,
    stable: np.ndarray | None = None,
    max_shift_px: float = 16.0,
    min_correlation: float = 0.2,
    min_overlap_share: float = 0.05,
    kernel: str = "cubic",
    window_px: int = 48,
    links: Path | None = None,
    vectors: Path | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Align all scenes of a cube at once and write the aligned cube.

    Scenes are linked to medians of their season and to each other, and one adjustment of all links places them: see
    `align_stack`. The matrices are found on one band and applied to all bands, each pixel resampled once. Invented
    (gap-filled) pixels never take part in finding a matrix and stay marked. A matrix that leaves stable ground
    further apart than it was gives way to the median offset of small windows (``rho`` is NaN then). A scene that
    cannot be aligned is a row with a reason and is left out of the aligned cube; where none can, no store is
    written. The store's attribute ``stable_ground`` says whether `stable` was given.

    Parameters
    ----------
    cube : Dataset or path
        ``data`` (time, band, y, x) with NaN where empty, ``valid`` (time, y, x); a Dataset as `open_cube`
        returns it, because workers open its files themselves.
    store : path
        Where the aligned cube goes; replaced if it exists.
    motion : {"translation", "euclidean", "similarity", "affine", "homography", "auto"}
    band : str, or two
        The band that the matrices are found on: one with terrain texture, such as the near infrared. Of two their
        normalised difference, which shadows touch less.
    gradient : bool, default False
        Compare the size of the gradient, which stays where bright and dark are exchanged between seasons.
    stable : (y, x) bool, optional
        Ground that does not move; all of it by default.
    max_shift_px, min_correlation, min_overlap_share
        As in `align_pair`.
    kernel : {"cubic", "lanczos", "linear", "none"}
        With "none" nothing is resampled: scenes are moved by whole pixels, and the coordinates ``offset_x_m`` and
        ``offset_y_m`` (time) tell the rest (see `scene_transform`); for translations only.
    window_px : int
        Windows of the residuals, see `local_offsets`; down to half of it where stable ground is scarce.
    links, vectors : path, optional
        Where the tables of links and of offsets left go, as Parquet; their columns are those of `StackResult`.
    executor : concurrent.futures.Executor, optional
        Runs the scenes; here, one after another, by default. Workers must see the same paths.
    progress : callable, optional
        Called with what is done and what there is to do, of blocks and scenes in all passes.

    Returns
    -------
    pandas.DataFrame
        A row per scene; the columns are told in `align_stack`.

    Raises
    ------
    InputError
        If the band, the motion or the kernel is unknown, motion and kernel do not go together, or `stable` is not
        on the cube's grid.
    """
    dataset = cube if isinstance(cube, xr.Dataset) else open_cube(cube)
    source, store = _source(dataset), Path(store)
    grid = Grid.from_dataset(dataset)
    bands = (band,) if isinstance(band, str) else band
    _check(dataset, bands, motion, kernel)
    check_stable(stable, grid.shape)
    count = dataset.sizes["time"]
    tally = Tally(steps_of(grid.shape, count) + count, progress)
    with scratch_folder(store.parent) as scratch:
        options = StackOptions(motion, max_shift_px, min_correlation, min_overlap_share, window_px)
        found = _place(dataset, source, bands, gradient, grid, stable, options, scratch, executor, tally)
    if links is not None:
        write_table(links, found.links)
    if vectors is not None:
        write_table(vectors, found.vectors)
    table = found.table
    kept = np.flatnonzero(table["ok"].to_numpy())
    tally.add(count - kept.size)
    if kept.size == 0:
        logger.error("no scene of %s could be aligned: %s is not written", source, store)
        remove(store)
        return table
    matrices = table[MATRIX].to_numpy(np.float64).reshape(-1, 3, 3)
    attrs = {
        "alignment": "moved by whole pixels" if kernel == "none" else f"resampled once, {kernel} kernel",
        "stable_ground": stable is not None,
    }
    write_aligned(dataset, source, store, {int(i): matrices[i] for i in kept}, kernel, attrs, executor, tally)
    return table


def _place(
    dataset: xr.Dataset,
    source: str,
    bands: tuple[str, ...],
    gradient: bool,
    grid: Grid,
    stable: np.ndarray | None,
    options: StackOptions,
    scratch: Path,
    executor: Executor | None,
    tally: Tally,
) -> StackResult:
    """Place the scenes; references lie in files of the scratch folder, where workers find them."""
    times = dataset["time"].values
    names = [str(name) for name in (dataset["scene"].values if "scene" in dataset.coords else times)]
    order = sorted(range(len(times)), key=lambda i: (times[i], names[i]))

    def stored(name: str, image: np.ndarray) -> Raster:
        path = scratch / f"{name}.raw"
        image.tofile(path)
        return Raster(str(path), image.shape, str(image.dtype))

    job = Job(
        source=CubeImages(source, bands, grid.shape, tuple(order), gradient=gradient),
        times=times[order],
        options=options,
        stable=None if stable is None else stored("stable", stable.astype(bool)),
        stored=stored,
        executor=executor,
        tally=tally,
    )
    placed = place(job)
    return tables(job, placed, judge(job, placed), [names[i] for i in order], order, grid.resolution_m)


def _check(dataset: xr.Dataset, bands: tuple[str, ...], motion: str, kernel: str) -> None:
    there = [str(name) for name in dataset["band"].values]
    for band in bands:
        if band not in there:
            raise unknown_name("align.band", band, there)
    check_motion(motion, "align.motion")
    if kernel not in ALIGNED_KERNELS:
        raise unknown_name("align.kernel", kernel, ALIGNED_KERNELS)
    check_kernel(kernel, motion)


def _source(dataset: xr.Dataset) -> str:
    source = dataset.encoding.get("source")
    if not source or not Path(source).is_dir():
        raise InputError(
            f"this dataset does not come from a folder (source {source!r}); write it and open it with open_cube"
        )
    return str(Path(source).resolve())
