"""NaN-aware image filters: smoothing, halving, high-pass, temporal median; NaN is "no data" everywhere.

Geometric resampling is in `warp`, filling of gaps in `gaps`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# A smoothed pixel is kept where this share of its kernel had data: the straight edge of a mask has
# 0.69 (dropped, its centre of gravity is off by 0.4 px), the next row 0.94 (kept).
MIN_WEIGHT = 0.7


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
    taps = np.array([1, 4, 6, 4, 1], np.float32) / np.float32(16)
    total = np.zeros((rows, columns), np.float32)
    weight = np.zeros((rows, columns), np.float32)
    for y in range(rows):
        for k in range(5):
            yy = y + k - 2
            if yy < 0 or yy >= rows:
                continue
            for x in range(columns):
                value = image[yy, x]
                good = value == value
                total[y, x] += taps[k] * (value if good else np.float32(0))
                weight[y, x] += taps[k] if good else np.float32(0)
    out = np.full((rows, columns), np.float32(np.nan), np.float32)
    for y in range(rows):
        for x in range(columns):
            if image[y, x] != image[y, x]:
                continue
            value, share = np.float32(0), np.float32(0)
            for k in range(max(0, 2 - x), min(5, columns + 2 - x)):
                value += taps[k] * total[y, x + k - 2]
                share += taps[k] * weight[y, x + k - 2]
            if share >= MIN_WEIGHT:
                out[y, x] = value / share
    return out


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
    taps = np.array([1, 3, 3, 1], np.float32) / np.float32(8)
    out = np.empty((rows, columns), np.float32)
    for y in range(rows):
        for x in range(columns):
            value, share = np.float32(0), np.float32(0)
            for j in range(4):
                yy = 2 * y + j - 1
                if yy < 0 or yy >= image.shape[0]:
                    continue
                for i in range(4):
                    xx = 2 * x + i - 1
                    if xx >= 0 and xx < image.shape[1] and image[yy, xx] == image[yy, xx]:
                        value += taps[j] * taps[i] * image[yy, xx]
                        share += taps[j] * taps[i]
            out[y, x] = value / share if share >= 0.5 else np.nan
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def subtract_local_mean(image, radius):
    """Subtract the mean of the pixels with data in a square window: what is left is texture.

    Parameters
    ----------
    image : (y, x) float32
        NaN is no data.
    radius : int
        Half the window: it is ``2 * radius + 1`` pixels wide, cut at the image's border.

    Returns
    -------
    (y, x) float32
        NaN where the image is NaN.
    """
    rows, columns = image.shape
    out = np.empty((rows, columns), np.float32)
    column_sum = np.zeros(columns)
    column_count = np.zeros(columns)
    for y in range(-radius, rows):
        # running sums over the window's rows, then over its columns: the cost does not depend on the radius
        if y + radius < rows:
            _add_row(image, y + radius, 1.0, column_sum, column_count)
        if y - radius - 1 >= 0:
            _add_row(image, y - radius - 1, -1.0, column_sum, column_count)
        if y < 0:
            continue
        total, count = 0.0, 0.0
        for x in range(-radius, columns):
            if x + radius < columns:
                total += column_sum[x + radius]
                count += column_count[x + radius]
            if x - radius - 1 >= 0:
                total -= column_sum[x - radius - 1]
                count -= column_count[x - radius - 1]
            if x >= 0:
                out[y, x] = image[y, x] - total / max(count, 1.0)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _add_row(image, y, sign, column_sum, column_count):
    for x in range(image.shape[1]):
        value = image[y, x]
        if value == value:
            column_sum[x] += sign * value
            column_count[x] += sign


@njit(cache=True, nogil=True, error_model="numpy")
def temporal_median(stack, valid):
    """Median over time of the valid pixels.

    Parameters
    ----------
    stack : (time, y, x) float32
        NaN is ignored as if it were not valid.
    valid : (time, y, x) bool

    Returns
    -------
    (y, x) float32
        NaN where no date is valid; the mean of the two middle values where their number is even.
    """
    times, rows, columns = stack.shape
    out = np.empty((rows, columns), np.float32)
    tile = 16  # pixels of a row gathered together: one cache line per date is read once
    values = np.empty((tile, times), np.float32)
    counts = np.empty(tile, np.int64)
    for y in range(rows):
        for x0 in range(0, columns, tile):
            width = min(tile, columns - x0)
            counts[:] = 0
            for t in range(times):
                for i in range(width):
                    value = stack[t, y, x0 + i]
                    if valid[t, y, x0 + i] and value == value:
                        values[i, counts[i]] = value
                        counts[i] += 1
            for i in range(width):
                out[y, x0 + i] = _median(values[i], counts[i])
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _median(values, count):
    if count == 0:
        return np.float32(np.nan)
    upper = _select(values, count, count // 2)
    if count % 2 == 1:
        return upper
    lower = values[0]
    for i in range(1, count // 2):
        lower = max(lower, values[i])
    return np.float32(0.5) * (lower + upper)


@njit(cache=True, nogil=True, error_model="numpy")
def _select(values, count, k):
    """Return the k-th smallest value; smaller ones end up before it (Hoare's quickselect)."""
    low, high = 0, count - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]
