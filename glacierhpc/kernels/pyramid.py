"""NaN-aware smoothing and halving: the levels of a pyramid. NaN is "no data" everywhere.

Other filters are in `filters`, geometric resampling in `warp`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# NaN is data here: never "nnan"
_compiled = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
# A smoothed pixel is kept where this share of its kernel had data: the straight edge of a mask has
# 0.69 (dropped, its centre of gravity is off by 0.4 px), the next row 0.94 (kept).
MIN_WEIGHT = 0.7
MIN_HALVED_WEIGHT = 0.5
_LARGEST = np.float32(np.finfo(np.float32).max)
_ZERO, _ONE = np.float32(0), np.float32(1)
_1, _2, _3, _4, _5 = (np.uintp(n) for n in range(1, 6))


@njit(cache=True, nogil=True, error_model="numpy")
def soften(image):
    """Smooth with the binomial kernel [1, 2, 1] / 4 in both axes (standard deviation 0.7 px).

    Parameters
    ----------
    image : (y, x) float32
        NaN is no data.

    Returns
    -------
    (y, x) float32
        Mean of the pixels with data; NaN where the centre, or 30 % of the kernel's weight, has none.
    """
    return _filtered(image, 3)[0]


@njit(cache=True, nogil=True, error_model="numpy")
def smooth(image):
    """Smooth with the binomial kernel [1, 4, 6, 4, 1] / 16 in both axes (standard deviation 1 px).

    Parameters
    ----------
    image : (y, x) float32
        NaN is no data.

    Returns
    -------
    (y, x) float32
        Mean of the pixels with data; NaN where the centre, or 30 % of the kernel's weight, has none.
    """
    return _filtered(image, 5)[0]


@njit(cache=True, nogil=True, error_model="numpy")
def halve(image):
    """Return the image at half the resolution, smoothed by [1, 3, 3, 1] / 8 in both axes first.

    Pixel (i, j) of the result lies at (2 i + 0.5, 2 j + 0.5) of the input.

    Parameters
    ----------
    image : (y, x) float32
        NaN is no data.

    Returns
    -------
    (y // 2, x // 2) float32
        NaN where less than half of the kernel's weight has data.
    """
    return _filtered(image, 4)[0]


@njit(cache=True, nogil=True, error_model="numpy")
def smooth_and_halve(image):
    """Return the image at half the resolution, smoothed by [1, 5, 10, 10, 5, 1] / 32 in both axes first.

    What `smooth` and a mean of two by two pixels give together, in one pass. Pixel (i, j) of the result lies at
    (2 i + 0.5, 2 j + 0.5) of the input.

    Parameters
    ----------
    image : (y, x) float32
        NaN is no data.

    Returns
    -------
    halved : (y // 2, x // 2) float32
        NaN where less than half of the kernel's weight has data.
    finite, infinite : int
        Numbers of pixels; infinite ones count as no data.
    """
    halved, gaps, infinite = _filtered(image, 6)
    return halved, image.size - gaps, infinite


@njit(cache=True, nogil=True, error_model="numpy")
def _filtered(image, taps):
    """Filter with the binomial kernel of so many taps in both axes; an even one also halves the resolution.

    Rows are weighted first, then their sum along x: where that is a number none of them has a gap, and the weights
    are known. Else the rows are added once more, with what there is of them.

    Returns the image, and how many pixels had no data, and how many of these were infinite.
    """
    step = 2 - taps % 2
    rows, columns, before = image.shape[0] // step, image.shape[1] // step, (taps - step) // 2
    least = np.float32((MIN_WEIGHT if step == 1 else MIN_HALVED_WEIGHT) * 4.0 ** (taps - 1))
    out, share = np.empty((rows, columns), np.float32), np.empty(columns, np.float32)
    sums = np.zeros(image.shape[1] + 2 * before, np.float32)  # of the rows, and nothing beyond them
    weights = np.zeros(image.shape[1] + 2 * before, np.float32)
    inner = slice(before, before + image.shape[1])
    weights[inner] = 2.0 ** (taps - 1)
    scale = np.empty(columns, np.float32)
    _row(weights, taps, scale)
    for x in range(columns):  # NaN where too little of the kernel lies in the image
        scale[x] = 1 / scale[x] if scale[x] >= least else np.nan
    nothing = np.full(image.shape[1], np.float32(np.nan), np.float32)
    gaps, infinite = 0, 0
    for y in range(rows):
        top = step * y - before
        inside = top >= 0 and top + taps <= image.shape[0]
        if inside and abs(_columns(image, np.uintp(top), taps, sums[inner])) <= _LARGEST:
            _row(sums, taps, out[y])
            _multiply(out[y], scale)
            continue
        _known(image, top, taps, nothing, sums[inner], weights[inner])
        _row(sums, taps, out[y])
        _row(weights, taps, share)
        _divide(out[y], share, least, image[y] if step == 1 else share)
        for k in range(step * y, step * (y + 1)):
            missing, here = _count_gaps(image[k])
            gaps, infinite = gaps + missing, infinite + here
    for k in range(step * rows, image.shape[0]):
        missing, here = _count_gaps(image[k])
        gaps, infinite = gaps + missing, infinite + here
    return out, gaps, infinite


@njit(cache=True, nogil=True, error_model="numpy")
def _known(image, top, taps, nothing, sums, weights):
    """Weight what so many rows from `top` on have, and how much that is; from above and below two at a time."""
    sums[:] = 0
    weights[:] = 0
    factor = 1.0
    for k in range((taps + 1) // 2):
        upper, lower = top + k, top + taps - 1 - k
        _add_known(
            image[upper] if 0 <= upper < image.shape[0] else nothing,
            image[lower] if upper < lower < image.shape[0] else nothing,
            np.float32(factor),
            sums,
            weights,
        )
        factor = factor * (taps - 1 - k) / (k + 1)


@_compiled
def _columns(image, top, taps, out):
    """Weight so many rows from `top` on; return the sum of all, a number only if all pixels are.

    Places without a sign let the compiler leave out what Python does for places below zero.
    """
    total = np.float32(0)
    a, b, c, d, e = top + _1, top + _2, top + _3, top + _4, top + _5
    n = np.uintp(out.size)
    if taps == 3:
        for x in range(n):
            out[x] = image[top, x] + image[b, x] + np.float32(2) * image[a, x]
            total += out[x]
    elif taps == 4:
        for x in range(n):
            out[x] = image[top, x] + image[c, x] + np.float32(3) * (image[a, x] + image[b, x])
            total += out[x]
    elif taps == 5:
        for x in range(n):
            middle = np.float32(4) * (image[a, x] + image[c, x]) + np.float32(6) * image[b, x]
            out[x] = image[top, x] + image[d, x] + middle
            total += out[x]
    else:
        for x in range(n):
            middle = np.float32(5) * (image[a, x] + image[d, x]) + np.float32(10) * (
                image[b, x] + image[c, x]
            )
            out[x] = image[top, x] + image[e, x] + middle
            total += out[x]
    return total


@_compiled
def _row(sums, taps, out):
    """Weight so many neighbours along a row, of which every second is kept for an even number."""
    n = np.uintp(out.size)
    if taps == 3:
        for x in range(n):
            out[x] = sums[x] + sums[x + _2] + np.float32(2) * sums[x + _1]
    elif taps == 4:
        for x in range(n):
            k = x + x
            out[x] = sums[k] + sums[k + _3] + np.float32(3) * (sums[k + _1] + sums[k + _2])
    elif taps == 5:
        for x in range(n):
            middle = np.float32(4) * (sums[x + _1] + sums[x + _3]) + np.float32(6) * sums[x + _2]
            out[x] = sums[x] + sums[x + _4] + middle
    else:
        for x in range(n):
            k = x + x
            middle = np.float32(5) * (sums[k + _1] + sums[k + _4]) + np.float32(10) * (
                sums[k + _2] + sums[k + _3]
            )
            out[x] = sums[k] + sums[k + _5] + middle


@_compiled
def _add_known(row, other, factor, sums, weights):
    """Add what two rows have, so many times, and the weight of it."""
    for x in range(row.size):
        known, too = abs(row[x]) <= _LARGEST, abs(other[x]) <= _LARGEST
        sums[x] += factor * ((row[x] if known else _ZERO) + (other[x] if too else _ZERO))
        weights[x] += factor * ((_ONE if known else _ZERO) + (_ONE if too else _ZERO))


@_compiled
def _multiply(row, factors):
    for x in range(row.size):
        row[x] *= factors[x]


@_compiled
def _divide(total, share, least, centre):
    """Divide in place; NaN where `share` is below `least`, or `centre` is NaN."""
    for x in range(total.size):
        good = (share[x] >= least) & (centre[x] == centre[x])
        total[x] = total[x] / share[x] if good else np.float32(np.nan)


@_compiled
def _count_gaps(row):
    """Return how many pixels are not finite, and how many of these infinite."""
    gaps = infinite = _ZERO  # exact in a row of less than 16 million pixels, and counted on vectors
    for x in range(row.size):
        gaps += _ZERO if abs(row[x]) <= _LARGEST else _ONE
        infinite += _ONE if abs(row[x]) > _LARGEST else _ZERO
    return int(gaps), int(infinite)
