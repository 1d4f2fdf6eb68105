"""Which pixels of an image can be used; how images are filtered around those that cannot is in `filters`."""

from __future__ import annotations

import numpy as np
from numba import njit

_LARGEST = np.float32(np.finfo(np.float32).max)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def survey(image):
    """Return the number of finite pixels, and of infinite ones.

    Parameters
    ----------
    image : (y, x) float32
    """
    finite, infinite = 0, 0
    for y in range(image.shape[0]):
        row_finite, row_nan = 0, 0
        for x in range(image.shape[1]):
            row_finite += abs(image[y, x]) <= _LARGEST
            row_nan += image[y, x] != image[y, x]
        finite += row_finite
        infinite += image.shape[1] - row_finite - row_nan
    return finite, infinite


@njit(cache=True, nogil=True, error_model="numpy")
def masked(image, valid):
    """Return a copy of an image (y, x) float32 with NaN where `valid` (y, x) bool is False, or it is not finite."""
    out = np.empty(image.shape, np.float32)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            ok = valid[y, x] and abs(image[y, x]) <= _LARGEST
            out[y, x] = image[y, x] if ok else np.float32(np.nan)
    return out
