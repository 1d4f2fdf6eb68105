"""What each scene of an archive will be: date, grid, pointing error, light, weather; draws no pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyproj import Transformer

from glacierhpc.grid import Grid, utm_zone
from glacierhpc.scenes.archive.sensor import Wedge
from glacierhpc.scenes.archive.weather import cloud_shares, snow_season, sun_position, year_phase

_AREA_SHARE = 0.80  # of a scene's width: what is recommended as the area, inside all grids of two zones
_OVERPASS_HOUR = 10.3
_LANDSAT_9 = np.datetime64("2021-11-01")  # from here on two satellites take turns


@dataclass(frozen=True)
class SceneSpec:
    """One scene before it is drawn."""

    index: int
    scene: str
    time: str
    platform: str
    path_row: tuple[str, str]
    zone: int
    years: float
    """Since the first scene."""
    matrix: np.ndarray
    """(3, 3), perfect grid pixel to scene pixel."""
    sun: tuple[float, float]
    """Azimuth, elevation in degrees."""
    snow_line: float
    snow_anomaly: float
    melt: float
    green: float
    cloud_share: float
    wedge: Wedge | None


def grids_for(
    centre_lonlat: tuple[float, float], *, size_px: int, resolution_m: float, zones: int
) -> tuple[tuple[Grid, ...], tuple[float, float]]:
    """Return the perfect grid of each zone, and the centre of the first in its own coordinates.

    Pixel corners lie on multiples of the resolution, so that a cube on the default grid copies pixels.
    """
    lon, lat = centre_lonlat
    first = utm_zone(lon, lat)
    codes = [first] if zones == 1 else [first, _neighbour(first, lon)]
    grids = []
    for code in codes:
        x, y = Transformer.from_crs("EPSG:4326", code, always_xy=True).transform(lon, lat)
        left = round(x / resolution_m - size_px / 2) * resolution_m
        top = round(y / resolution_m + size_px / 2) * resolution_m
        grids.append(Grid(code, (resolution_m, 0.0, left, 0.0, -resolution_m, top), (size_px, size_px)))
    left, bottom, right, top = grids[0].bounds
    return tuple(grids), ((left + right) / 2, (bottom + top) / 2)


def _neighbour(code: str, lon: float) -> str:
    number = int(code[-2:])
    middle = number * 6 - 183
    other = number + 1 if lon >= middle else number - 1
    return f"{code[:-2]}{(other - 1) % 60 + 1:02d}"


def bbox_inside(grid: Grid) -> list[float]:
    """Return west, south, east, north of an area with a margin to every scene's rim."""
    left, bottom, right, top = grid.bounds
    x, y, half = (left + right) / 2, (bottom + top) / 2, _AREA_SHARE * (right - left) / 2
    to_lonlat = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    corners = np.array([to_lonlat.transform(x + i * half, y + j * half) for i in (-1, 1) for j in (-1, 1)])
    # The box between the corners' middle values: grid lines and meridians differ by a degree or two.
    west, east = np.sort(corners[:, 0])[[1, 2]]
    south, north = np.sort(corners[:, 1])[[1, 2]]
    return [round(float(value), 6) for value in (west, south, east, north)]


def make_plan(p: dict[str, Any], grids: Sequence[Grid]) -> list[SceneSpec]:
    """Return the scenes of an archive in order of time; `p` are the parameters of `create`."""
    count, seed = p["scenes"], p["seed"]
    lon, lat = p["bbox_centre_lonlat"]
    dates = np.datetime64(p["start"], "D") + np.arange(count) * np.timedelta64(p["every_days"], "D")
    minutes = round(((_OVERPASS_HOUR - lon / 15.0) % 24) * 60)
    times = dates.astype("datetime64[s]") + np.timedelta64(minutes * 60, "s")
    snow = snow_season(times, latitude=lat, seed=seed)
    clouds = cloud_shares(times, mean=p["cloud_share"], latitude=lat, seed=seed)
    green = np.clip(0.5 - 0.75 * np.cos(2 * np.pi * (year_phase(times, lat) - 0.06)), 0, 1)
    matrices = pointing_errors(
        count, p["misregistration_px"], motion=p["motion"], size_px=p["size_px"], seed=seed
    )
    extent = p["size_px"] * p["resolution_m"]
    plan = []
    for i in range(count):
        zone = i % len(grids)
        day = float((dates[i] - dates[i].astype("datetime64[Y]")) / np.timedelta64(1, "D")) + 1
        satellite = 9 if dates[i] >= _LANDSAT_9 and i % 2 else 8
        path_row = (f"{147 - zone:03d}", "038")
        plan.append(
            SceneSpec(
                index=i,
                scene=f"LC0{satellite}_L2SP_{''.join(path_row)}_{str(dates[i]).replace('-', '')}_02_T1",
                time=f"{times[i]}Z",
                platform=f"landsat-{satellite}",
                path_row=path_row,
                zone=zone,
                years=float((times[i] - times[0]) / np.timedelta64(1, "D")) / 365.25,
                matrix=matrices[i],
                sun=sun_position(day, lat),
                snow_line=float(snow.line[i]),
                snow_anomaly=float(snow.anomaly[i]),
                melt=float(snow.melt[i]),
                green=float(green[i]),
                cloud_share=float(clouds[i]),
                wedge=_wedge(np.random.default_rng([seed, 5, i]), extent) if p["nodata_wedges"] else None,
            )
        )
    return plan


def pointing_errors(count: int, deviation_px: float, *, motion: str, size_px: int, seed: int) -> np.ndarray:
    """Return (scene, 3, 3) matrices, perfect grid to scene, whose shifts have zero mean (one scene alone
    keeps its own).

    For ``euclidean`` the rotation moves a corner by `deviation_px` / 2 (one standard deviation).
    """
    rng = np.random.default_rng([seed, 4])
    shifts = np.clip(rng.standard_normal((count, 2)), -2.5, 2.5) * deviation_px
    turns = np.clip(rng.standard_normal(count), -2.5, 2.5) * deviation_px / 2 / (size_px / np.sqrt(2))
    if count > 1:
        shifts -= shifts.mean(axis=0)
        turns -= turns.mean()
    if motion == "translation":
        turns[:] = 0.0
    middle = (size_px - 1) / 2
    cos, sin = np.cos(turns), np.sin(turns)
    matrices = np.zeros((count, 3, 3))
    matrices[:, 0, 0], matrices[:, 0, 1] = cos, -sin
    matrices[:, 1, 0], matrices[:, 1, 1] = sin, cos
    matrices[:, 0, 2] = shifts[:, 0] + middle - cos * middle + sin * middle
    matrices[:, 1, 2] = shifts[:, 1] + middle - sin * middle - cos * middle
    matrices[:, 2, 2] = 1.0
    return matrices


def _wedge(rng: np.random.Generator, extent_m: float) -> Wedge | None:
    """Return the swath edge of every other scene, so that it cuts between a corner and a tenth of the
    scene."""
    cut, side, reach, angle = rng.random(), rng.random(), rng.uniform(0.36, 0.54), rng.uniform(8.0, 13.0)
    if cut < 0.5:
        return None
    low, high = (-reach * extent_m, 10 * extent_m) if side < 0.5 else (-10 * extent_m, reach * extent_m)
    return Wedge(float(np.radians(angle)), low, high)
