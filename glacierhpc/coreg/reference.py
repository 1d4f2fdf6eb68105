"""The common reference of a cube: the temporal median, made block by block.

The alignment against it is in `cube`.
"""

from __future__ import annotations

from concurrent.futures import Executor

import numpy as np

from glacierhpc.cube import CHUNK_PX, open_cube
from glacierhpc.errors import InputError
from glacierhpc.fanout import Tally, run_all
from glacierhpc.kernels.filters import temporal_median
from glacierhpc.kernels.warp import KERNELS, warp

BLOCK_BYTES = 64 * 1024**2  # of the stack that a block of the reference is made from
MAX_REFERENCE_SCENES = 60  # spread evenly; a median of more changes nothing and costs reading


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


def reference_blocks(shape: tuple[int, int], scenes: int) -> list[tuple[slice, slice]]:
    """Return the rows and columns of the blocks that the median of so many scenes is made in."""
    count = min(scenes, MAX_REFERENCE_SCENES)
    side = CHUNK_PX
    while count * side * side * 5 > BLOCK_BYTES and side > 64:
        side //= 2
    return [
        (slice(y, min(y + side, shape[0])), slice(x, min(x + side, shape[1])))
        for y in range(0, shape[0], side)
        for x in range(0, shape[1], side)
    ]


def write_reference(
    path: str,
    cube: str,
    shape: tuple[int, int],
    matrices: np.ndarray,
    band: int,
    executor: Executor | None,
    tally: Tally | None = None,
) -> None:
    """Write the temporal median of the scenes that have a matrix, block by block, as raw float32 (y, x)."""
    scenes = np.flatnonzero(np.isfinite(matrices).all(axis=(1, 2)))
    count = min(len(scenes), MAX_REFERENCE_SCENES)
    chosen = scenes[np.linspace(0, len(scenes) - 1, count).round().astype(int)]
    blocks = reference_blocks(shape, len(matrices))
    calls = ((cube, chosen, matrices[chosen], band, y, x) for y, x in blocks)
    out = np.memmap(path, np.float32, "w+", shape=shape)
    for block, values in zip(blocks, run_all(executor, _median_block, calls, tally=tally), strict=True):
        out[block] = values
    out.flush()


def _median_block(
    cube: str, scenes: np.ndarray, matrices: np.ndarray, band: int, y: slice, x: slice
) -> np.ndarray:
    """Return the median of one block, every scene resampled through its matrix."""
    dataset = open_cube(cube)
    shape = y.stop - y.start, x.stop - x.start
    stack = np.empty((len(scenes), *shape), np.float32)
    # one date at a time: an index list would decode every chunk between them too
    for i, (scene, matrix) in enumerate(zip(scenes, matrices)):
        rows, columns = _reach(matrix, y, x, dataset["data"].shape[2:])
        part = dataset.isel(time=scene, y=rows, x=columns)
        values, valid = part["data"][band].to_numpy(), part["valid"].to_numpy()
        there = _offset(-columns.start, -rows.start) @ matrix @ _offset(x.start, y.start)
        stack[i], _ = warp(values, there, out_shape=shape, valid=valid, kernel="cubic")
    return reference_image(stack, np.ones(stack.shape, bool))[0]


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


def _offset(x: int, y: int) -> np.ndarray:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])
