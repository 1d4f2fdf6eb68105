"""Reading an image along the rows of another: the compiled interpolation inside `ecc_sums`.

`warp` resamples images that are kept, and cuts rows into runs too. There are two because they answer different
questions: here a row is looked at once and thrown away, NaN and the border may spread as far as the kernel reaches,
and the kernel is the one with the least error of phase; there no pixel with data around it may be lost.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

LINEAR, CUBIC, QUINTIC = 1, 2, 3  # half width of the kernel in pixels
# Between exact positions this far apart a homography's are interpolated linearly; with bottom rows up to 1e-5 per
# pixel, which moves the corners of a 2000 px scene by 40 px, they are off by less than 0.003 px
SEGMENT_PX = 32
FAST = {"reassoc", "contract", "nsz"}  # NaN is no data here: never "nnan"


@njit(cache=True, nogil=True, error_model="numpy")
def sample_row(image, matrix, y, half, gain, offset, out):
    """Interpolate ``gain * image + offset`` at where a matrix puts the pixels (0, y), (1, y), ... of a reference.

    The row is cut into runs in which the distance to the whole pixel before is constant: within one, all loads
    are contiguous, so that the loop runs on vectors.

    Parameters
    ----------
    image : (y, x) float32
        NaN is no data, and spreads as far as the kernel reaches.
    matrix : (3, 3) float64
        Reference pixel to image pixel.
    half : {LINEAR, CUBIC, QUINTIC}
        Bilinear, or Lagrange's polynomial through four or six pixels: of kernels that wide those with the least
        error of phase, which is what biases a registration (with four pixels an eighth of that of Keys' cubic, or of
        a bilinear kernel, at 8 px per wave).
    out : (x) float32
        Filled; NaN where the kernel does not lie wholly in the image.
    """
    buffer = np.empty(out.size + 5, np.float32)
    projective = matrix[2, 0] != 0.0 or matrix[2, 1] != 0.0
    length = SEGMENT_PX if projective else out.size
    for first in range(0, out.size, length):
        n = min(length, out.size - first)
        w = matrix[2, 0] * first + matrix[2, 1] * y + matrix[2, 2]
        u = (matrix[0, 0] * first + matrix[0, 1] * y + matrix[0, 2]) / w
        v = (matrix[1, 0] * first + matrix[1, 1] * y + matrix[1, 2]) / w
        slope_u, slope_v = matrix[0, 0] / w, matrix[1, 0] / w
        if projective:
            end = first + n
            w = matrix[2, 0] * end + matrix[2, 1] * y + matrix[2, 2]
            slope_u = ((matrix[0, 0] * end + matrix[0, 1] * y + matrix[0, 2]) / w - u) / n
            slope_v = ((matrix[1, 0] * end + matrix[1, 1] * y + matrix[1, 2]) / w - v) / n
        _sample_line(image, u, v, slope_u, slope_v, half, gain, offset, buffer, out[first : first + n])


@njit(cache=True, nogil=True, error_model="numpy")
def _sample_line(image, u, v, slope_u, slope_v, half, gain, offset, buffer, out):
    """Interpolate along the straight line (u, v) + k (slope_u, slope_v)."""
    rows, columns = image.shape
    first_u, end_u = _inside(u, slope_u, half - 1.0, columns - float(half), out.size)
    first_v, end_v = _inside(v, slope_v, half - 1.0, rows - float(half), out.size)
    k, end = max(first_u, first_v), min(end_u, end_v)
    if end <= k:
        out[:] = np.nan
        return
    out[:k] = np.nan
    out[end:] = np.nan
    while k < end:
        at_u, at_v = u + slope_u * k, v + slope_v * k
        i, j = int(math.floor(at_u)), int(math.floor(at_v))
        fu, fv = at_u - i, at_v - j
        n = min(_run(fu, slope_u - 1.0, end - k), _run(fv, slope_v, end - k))
        if half == LINEAR:
            _linear(
                image[j, i:], image[j + 1, i:], np.float32(fu), np.float32(slope_u - 1.0),
                np.float32(fv), np.float32(slope_v), gain, offset, out[k : k + n],
            )  # fmt: skip
        else:
            # down first, along the slanted line on which all positions of the run lie, then across
            slant = slope_v / slope_u
            start, drift = np.float32(fv - slant * (half - 1 + fu)), np.float32(slant)
            if half == CUBIC:
                _down4(
                    image[j - 1, i - 1 :], image[j, i - 1 :], image[j + 1, i - 1 :], image[j + 2, i - 1 :],
                    start, drift, buffer[: n + 3],
                )  # fmt: skip
                _across4(buffer, np.float32(fu), np.float32(slope_u - 1.0), gain, offset, out[k : k + n])
            else:
                _down6(
                    image[j - 2, i - 2 :], image[j - 1, i - 2 :], image[j, i - 2 :],
                    image[j + 1, i - 2 :], image[j + 2, i - 2 :], image[j + 3, i - 2 :],
                    start, drift, buffer[: n + 5],
                )  # fmt: skip
                _across6(buffer, np.float32(fu), np.float32(slope_u - 1.0), gain, offset, out[k : k + n])
        k += n


@njit(cache=True, nogil=True, error_model="numpy")
def _inside(start, slope, low, high, n):
    """Return the first and the one after the last k < n with ``low <= start + slope k < high``."""
    if slope == 0.0:
        return 0, (n if low <= start < high else 0)
    a, b = (low - start) / slope, (high - start) / slope
    first = int(min(max(math.floor(min(a, b)), 0.0), float(n)))
    end = int(min(max(math.ceil(max(a, b)) + 1.0, 0.0), float(n)))
    while first < end and not low <= start + slope * first < high:
        first += 1
    while end > first and not low <= start + slope * (end - 1) < high:
        end -= 1
    return first, end


@njit(cache=True, nogil=True, error_model="numpy")
def _run(fraction, drift, n):
    """Return after how many steps (1 to n) a fraction that drifts so much per step leaves [0, 1)."""
    if drift == 0.0:
        return n
    steps = math.ceil((1.0 - fraction) / drift) if drift > 0.0 else math.floor(-fraction / drift) + 1.0
    return int(min(max(steps, 1.0), float(n)))


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _linear(upper, lower, fu, drift_u, fv, drift_v, gain, offset, out):
    for k in range(out.size):
        step = np.float32(k)
        a, b = fu + drift_u * step, fv + drift_v * step
        top = upper[k] + a * (upper[k + 1] - upper[k])
        low = lower[k] + a * (lower[k + 1] - lower[k])
        out[k] = gain * (top + b * (low - top)) + offset


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _down4(row0, row1, row2, row3, fraction, drift, out):
    for k in range(out.size):
        w0, w1, w2, w3 = _weights4(fraction + drift * np.float32(k))
        out[k] = w0 * row0[k] + w1 * row1[k] + w2 * row2[k] + w3 * row3[k]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _across4(row, fraction, drift, gain, offset, out):
    for k in range(out.size):
        w0, w1, w2, w3 = _weights4(fraction + drift * np.float32(k))
        out[k] = gain * (w0 * row[k] + w1 * row[k + 1] + w2 * row[k + 2] + w3 * row[k + 3]) + offset


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _weights4(fraction):
    """Lagrange's weights of the four pixels around, float32."""
    one, two, sixth, half = np.float32(1), np.float32(2), np.float32(1 / 6), np.float32(0.5)
    below, above, beyond = one + fraction, one - fraction, two - fraction
    inner, outer = above * beyond, below * fraction
    return -sixth * fraction * inner, half * below * inner, half * outer * beyond, -sixth * outer * above


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _down6(row0, row1, row2, row3, row4, row5, fraction, drift, out):
    for k in range(out.size):
        w0, w1, w2, w3, w4, w5 = _weights6(fraction + drift * np.float32(k))
        low = w0 * row0[k] + w1 * row1[k] + w2 * row2[k]
        out[k] = low + w3 * row3[k] + w4 * row4[k] + w5 * row5[k]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _across6(row, fraction, drift, gain, offset, out):
    for k in range(out.size):
        w0, w1, w2, w3, w4, w5 = _weights6(fraction + drift * np.float32(k))
        low = w0 * row[k] + w1 * row[k + 1] + w2 * row[k + 2]
        out[k] = gain * (low + w3 * row[k + 3] + w4 * row[k + 4] + w5 * row[k + 5]) + offset


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _weights6(fraction):
    """Lagrange's weights of the six pixels around, float32."""
    one, two, three = np.float32(1), np.float32(2), np.float32(3)
    a, b, c = two + fraction, one + fraction, fraction
    d, e, f = one - fraction, two - fraction, three - fraction
    ab, bc, de, ef = a * b, b * c, d * e, e * f
    outer, inner, centre = np.float32(1 / 120), np.float32(1 / 24), np.float32(1 / 12)
    return (
        outer * bc * de * f,
        -inner * a * c * de * f,
        centre * ab * d * ef,
        centre * ab * c * ef,
        -inner * ab * c * d * f,
        outer * ab * c * de,
    )
