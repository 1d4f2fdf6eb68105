"""Reflectance of the ground under a given sun, snow and cloud; knows no sensor and no file.

Broad-band surface reflectances per material, rounded from published spectra: snow and firn after Dozier
(1989), doi:10.1016/0034-4257(89)90101-6; ice, debris and rock after Hall et al. (1988),
doi:10.1016/0034-4257(88)90055-7, and Paul et al. (2016), doi:10.3390/rs8070575; meadow and water after the
USGS spectral library (Kokaly et al. 2017, doi:10.3133/ds1035). So snow has a normalised difference snow index
near 0.83 and rock near -0.25.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glacierhpc.scenes.archive.flow import IceTexture, debris_cover
from glacierhpc.scenes.archive.noise import smoothstep
from glacierhpc.scenes.archive.terrain import Ground
from glacierhpc.scenes.archive.weather import Clouds

BANDS = ("coastal", "blue", "green", "red", "nir08", "swir16", "swir22")
_REFLECTANCE = {
    "snow": (0.88, 0.87, 0.85, 0.83, 0.74, 0.08, 0.06),
    "firn": (0.68, 0.67, 0.65, 0.62, 0.50, 0.06, 0.04),
    "ice": (0.50, 0.49, 0.46, 0.40, 0.27, 0.035, 0.025),
    "debris": (0.12, 0.13, 0.16, 0.18, 0.21, 0.24, 0.21),
    "rock": (0.11, 0.12, 0.15, 0.18, 0.22, 0.25, 0.22),
    "slate": (0.07, 0.075, 0.09, 0.10, 0.13, 0.16, 0.15),
    "meadow": (0.03, 0.04, 0.075, 0.06, 0.33, 0.17, 0.09),
    "straw": (0.06, 0.08, 0.12, 0.15, 0.24, 0.27, 0.19),
    "water": (0.10, 0.10, 0.11, 0.06, 0.025, 0.01, 0.008),
    "cloud": (0.76, 0.75, 0.74, 0.74, 0.75, 0.52, 0.42),
}
_DIFFUSE_SHARE = 0.28  # light from the sky and from slopes opposite; keeps shaded snow from going black


@dataclass(frozen=True)
class Scene:
    """The ground as light leaves it, before the sensor; arrays (y, x) float32 on the ground's raster."""

    reflectance: dict[str, np.ndarray]
    snow: np.ndarray
    """Share of snow, or of bare ice, in [0, 1]: what QA_PIXEL calls snow."""
    water: np.ndarray
    clouds: Clouds


class Surface:
    """The ground with its materials, made once; `look` gives its reflectance at a time."""

    def __init__(self, ground: Ground, *, bands: tuple[str, ...], seed: int) -> None:
        self._ground, self._bands = ground, bands
        self._textures = [
            IceTexture(field, spacing_m=ground.spacing_m, seed=seed * 131 + k)
            for k, field in enumerate(ground.glaciers)
        ]
        self._glacier = np.zeros(ground.shape, bool)
        for field in ground.glaciers:
            self._glacier |= field.mask

    def look(
        self,
        years: float,
        *,
        snow_line: float,
        melt: float,
        green: float,
        sun_azimuth: float,
        sun_elevation: float,
        clouds: Clouds,
    ) -> Scene:
        """Return what there is to see.

        Parameters
        ----------
        years : float
            Time since the start of the archive; moves the ice.
        snow_line : float
            Share of the relief, see `weather.SnowSeason`.
        melt, green : float in [0, 1]
            Age of the snow; how green meadows are.
        sun_azimuth, sun_elevation : float
            Degrees.
        clouds : Clouds
        """
        pattern, debris = self._ice(years)
        snow = self.snow_share(snow_line)
        light = self._light(sun_azimuth, sun_elevation, clouds.shadow)
        ice_like = np.clip(snow + (1 - snow) * self._glacier * (1 - debris), 0, 1)
        ground = self._ground
        reflectance = {}
        for band in self._bands:
            bare = self._bare(band, green)
            bare = np.where(self._glacier, self._bare_ice(band, pattern, debris), bare)
            age = 0.6 * melt
            colour = _of("snow", band) + age * (_of("firn", band) - _of("snow", band))
            white = colour * (1 + 0.02 * ground.rock + 0.03 * pattern)
            value = (bare + snow * (white - bare)) * light
            value += clouds.cirrus * 0.10
            cloud = _of("cloud", band) * clouds.brightness
            reflectance[band] = value + clouds.cover * (cloud - value)
        return Scene(reflectance, ice_like, ground.water * (1 - snow), clouds)

    def snow_share(self, snow_line: float) -> np.ndarray:
        """Return the share of snow at a snow line; it lies lower on ice and in hollows, and slides off steep
        slopes."""
        ground = self._ground
        low, high = ground.relief_m
        line = low + snow_line * (high - low)
        above = ground.elevation_m + ground.snow_patches + 0.10 * (high - low) * self._glacier - line
        return smoothstep(above / (high - low), -0.045, 0.045) * (1 - ground.bare * ~self._glacier)

    def debris(self) -> np.ndarray:
        """Return the share of debris on the ice at the start, (y, x)."""
        return self._ice(0.0)[1]

    def _ice(self, years: float) -> tuple[np.ndarray, np.ndarray]:
        pattern = np.zeros(self._ground.shape, np.float32)
        debris = np.zeros(self._ground.shape, np.float32)
        for field, texture in zip(self._ground.glaciers, self._textures, strict=True):
            values = texture.at(years)
            pattern[field.mask] = values
            debris[field.mask] = debris_cover(field, values)
        return pattern, debris

    def _bare(self, band: str, green: float) -> np.ndarray:
        ground = self._ground
        stone = _of("rock", band) + ground.strata * (_of("slate", band) - _of("rock", band))
        plants = _of("straw", band) + green * (_of("meadow", band) - _of("straw", band))
        value = (stone + ground.meadow * (plants - stone)) * (1 + 0.22 * ground.rock)
        return value + ground.water * (_of("water", band) - value)

    def _bare_ice(self, band: str, pattern: np.ndarray, debris: np.ndarray) -> np.ndarray:
        clean = _of("ice", band) * (1 + 0.13 * pattern)
        stones = _of("debris", band) * (1 + 0.14 * pattern)
        return clean + debris * (stones - clean)

    def _light(self, azimuth: float, elevation: float, shadow: np.ndarray) -> np.ndarray:
        """Return the factor of a slope's light: Lambert's cosine over that of flat ground, plus light from
        the sky."""
        ground = self._ground
        az, el = np.radians(azimuth), np.radians(max(elevation, 8.0))
        facing = np.sin(el) - np.cos(el) * (np.sin(az) * ground.slope_east + np.cos(az) * ground.slope_north)
        facing /= np.sqrt(1 + ground.slope_east**2 + ground.slope_north**2)
        direct = np.clip(facing / np.sin(el), 0.0, None)
        # Low suns would make slopes that face them twice as bright as real products show: saturate towards
        # 1.5.
        direct = 1.35 * np.tanh(direct / 1.35) / np.tanh(1 / 1.35)
        return (_DIFFUSE_SHARE + (1 - _DIFFUSE_SHARE) * direct * (1 - 0.85 * shadow)).astype(np.float32)


def _of(material: str, band: str) -> float:
    return _REFLECTANCE[material][BANDS.index(band)]
