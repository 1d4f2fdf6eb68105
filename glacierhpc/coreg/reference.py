"""References of a stack: temporal medians of all scenes and of those of each season, made block by block.

The alignment against them is in `stack_tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor

import numpy as np

from glacierhpc.coreg.sources import ImageSource
from glacierhpc.cube import CHUNK_PX
from glacierhpc.errors import InputError
from glacierhpc.fanout import Tally, run_all
from glacierhpc.kernels.filters import temporal_median
from glacierhpc.kernels.motions import shift_matrix
from glacierhpc.kernels.warp import KERNELS, warp
from glacierhpc.seasons import days_apart

BLOCK_BYTES = 64 * 1024**2  # of the stack that a block of the reference is made from
MAX_REFERENCE_SCENES = 60  # spread evenly; a median of more changes nothing and costs reading
MIN_SEASON_SCENES = 5  # of three, each is the median itself at a third of the pixels, and found where it lay
SEASONS = ("DJF", "MAM", "JJA", "SON")
"""Meteorological seasons by the initials of their months: names that hold on both hemispheres."""


def reference_image(stack: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the masked temporal median of a stack: what the ground looks like without clouds.

    Parameters
    ----------
    stack : (time, y, x) float32
        NaN is invalid.
    valid : (time, y, x) bool

    Returns
    -------
    image : (y, x) float32
        NaN where no date is valid.
    valid : (y, x) bool
    """
    if stack.ndim != 3 or valid.shape != stack.shape:
        raise InputError(
            f"stack {stack.shape} and valid {valid.shape} must be (time, y, x) and equal in shape"
        )
    image = temporal_median(np.ascontiguousarray(stack, np.float32), np.ascontiguousarray(valid, np.bool_))
    return image, ~np.isnan(image)


def season_groups(times: np.ndarray, counted: np.ndarray, least: int = MIN_SEASON_SCENES) -> list[str]:
    """Return the season that each date belongs to, seasons with few scenes joined to the nearest one.

    Parameters
    ----------
    times : (n,) datetime64
    counted : (n,) bool
        The scenes that a reference can be made of.
    least : int
        Counted scenes under which a season has no reference of its own.

    Returns
    -------
    list of str
        ``"JJA"``, ``"MAM+JJA"``; ``"all"`` where one group is left.
    """
    months = times.astype("datetime64[M]").astype(int) % 12 + 1
    season = np.array([(month % 12) // 3 for month in months], int)
    groups = [{number} for number in range(len(SEASONS)) if (season == number).any()]
    while len(groups) > 1:
        sizes = [int(counted[np.isin(season, list(group))].sum()) for group in groups]
        if min(sizes) >= least:
            break
        smallest = groups.pop(sizes.index(min(sizes)))
        here = times[np.isin(season, list(smallest))]
        apart = [
            float(np.median(days_apart(here[:, None], times[np.isin(season, list(group))])))
            for group in groups
        ]
        groups[apart.index(min(apart))] |= smallest
    if len(groups) == 1:
        return ["all"] * len(times)
    names = {number: "+".join(SEASONS[i] for i in sorted(group)) for group in groups for number in group}
    return [names[number] for number in season]


Blocks = list[tuple[slice, slice]]


def reference_blocks(shape: tuple[int, int], scenes: int) -> Blocks:
    """Return the rows and columns of the blocks that medians of a stack of so many scenes are made in."""
    side = CHUNK_PX
    most = min(scenes, (len(SEASONS) + 1) * MAX_REFERENCE_SCENES)
    while most * side * side * 5 > BLOCK_BYTES and side > 64:
        side //= 2
    return [
        (slice(y, min(y + side, shape[0])), slice(x, min(x + side, shape[1])))
        for y in range(0, shape[0], side)
        for x in range(0, shape[1], side)
    ]


def make_medians(
    source: ImageSource,
    members: Mapping[str, Sequence[int]],
    matrices: Mapping[int, np.ndarray],
    blocks: Blocks,
    *,
    overall: str = "",
    executor: Executor | None = None,
    tally: Tally | None = None,
) -> dict[str, np.ndarray]:
    """Return temporal medians (y, x) float32 by name, every scene resampled once through its matrix.

    Parameters
    ----------
    members : mapping of name to positions
        The scenes of each median; of many, some spread evenly.
    matrices : mapping of position to (3, 3)
        Pixel of the frame to pixel of the scene.
    blocks : list of (slice, slice)
        See `reference_blocks`.
    overall : str, optional
        Name of one more, the median of all these medians: every season counts alike, and it costs next to nothing.
    """
    chosen = {name: _spread(sorted(scenes)) for name, scenes in members.items()}
    scenes = sorted({index for some in chosen.values() for index in some})
    names = [*chosen, overall] if overall else list(chosen)
    out = {name: np.empty(source.shape, np.float32) for name in names}
    places = [[scenes.index(i) for i in some] for some in chosen.values()]
    part, through = source.only(scenes), [matrices[i] for i in scenes]
    calls = ((part, scenes, through, places, bool(overall), y, x) for y, x in blocks)
    for block, values in zip(blocks, run_all(executor, _median_block, calls, tally=tally), strict=True):
        for image, median in zip(out.values(), values):
            image[block] = median
    return out


def _median_block(
    source: ImageSource,
    scenes: list[int],
    matrices: list[np.ndarray],
    members: list[list[int]],
    overall: bool,
    y: slice,
    x: slice,
) -> list[np.ndarray]:
    """Return one block of each median, every scene resampled through its matrix."""
    stack = np.empty((len(scenes), y.stop - y.start, x.stop - x.start), np.float32)
    # one date at a time: an index list would decode every chunk between them too
    for i, (scene, matrix) in enumerate(zip(scenes, matrices)):
        if np.array_equal(matrix, np.eye(3)):
            stack[i] = source.read(scene, y, x)
            continue
        rows, columns = _reach(matrix, y, x, source.shape)
        there = shift_matrix(-columns.start, -rows.start) @ matrix @ shift_matrix(x.start, y.start)
        stack[i] = warp(source.read(scene, rows, columns), there, out_shape=stack.shape[1:], kernel="cubic")[
            0
        ]
    medians = [_median(stack if len(some) == len(scenes) else stack[some]) for some in members]
    return [*medians, _median(np.stack(medians))] if overall else medians


def _median(stack: np.ndarray) -> np.ndarray:
    return np.asarray(temporal_median(stack, np.ones(stack.shape, np.bool_)))


def _spread(scenes: list[int]) -> list[int]:
    count = min(len(scenes), MAX_REFERENCE_SCENES)
    return [scenes[i] for i in np.linspace(0, len(scenes) - 1, count).round().astype(int)]


def _reach(matrix: np.ndarray, y: slice, x: slice, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the rows and columns of a scene that a block's pixels are interpolated from."""
    corners = np.array([(cx, cy, 1.0) for cx in (x.start, x.stop - 1) for cy in (y.start, y.stop - 1)]).T
    u, v, w = matrix @ corners
    margin = KERNELS["cubic"] + 1
    reach = []
    for places, size in ((v / w, shape[0]), (u / w, shape[1])):
        first = int(np.clip(np.floor(places.min()) - margin, 0, size - 1))
        last = int(np.clip(np.ceil(places.max()) + margin + 1, first + 1, size))
        reach.append(slice(first, last))
    return reach[0], reach[1]
