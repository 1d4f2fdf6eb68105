"""Resampling of an image through a matrix, with masks; how the matrix is found is in `ecc`.

What is made here is kept, hence the rules for masks and borders; `sampling` reads rows for sums only, without them.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from glacierhpc.errors import InputError, unknown_name
from glacierhpc.kernels.masks import masked
from glacierhpc.kernels.motions import as_homography

KERNELS = {"linear": 1, "cubic": 2, "lanczos": 3}  # name to half width in pixels
_LINEAR, _CUBIC = 1, 2
_PAD = 16  # pixels: a run is computed in whole vectors; what is too much is overwritten by the next run
_LONGEST = 256  # pixels of a run: it stays in the first-level cache while its gaps are filled
_STEEP = 0.15  # change of the offset per pixel: above, runs are so short that single pixels are faster
_EDGE, _OUTSIDE = -1e18, -2e18  # in place of an offset: too near the border for the kernel; beyond it

# NaN is data here: never "nnan"
_compiled = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
# a call that is left in a loop keeps it from being vectorised
_inlined = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"}, forceinline=True)


def warp(
    image: np.ndarray,
    matrix: np.ndarray,
    *,
    out_shape: tuple[int, int] | None = None,
    valid: np.ndarray | None = None,
    kernel: str = "lanczos",
) -> tuple[np.ndarray, np.ndarray]:
    """Resample a moving image onto the pixels of the reference.

    A pixel whose wide kernel touches no-data or the border is interpolated linearly from the valid ones of
    its four neighbours instead; it is valid where these carry at least half of the weight. Nothing is
    extrapolated further, and no-data never leaks into a value.

    Parameters
    ----------
    image : (y, x) float32
        The moving image; NaN is invalid.
    matrix : (2, 3) or (3, 3) float
        Maps a reference pixel (x, y, 1) to a moving pixel (OpenCV's ``WARP_INVERSE_MAP``).
    out_shape : (rows, columns), optional
        Shape of the result; that of `image` by default.
    valid : (y, x) bool, optional
        Where `image` may be used.
    kernel : {"lanczos", "cubic", "linear"}
        Lanczos of half width 3; Catmull-Rom; bilinear.

    Returns
    -------
    warped : out_shape float32
        NaN where invalid.
    valid : out_shape bool

    Raises
    ------
    InputError
        If the kernel is unknown, or the shapes do not fit.

    References
    ----------
    Keys (1981), doi:10.1109/TASSP.1981.1163711; Duchon (1979), doi:10.1175/1520-0450(1979)018<1016:LFIOAT>2.0.CO;2
    """
    if kernel not in KERNELS:
        raise unknown_name("kernel", kernel, KERNELS)
    if image.ndim != 2:
        raise InputError(f"an image of shape {image.shape} cannot be warped; give (y, x), one band at a time")
    if valid is not None and valid.shape != image.shape:
        raise InputError(f"`valid` has shape {valid.shape}, the image {image.shape}; they must be equal")
    source = np.ascontiguousarray(image, np.float32)
    if valid is not None:
        source = masked(source, valid)
    rows, columns = out_shape if out_shape is not None else image.shape
    out = np.empty((int(rows), int(columns)), np.float32)
    out_valid = np.empty(out.shape, np.bool_)
    _warp(source, as_homography(matrix), KERNELS[kernel], out, out_valid)
    return out, out_valid


@njit(cache=True, nogil=True, error_model="numpy")
def _warp(image, matrix, half, out, valid):
    """Fill `out` row by row, in runs of pixels whose neighbours in the image lie at one constant offset.

    Within a run all loads are contiguous, so that the compiler computes several pixels at once.
    """
    columns = out.shape[1]
    flat = image.reshape(image.size)
    line = np.zeros(columns + _PAD, np.float32)
    offset = np.zeros(columns)
    fractions = np.zeros((2, columns + _PAD), np.float32)
    shift = (matrix[:, :2] == np.eye(3)[:, :2]).all() and matrix[2, 2] == 1.0
    steep = abs(matrix[0, 0] / matrix[2, 2] - 1.0) + abs(matrix[1, 0] / matrix[2, 2]) > _STEEP
    for y in range(out.shape[0]):
        if shift:
            _shifted_row(image, flat, matrix, y, half, fractions, line)
        else:
            _positions(matrix, y, image.shape, half, offset, fractions)
            _row(image, flat, matrix, y, half, offset, fractions, steep, line)
        for x in range(columns):
            out[y, x] = line[x]
            valid[y, x] = line[x] == line[x]


@_compiled
def _shifted_row(image, flat, matrix, y, half, fractions, line):
    """Fill a row of a pure translation: one offset, the same weights everywhere."""
    rows, columns = image.shape
    width = line.size - _PAD
    dx, dy = np.floor(matrix[0, 2]), np.floor(matrix[1, 2])  # floats: they may be too large for an integer
    first, end = width, width
    if half - 1 <= y + dy < rows - half:
        first = int(min(max(half - 1 - dx, 0.0), width))
        end = int(min(max(columns - half - dx, first), width))
    fractions[0] = matrix[0, 2] - dx
    fractions[1] = matrix[1, 2] - dy
    for x in range(first, end, _LONGEST):
        start = int((y + dy) * columns + dx) + x
        _run(flat, columns, start, half, True, fractions, x, min(_LONGEST, end - x), line)
    for x in range(first):
        line[x] = _edge_pixel(image, matrix, y, x)
    for x in range(end, width):
        line[x] = _edge_pixel(image, matrix, y, x)


@njit(nogil=True, error_model="numpy")  # to the last bit as in `_edge_pixel`
def _positions(matrix, y, shape, half, offset, fractions):
    """Split a row's positions in the image into whole pixels (a flat index, less x) and fractions."""
    affine = matrix[2, 0] == matrix[2, 1] == 0.0 and matrix[2, 2] == 1.0  # saves the divisions
    low, high_x, high_y, stride = half - 1.0, float(shape[1] - half), float(shape[0] - half), float(shape[1])
    for x in range(offset.size):
        d = 1.0 if affine else matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
        u = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]) / d
        v = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]) / d
        iu, iv = np.floor(u), np.floor(v)
        inside = (iu >= low) & (iv >= low) & (iu < high_x) & (iv < high_y)
        beyond = (u < -0.5) | (v < -0.5) | (u > shape[1] - 0.5) | (v > shape[0] - 0.5)
        offset[x] = iv * stride + iu - x if inside else (_OUTSIDE if beyond else _EDGE)
        fractions[0, x] = u - iu
        fractions[1, x] = v - iv


