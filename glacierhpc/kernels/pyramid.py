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
_LARGEST = np.float32(np.finfo(np.float32).max)


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
    rows, columns = image.shape
    out = np.empty((rows, columns), np.float32)
    padded = np.zeros((2, columns + 2), np.float32)  # of one row: values, 0 for NaN; their weights, 0 or 1
    values = np.zeros((3, columns), np.float32)  # of the last three rows, softened along x
    weights = np.zeros((3, columns), np.float32)
    whole = np.zeros(3, np.bool_)  # rows without a gap: their weights are known
    whole_weights = np.zeros(columns, np.float32)
    whole_scale = np.zeros(columns, np.float32)
    share = np.zeros(columns, np.float32)
    padded[1, 1:-1] = 1
    _soften_row(padded[1], whole_weights)
    whole_scale[:] = 1 / (4 * whole_weights)
    for y in range(-1, rows):
        new = (y + 1) % 3
        whole[new] = _split_row(image, y + 1, padded[0, 1:], padded[1, 1:])
        _soften_row(padded[0], values[new])
        if whole[new]:
            _copy(whole_weights, weights[new])
        else:
            _soften_row(padded[1], weights[new])
        if y < 0:
            continue
        _soften_column(values, y, out[y])
        if whole.all():
            _multiply(out[y], whole_scale)
        else:
            _soften_column(weights, y, share)
            _divide(out[y], share, np.float32(16 * MIN_WEIGHT), image[y])
    return out


@_compiled
def _soften_row(padded, out):
    for x in range(out.size):
        out[x] = padded[x] + padded[x + 2] + np.float32(2) * padded[x + 1]


@_compiled
def _soften_column(ring, y, out):
    a, b, c = ring[(y - 1) % 3], ring[y % 3], ring[(y + 1) % 3]
    for x in range(out.size):
        out[x] = a[x] + c[x] + np.float32(2) * b[x]


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
    rows, columns = image.shape
    out = np.empty((rows, columns), np.float32)
    padded = np.zeros((2, columns + 4), np.float32)  # of one row: values, 0 for NaN; their weights, 0 or 1
    values = np.zeros((5, columns), np.float32)  # of the last five rows, smoothed along x
    weights = np.zeros((5, columns), np.float32)
    whole = np.zeros(5, np.bool_)  # rows without a gap: their weights are known
    whole_weights = np.zeros(columns, np.float32)
    whole_scale = np.zeros(columns, np.float32)
    share = np.zeros(columns, np.float32)
    padded[1, 2:-2] = 1
    _smooth_row(padded[1], whole_weights)
    for x in range(columns):  # NaN where too little of the kernel lies in the image
        share_here = 16 * whole_weights[x]
        whole_scale[x] = 1 / share_here if share_here >= 256 * MIN_WEIGHT else np.nan
    for y in range(-2, rows):
        new = (y + 2) % 5
        whole[new] = _split_row(image, y + 2, padded[0, 2:], padded[1, 2:])
        _smooth_row(padded[0], values[new])
        if whole[new]:
            _copy(whole_weights, weights[new])
        else:
            _smooth_row(padded[1], weights[new])
        if y < 0:
            continue
        _smooth_column(values, y, out[y])
        if whole.all():
            _multiply(out[y], whole_scale)
        else:
            _smooth_column(weights, y, share)
            _divide(out[y], share, np.float32(256 * MIN_WEIGHT), image[y])
    return out


@_compiled
def _smooth_row(padded, out):
    for x in range(out.size):
        inner = padded[x + 1] + padded[x + 3]
        out[x] = padded[x] + padded[x + 4] + np.float32(4) * inner + np.float32(6) * padded[x + 2]


@_compiled
def _multiply(row, factors):
    for x in range(row.size):
        row[x] *= factors[x]


@_compiled
def _copy(row, out):
    for x in range(out.size):
        out[x] = row[x]


@_compiled
def _smooth_column(ring, y, out):
    a, b, c, d, e = ring[(y - 2) % 5], ring[(y - 1) % 5], ring[y % 5], ring[(y + 1) % 5], ring[(y + 2) % 5]
    for x in range(out.size):
        out[x] = a[x] + e[x] + np.float32(4) * (b[x] + d[x]) + np.float32(6) * c[x]


@_compiled
def _divide(total, share, least, centre):
    """Divide in place; NaN where `share` is below `least`, or `centre` is NaN."""
    for x in range(total.size):
        good = (share[x] >= least) & (centre[x] == centre[x])
        total[x] = total[x] / share[x] if good else np.float32(np.nan)


