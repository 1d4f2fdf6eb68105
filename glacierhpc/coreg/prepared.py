"""An image made ready for alignment: masked, smoothed, and at every resolution; what is done with it is in `search`."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from glacierhpc.kernels.filters import subtract_local_mean
from glacierhpc.kernels.masks import masked, survey
from glacierhpc.kernels.pyramid import halve, smooth, smooth_and_halve

TOP_SIDE_PX = 64  # the start is searched at a resolution that brings the longer side to this
LEAST_SIDE_PX = 16
# At low resolution, structure above a quarter of the scene is illumination, haze and snow cover rather than terrain
TOP_MEAN_RADIUS_PX = 6
# The finest structure (under about 5 px) is rock and crevasses; sunlight and snow lines, which move with the season,
# are coarser. On series of real glacier scenes a last look at 2 px halved the scatter of the shifts (median absolute
# deviation 0.27 to 0.13 px on Jakobshavn).
FINE_MEAN_RADIUS_PX = 2
CLIP_DEVIATIONS = 4.0  # a cloud that no mask has found may not outvote the terrain


class Prepared:
    """An image ready for alignment: make it once, align it to many. Nothing is computed before it is needed.

    Parameters
    ----------
    image : (y, x) float32
        NaN is invalid; not copied, not changed.
    pixels : int
        Number of valid pixels.
    half : (y // 2, x // 2) float32, optional
        The image smoothed at half the resolution, None where that would be too small.
    """

    def __init__(self, image: np.ndarray, pixels: int, half: np.ndarray | None = None) -> None:
        self.image = image
        self.pixels = pixels
        self._half = half

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.image.shape[0], self.image.shape[1]

    @cached_property
    def smooth(self) -> np.ndarray:
        """The image smoothed (standard deviation 1 px), (y, x): for many passes at full size."""
        return smooth(self.image)

    @cached_property
    def levels(self) -> tuple[np.ndarray, ...]:
        """The image itself, then smoothed at half the resolution, a quarter and so on.

        Pixel i of a level lies at 2 i + 0.5 of the one before.
        """
        if self._half is None:
            return (self.image,)
        levels = [self.image, self._half]
        while _has_half(levels[-1].shape):
            levels.append(halve(levels[-1]))
        return tuple(levels)

    @cached_property
    def brightness(self) -> tuple[float, float]:
        """Mean and standard deviation, roughly: of the smallest level."""
        values = self.levels[-1][np.isfinite(self.levels[-1])]
        values = values.astype(np.float64)  # fill values of float32 that no mask hides have no square in it
        return (float(values.mean()), float(values.std())) if values.size else (0.0, 0.0)

    def texture(self, level: int) -> np.ndarray | None:
        """Return what is left of a level without its local means, clipped; None where there is no contrast."""
        return _clipped(self.levels[level], TOP_MEAN_RADIUS_PX)

    @cached_property
    def fine(self) -> np.ndarray | None:
        """The finest structure, clipped and smoothed, (y, x); None where there is no contrast."""
        texture = _clipped(self.image, FINE_MEAN_RADIUS_PX)
        return None if texture is None else smooth(texture)


def prepare(image: np.ndarray, valid: np.ndarray | None = None) -> Prepared:
    """Make an image ready for alignment.

    Parameters
    ----------
    image : (y, x)
        Any unit; values that are not finite, or masked in a masked array, are invalid.
    valid : (y, x) bool, optional
        Where the image may be used.
    """
    values = as_float32(image)
    if valid is not None:
        values = masked(values, np.ascontiguousarray(valid, np.bool_))
    if _has_half(values.shape):  # counts on the way
        half, finite, infinite = smooth_and_halve(values)
    else:
        half, (finite, infinite) = None, survey(values)
    if infinite:
        values = np.where(np.isfinite(values), values, np.float32(np.nan))
    return Prepared(values, finite, half)


def as_float32(image: np.ndarray) -> np.ndarray:
    """Return an image (y, x) as contiguous float32, NaN where a masked array is masked."""
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and invalid
        if isinstance(image, np.ma.MaskedArray):
            image = np.ma.filled(image.astype(np.float32), np.nan)
        return np.ascontiguousarray(image, np.float32)


def _has_half(shape: tuple[int, ...]) -> bool:
    """Return whether an image is worth looking at in half its size."""
    return max(shape) > TOP_SIDE_PX and min(shape) >= 2 * LEAST_SIDE_PX


def _clipped(image: np.ndarray, radius: int) -> np.ndarray | None:
    """Return the texture without outliers, of unit deviation; None where the image is flat."""
    every = max(1, image.shape[0] // 256)
    sample = image[::every]
    brightness = float(np.abs(sample[np.isfinite(sample)]).max(initial=0.0))
    texture = subtract_local_mean(image, radius)
    sample = texture[::every]
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return None
    deviation = float(sample.std(dtype=np.float64))
    # float32 keeps seven digits: less contrast than this is rounding
    if not deviation > 1e-6 * brightness:
        return None
    spread = 1.4826 * _median(np.abs(sample - _median(sample)))
    limit = CLIP_DEVIATIONS * (spread if spread > 0.05 * deviation else deviation)
    np.clip(texture, -limit, limit, out=texture)
    texture *= np.float32(1.0 / np.clip(sample, -limit, limit).std(dtype=np.float64))
    return texture


def _median(values: np.ndarray) -> np.float32:
    """Do what `numpy.median` does for an odd number of values, or next to it, in half of the time."""
    middle = values.size // 2
    return np.partition(values, middle)[middle]