@_compiled
def _row(image, flat, matrix, y, half, offset, fractions, steep, line):
    """Fill a row run by run, or, where the offset changes every few pixels, pixel by pixel."""
    x = 0
    while x < offset.size:
        end = x + 1 if steep else _run_end(offset, x)
        if offset[x] == _OUTSIDE:
            line[x:end] = np.nan
        elif offset[x] == _EDGE:
            for i in range(x, end):
                line[i] = _edge_pixel(image, matrix, y, i)
        else:
            start = int(offset[x]) + x
            _run(flat, image.shape[1], start, half, False, fractions, x, end - x, line)
        x = end


@_inlined
def _run_end(offset, x):
    """Return where the run that begins at `x` ends; blocks of pixels are compared at once."""
    bits = offset.view(np.int64)
    last = min(x + _LONGEST, offset.size)
    end = x + 1
    while end + _PAD <= last:
        different = 0
        for i in range(_PAD):
            different |= _at(bits, end + i) ^ bits[x]
        if different != 0:
            break
        end += _PAD
    while end < last and bits[end] == bits[x]:
        end += 1
    return end


@_inlined
def _run(flat, stride, start, half, shift, fractions, x, count, line):
    """Resample `count` pixels from `x` on; `start` is the flat index of the first one's whole position."""
    corner = start - (half - 1) * (stride + 1)  # of the first pixel's kernel
    padded = (count + _PAD - 1) // _PAD * _PAD
    if count > 1 and corner + (2 * half - 1) * (stride + 1) + padded <= flat.size:
        count = padded
    missing = np.float32(1)
    if half == _CUBIC:
        missing = _wide_run(_cubic, _sum_4x4, flat, stride, corner, shift, fractions, x, count, line)
    elif half > _CUBIC:
        missing = _wide_run(_lanczos, _sum_6x6, flat, stride, corner, shift, fractions, x, count, line)
    if missing > 0:
        _linear_run(flat, stride, start, fractions, x, count, half == _LINEAR, line)


