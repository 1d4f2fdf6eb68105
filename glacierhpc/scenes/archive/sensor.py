"""From the ground to the pixels of a product: point spread, sampling, noise, fill, digital numbers and
QA_PIXEL."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pyproj import Transformer
from scipy import ndimage

from glacierhpc.grid import Grid
from glacierhpc.scenes.archive.noise import sample
from glacierhpc.scenes.archive.surface import Scene
from glacierhpc.scenes.archive.terrain import OVERSAMPLING, Ground

SCALE, OFFSET = 2.75e-05, -0.2  # Landsat Collection 2 Level 2 science product guide (LSDS-1619), table 6-1
_POINT_SPREAD_PX = (
    0.55  # Gaussian sigma: a transfer of 0.22 at the pixel's Nyquist frequency, OLI has about 0.3
)
_DILATION_PX = 3


@dataclass(frozen=True)
class Wedge:
    """The slanted edges of a swath: ground outside ``low <= east * cos(a) - north * sin(a) <= high`` is
    fill."""

    angle: float
    """Radians, how far the edges lean from north."""
    low_m: float
    high_m: float

    def inside(self, east: np.ndarray, north: np.ndarray) -> np.ndarray:
        """Return which points, metres from the centre, the swath covers."""
        across = self.across(east, north)
        return (across >= self.low_m) & (across <= self.high_m)

    def across(self, east: np.ndarray, north: np.ndarray) -> np.ndarray:
        """Return metres across the swath."""
        return east * np.cos(self.angle) - north * np.sin(self.angle)


class PixelToGround:
    """Where the pixels of a grid lie on the ground, in metres from the ground's centre in the ground's CRS.

    A cubic polynomial per axis stands for the map projection: over 30 km it departs from it by less than a
    millimetre, and it can be evaluated between pixels at no cost.
    """

    def __init__(self, grid: Grid, crs: str, centre: tuple[float, float]) -> None:
        rows, columns = grid.shape
        self._half = np.array([max(columns - 1, 1) / 2, max(rows - 1, 1) / 2])
        x, y = np.meshgrid(np.linspace(-5, columns + 4, 15), np.linspace(-5, rows + 4, 15))
        a, _, c, _, e, f = grid.transform
        easting, northing = a * (x + 0.5) + c, e * (y + 0.5) + f
        if grid.crs != crs:
            to_ground = Transformer.from_crs(grid.crs, crs, always_xy=True)
            easting, northing = to_ground.transform(easting, northing)
        target = np.column_stack([easting.ravel() - centre[0], northing.ravel() - centre[1]])
        self._coefficients, *_ = np.linalg.lstsq(self._terms(x.ravel(), y.ravel()), target, rcond=None)

    def __call__(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (east, north) of fractional pixels (column, row), pixel centres at integers."""
        east, north = (self._terms(x.ravel(), y.ravel()) @ self._coefficients).T
        return east.reshape(x.shape), north.reshape(x.shape)

    def _terms(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = x / self._half[0] - 1, y / self._half[1] - 1
        return np.column_stack([u**i * v**j for i in range(4) for j in range(4 - i)])


@dataclass(frozen=True)
class Product:
    """The pixels of one scene."""

    bands: dict[str, np.ndarray]
    """(y, x) uint16 digital numbers, 0 is fill; reflectance is ``SCALE * number + OFFSET``."""
    qa_pixel: np.ndarray
    """(y, x) uint16, bits of Landsat Collection 2."""
    fill: np.ndarray
    """(y, x) bool."""

    @property
    def cloud_cover_percent(self) -> float:
        """Share of cloud among pixels with data."""
        data = ~self.fill
        return float(100.0 * ((self.qa_pixel & 8) > 0)[data].mean()) if data.any() else 0.0


def photograph(
    scene: Scene,
    ground: Ground,
    place: PixelToGround,
    matrix: np.ndarray,
    *,
    shape: tuple[int, int],
    wedge: Wedge | None,
    noise: float,
    rng: np.random.Generator,
) -> Product:
    """Sample a scene with a sensor whose pointing is wrong by `matrix`.

    Parameters
    ----------
    scene : Scene
    ground : Ground
    place : PixelToGround
        Of the perfect grid.
    matrix : (3, 3) float64
        Maps a perfect-grid pixel (x, y, 1) to the pixel of this scene in which its ground appears. Everything
        moves with it: bands, clouds, quality bits and fill.
    shape : (rows, columns)
    wedge : Wedge, optional
        Swath edges; None covers everything.
    noise : float
        Standard deviation in reflectance.
    rng : numpy.random.Generator
        Draws the noise.
    """
    x, y = np.meshgrid(np.arange(shape[1], dtype=float), np.arange(shape[0], dtype=float))
    inverse = np.linalg.inv(matrix)
    true_x = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]
    true_y = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]
    east, north = place(true_x, true_y)
    row, col = ground.rows_and_columns(east, north)
    fill = ~wedge.inside(east, north) if wedge else np.zeros(shape, bool)
    bands = {
        name: _digital(seen(value, row, col), noise, rng, fill) for name, value in scene.reflectance.items()
    }
    clouds = scene.clouds
    qa = quality_bits(
        cloud=sample(clouds.cover, row, col) > 0.08,
        shadow=sample(clouds.shadow, row, col) > 0.12,
        cirrus=sample(clouds.cirrus, row, col) > 0.15,
        snow=sample(scene.snow, row, col) > 0.5,
        water=sample(scene.water, row, col) > 0.5,
        fill=fill,
    )
    return Product(bands, qa, fill)


def seen(field: np.ndarray, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Return a field of the ground's raster as the sensor's detectors see it at fractional cells."""
    return sample(ndimage.gaussian_filter(field, _POINT_SPREAD_PX * OVERSAMPLING), row, col)


def _digital(reflectance: np.ndarray, noise: float, rng: np.random.Generator, fill: np.ndarray) -> np.ndarray:
    noisy = reflectance + noise * rng.standard_normal(reflectance.shape, dtype=np.float32)
    number = np.clip(np.rint((noisy - OFFSET) / SCALE), 1, 65535).astype(np.uint16)
    number[fill] = 0
    return number


def quality_bits(
    *,
    cloud: np.ndarray,
    shadow: np.ndarray,
    cirrus: np.ndarray,
    snow: np.ndarray,
    water: np.ndarray,
    fill: np.ndarray,
) -> np.ndarray:
    """Return QA_PIXEL of masks (y, x): bits 0 to 7 and the confidence pairs 8 to 15; fill is 1 and nothing
    else.

    References
    ----------
    USGS (2023), Landsat 8-9 Collection 2 Level 2 science product guide, LSDS-1619, table 6-3.
    """
    dilated = ndimage.binary_dilation(cloud, ndimage.generate_binary_structure(2, 2), _DILATION_PX) & ~cloud
    shadow = shadow & ~cloud
    snow = snow & ~cloud & ~shadow
    water = water & ~cloud & ~snow
    bits = {1: dilated, 2: cirrus, 3: cloud, 4: shadow, 5: snow, 6: ~(cloud | dilated), 7: water}
    qa = np.zeros(cloud.shape, np.uint16)
    for bit, mask in bits.items():
        qa |= mask.astype(np.uint16) << np.uint16(bit)
    for bit, mask in {8: cloud, 10: shadow, 12: snow, 14: cirrus}.items():
        qa |= np.where(mask, 3, 1).astype(np.uint16) << np.uint16(bit)
    qa[fill] = 1
    return qa
