"""What changes from scene to scene: sun, snow line, clouds; knows nothing of pixels' colours or files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from glacierhpc.scenes.archive.noise import band_noise, smoothstep

_OVERPASS_HOUR = 10.3  # local solar time of Landsat's descending node
_YEAR_DAYS = 365.25


def sun_position(day_of_year: float, latitude: float) -> tuple[float, float]:
    """Return azimuth (clockwise from north) and elevation of the sun at Landsat's overpass, degrees.

    Declination after Cooper (1969), Solar Energy 12(3), doi:10.1016/0038-092X(69)90047-4; a few tenths of a
    degree from the true sun, which nothing here depends on.
    """
    declination = np.radians(23.45 * np.sin(2 * np.pi * (284 + day_of_year) / 365.0))
    hour = np.radians(15.0 * (_OVERPASS_HOUR - 12.0))
    lat = np.radians(latitude)
    up = np.sin(lat) * np.sin(declination) + np.cos(lat) * np.cos(declination) * np.cos(hour)
    east = -np.cos(declination) * np.sin(hour)
    north = np.cos(lat) * np.sin(declination) - np.sin(lat) * np.cos(declination) * np.cos(hour)
    return float(np.degrees(np.arctan2(east, north)) % 360), float(np.degrees(np.arcsin(up)))


@dataclass(frozen=True)
class SnowSeason:
    """Snow at the date of each scene; arrays (scene,)."""

    line: np.ndarray
    """Height of the snow line as a share of the relief: below 0 all is white, above 1 all is bare."""
    anomaly: np.ndarray
    """The part of `line` that is not the seasonal cycle."""
    melt: np.ndarray
    """0 cold fresh snow .. 1 wet old snow."""


def snow_season(times: np.ndarray, *, latitude: float, seed: int) -> SnowSeason:
    """Return the snow of every date: a seasonal cycle plus what no calendar knows.

    The snow line is ``cycle(t) + slow(t) + fast(t)``. The cycle is the same every year: lowest in late
    winter, highest in late summer. `slow` is an autoregressive process of 200 days' memory (standard
    deviation 0.10 of the relief), sampled daily from the seed: a snowy winter is still felt in the following
    summer. `fast` has a memory of 12 days (standard deviation 0.035): single snowfalls. So the present cover
    tells something about the next months that a climatology cannot know, and the season something that
    persistence cannot: a forecast that joins the two beats both, by an amount that decays over about half a
    year. This was put in on purpose; the size of that skill is a property of this archive and says nothing
    about real glaciers.

    Parameters
    ----------
    times : (scene,) datetime64
    latitude : float
        In the south the cycle is half a year later.
    seed : int
    """
    days = (times - times.min()) / np.timedelta64(1, "D")
    last = int(days.max()) + 2
    rng = np.random.default_rng([seed, 2])
    slow = _autoregressive(rng, last, memory_days=200.0, deviation=0.10)
    fast = _autoregressive(rng, last, memory_days=12.0, deviation=0.035)
    anomaly = np.interp(days, np.arange(last), slow + fast)
    phase = year_phase(times, latitude)
    # Skewed: the line climbs over four months of melt and falls faster with the first snow of autumn.
    wave = np.cos(2 * np.pi * (phase - 0.62) + 0.45 * np.sin(2 * np.pi * (phase - 0.62)))
    line = 0.39 + 0.33 * wave
    melt = np.clip(0.5 + 0.6 * np.cos(2 * np.pi * (phase - 0.57)) + anomaly, 0.0, 1.0)
    return SnowSeason(line + anomaly, anomaly, melt)


def year_phase(times: np.ndarray, latitude: float) -> np.ndarray:
    """Return how much of the year is over, 0..1, counted from midwinter's month of the hemisphere."""
    start = times.astype("datetime64[Y]").astype("datetime64[s]")
    phase = (times.astype("datetime64[s]") - start) / np.timedelta64(1, "D") / _YEAR_DAYS
    return (phase + (0.5 if latitude < 0 else 0.0)) % 1.0


