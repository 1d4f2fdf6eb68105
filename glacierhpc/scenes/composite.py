"""Index images of date windows out of a cube of dates: masked mean or median, with the number of looks.

Cleaning and aligning the dates come before; nothing is filled here, an empty window stays a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from glacierhpc.cube import Variable, create_cube, finish_cube, open_cube, write_time
from glacierhpc.errors import InputError, unknown_name
from glacierhpc.fanout import Progress, Tally, run_all
from glacierhpc.grid import Grid
from glacierhpc.scenes.indices import check_bands, find_index

BLOCK_BYTES = 128 * 2**20  # of float32 looks in memory at once, whatever the size of the area


@dataclass(frozen=True)
class Window:
    """A span of whole months: from `start` on, before `end`."""

    start: np.datetime64
    end: np.datetime64

    @property
    def middle(self) -> np.datetime64:
        """The instant in the middle."""
        return self.start + (self.end - self.start) // 2


def date_windows(start: date | str, end: date | str, months: int) -> list[Window]:
    """Return the windows that touch a period, aligned to January of its first year.

    Every window of the period is there, whether or not anything was seen in it.

    Parameters
    ----------
    start, end : date or ISO text
        Both days included.
    months : int
        Length of a window; lengths that do not divide 12 drift through the calendar.
    """
    first, last = np.datetime64(str(start)[:10], "M"), np.datetime64(str(end)[:10], "M")
    if not months >= 1 or last < first:
        raise InputError(
            f"no windows of {months!r} months from {start} to {end}: composite.window_months must be at least 1, "
            "and the end not before the start"
        )
    january = first.astype("datetime64[Y]").astype("datetime64[M]")
    position = january + ((first - january).astype(int) // months) * months
    windows = []
    while position <= last:
        edges = (position.astype("datetime64[ns]"), (position + months).astype("datetime64[ns]"))
        windows.append(Window(*edges))
        position = position + months
    return windows


def masked_mean(looks: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis of what is not NaN; NaN where nothing is."""
    seen = np.isfinite(looks)
    count = seen.sum(axis=0)
    total = np.where(seen, looks, 0).sum(axis=0, dtype=np.float64)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0).astype(np.float32)


def masked_median(looks: np.ndarray) -> np.ndarray:
    """Return the median over the first axis of what is not NaN; NaN where nothing is.

    By one sort, which puts NaN last: ``numpy.nanmedian`` takes 8 times as long on 8 looks.
    """
    ordered = np.sort(looks, axis=0)
    count = np.isfinite(looks).sum(axis=0)
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(looks) - 1)
    both = [np.take_along_axis(ordered, each[None], axis=0)[0] for each in (low, high)]
    return np.where(count > 0, (both[0] + both[1]) / np.float32(2), np.nan).astype(np.float32)


STATISTICS = {"mean": masked_mean, "median": masked_median}


