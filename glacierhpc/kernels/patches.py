"""Cutting of space-time patches out of an array in memory; which patches is planned by the callers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, uint64

from glacierhpc.errors import InputError


@dataclass(frozen=True)
class GatherPlan:
    """Places of equal space-time boxes.

    Raises
    ------
    InputError
        If `starts` is not (n, 3) or a length is not positive.
    """

    starts: np.ndarray
    """(n, 3) int64: time, row, column of each box's first pixel."""
    steps: int
    """Dates per box."""
    size: int
    """Rows and columns per box, pixels."""

    def __post_init__(self) -> None:
        starts = np.ascontiguousarray(self.starts, np.int64)
        if starts.ndim != 2 or starts.shape[1] != 3:
            raise InputError(f"`starts` has shape {starts.shape}; give (n, 3): time, row, column")
        if self.steps < 1 or self.size < 1:
            raise InputError(f"steps={self.steps!r} and size={self.size!r} must be 1 or more")
        object.__setattr__(self, "starts", starts)

    def __len__(self) -> int:
        return len(self.starts)

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise InputError, naming the first box that leaves an array of shape (time, y, x)."""
        extent = np.array([self.steps, self.size, self.size])
        outside = ((self.starts < 0) | (self.starts + extent > np.array(shape))).any(axis=1)
        if outside.any():
            i = int(np.argmax(outside))
            raise InputError(
                f"box {i} starts at (time, row, column) = {tuple(self.starts[i].tolist())} and spans "
                f"{tuple(extent.tolist())}: it leaves the array of shape {tuple(shape)}; plan for this shape"
            )


def gather(
    cube: np.ndarray,
    plan: GatherPlan,
    *,
    valid: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Copy the boxes of a plan out of a cube, with 0 wherever a pixel is invalid.

    Parameters
    ----------
    cube : (time, band, y, x) float32
        C-contiguous; a memory map does. NaN is invalid.
    plan : GatherPlan
        Checked against the shape once, before anything is copied.
    valid : (time, y, x) bool, optional
        Which pixels may be used; all by default.
    out : (n, steps, band, size, size) float32, optional
        Written to instead of a new array.

    Returns
    -------
    patches : (n, steps, band, size, size) float32
        Finite everywhere.
    validity : (n, steps, size, size) bool
        Valid and not NaN in any band.

    Raises
    ------
    InputError
        If a box leaves the cube, or a shape or type does not fit.
    """
    if cube.ndim != 4 or cube.dtype != np.float32 or not cube.flags.c_contiguous:
        raise InputError(
            f"the cube is {cube.dtype} of shape {cube.shape}; give C-contiguous float32 (time, band, y, x)"
        )
    times, bands, rows, columns = cube.shape
    if valid is not None and valid.shape != (times, rows, columns):
        raise InputError(f"`valid` has shape {valid.shape}, the cube {cube.shape}: give (time, y, x)")
    plan.check((times, rows, columns))
    shape = (len(plan), plan.steps, bands, plan.size, plan.size)
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise InputError(f"`out` is {out.dtype} of shape {out.shape}; give C-contiguous float32 {shape}")
    validity = np.empty((len(plan), plan.steps, plan.size, plan.size), np.bool_)
    mask = np.empty(0, np.bool_) if valid is None else np.ascontiguousarray(valid, np.bool_)
    # flat bytes: loops over one-dimensional arrays of plain numbers are the ones LLVM vectorises
    copy = _gather_band if bands == 1 else _gather_bands
    copy(
        cube.reshape(-1),
        np.array(cube.shape, np.int64),
        mask.reshape(-1).view(np.uint8),
        plan.starts,
        np.array(shape, np.int64),
        out.reshape(-1),
        validity.reshape(-1).view(np.uint8),
    )
    return out, validity


# Rows are short (50 px), so what a row costs besides its pixels decides: flat places instead of slices, unsigned so
# that no index is tested for a sign, and no calls per row. Each of the three took a third to a half of the time.


@njit(cache=True, nogil=True, error_model="numpy")
def _gather_band(cube, cube_shape, mask, starts, out_shape, out, validity):
    """Copy boxes of a cube with one band: one pass over every row."""
    rows, columns = cube_shape[2], cube_shape[3]
    steps, size = out_shape[1], out_shape[3]
    for n in range(starts.shape[0]):
        for s in range(steps):
            for y in range(size):
                row = (starts[n, 0] + s) * rows + starts[n, 1] + y
                source = uint64(row * columns + starts[n, 2])
                target = uint64(((n * steps + s) * size + y) * size)
                for x in range(size):
                    value = cube[source + uint64(x)]
                    ok = value == value
                    if mask.size > 0:
                        ok &= mask[source + uint64(x)] != 0
                    validity[target + uint64(x)] = ok
                    out[target + uint64(x)] = value if ok else np.float32(0)


@njit(cache=True, nogil=True, error_model="numpy")
def _gather_bands(cube, cube_shape, mask, starts, out_shape, out, validity):
    """Copy boxes of a cube with several bands, whose validity is known only when all of them have been seen."""
    bands, rows, columns = cube_shape[1], cube_shape[2], cube_shape[3]
    steps, size = out_shape[1], out_shape[3]
    for n in range(starts.shape[0]):
        for s in range(steps):
            for y in range(size):
                t, row = starts[n, 0] + s, starts[n, 1] + y
                place = uint64((t * rows + row) * columns + starts[n, 2])
                seen = uint64(((n * steps + s) * size + y) * size)
                for x in range(size):
                    validity[seen + uint64(x)] = mask[place + uint64(x)] if mask.size > 0 else np.uint8(1)
                for b in range(bands):
                    source = uint64(((t * bands + b) * rows + row) * columns + starts[n, 2])
                    for x in range(size):
                        value = cube[source + uint64(x)]
                        validity[seen + uint64(x)] &= np.uint8(value == value)
                for b in range(bands):
                    source = uint64(((t * bands + b) * rows + row) * columns + starts[n, 2])
                    target = uint64((((n * steps + s) * bands + b) * size + y) * size)
                    for x in range(size):
                        ok = validity[seen + uint64(x)] != 0
                        out[target + uint64(x)] = cube[source + uint64(x)] if ok else np.float32(0)
