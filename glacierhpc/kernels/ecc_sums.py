"""The compiled pass over the pixels behind `ecc`: everything that one iteration sums, block by block."""

from __future__ import annotations

import numpy as np
from numba import njit

from glacierhpc.kernels.pyramid import soften
from glacierhpc.kernels.sampling import (
    FAST,
    LEAST_RUN_PX,
    QUINTIC,
    SOFT_SHARE,
    VECTOR_PX,
    run_length,
    sample_row,
    sample_row_softened,
)

# What is summed over the pixels of a block that are valid in both images. r: reference, i: warped moving image,
# g = (grad r + grad i) / 2, both in reference pixels; cross: grad r . grad i.
SUMS = (
    *("n", "r", "i", "rr", "ii", "ri", "gx", "gy"),
    *("gx r", "gy r", "gx i", "gy i", "gx gx", "gx gy", "gy gy", "cross"),
)
SOFTEN_PX = 1  # reach of `soften`
SIDES_PX = (16, 32, 64)
_compiled = njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
_ZERO, _ONE = np.float32(0), np.float32(1)


def block_side(shape: tuple[int, ...]) -> int:
    """Return the side of an image's blocks, pixels: some ten or more blocks along each side."""
    return next((side for side in SIDES_PX[:0:-1] if min(shape) >= 6 * side), SIDES_PX[0])


def block_centres(shape: tuple[int, ...], side: int) -> np.ndarray:
    """Return the centres (blocks y, blocks x, 2) of an image's blocks as x, y in pixels; the rim belongs to none."""
    middles = []
    for size in (shape[1], shape[0]):
        first = np.arange(1, size - 1, side)
        middles.append((first + np.minimum(first + side, size - 1) - 1) / 2)
    return np.stack(np.meshgrid(*middles), axis=-1)