@_compiled
def _split_row(image, y, values, weights):
    """Split a row into values, 0 for NaN, and weights, 0 or 1; beyond the image both are 0.

    Returns whether the row has no gap.
    """
    if y < 0 or y >= image.shape[0]:
        values[:] = 0
        weights[:] = 0
        return False
    row, total = image[y], np.float32(0)
    for x in range(row.size):
        values[x] = row[x]
        total += row[x]
    if abs(total) <= _LARGEST:
        return True  # the weights are not looked at
    gaps = 0
    for x in range(row.size):
        missing = not abs(row[x]) <= _LARGEST
        gaps += missing
        values[x] = np.float32(0) if missing else row[x]
        weights[x] = np.float32(0) if missing else np.float32(1)
    return gaps == 0


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
    rows, columns = image.shape[0] // 2, image.shape[1] // 2
    out = np.empty((rows, columns), np.float32)
    padded = np.zeros((2, image.shape[1] + 2), np.float32)  # of one row: values, 0 for NaN; weights, 0 or 1
    values = np.zeros((4, columns), np.float32)  # of the last four rows, halved along x
    weights = np.zeros((4, columns), np.float32)
    whole = np.zeros(4, np.bool_)  # rows without a gap: their weights are known
    whole_weights = np.zeros(columns, np.float32)
    whole_scale = np.zeros(columns, np.float32)
    share = np.zeros(columns, np.float32)
    padded[1, 1:-1] = 1
    _halve_row(padded[1], whole_weights)
    whole_scale[:] = 1 / (8 * whole_weights)
    for y in range(-1, rows):
        for row in range(2 * y + 1, 2 * y + 3):
            new = row % 4
            whole[new] = _split_row(image, row, padded[0, 1:], padded[1, 1:])
            _halve_row(padded[0], values[new])
            if whole[new]:
                _copy(whole_weights, weights[new])
            else:
                _halve_row(padded[1], weights[new])
        if y < 0:
            continue
        _halve_column(values, 2 * y, out[y])
        if whole.all():
            _multiply(out[y], whole_scale)
        else:
            _halve_column(weights, 2 * y, share)
            _divide(out[y], share, np.float32(32), share)
    return out


@_compiled
def _halve_row(padded, out):
    for x in range(out.size):
        inner = padded[2 * x + 1] + padded[2 * x + 2]
        out[x] = padded[2 * x] + padded[2 * x + 3] + np.float32(3) * inner


@_compiled
def _halve_column(ring, y, out):
    a, b, c, d = ring[(y - 1) % 4], ring[y % 4], ring[(y + 1) % 4], ring[(y + 2) % 4]
    for x in range(out.size):
        out[x] = a[x] + d[x] + np.float32(3) * (b[x] + c[x])


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
    rows, columns = image.shape[0] // 2, image.shape[1] // 2
    out = np.empty((rows, columns), np.float32)
    padded = np.zeros((2, image.shape[1] + 5), np.float32)  # of one row: values, 0 for NaN; weights, 0 or 1
    values = np.zeros((6, columns), np.float32)  # of the last six rows, halved along x
    weights = np.zeros((6, columns), np.float32)
    whole = np.zeros(6, np.bool_)  # rows without a gap: their weights are known
    whole_weights = np.zeros(columns, np.float32)
    whole_scale = np.zeros(columns, np.float32)
    share = np.zeros(columns, np.float32)
    end = image.shape[1] + 2
    gaps, infinite = 0, 0
    padded[1, 2:end] = 1
    _smooth_and_halve_row(padded[1], whole_weights)
    whole_scale[:] = 1 / (32 * whole_weights)
    for y in range(-2, rows):
        for row in range(2 * y + 2, 2 * y + 4):
            new = row % 6
            whole[new] = _split_row(image, row, padded[0, 2:end], padded[1, 2:end])
            if not whole[new] and 0 <= row < image.shape[0]:
                missing, here = _count_gaps(image[row])
                gaps += missing
                infinite += here
            _smooth_and_halve_row(padded[0], values[new])
            if whole[new]:
                _copy(whole_weights, weights[new])
            else:
                _smooth_and_halve_row(padded[1], weights[new])
        if y < 0:
            continue
        _smooth_and_halve_column(values, 2 * y, out[y])
        if whole.all():
            _multiply(out[y], whole_scale)
        else:
            _smooth_and_halve_column(weights, 2 * y, share)
            _divide(out[y], share, np.float32(512), share)
    return out, image.size - gaps, infinite


@_compiled
def _count_gaps(row):
    """Return how many pixels are not finite, and how many of these infinite."""
    gaps, infinite = 0, 0
    for x in range(row.size):
        is_gap = not abs(row[x]) <= _LARGEST
        gaps += is_gap
        infinite += is_gap and row[x] == row[x]
    return gaps, infinite


@_compiled
def _smooth_and_halve_row(padded, out):
    for x in range(out.size):
        outer = padded[2 * x] + padded[2 * x + 5]
        middle = padded[2 * x + 1] + padded[2 * x + 4]
        inner = padded[2 * x + 2] + padded[2 * x + 3]
        out[x] = outer + np.float32(5) * middle + np.float32(10) * inner


@_compiled
def _smooth_and_halve_column(ring, y, out):
    a, b, c = ring[(y - 2) % 6], ring[(y - 1) % 6], ring[y % 6]
    d, e, f = ring[(y + 1) % 6], ring[(y + 2) % 6], ring[(y + 3) % 6]
    for x in range(out.size):
        out[x] = a[x] + f[x] + np.float32(5) * (b[x] + e[x]) + np.float32(10) * (c[x] + d[x])
