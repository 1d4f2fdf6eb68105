"""The compiled pass over the pixels behind `ecc`: everything that one iteration sums, block by block."""

from __future__ import annotations

import numpy as np
from numba import njit

from glacierhpc.kernels.pyramid import soften
from glacierhpc.kernels.sampling import FAST, sample_row

# What is summed over the pixels of a block that are valid in both images. r: reference, i: warped moving image,
# g = (grad r + grad i) / 2, both in reference pixels; cross: grad r . grad i.
SUMS = (
    *("n", "r", "i", "rr", "ii", "ri", "gx", "gy"),
    *("gx r", "gy r", "gx i", "gy i", "gx gx", "gx gy", "gy gy", "cross"),
)
SOFTEN_PX = 1  # reach of `soften`
SIDES_PX = (16, 32, 64)
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
    for by in range(0, table.shape[0], every):
        first, end = 1 + by * side, min(1 + (by + 1) * side, reference.shape[0] - 1)
        _block_row(reference, mean, moving, matrix, gain, offset, half, side, first, end, table[by])


@njit(cache=True, nogil=True, error_model="numpy")
def accumulate_softened(reference, mean, moving, matrix, gain, offset, half, side, every, table):
    """Do what `accumulate` does on both images after `pyramid.soften`, which it applies to a strip at a time.

    For a single pass over large images: a strip stays in the cache, where softened images would have to be written
    to memory and read again.
    """
    table[:] = 0.0
    for by in range(0, table.shape[0], every):
        first, end = 1 + by * side, min(1 + (by + 1) * side, reference.shape[0] - 1)
        top, bottom = max(first - 1 - SOFTEN_PX, 0), min(end + 1 + SOFTEN_PX, reference.shape[0])
        low, high = _rows_met(matrix, reference.shape[1], first - 1, end)
        low, high = max(low - half - SOFTEN_PX, 0), min(high + half + SOFTEN_PX + 1, moving.shape[0])
        if high <= low:
            continue
        there = matrix.copy()  # from rows of the one strip to rows of the other
        there[:, 2] += there[:, 1] * top
        there[1] -= there[2] * low
        _block_row(
            soften(reference[top:bottom]), mean, soften(moving[low:high]), there, gain, offset, half, side,
            first - top, end - top, table[by],
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
    ring_r = np.full((3, width), np.float32(np.nan), np.float32)
    ring_i = np.full((3, width), np.float32(np.nan), np.float32)
    for y in range(first - 1, end + 1):
        _subtract(reference[y], mean, ring_r[y % 3])
        sample_row(moving, matrix, y, half, gain, offset, ring_i[y % 3, :columns])
        if y > first:
            above, here, below = (y - 2) % 3, (y - 1) % 3, y % 3
            rows_of_three = (
                ring_r[above], ring_r[here], ring_r[below],
                ring_i[above], ring_i[here], ring_i[below],
            )  # fmt: skip
            if side == 64:
                _sums_64(*rows_of_three, table)
            elif side == 32:
                _sums_32(*rows_of_three, table)
            else:
                _sums_16(*rows_of_three, table)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _subtract(row, mean, out):
    for x in range(row.size):
        out[x] = row[x] - mean


def _row_sums(side):
    """Return the loop over one row for blocks of a width that the compiler knows, without which it is half as fast."""

    def row_sums(r_above, r_here, r_below, i_above, i_here, i_below, table):
        for block in range(table.shape[0]):
            n = sum_r = sum_i = rr = ii = ri = _ZERO
            gx_ = gy_ = gxr = gyr = gxi = gyi = gxx = gxy = gyy = cross = _ZERO
            for x in range(side):
                k = block * side + x
                r, i = r_here[k + 1], i_here[k + 1]
                rx, ry = r_here[k + 2] - r_here[k], r_below[k + 1] - r_above[k + 1]
                ix, iy = i_here[k + 2] - i_here[k], i_below[k + 1] - i_above[k + 1]
                # one NaN anywhere makes the sum NaN
                probe = (r + i) + ((rx + ry) + (ix + iy))
                ok = probe == probe
                r, i = (r if ok else _ZERO), (i if ok else _ZERO)
                rx, ry = (rx if ok else _ZERO), (ry if ok else _ZERO)
                ix, iy = (ix if ok else _ZERO), (iy if ok else _ZERO)
                n += _ONE if ok else _ZERO
                gx, gy = rx + ix, ry + iy
                sum_r += r
                sum_i += i
                rr += r * r
                ii += i * i
                ri += r * i
                gx_ += gx
                gy_ += gy
                gxr += gx * r
                gyr += gy * r
                gxi += gx * i
                gyi += gy * i
                gxx += gx * gx
                gxy += gx * gy
                gyy += gy * gy
                cross += rx * ix + ry * iy
            row = table[block]
            row[0] += n
            row[1] += sum_r
            row[2] += sum_i
            row[3] += rr
            row[4] += ii
            row[5] += ri
            row[6] += gx_
            row[7] += gy_
            row[8] += gxr
            row[9] += gyr
            row[10] += gxi
            row[11] += gyi
            row[12] += gxx
            row[13] += gxy
            row[14] += gyy
            row[15] += cross

    return row_sums


_sums_16 = njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)(_row_sums(16))
_sums_32 = njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)(_row_sums(32))
_sums_64 = njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)(_row_sums(64))