def _autoregressive(
    rng: np.random.Generator, days: int, *, memory_days: float, deviation: float
) -> np.ndarray:
    keep = np.exp(-1.0 / memory_days)
    kicks = rng.standard_normal(days) * deviation * np.sqrt(1 - keep**2)
    value = rng.standard_normal() * deviation
    series = np.empty(days)
    for day in range(days):
        value = keep * value + kicks[day]
        series[day] = value
    return series


def cloud_shares(times: np.ndarray, *, mean: float, latitude: float, seed: int) -> np.ndarray:
    """Return the share of each scene under cloud, (scene,): clear days, broken days, overcast days.

    Beta distributed around a mean that follows the season (wettest in early summer), as cloud cover is
    U-shaped.
    """
    rng = np.random.default_rng([seed, 3])
    if mean <= 0:
        return np.zeros(len(times))
    seasonal = mean * (1 + 0.35 * np.cos(2 * np.pi * (year_phase(times, latitude) - 0.55)))
    centre = np.clip(seasonal, 0.01, 0.97)
    return np.clip(rng.beta(1.3 * centre, 1.3 * (1 - centre)), 0.0, 0.98)


@dataclass(frozen=True)
class Clouds:
    """Clouds on the ground's raster; arrays (y, x) float32 in [0, 1]."""

    cover: np.ndarray
    """Opacity of thick cloud."""
    shadow: np.ndarray
    """Share of direct light taken away on the ground."""
    cirrus: np.ndarray
    """Opacity of thin high cloud."""
    brightness: np.ndarray
    """Factor of the cloud's reflectance: lit tops, darker hollows."""

    @classmethod
    def none(cls, shape: tuple[int, int]) -> Clouds:
        """Return a clear sky."""
        empty = np.zeros(shape, np.float32)
        return cls(empty, empty, empty, empty)


def make_clouds(
    rng: np.random.Generator,
    shape: tuple[int, int],
    spacing_m: float,
    *,
    share: float,
    extent_m: float,
    sun_azimuth: float,
    sun_elevation: float,
) -> Clouds:
    """Make the clouds of one scene; their shadow lies away from the sun, at ``height / tan(elevation)``."""
    if share < 0.005:
        return Clouds.none(shape)
    field = band_noise(rng, shape, spacing_m, shortest_m=3 * spacing_m, longest_m=extent_m / 2.2, slope=2.0)
    edge = float(np.quantile(field, 1.0 - share))
    cover = smoothstep(field, edge - 0.08, edge + 0.35)
    base_m = (
        rng.uniform(0.03, 0.07) * extent_m
    )  # above ground; in proportion, so that shadows stay in small scenes too
    reach = base_m / np.tan(np.radians(max(sun_elevation, 12.0))) / spacing_m
    rows, columns = reach * np.cos(np.radians(sun_azimuth)), -reach * np.sin(np.radians(sun_azimuth))
    shadow = _moved(cover, round(rows), round(columns))
    cirrus = np.zeros(shape, np.float32)
    if rng.random() < 0.2:
        streaks = band_noise(
            rng, shape, spacing_m, shortest_m=extent_m / 12, longest_m=extent_m, stretch=(1, 3.0)
        )
        cirrus = smoothstep(streaks, 0.9, 2.2)
    lit = ndimage.gaussian_filter(field, 2.0)
    lit = lit - _moved(
        lit, round(-4 * np.cos(np.radians(sun_azimuth))), round(4 * np.sin(np.radians(sun_azimuth)))
    )
    brightness = np.clip(0.88 + 0.10 * np.clip(field - edge, 0, 2) - 0.5 * lit, 0.55, 1.3).astype(np.float32)
    return Clouds(cover, shadow * (1 - cover), cirrus * (1 - cover), brightness)


def _moved(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return the image moved by whole cells; the rim is wrapped, as the noise is periodic."""
    return np.roll(image, (rows, columns), (0, 1))
