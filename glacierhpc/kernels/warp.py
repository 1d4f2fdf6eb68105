"""Resampling of an image through a matrix, with masks; how the matrix is found is in `ecc`."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from glacierhpc.errors import InputError, unknown_name

KERNELS = {"linear": 1, "cubic": 2, "lanczos": 3}  # name to half width in pixels
_LINEAR, _CUBIC = 1, 2


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
        source = np.where(valid, source, np.float32(np.nan))
    rows, columns = out_shape if out_shape is not None else image.shape
    out = np.empty((int(rows), int(columns)), np.float32)
    _warp(source, as_homography(matrix), KERNELS[kernel], out)
    return out, ~np.isnan(out)


def as_homography(matrix: np.ndarray) -> np.ndarray:
    """Return the (3, 3) float64 form of a (2, 3) or (3, 3) matrix."""
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape == (2, 3):
        matrix = np.vstack([matrix, [0.0, 0.0, 1.0]])
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise InputError(f"{matrix.tolist()!r} is not a finite (2, 3) or (3, 3) matrix")
    return np.ascontiguousarray(matrix)


@njit(cache=True, nogil=True, error_model="numpy")
def _warp(image, matrix, half, out):
    weights_x = np.empty(6, np.float32)
    weights_y = np.empty(6, np.float32)
    last_x, last_y = math.nan, math.nan
    rows, columns = image.shape
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            d = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
            u = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]) / d
            v = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]) / d
            # half a pixel beyond the outermost centres is still inside the image
            if not (u >= -0.5 and v >= -0.5 and u <= columns - 0.5 and v <= rows - 0.5):
                out[y, x] = np.nan
                continue
            iu, iv = int(math.floor(u)), int(math.floor(v))
            fu, fv = u - iu, v - iv
            value = np.float32(np.nan)
            if (
                half > _LINEAR
                and iu >= half - 1
                and iv >= half - 1
                and iu < columns - half
                and iv < rows - half
            ):
                if fu != last_x:  # a pure shift has the same weights everywhere
                    _weights(fu, half, weights_x)
                    last_x = fu
                if fv != last_y:
                    _weights(fv, half, weights_y)
                    last_y = fv
                value = np.float32(0)
                for j in range(2 * half):
                    line = np.float32(0)
                    for i in range(2 * half):
                        line += weights_x[i] * image[iv - half + 1 + j, iu - half + 1 + i]
                    value += weights_y[j] * line
            if value != value:
                value = _linear(image, iu, iv, fu, fv)
            out[y, x] = value


@njit(cache=True, nogil=True, error_model="numpy")
def _linear(image, iu, iv, fu, fv):
    """Bilinear value from those of the four neighbours that have data, NaN below half of the weight."""
    total, share = 0.0, 0.0
    for j in range(2):
        for i in range(2):
            x, y = iu + i, iv + j
            if x < 0 or y < 0 or x >= image.shape[1] or y >= image.shape[0]:
                continue
            weight = (fu if i == 1 else 1.0 - fu) * (fv if j == 1 else 1.0 - fv)
            if weight > 0.0 and image[y, x] == image[y, x]:
                total += weight * image[y, x]
                share += weight
    return np.float32(total / share) if share >= 0.5 else np.float32(np.nan)


@njit(cache=True, nogil=True, error_model="numpy")
def _weights(fraction, half, weights):
    """Fill the weights of the ``2 * half`` pixels around a position `fraction` past the (half - 1)-th."""
    total = 0.0
    for k in range(2 * half):
        t = abs(fraction - (k - half + 1))
        if half == _CUBIC:
            w = (1.5 * t - 2.5) * t * t + 1.0 if t < 1.0 else ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0
        elif t < 1e-9:
            w = 1.0
        else:
            w = 3.0 * math.sin(math.pi * t) * math.sin(math.pi * t / 3.0) / (math.pi * t) ** 2
        weights[k] = w
        total += w
    for k in range(2 * half):  # Lanczos weights sum to 1 within 1 % only: a constant must stay constant
        weights[k] /= total
