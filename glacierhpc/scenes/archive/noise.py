"""Band-limited random fields and their smooth evaluation between pixels; knows nothing of glaciers."""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage


def band_noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    spacing_m: float,
    *,
    shortest_m: float,
    longest_m: float,
    slope: float = 2.0,
    stretch: tuple[float, float] = (1.0, 1.0),
) -> np.ndarray:
    """Return a periodic random field with power only between two wavelengths.

    The amplitude spectrum falls as ``k ** -(slope / 2 + 0.5)``; its edges are soft, so that the field is
    smooth and can be evaluated between its samples by a cubic spline.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : (rows, columns)
    spacing_m : float
        Distance of the samples, metres.
    shortest_m, longest_m : float
        Wavelengths between which there is power, metres.
    slope : float
        Steepness of the power spectrum: 0 rough, 3 smooth hills.
    stretch : (rows, columns)
        Features are this much longer along each axis.

    Returns
    -------
    (rows, columns) float32
        Mean 0, standard deviation 1.
    """
    white = rng.standard_normal(shape, dtype=np.float32)
    rows = fft.fftfreq(shape[0], spacing_m).astype(np.float32)[:, None] * stretch[0]
    columns = fft.rfftfreq(shape[1], spacing_m).astype(np.float32)[None, :] * stretch[1]
    k = np.hypot(rows, columns)
    k[0, 0] = np.inf
    low, high = 1.0 / longest_m, 1.0 / shortest_m
    gain = k ** -(slope / 2 + 0.5) * np.exp(-((k / high) ** 8)) * (1 - np.exp(-((k / low) ** 4)))
    gain[0, 0] = 0.0
    field = fft.irfft2(fft.rfft2(white) * gain, s=shape)
    return (field / field.std()).astype(np.float32)


def ridged(
    rng: np.random.Generator,
    shape: tuple[int, int],
    spacing_m: float,
    *,
    longest_m: float,
    octaves: int = 5,
    gain: float = 0.52,
) -> np.ndarray:
    """Return a ridged multifractal (Musgrave's sum of folded noises) in [0, 1]: crests sharp, hollows round.

    References
    ----------
    Ebert et al. (2003), Texturing and Modeling: A Procedural Approach, 3rd edition, chapter 16.
    """
    total = np.zeros(shape, np.float32)
    weight = np.ones(shape, np.float32)
    scale, wavelength = 1.0, longest_m
    for _ in range(octaves):
        if wavelength < 4 * spacing_m:
            break
        noise = band_noise(
            rng, shape, spacing_m, shortest_m=wavelength * 0.6, longest_m=wavelength * 1.5, slope=1
        )
        crest = (1.0 - np.minimum(np.abs(noise) / 2.0, 1.0)) ** 2
        total += scale * weight * crest
        weight = np.clip(crest * 1.6, 0.0, 1.0)
        scale *= gain
        wavelength /= 2.0
    total -= total.min()
    return total / total.max()


def smoothstep(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return 0 below `low`, 1 above `high` and a smooth ramp between (3 x^2 - 2 x^3)."""
    x = np.clip((value - low) / (high - low), 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def sample(image: np.ndarray, row: np.ndarray, col: np.ndarray, *, mode: str = "nearest") -> np.ndarray:
    """Evaluate an image between its pixels by a cubic spline; same shape as `row`."""
    return ndimage.map_coordinates(image, (row, col), order=3, mode=mode, output=np.float32)