@_inlined
def _wide_run(weights, weighted, flat, stride, corner, shift, fractions, x, count, line):
    """Resample with a wide kernel; return how many of the values are NaN (float32: it vectorises)."""
    missing = np.float32(0)
    if shift:
        weights_x, weights_y = weights(fractions[0, x]), weights(fractions[1, x])
        for i in range(count):
            value = weighted(flat, corner + i, stride, weights_x, weights_y)
            line[np.uintp(x + i)] = value
            missing += np.float32(1) if value != value else np.float32(0)
        return missing
    for i in range(count):
        k = np.uintp(x + i)
        value = weighted(flat, corner + i, stride, weights(fractions[0, k]), weights(fractions[1, k]))
        line[k] = value
        missing += np.float32(1) if value != value else np.float32(0)
    return missing


@_inlined
def _linear_run(flat, stride, start, fractions, x, count, everywhere, line):
    """Put the bilinear value where the run is NaN, or everywhere."""
    for i in range(count):
        k = np.uintp(x + i)
        value = _linear(flat, start + i, stride, fractions[0, k], fractions[1, k])
        line[k] = value if everywhere or line[k] != line[k] else line[k]


@_inlined
def _linear(flat, start, stride, fx, fy):
    """Bilinear value by the rule of `_edge_pixel`, all four neighbours inside."""
    gx, gy = np.float32(1) - fx, np.float32(1) - fy
    v00, s00 = _known(_at(flat, start))
    v01, s01 = _known(_at(flat, start + 1))
    v10, s10 = _known(_at(flat, start + stride))
    v11, s11 = _known(_at(flat, start + stride + 1))
    share = gy * (gx * s00 + fx * s01) + fy * (gx * s10 + fx * s11)
    total = gy * (gx * v00 + fx * v01) + fy * (gx * v10 + fx * v11)
    return total / share if share >= np.float32(0.5) else np.float32(np.nan)


@_inlined
def _known(value):
    """Return the value, 0 for NaN, and its share of the weight, 1 or 0."""
    missing = value != value
    return np.float32(0) if missing else value, np.float32(0) if missing else np.float32(1)


@_inlined
def _at(flat, index):
    """Return ``flat[index]``, index not negative: the test for that would keep a loop from being vectorised."""
    return flat[np.uintp(index)]


@_inlined
def _sum_4x4(flat, p, stride, weights_x, weights_y):
    """Weighted sum of the 4 x 4 pixels from flat index `p` on; written out, as loops over tuples stay loops."""
    rows = _sum_4(flat, p, weights_x) * weights_y[0]
    rows += _sum_4(flat, p + stride, weights_x) * weights_y[1]
    rows += _sum_4(flat, p + 2 * stride, weights_x) * weights_y[2]
    return rows + _sum_4(flat, p + 3 * stride, weights_x) * weights_y[3]


@_inlined
def _sum_6x6(flat, p, stride, weights_x, weights_y):
    rows = _sum_6(flat, p, weights_x) * weights_y[0]
    rows += _sum_6(flat, p + stride, weights_x) * weights_y[1]
    rows += _sum_6(flat, p + 2 * stride, weights_x) * weights_y[2]
    rows += _sum_6(flat, p + 3 * stride, weights_x) * weights_y[3]
    rows += _sum_6(flat, p + 4 * stride, weights_x) * weights_y[4]
    return rows + _sum_6(flat, p + 5 * stride, weights_x) * weights_y[5]