def composite_cube(
    cube_path: Path,
    store: Path,
    *,
    index: str,
    window_months: int,
    start: date | str,
    end: date | str,
    statistic: str = "median",
    min_looks: int = 1,
    threshold: float | None = None,
    use_filled: bool = False,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Write one index image per date window.

    The index is computed for each date and then combined; a change of an index is not ice motion.

    Parameters
    ----------
    cube_path : path
        A cube of reflectance with ``data`` and ``valid`` (``clean.zarr``, ``aligned.zarr``).
    store : path
        ``data`` (time, band, y, x) float32, NaN where there were fewer than `min_looks`; ``looks`` int16;
        ``valid`` bool; time is the middle of the window, ``window_start`` and ``window_end`` (not included).
    index : str
        A name of `indices.INDICES`, or of a band for its reflectance.
    threshold : float, optional
        Values of the combined index under it become 0; the others keep theirs.
    use_filled : bool
        Also use pixels that gap filling made up; they do not count as looks.
    executor : Executor, optional
        Runs one window per task; None runs them here.
    progress : callable, optional
        Called with the windows done and the windows there are.

    Returns
    -------
    DataFrame
        A row per window: ``window_start, window_end, scenes, looks_mean, valid_share``.
    """
    if statistic not in STATISTICS:
        raise unknown_name("composite.statistic", statistic, STATISTICS)
    cube = open_cube(cube_path)
    check_bands(index, [str(band) for band in cube.band.values])
    windows = date_windows(start, end, window_months)
    attrs = {
        **cube.attrs,
        "index": index,
        "statistic": statistic,
        "min_looks": min_looks,
        "shows": f"{find_index(index).long_name}, not ice motion",
    }
    _create(store, cube, windows, index, {**attrs, **({} if threshold is None else {"threshold": threshold})})
    members = [np.flatnonzero((cube.time.values >= w.start) & (cube.time.values < w.end)) for w in windows]
    work = partial(
        _write_window,
        Path(cube_path),
        Path(store),
        index=index,
        statistic=statistic,
        min_looks=min_looks,
        threshold=threshold,
        use_filled=use_filled,
    )
    calls = ((position, dates.tolist()) for position, dates in enumerate(members))
    rows = run_all(executor, work, calls, tally=Tally(len(windows), progress))
    table = pd.DataFrame(
        {"window_start": window.start, "window_end": window.end, **row} for window, row in zip(windows, rows)
    )
    finish_cube(store)
    return table


def _create(
    store: Path, cube: xr.Dataset, windows: Sequence[Window], index: str, attrs: dict[str, Any]
) -> None:
    pixels = ("time", "y", "x")
    create_cube(
        store,
        Grid.from_dataset(cube),
        times=np.array([window.middle for window in windows]),
        bands=[index],
        variables={
            "data": Variable(
                ("time", "band", "y", "x"),
                "float32",
                attrs={"long_name": find_index(index).long_name, "units": "1"},
            ),
            "looks": Variable(pixels, "int16", None, {"long_name": "number of dates seen"}),
            "valid": Variable(pixels, "bool", False, {"long_name": "seen often enough"}),
        },
        coords={
            "window_start": np.array([window.start for window in windows]),
            "window_end": np.array([window.end for window in windows]),
        },
        attrs=attrs,
    )


def _write_window(
    cube_path: Path,
    store: Path,
    position: int,
    dates: list[int],
    *,
    index: str,
    statistic: str,
    min_looks: int,
    threshold: float | None,
    use_filled: bool,
) -> dict[str, Any]:
    """Combine the dates of one window and write it; block by block of rows, so that memory stays bounded."""
    cube = open_cube(cube_path)
    rows, columns = cube.sizes["y"], cube.sizes["x"]
    values = np.full((rows, columns), np.nan, np.float32)
    looks = np.zeros((rows, columns), np.int16)
    step = max(1, BLOCK_BYTES // max(1, len(dates) * columns * 4 * 4))
    for top in range(0, rows if dates else 0, step):
        block = slice(top, top + step)
        part = cube.isel(time=dates, y=block)
        seen, used = _index_images(part, index, use_filled=use_filled)
        looks[block] = np.isfinite(seen).sum(axis=0)
        values[block] = STATISTICS[statistic](used)
    valid = looks >= max(1, min_looks)
    values[~valid] = np.nan
    if threshold is not None:
        values[values < threshold] = 0.0  # NaN is under nothing
    write_time(store, position, {"data": values[None], "looks": looks, "valid": valid})
    return {
        "scenes": len(dates),
        "looks_mean": float(looks.mean()),
        "valid_share": float(valid.mean()),
    }


def _index_images(part: xr.Dataset, index: str, *, use_filled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of each date where it was seen, and where it is used, (time, y, x) with NaN elsewhere."""
    names = check_bands(index, [str(band) for band in part.band.values])
    bands = {name: part["data"].sel(band=name).values for name in names}
    image = find_index(index).compute(bands).astype(np.float32)
    seen = np.where(part["valid"].values, image, np.float32(np.nan))
    if not use_filled or "filled" not in part:
        return seen, seen
    return seen, np.where(part["valid"].values | part["filled"].values, image, np.float32(np.nan))
