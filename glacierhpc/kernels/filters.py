"""NaN-aware image filters: high-pass, gradient and temporal median; NaN is "no data" everywhere.

Smoothing and halving are in `pyramid`, geometric resampling in `warp`, filling of gaps in `gaps`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from glacierhpc.kernels.pyramid import soften

# NaN is data here: never "nnan"
_compiled = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
_inlined = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"}, forceinline=True)
_TILE = 64  # pixels whose medians are found together: 64 dates of them fit into the first-level cache


def gradient_size(image: np.ndarray) -> np.ndarray:
    """Return the length of the gradient of an image (y, x) float32, softened first; NaN where it is not known.

    It stays the same where bright and dark are exchanged, as between seasons with and without snow on rock.
    """
    soft = soften(np.ascontiguousarray(image, np.float32))
    out = np.full(soft.shape, np.nan, np.float32)
    across, down = soft[1:-1, 2:] - soft[1:-1, :-2], soft[2:, 1:-1] - soft[:-2, 1:-1]
    out[1:-1, 1:-1] = np.float32(0.5) * np.hypot(across, down)
    out[np.isnan(soft)] = np.nan
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
    nothing = np.full(columns, np.nan, image.dtype)
    sums, counts = np.zeros(columns), np.zeros(columns, np.float32)
    windows = np.zeros((2, columns + 2 * radius), np.float32)
    total, count = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for y in range(-radius, rows):
        # running sums down the columns: the cost hardly depends on the radius
        entering = image[y + radius] if y + radius < rows else nothing
        leaving = image[y - radius - 1] if y - radius - 1 >= 0 else nothing
        _slide(entering, leaving, sums, counts)
        if y >= 0:
            _sum_windows(sums, radius, windows[0], windows[1], total)
            _sum_windows(counts, radius, windows[0], windows[1], count)
            _subtract_mean(image[y], total, count, out[y])
    return out


@_compiled
def _slide(entering, leaving, sums, counts):
    """Move the window by a row: float64, so that a row leaves no trace when it is taken away again."""
    for x in range(sums.size):
        new, old = entering[x], leaving[x]
        has_new, has_old = new == new, old == old
        sums[x] += np.float64(new if has_new else np.float32(0)) - np.float64(
            old if has_old else np.float32(0)
        )
        counts[x] += (np.float32(1) if has_new else np.float32(0)) - (
            np.float32(1) if has_old else np.float32(0)
        )


@_compiled
def _sum_windows(line, radius, windows, spare, out):
    """Set ``out[x]`` to the sum of `line` from ``x - radius`` to ``x + radius``, beyond its ends 0.

    A running sum would be a chain of additions, each waiting for the last. Here windows of 1, 2, 4, ... pixels
    come from each other, and the ones that are in the binary form of the width are put together.
    """
    windows[:radius] = 0
    windows[radius + line.size :] = 0
    for x in range(line.size):
        windows[np.uintp(x + radius)] = line[x]
    width, size, first = 2 * radius + 1, 1, 0
    out[:] = 0
    while size <= width:
        if width & size:
            _add_from(windows, first, out)
            first += size
        if 2 * size <= width:
            _double(windows, size, spare)
        windows, spare = spare, windows
        size *= 2


@_compiled
def _add_from(windows, first, out):
    for x in range(out.size):
        out[x] += windows[np.uintp(first + x)]


@_compiled
def _double(windows, size, out):
    for x in range(windows.size - size):
        out[x] = windows[x] + windows[np.uintp(x + size)]


@_compiled
def _subtract_mean(row, total, count, out):
    for x in range(out.size):
        n = count[x]
        out[x] = row[x] - total[x] / (n if n > np.float32(1) else np.float32(1))


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
    values = np.empty((times, _TILE), np.float32)
    counts = np.empty(_TILE, np.int32)
    for y in range(rows):
        for x in range(0, columns, _TILE):
            width = min(_TILE, columns - x)
            counts[:] = 0
            for t in range(times):
                _known_or_infinity(stack[t, y, x : x + width], valid[t, y, x : x + width], values[t], counts)
            _sort(values)
            for i in range(width):
                n = counts[i]
                out[y, x + i] = np.nan
                if n > 0:
                    out[y, x + i] = np.float32(0.5) * (values[(n - 1) // 2, i] + values[n // 2, i])
    return out


@_inlined
def _known_or_infinity(row, valid, values, counts):
    """Copy part of a date, infinity where it is not valid: sorted, the valid values come first."""
    for x in range(row.size):
        good = valid[x] & (row[x] == row[x])
        values[x] = row[x] if good else np.float32(np.inf)
        counts[x] += np.int32(good)


@_compiled
def _sort(values):
    """Sort every column: the steps do not depend on the values, so that all columns take them together.

    Batcher's merge exchange: Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M;
    Batcher (1968), doi:10.1145/1468075.1468121.
    """
    n = values.shape[0]
    top = 1
    while 2 * top < n:
        top *= 2
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while d > 0:
            for k in range(n - d):
                if k & p == r:
                    _order(values[k], values[k + d])
            d, q, r = q - p, q // 2, p
        p //= 2


@_inlined
def _order(low, high):
    for i in range(_TILE):
        a, b = low[i], high[i]
        low[i] = min(a, b)
        high[i] = max(a, b)
