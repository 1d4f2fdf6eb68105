"""Reading an image along the rows of another: the compiled interpolation inside `ecc_sums`.

`warp` resamples images that are kept, and cuts rows into runs too. There are two because they answer different
questions: here a row is looked at once and thrown away, NaN and the border may spread as far as the kernel reaches,
and the kernel is the one with the least error of phase; there no pixel with data around it may be lost.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numba import njit

LINEAR, CUBIC, QUINTIC = 1, 2, 3  # half width of the kernel in pixels
CHORD_PX = (
    0.003  # between exact positions a homography's are interpolated linearly, as far as they are off by less
)
SOFT_SHARE = 0.125  # of either neighbour in the softening [1, 6, 1] / 8
SOFT_REACH_PX = 3  # rows and columns that a softened kernel reads beyond the pixel before, and the one behind
PHASES = 128  # fractions of a pixel that softened kernels are kept for; between them they are interpolated linearly
# Within a run with one fraction of a pixel the true one may drift by so much, half of it to either side of the middle.
# Runs begin elsewhere in every row (by the golden ratio, the most even way), so that each column is right in the mean:
# with all beginning below one another, two runs in a row of 512 px biased a turn by 0.01 px at the corners.
MAX_DRIFT_PX, STAGGER = 1 / 4, 0.5 * (math.sqrt(5.0) - 1)
LEAST_RUN_PX = 16  # shorter runs cost more than a kernel for each pixel
VECTOR_PX = 8  # what is left of a run after vectors of so many costs as much again
_1, _2, _3, _4, _5, _VECTOR = (np.uintp(n) for n in (1, 2, 3, 4, 5, VECTOR_PX))
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
    length = out.size
    if projective:
        bend = max(0.25 * abs(matrix[2, 0]), 1e-12)  # what a chord over n pixels misses is n^2 of these
        length = int(min(max(math.sqrt(CHORD_PX / bend), 8.0), float(length)))
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


@lru_cache(maxsize=1)
def softened_kernels() -> np.ndarray:
    """Return the kernels (PHASES + 1, 6) float32 that soften by [1, 6, 1] / 8 and shift by 0 ... 1 pixel in one.

    Of all kernels through six pixels that leave a constant and a slope as they are, those with the least error where
    landscapes have their energy (amplitude as the root of the frequency, as summed over the other axis, and a sensor's
    blur). On such a landscape they bias a shift by up to 0.0001 px, where softening before Lagrange's polynomial
    through as many biases it by 0.003.
    """
    pixels = np.arange(1.0 - SOFT_REACH_PX, SOFT_REACH_PX + 1)
    frequency = np.linspace(0, np.pi, 513)[1:]
    weight = np.exp(-0.25 * frequency**2) / frequency
    soft = 1 - 2 * SOFT_SHARE * (1 - np.cos(frequency))
    constraints = np.stack([np.ones_like(pixels), pixels])
    system = np.zeros((8, 8))
    system[:6, :6] = np.cos(np.subtract.outer(pixels, pixels)[..., None] * frequency) @ weight
    system[:6, 6:], system[6:, :6] = constraints.T, constraints
    wanted = []
    for fraction in np.arange(PHASES + 1) / PHASES:
        energy = np.cos(np.subtract.outer(pixels, fraction)[:, None] * frequency) @ (weight * soft)
        wanted.append([*energy, 1.0, fraction])
    return np.ascontiguousarray(np.linalg.solve(system, np.array(wanted).T)[:6].T, np.float32)


@njit(cache=True, nogil=True, error_model="numpy")
def run_length(matrix, shape):
    """Return how many pixels of a row of a reference (rows, columns) a matrix moves by about the same fraction."""
    drift = 0.0
    for y in (0.0, shape[0] - 1.0):
        for x in (0.0, shape[1] - 1.0):
            w = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
            u = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]) / w
            v = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]) / w
            drift = max(drift, abs((matrix[0, 0] - u * matrix[2, 0]) / w - 1.0))
            drift = max(drift, abs((matrix[1, 0] - v * matrix[2, 0]) / w))
    length = min(MAX_DRIFT_PX / max(drift, 1e-9), float(shape[1] + VECTOR_PX))
    return int(length) // VECTOR_PX * VECTOR_PX


@njit(cache=True, nogil=True, error_model="numpy")
def sample_row_softened(image, matrix, y, kernels, length, gain, offset, buffer, out):
    """Do what `sample_row` does on an image softened by [1, 6, 1] / 8 in both axes, in runs with one kernel each.

    Parameters
    ----------
    kernels : (PHASES + 1, 6) float32
        `softened_kernels`.
    length : int
        Pixels of a run, `run_length`.
    buffer : (x + 5 + VECTOR_PX) float32
        Room to work in.
    """
    rows, columns = image.shape
    half = 0.5 * (length - 1)
    u0, u1 = matrix[0, 1] * y + matrix[0, 2], matrix[0, 0]
    v0, v1 = matrix[1, 1] * y + matrix[1, 2], matrix[1, 0]
    w0, w1 = matrix[2, 1] * y + matrix[2, 2], matrix[2, 0]
    known = 0
    for first in range(-int((y * STAGGER) % 1.0 * length), out.size, length):
        x = first + half
        scale = 1.0 / (w0 + w1 * x)
        u, v = (u0 + u1 * x) * scale - half, (v0 + v1 * x) * scale
        if not (2.0 <= v < rows - 3.0 and -length < u < columns):
            continue
        i, j = int(math.floor(u)), int(math.floor(v))
        begin = max(max(first, 0), first + 2 - i)
        end = min(min(first + length, out.size), first + columns - 3 - i)
        if begin < end:
            if known < begin:
                out[known:begin] = np.nan
            _filter(
                image, np.uintp(j - 2), np.uintp(i + begin - first - 2), kernels, np.float32(v - j), np.float32(u - i),
                gain, offset, buffer, np.uintp(begin), np.uintp(end - begin), out,
            )  # fmt: skip
            known = end
    out[known:] = np.nan


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _filter(image, top, left, kernels, down, across, gain, offset, buffer, first, n, out):
    """Weight six rows from `top` on, then six neighbours in a row, by the kernels of two fractions.

    Views of the rows would cost as much as the weighting of 100 pixels; places without a sign let the compiler leave
    out what Python does for places below zero.
    """
    r1, r2, r3, r4, r5 = top + _1, top + _2, top + _3, top + _4, top + _5
    a, b, c, d, e, f = _kernel(kernels, down)
    whole = (n + _5 + _VECTOR - _1) // _VECTOR * _VECTOR
    for k in range(min(whole, np.uintp(image.shape[1]) - left)):
        x = left + k
        upper = a * image[top, x] + b * image[r1, x] + c * image[r2, x]
        buffer[k] = upper + (d * image[r3, x] + e * image[r4, x] + f * image[r5, x])
    a, b, c, d, e, f = _kernel(kernels, across)
    a, b, c, d, e, f = gain * a, gain * b, gain * c, gain * d, gain * e, gain * f
    for k in range(n):
        before = a * buffer[k] + b * buffer[k + _1] + c * buffer[k + _2] + offset
        out[first + k] = before + (d * buffer[k + _3] + e * buffer[k + _4] + f * buffer[k + _5])


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _kernel(kernels, fraction):
    """Return the six weights of a fraction of a pixel."""
    place = fraction * np.float32(PHASES)
    before = min(int(place), PHASES - 1)
    part = place - np.float32(before)
    return (
        kernels[before, 0] + part * (kernels[before + 1, 0] - kernels[before, 0]),
        kernels[before, 1] + part * (kernels[before + 1, 1] - kernels[before, 1]),
        kernels[before, 2] + part * (kernels[before + 1, 2] - kernels[before, 2]),
        kernels[before, 3] + part * (kernels[before + 1, 3] - kernels[before, 3]),
        kernels[before, 4] + part * (kernels[before + 1, 4] - kernels[before, 4]),
        kernels[before, 5] + part * (kernels[before + 1, 5] - kernels[before, 5]),
    )


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