@njit(cache=True, nogil=True, error_model="numpy")
def accumulate(reference, mean, moving, matrix, gain, offset, half, side, every, table):
    """Sum everything that one iteration needs, in one pass over the reference's rows.

    A row of the moving image is interpolated when it is needed, and gradients are differences of neighbouring
    rows and columns, so that each image is read once and nothing is stored. The sums are kept by block, for which
    the coordinates are constant enough: weights, models and local means are applied to blocks afterwards.

    Parameters
    ----------
    reference, moving : (y, x) float32
        NaN is no data.
    matrix : (3, 3) float64
        Reference pixel to moving pixel.
    mean, gain, offset : float32
        ``reference - mean`` and ``gain * moving + offset`` are in the same units, with means near zero.
    half : int
        `sampling.LINEAR`, `CUBIC` or `QUINTIC`.
    side : int
        One of `SIDES_PX`, see `block_side`.
    every : int
        Sums only every so many-th row of blocks.
    table : (blocks y, blocks x, 16) float64
        Filled with `SUMS`; those with g once are of 4 g, with g twice of 16 g^2, `cross` is four times itself.
    """
    table[:] = 0.0
    for by in range(every // 2, table.shape[0], every):
        first, end = 1 + by * side, min(1 + (by + 1) * side, reference.shape[0] - 1)
        _block_row(reference, mean, moving, matrix, gain, offset, half, side, first, end, table[by])


@njit(cache=True, nogil=True, error_model="numpy")
def accumulate_softened(reference, mean, moving, matrix, gain, offset, kernels, side, every, table):
    """Do what `accumulate` does on both images softened by [1, 6, 1] / 8 in both axes.

    They are softened on the way, a row at a time in the cache: softened images would have to be written to memory
    and read again. NaN spreads to the neighbours.

    Parameters
    ----------
    kernels : (PHASES + 1, 6) float32
        `sampling.softened_kernels`.
    """
    table[:] = 0.0
    length = run_length(matrix, reference.shape)
    for by in range(every // 2, table.shape[0], every):
        first, end = 1 + by * side, min(1 + (by + 1) * side, reference.shape[0] - 1)
        if length >= LEAST_RUN_PX:
            _softened_row(
                reference, mean, moving, matrix, gain, offset, kernels, length, side, first, end, table[by]
            )
        else:
            _softened_strip(reference, mean, moving, matrix, gain, offset, side, first, end, table[by])


@njit(cache=True, nogil=True, error_model="numpy")
def _softened_row(reference, mean, moving, matrix, gain, offset, kernels, length, side, first, end, table):
    """Sum the rows `first` to `end` (exclusive) of the softened images into the blocks (blocks x, 16) of one row."""
    columns = reference.shape[1]
    width = table.shape[0] * side + 2
    ring_r = np.full((4, width), np.float32(np.nan), np.float32)
    ring_i = np.full((4, width), np.float32(np.nan), np.float32)
    gaps = np.zeros(table.shape[0], np.bool_)
    buffer = np.empty(columns + 5 + VECTOR_PX, np.float32)
    for y in range(first - 1, end + 1 + (end - first) % 2):
        if 0 < y < min(end + 1, reference.shape[0] - 1):
            _soften_row(reference, np.uintp(y), mean, buffer, ring_r[y % 4, :columns])
            sample_row_softened(
                moving, matrix, y, kernels, length, gain, offset, buffer, ring_i[y % 4, :columns]
            )
        else:
            ring_r[y % 4] = np.nan
        if y > first and (y - first) % 2 == 0:
            _sum_two_rows(ring_r, ring_i, y, side, gaps, table)


@_compiled
def _soften_row(image, y, mean, buffer, out):
    """Soften one row by [1, 6, 1] / 8 in both axes and take a mean from it; its ends become NaN."""
    edge, middle = np.float32(SOFT_SHARE), np.float32(1 - 2 * SOFT_SHARE)
    above, below, one, two = y - np.uintp(1), y + np.uintp(1), np.uintp(1), np.uintp(2)
    for x in range(np.uintp(image.shape[1])):
        buffer[x] = edge * (image[above, x] + image[below, x]) + (middle * image[y, x] - mean)
    for x in range(np.uintp(image.shape[1] - 2)):
        out[x + one] = edge * (buffer[x] + buffer[x + two]) + middle * buffer[x + one]
    out[0] = out[image.shape[1] - 1] = np.nan


@njit(cache=True, nogil=True, error_model="numpy")
def _softened_strip(reference, mean, moving, matrix, gain, offset, side, first, end, table):
    """Do what `_softened_row` does where a turn or a zoom makes runs too short for one kernel each."""
    top, bottom = max(first - 1 - SOFTEN_PX, 0), min(end + 1 + SOFTEN_PX, reference.shape[0])
    low, high = _rows_met(matrix, reference.shape[1], first - 1, end)
    low, high = max(low - QUINTIC - SOFTEN_PX, 0), min(high + QUINTIC + SOFTEN_PX + 1, moving.shape[0])
    if high <= low:
        return
    there = matrix.copy()  # from rows of the one strip to rows of the other
    there[:, 2] += there[:, 1] * top
    there[1] -= there[2] * low
    _block_row(
        soften(reference[top:bottom]), mean, soften(moving[low:high]), there, gain, offset, QUINTIC, side,
        first - top, end - top, table,
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _rows_met(matrix, columns, first, last):
    """Return the first and the last row that a matrix puts the corners of rows `first` to `last` on."""
    low, high = np.inf, -np.inf
    for y in (first, last):
        for x in (0, columns - 1):
            w = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
            v = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]) / w
            low, high = min(low, v), max(high, v)
    far = 1e9  # beyond any image: an integer holds it
    return int(np.floor(max(low, -far))), int(np.ceil(min(high, far)))


@njit(cache=True, nogil=True, error_model="numpy")
def _block_row(reference, mean, moving, matrix, gain, offset, half, side, first, end, table):
    """Sum the rows `first` to `end` (exclusive) of the reference into the blocks (blocks x, 16) of one row."""
    columns = reference.shape[1]
    width = table.shape[0] * side + 2
    ring_r = np.full((4, width), np.float32(np.nan), np.float32)
    ring_i = np.full((4, width), np.float32(np.nan), np.float32)
    gaps = np.zeros(table.shape[0], np.bool_)
    for y in range(first - 1, end + 1 + (end - first) % 2):
        if y <= end:
            _subtract(reference[y], mean, ring_r[y % 4])
            sample_row(moving, matrix, y, half, gain, offset, ring_i[y % 4, :columns])
        else:  # the second of two rows that are not there
            ring_r[y % 4] = np.nan
        if y > first and (y - first) % 2 == 0:
            _sum_two_rows(ring_r, ring_i, y, side, gaps, table)


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_two_rows(ring_r, ring_i, y, side, gaps, table):
    """Add rows y - 2 and y - 1 of both rings, which end with row `y`, to the blocks (blocks x, 16)."""
    a, b, c, d = (y - 3) % 4, (y - 2) % 4, (y - 1) % 4, y % 4
    r0, r1, r2, r3 = ring_r[a], ring_r[b], ring_r[c], ring_r[d]
    i0, i1, i2, i3 = ring_i[a], ring_i[b], ring_i[c], ring_i[d]
    if side == 64:
        _plain_64(r0, r1, r2, r3, i0, i1, i2, i3, gaps, table)
        _masked_64(r0, r1, r2, r3, i0, i1, i2, i3, gaps, table)
    elif side == 32:
        _plain_32(r0, r1, r2, r3, i0, i1, i2, i3, gaps, table)
        _masked_32(r0, r1, r2, r3, i0, i1, i2, i3, gaps, table)
    else:
        _plain_16(r0, r1, r2, r3, i0, i1, i2, i3, gaps, table)
        _masked_16(r0, r1, r2, r3, i0, i1, i2, i3, gaps, table)


@_compiled
def _subtract(row, mean, out):
    for x in range(row.size):
        out[x] = row[x] - mean


def _two_rows(side, masked):
    """Return the loop over the two middle ones of four rows, for blocks of a width that the compiler knows.

    Without that it is half as fast. One that looks at every pixel for NaN is a third slower than one that only finds
    that there was one: blocks are tried without, and those in `gaps` are left to the other.
    """

    def two_rows(r0, r1, r2, r3, i0, i1, i2, i3, gaps, table):
        for block in range(table.shape[0]):
            if gaps[block] != masked:
                continue
            n = sum_r = sum_i = rr = ii = ri = _ZERO
            gx_ = gy_ = gxr = gyr = gxi = gyi = gxx = gxy = gyy = cross = _ZERO
            for x in range(side):
                k = block * side + x
                r, i, s, j = r1[k + 1], i1[k + 1], r2[k + 1], i2[k + 1]  # s, j: the second row's
                rx, ry, ix, iy = r1[k + 2] - r1[k], s - r0[k + 1], i1[k + 2] - i1[k], j - i0[k + 1]
                sx, sy, jx, jy = r2[k + 2] - r2[k], r3[k + 1] - r, i2[k + 2] - i2[k], i3[k + 1] - i
                if masked:  # one NaN anywhere makes the sum NaN
                    first = (r + i) + ((rx + ry) + (ix + iy))
                    second = (s + j) + ((sx + sy) + (jx + jy))
                    ok, too = first == first, second == second
                    r, rx, ry = (r if ok else _ZERO), (rx if ok else _ZERO), (ry if ok else _ZERO)
                    i, ix, iy = (i if ok else _ZERO), (ix if ok else _ZERO), (iy if ok else _ZERO)
                    s, sx, sy = (s if too else _ZERO), (sx if too else _ZERO), (sy if too else _ZERO)
                    j, jx, jy = (j if too else _ZERO), (jx if too else _ZERO), (jy if too else _ZERO)
                    n += (_ONE if ok else _ZERO) + (_ONE if too else _ZERO)
                gx, gy, hx, hy = rx + ix, ry + iy, sx + jx, sy + jy
                sum_r += r + s
                sum_i += i + j
                rr += r * r + s * s
                ii += i * i + j * j
                ri += r * i + s * j
                gx_ += gx + hx
                gy_ += gy + hy
                gxr += gx * r + hx * s
                gyr += gy * r + hy * s
                gxi += gx * i + hx * j
                gyi += gy * i + hy * j
                gxx += gx * gx + hx * hx
                gxy += gx * gy + hx * hy
                gyy += gy * gy + hy * hy
                cross += (rx * ix + ry * iy) + (sx * jx + sy * jy)
            n = n if masked else np.float32(2 * side)
            probe = (rr + ii) + (gxx + gyy)
            gaps[block] = n < 2 * side or probe != probe
            if gaps[block] and not masked:
                continue
            # one by one: a loop over them is compiled to as many jumps, and takes a quarter of the time of all
            sums = table[block]
            sums[0], sums[1], sums[2] = sums[0] + n, sums[1] + sum_r, sums[2] + sum_i
            sums[3], sums[4], sums[5] = sums[3] + rr, sums[4] + ii, sums[5] + ri
            sums[6], sums[7] = sums[6] + gx_, sums[7] + gy_
            sums[8], sums[9] = sums[8] + gxr, sums[9] + gyr
            sums[10], sums[11] = sums[10] + gxi, sums[11] + gyi
            sums[12], sums[13], sums[14] = sums[12] + gxx, sums[13] + gxy, sums[14] + gyy
            sums[15] += cross

    return two_rows


_plain_16, _plain_32, _plain_64 = (_compiled(_two_rows(side, False)) for side in SIDES_PX)
_masked_16, _masked_32, _masked_64 = (_compiled(_two_rows(side, True)) for side in SIDES_PX)
