"""Dense apparent motion between two images in pixels.

It is the motion of whatever the images show: of an index image it is the motion of snow and ice cover, not
of ice. Metres per year, calibration and products belong to the callers.
"""

from __future__ import annotations

import cv2
import numpy as np

from glacierhpc.errors import InputError
from glacierhpc.kernels.gaps import fill_gaps

FLOW_RANGE = 255.0  # Farneback's regularisation is absolute: on values in [0, 1] it returns zero motion
MIN_VALID_SHARE = 0.5  # of the window, weighted, for a vector to count


def dense_flow(
    first: np.ndarray,
    second: np.ndarray,
    *,
    window_px: int = 15,
    levels: int = 3,
    iterations: int = 5,
    poly_n: int = 7,
    value_range: tuple[float, float] | None = None,
    first_valid: np.ndarray | None = None,
    second_valid: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the displacement of every pixel from the first image to the second (Farneback).

    Both images are brought to 0 to 255 over one common range before, so that reflectance, 8 bit values and
    digital numbers give the same answer. Sub-pixel motion of images with texture; not for motion larger
    than about ``window_px * 2**levels / 4``, and blind where both images are flat (it returns zero there).

    Parameters
    ----------
    first, second : (y, x) float32
        On one grid, in one unit; NaN is invalid.
    window_px : int, default 15
        Averaging window; wider is smoother and less noisy.
    levels : int
        Pyramid levels besides the full resolution.
    poly_n : {5, 7}
        Neighbourhood of the polynomial expansion, pixels.
    value_range : (low, high), optional
        What becomes 0 and 255; by default the common minimum and maximum of the valid pixels.
    first_valid, second_valid : (y, x) bool, optional

    Returns
    -------
    u, v : (y, x) float32
        Pixels along x (columns) and y (rows); NaN where not valid.
    valid : (y, x) bool
        Where both images are valid, and at least half of the window around is.

    Raises
    ------
    InputError
        If shapes differ, or an option is out of range.

    References
    ----------
    Farneback (2003), SCIA, doi:10.1007/3-540-45103-X_50
    """
    _check(first, second, window_px, levels, poly_n, value_range)
    usable = np.isfinite(first) & np.isfinite(second)
    for mask in (first_valid, second_valid):
        if mask is not None:
            usable &= mask
    nothing = np.full(first.shape, np.nan, np.float32)
    if not usable.any():
        return nothing, nothing.copy(), usable
    low, high = value_range if value_range is not None else _common_range(first, second, usable)
    if not high > low:
        return np.where(usable, 0, nothing), np.where(usable, 0, nothing), usable
    scaled = [_scaled(image, usable, low, high) for image in (first, second)]
    flow = cv2.calcOpticalFlowFarneback(
        scaled[0],
        scaled[1],
        np.zeros((*first.shape, 2), np.float32),
        0.5,
        levels + 1,  # OpenCV counts the full resolution as a level
        window_px,
        iterations,
        poly_n,
        1.1 if poly_n == 5 else 1.5,  # the deviations that OpenCV's manual gives for 5 and 7
        0,  # a box window: the Gaussian one is narrower, its errors three times larger here
    )
    share = cv2.blur(usable.astype(np.float32), (window_px, window_px), borderType=cv2.BORDER_REPLICATE)
    valid = usable & (share >= MIN_VALID_SHARE)
    u, v = (np.where(valid, flow[..., axis], np.float32(np.nan)) for axis in (0, 1))
    return u, v, valid


def _check(
    first: np.ndarray,
    second: np.ndarray,
    window_px: int,
    levels: int,
    poly_n: int,
    value_range: tuple[float, float] | None,
) -> None:
    if first.ndim != 2 or first.shape != second.shape:
        raise InputError(f"images of shape {first.shape} and {second.shape}: give two equal (y, x) images")
    if window_px < 3 or levels < 0 or poly_n not in (5, 7):
        raise InputError(
            f"window_px={window_px!r}, levels={levels!r}, poly_n={poly_n!r}: give window_px >= 3, "
            "levels >= 0 and poly_n 5 or 7"
        )
    if value_range is not None and not value_range[1] > value_range[0]:
        raise InputError(f"value_range={value_range!r} must rise, for example (0.0, 1.0)")


def _common_range(first: np.ndarray, second: np.ndarray, usable: np.ndarray) -> tuple[float, float]:
    values = [image[usable] for image in (first, second)]
    return float(min(v.min() for v in values)), float(max(v.max() for v in values))


def _scaled(image: np.ndarray, usable: np.ndarray, low: float, high: float) -> np.ndarray:
    """Bring to 0..255; fill invalid pixels smoothly so that their borders do not look like edges."""
    scaled = (np.where(usable, image, low).astype(np.float64) - low) * (FLOW_RANGE / (high - low))
    filled, _ = fill_gaps(np.clip(scaled, 0.0, FLOW_RANGE).astype(np.float32), usable)
    return filled