@_inlined
def _sum_4(flat, p, w):
    return w[0] * _at(flat, p) + w[1] * _at(flat, p + 1) + w[2] * _at(flat, p + 2) + w[3] * _at(flat, p + 3)


@_inlined
def _sum_6(flat, p, w):
    return _sum_4(flat, p, w) + w[4] * _at(flat, p + 4) + w[5] * _at(flat, p + 5)


@_inlined
def _cubic(f):
    """Weights of the four pixels around a position `f` past the second (Keys, equation 15)."""
    one, g = np.float32(1), np.float32(1) - f
    outer = np.float32(-0.5) * f * g
    inner_f = (np.float32(1.5) * f - np.float32(2.5)) * f * f + one
    inner_g = (np.float32(1.5) * g - np.float32(2.5)) * g * g + one
    return outer * g, inner_f, inner_g, outer * f


@_inlined
def _lanczos(f):
    """Weights of the six pixels around a position `f` past the third, normalised to sum to 1.

    The weights are sin(pi t) sin(pi t / 3) / t^2 with t = f + 2, f + 1, f, g, g + 1, g + 2, where g = 1 - f.
    The first sine is +- sin(pi f) for all, so that it drops out; the second is one of p = sin(pi f / 3),
    q = sin(pi g / 3) and p + q. All are multiplied by f g times the squared denominators: no division by 0.
    """
    one, two = np.float32(1), np.float32(2)
    g = one - f
    p_f, q_g = _sine_ratio(f), _sine_ratio(g)
    p, q = f * p_f, g * q_g
    a, b, c, d = (f + two) * (f + two), (f + one) * (f + one), (g + one) * (g + one), (g + two) * (g + two)
    far, near, centre = f * g * b * c, -f * g * (p + q) * a * d, a * b * c * d
    w0, w1, w2 = far * q * d, near * c, centre * g * p_f
    w3, w4, w5 = centre * f * q_g, near * b, far * p * a
    scale = one / (w0 + w1 + w2 + w3 + w4 + w5)
    w0, w1, w3, w4, w5 = w0 * scale, w1 * scale, w3 * scale, w4 * scale, w5 * scale
    return w0, w1, one - (w0 + w1 + w3 + w4 + w5), w3, w4, w5  # exactly 1 at f = 0


@_inlined
def _sine_ratio(t):
    """Return ``sin(pi t / 3) / t`` on [0, 1] by its series, to 2e-9."""
    z = t * t * np.float32((math.pi / 3) ** 2)
    series = np.float32(-1 / 39916800)
    for coefficient in (1 / 362880, -1 / 5040, 1 / 120, -1 / 6, 1.0):
        series = series * z + np.float32(coefficient)
    return series * np.float32(math.pi / 3)


@njit(nogil=True, error_model="numpy")
def _edge_pixel(image, matrix, y, x):
    """Bilinear value from those of the four neighbours that have data, NaN below half of the weight."""
    d = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
    u = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]) / d
    v = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]) / d
    rows, columns = image.shape
    # half a pixel beyond the outermost centres is still inside the image
    if not (u >= -0.5 and v >= -0.5 and u <= columns - 0.5 and v <= rows - 0.5):
        return np.float32(np.nan)
    iu, iv = int(math.floor(u)), int(math.floor(v))
    total, share = 0.0, 0.0
    for j in range(iv, iv + 2):
        for i in range(iu, iu + 2):
            weight = (1.0 - abs(u - i)) * (1.0 - abs(v - j))
            if 0 <= i < columns and 0 <= j < rows and weight > 0.0 and image[j, i] == image[j, i]:
                total += weight * image[j, i]
                share += weight
    return np.float32(total / share) if share >= 0.5 else np.float32(np.nan)
