"""Synthetic landscapes that can be looked at through any matrix without interpolation error.

A `World` is a periodic, band-limited random landscape: a Fourier series with random coefficients. It is
evaluated by a non-uniform Fourier transform, whose error `World.sampling_error_px` measures. Pairs are in `pairs`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.fft
from numba import njit

BAND = 0.48  # cycles per pixel: nothing above it, so that no image has aliases
TAPS, OVERSAMPLING = 8, 2  # width of the kernel, grid points; fine grid points per pixel
BETA = (
    2.3 * TAPS
)  # shape of the kernel at twofold oversampling, Barnett et al. (2019), doi:10.1137/18M120885X


def landscape(frequency: np.ndarray) -> np.ndarray:
    """Return the amplitude at frequencies in cycles per pixel: power falls by 2.4 powers under the sensor's blur.

    Fitted to red, near infrared and panchromatic Landsat 7 and 8 images of the Himalaya and Alaska: exponents 1.9 to
    2.6, and a point spread of 0.43 to 0.47 px (Gaussian). Flat beyond 150 px, so that deviation does not grow
    with the image.
    """
    return (frequency**2 + 1 / 150**2) ** -0.6 * np.exp(-2 * (np.pi * 0.45 * frequency) ** 2)


def smooth(frequency: np.ndarray) -> np.ndarray:
    """Return the amplitude of a blurred landscape with detail of 1.5 to 20 px, for tests that need no detail."""
    blurs = (1.5, 3.0, 7.0, 20.0)
    return np.sum([s**1.2 * np.exp(-2 * (np.pi * s * frequency) ** 2) for s in blurs], axis=0)


Spectrum = Callable[[np.ndarray], np.ndarray]


class World:
    """A periodic landscape of mean 0 and deviation 1, to be looked at through any matrix.

    Parameters
    ----------
    shape : (rows, columns)
        The period, pixels; enlarged to sizes that transform fast.
    seed : int or sequence of int
        Same seed, shape and spectrum: same landscape.
    spectrum : callable
        Amplitude at frequencies in cycles per pixel.
    """

    def __init__(
        self, shape: tuple[int, int], *, seed: int | list[int] = 0, spectrum: Spectrum = landscape
    ) -> None:
        self.shape = tuple(scipy.fft.next_fast_len(int(n), real=True) for n in shape)
        noise = np.random.default_rng(seed).standard_normal(self.shape, np.float32)
        fy, fx = self.frequencies()
        frequency = np.hypot(fy, fx)
        amplitude = spectrum(frequency) * (frequency <= BAND)
        amplitude[0, 0] = 0.0
        self.coefficients = scipy.fft.rfft2(noise) * amplitude.astype(np.float32)
        deviation = np.sqrt((_both_halves(self.shape[1]) * np.abs(self.coefficients) ** 2).sum())
        self.coefficients /= np.float32(deviation)
        self._grid = self._on_fine_grid(self.coefficients)

    def frequencies(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the frequencies (rows, 1) and (1, columns) of the coefficients, cycles per pixel."""
        return np.fft.fftfreq(self.shape[0])[:, None], np.fft.rfftfreq(self.shape[1])[None]

    def image(
        self, shape: tuple[int, int], matrix: np.ndarray | None = None, *, every: int = 1
    ) -> np.ndarray:
        """Return the landscape at ``matrix (x, y, 1)`` of each pixel, or of every so-manyth each way, float32."""
        rows, columns = (len(range(0, n, every)) for n in shape)
        out = np.empty((rows, columns), np.float32)
        _evaluate(self._grid, homography(np.eye(3) if matrix is None else matrix), every, out)
        return out

    def gradients(self, shape: tuple[int, int], *, every: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Return the exact derivatives by x and y at each pixel, or every so-manyth each way."""
        out = []
        for frequency in reversed(self.frequencies()):
            values = np.empty([len(range(0, n, every)) for n in shape], np.float32)
            derived = self.coefficients * (2j * np.pi * frequency).astype(np.complex64)
            _evaluate(self._on_fine_grid(derived), np.eye(3), every, values)
            out.append(values)
        return out[0], out[1]

    def exactly(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the Fourier series at some points, summed term by term in float64: slow, to check the rest."""
        fy, fx = self.frequencies()
        weighted = self.coefficients.astype(np.complex128) * _both_halves(self.shape[1])
        turns = (np.exp(2j * np.pi * np.outer(p, f)) for p, f in ((y, fy.ravel()), (x, fx.ravel())))
        rows, columns = turns
        return np.einsum("pr,rc,pc->p", rows, weighted, columns, optimize=True).real

    def sampling_error_px(self, *, points: int = 400, seed: int = 0) -> float:
        """Return the root mean square error of the evaluation as the shift that would make it, pixels."""
        rng = np.random.default_rng(seed)
        turn = np.eye(3)
        turn[:2] += rng.uniform(-0.03, 0.03, (2, 3)) + [[0, 0, 9.3], [0, 0, -4.7]]
        image = self.image(self.shape, turn)
        y, x = (rng.integers(0, n, points) for n in self.shape)
        u, v, _ = turn @ np.array([x, y, np.ones(points)])
        error = image[y, x] - self.exactly(u, v)
        slope = self.gradients(self.shape, every=4)[0]
        return float(np.sqrt((error**2).mean() / (slope**2).mean()))

    def _on_fine_grid(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the values on a finer grid that the kernel turns into values anywhere."""
        rows, columns = self.shape
        fine = tuple(OVERSAMPLING * n for n in self.shape)
        spread_y = _kernel_transform(np.fft.fftfreq(rows) / OVERSAMPLING)
        spread_x = _kernel_transform(np.fft.rfftfreq(columns) / OVERSAMPLING)
        scaled = coefficients / (spread_y[:, None] * spread_x).astype(np.float32)
        padded = np.zeros((fine[0], fine[1] // 2 + 1), np.complex64)
        half = (rows + 1) // 2
        padded[:half, : scaled.shape[1]] = scaled[:half]
        padded[fine[0] - (rows - half) :, : scaled.shape[1]] = scaled[half:]
        return np.ascontiguousarray(scipy.fft.irfft2(padded, s=fine, norm="forward", overwrite_x=True))


def _both_halves(columns: int) -> np.ndarray:
    """How often each column of a half spectrum counts in sums over the whole one."""
    weights = np.full(columns // 2 + 1, 2.0)
    weights[0] = 1.0
    if columns % 2 == 0:
        weights[-1] = 1.0
    return weights


def _kernel_transform(frequency: np.ndarray) -> np.ndarray:
    """Fourier transform of the kernel at frequencies in cycles per fine grid point, by quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(80)
    values = weights * np.exp(BETA * (np.sqrt(1 - nodes**2) - 1)) * TAPS / 2
    return np.cos(np.pi * TAPS * np.outer(frequency, nodes)) @ values


@njit(cache=True, nogil=True, fastmath=True)
def _weights(position, weights):
    """Weights of the grid points from the one returned on, for a position in grid points."""
    first = int(np.ceil(position - TAPS / 2))
    for k in range(TAPS):
        z = (first + k - position) * (2.0 / TAPS)
        weights[k] = np.exp(BETA * (np.sqrt(max(1.0 - z * z, 0.0)) - 1.0))
    return first


@njit(cache=True, nogil=True, fastmath=True)
def _evaluate(grid, matrix, every, out):
    rows, columns = grid.shape
    along_x, along_y = np.empty(TAPS), np.empty(TAPS)
    index_x = np.empty(TAPS, np.int64)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            x, y = float(j * every), float(i * every)
            w = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
            u = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]) / w
            v = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]) / w
            first_x = _weights(u * OVERSAMPLING, along_x)
            first_y = _weights(v * OVERSAMPLING, along_y)
            for k in range(TAPS):
                index_x[k] = (first_x + k) % columns
            total = 0.0
            for m in range(TAPS):
                row = (first_y + m) % rows
                part = 0.0
                for k in range(TAPS):
                    part += along_x[k] * grid[row, index_x[k]]
                total += along_y[m] * part
            out[i, j] = total


def homography(matrix: np.ndarray) -> np.ndarray:
    """Return a (2, 3) or (3, 3) matrix as (3, 3) float64."""
    return np.vstack([np.asarray(matrix, np.float64), [0, 0, 1]])[:3]
