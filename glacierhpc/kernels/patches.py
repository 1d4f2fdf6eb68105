"""Cutting of space-time patches out of an array in memory; which patches is planned by the callers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, uint64

from glacierhpc.errors import InputError
from glacierhpc.kernels.prefetch import LINE_BYTES, prefetch

PER_LINE = LINE_BYTES // 4  # float32


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
    validity: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Copy the boxes of a plan out of a cube, with 0 wherever a pixel is invalid.

    Parameters
    ----------
    cube : (time, band, y, x) float32
        C-contiguous; a memory map does. NaN is invalid.
    plan : GatherPlan
        Checked against the shape once, before anything is copied.
    valid : (time, y, x) bool, optional
        Which pixels may be used; all by default. Faster is a cube that holds NaN where a pixel may not be used.
    out : (n, steps, band, size, size) float32, optional
        Written to instead of a new array.
    validity : (n, steps, size, size) bool, optional
        Likewise.

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
    seen = (len(plan), plan.steps, plan.size, plan.size)
    if validity is None:
        validity = np.empty(seen, np.bool_)
    elif validity.shape != seen or validity.dtype != np.bool_ or not validity.flags.c_contiguous:
        raise InputError(
            f"`validity` is {validity.dtype} of shape {validity.shape}; give C-contiguous bool {seen}"
        )
    mask = np.empty(0, np.bool_) if valid is None else np.ascontiguousarray(valid, np.bool_)
    # flat bytes: loops over one-dimensional arrays of plain numbers are the ones LLVM vectorises
    _gather(
        cube.reshape(-1),
        (bands, rows, columns),
        mask.reshape(-1).view(np.uint8),
        plan.starts,
        plan.steps,
        plan.size,
        out.reshape(-1),
        validity.reshape(-1).view(np.uint8),
    )
    return out, validity


# Rows are short (50 px) and lie far apart, so what a row costs besides its pixels decides. Three things each took a
# fifth to a half of the time: waiting for rows (hence those of the next plane are asked for while this one is copied),
# tests within rows (hence rows are only copied; validity is found and applied over whole planes, still in the first
# cache), and indices that may be negative (hence unsigned, and flat places instead of slices).


@njit(cache=True, nogil=True, error_model="numpy")
def _gather(cube, shape, mask, starts, steps, size, out, validity):
    """Copy boxes of a flat cube of `shape` (bands, rows, columns), plane by plane."""
    bands, rows, columns = shape
    planes, area = steps * bands, size * size
    for n in range(starts.shape[0]):
        following = min(n + 1, starts.shape[0] - 1)
        first = (starts[n, 0] * rows + starts[n, 1]) * columns + starts[n, 2]
        for s in range(steps):
            seen = uint64((n * steps + s) * area)
            if mask.size > 0:
                place = first + s * rows * columns
                after = (starts[following, 0] * rows + starts[following, 1]) * columns + starts[following, 2]
                ahead = place + rows * columns if s + 1 < steps else after
                _copy_rows(mask, place, ahead, columns, size, validity, seen, LINE_BYTES)
            else:
                for x in range(area):
                    validity[seen + uint64(x)] = np.uint8(1)
            for b in range(bands):
                p = s * bands + b
                place = ((starts[n, 0] * bands + p) * rows + starts[n, 1]) * columns + starts[n, 2]
                after = (starts[following, 0] * bands * rows + starts[following, 1]) * columns
                ahead = place + rows * columns if p + 1 < planes else after + starts[following, 2]
                target = uint64((n * planes + p) * area)
                _copy_rows(cube, place, ahead, columns, size, out, target, PER_LINE)
                for x in range(area):
                    value = out[target + uint64(x)]
                    validity[seen + uint64(x)] &= np.uint8(value == value)
            for b in range(bands):
                target = uint64((n * planes + s * bands + b) * area)
                for x in range(area):
                    ok = validity[seen + uint64(x)] != 0
                    out[target + uint64(x)] = out[target + uint64(x)] if ok else np.float32(0)


@njit(inline="always")
def _copy_rows(source, place, ahead, columns, size, target, start, per_line):
    """Copy the rows of one plane and ask for those at `ahead`."""
    for y in range(size):
        for x in range(0, size, per_line):
            prefetch(source, ahead + y * columns + x)
        prefetch(source, ahead + y * columns + size - 1)
        row, put = uint64(place + y * columns), uint64(start) + uint64(y * size)
        for x in range(size):
            target[put + uint64(x)] = source[row + uint64(x)]
