"""The least corner error that any unbiased alignment of a pair can have: Cramer-Rao bounds.

Gain and offset count as known, which makes no difference that shows: there are many pixels. Every pixel valid in both
images counts in full, those beside a mask too, which show less: no difference can be taken there. Under 30 % of clouds
the bound is 3 % higher without one row of pixels around them, 6 % without the two that a smoothing reaches over.
"""

from __future__ import annotations

import numpy as np
from pairs import DEVIATIONS, Pair, apply, corner_points
from world import BAND, World, landscape

EVERY_PX = 2  # sums over every second pixel each way stand for those over all


def fields(motion: str, x: np.ndarray, y: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return what each parameter of a motion does to points (n,): displacements (parameter, 2, n) near identity."""
    half = max(shape) / 2
    u, v = (x - (shape[1] - 1) / 2) / half, (y - (shape[0] - 1) / 2) / half
    one, no = np.ones_like(u), np.zeros_like(u)
    shift, turn, zoom = [(one, no), (no, one)], (-v, u), (u, v)
    linear = [(u, no), (v, no), (no, u), (no, v)]
    tilt = [(u * u, u * v), (u * v, v * v)]
    sets = {
        "translation": shift,
        "euclidean": [*shift, turn],
        "similarity": [*shift, turn, zoom],
        "affine": [*shift, *linear],
        "homography": [*shift, *linear, *tilt],
    }
    return np.array(sets[motion])


def common_points(pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y and which of the reference's pixels are valid in both images, on every `EVERY_PX`-th pixel."""
    rows, columns = pair.shape
    y, x = (axis.ravel() for axis in np.mgrid[0:rows:EVERY_PX, 0:columns:EVERY_PX].astype(float))
    u, v = apply(pair.truth, x, y)
    inside = (u >= 0) & (u <= columns - 1) & (v >= 0) & (v <= rows - 1)
    if pair.reference_valid is not None:
        inside &= pair.reference_valid[::EVERY_PX, ::EVERY_PX].ravel()
    if pair.moving_valid is not None:
        i, j = (np.clip(np.rint(p), 0, n - 1).astype(int) for p, n in ((v, rows), (u, columns)))
        inside &= pair.moving_valid[i, j]
    return x, y, inside


def known_signal(pair: Pair, motion: str, gradients: tuple[np.ndarray, np.ndarray], noise: float) -> float:
    """Return the bound of the corner RMS, pixels, for a landscape known without noise.

    The covariance of the parameters is ``2 sigma^2 (G^T G)^-1`` with the landscape's true derivatives by the
    parameters in ``G``, one row per pixel valid in both images, and noise sigma on both.

    Parameters
    ----------
    gradients : two (y, x) arrays
        Of the noise-free reference at every `EVERY_PX`-th pixel, `World.gradients`, deviation 1.
    noise : float
        Deviation as a share of the range.
    """
    x, y, common = common_points(pair)
    slopes = np.stack([g.ravel()[common] for g in gradients]) / DEVIATIONS
    derivatives = np.einsum("kcn,cn->kn", fields(motion, x[common], y[common], pair.shape), slopes)
    information = EVERY_PX**2 * derivatives @ derivatives.T / (2 * noise**2)
    return _corner_rms(information, motion, pair.shape)


def unknown_signal(pair: Pair, motion: str, noise: float) -> float:
    """Return the bound of the corner RMS, pixels, for a landscape of which only the spectrum is known.

    The landscape is then noise itself where it is weaker than the sensor's: each frequency counts with
    ``coherence^2 / (1 - coherence^2)``. The bound of a delay (Knapp & Carter) holds for every small part of the
    image; information adds up over the parts.

    References
    ----------
    Knapp & Carter (1976), IEEE TASSP 24(4), doi:10.1109/TASSP.1976.1162830
    """
    x, y, common = common_points(pair)
    shown = fields(motion, x[common], y[common], pair.shape)
    per_pixel = information_of_a_pixel(noise)
    information = EVERY_PX**2 * np.einsum("kcn,cd,ldn->kl", shown, per_pixel, shown, optimize=True)
    return _corner_rms(information, motion, pair.shape)


def information_of_a_pixel(noise: float, *, size: int = 768) -> np.ndarray:
    """Return the (2, 2) Fisher information of a shift (x, y) that a pixel of two noisy images adds, 1 / px^2."""
    f = np.fft.fftfreq(size)
    radius = np.hypot(f[:, None], f)
    power = (landscape(radius) * (radius <= BAND)) ** 2
    power[0, 0] = 0.0
    power /= power.mean() * DEVIATIONS**2
    coherence = (power / (power + noise**2)) ** 2
    weight = coherence / (1 - coherence)
    along_x = (2 * np.pi) ** 2 * (f**2 * weight).mean()
    return np.diag([along_x, along_x])


def _corner_rms(information: np.ndarray, motion: str, shape: tuple[int, int]) -> float:
    corners = fields(motion, *corner_points(shape), shape)
    covariance = np.linalg.inv(information)
    return float(np.sqrt(np.einsum("kcn,kl,lcn->", corners, covariance, corners) / 4))


def exact_gradients(world: World, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the landscape's derivatives where the bounds need them."""
    return world.gradients(shape, every=EVERY_PX)
