"""The ground of the embedded archive: valleys, ridges, glaciers, meadows and water; no light, no season.

All lengths follow the size of the scene, so that a small archive is a small valley and a large one a large
valley.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from glacierhpc.scenes.archive.flow import Curve, Glacier, GlacierField, place
from glacierhpc.scenes.archive.noise import band_noise, ridged, sample, smoothstep

OVERSAMPLING = (
    2  # ground cells per scene pixel: what lies beyond half a scene pixel's frequency is lost in the sensor
)
_FOOT_M = 4000.0  # height of the lowest valley floor
# Centre lines in shares of the scene's width, (0, 0) its centre, north up: from the head through the snout to
# the rim.
_VALLEYS = {
    "Main Glacier": (
        (0.30, 0.44),
        (0.20, 0.30),
        (0.04, 0.16),
        (0.01, -0.04),
        (-0.09, -0.22),
        (-0.13, -0.42),
        (-0.05, -0.75),
    ),
    "West Glacier": (
        (-0.44, 0.36),
        (-0.33, 0.25),
        (-0.27, 0.10),
        (-0.24, -0.06),
        (-0.14, -0.18),
        (-0.11, -0.26),
    ),
    "East Glacier": (
        (0.46, 0.02),
        (0.36, -0.06),
        (0.29, -0.17),
        (0.16, -0.24),
        (0.02, -0.34),
        (-0.09, -0.45),
    ),
}
_SHARE_WITH_ICE = {"Main Glacier": 0.59, "West Glacier": 0.42, "East Glacier": 0.36}
_RELATIVE_WIDTH = {"Main Glacier": 1.0, "West Glacier": 0.55, "East Glacier": 0.5}
_RELATIVE_SPEED = {"Main Glacier": 1.0, "West Glacier": 0.45, "East Glacier": 0.35}


@dataclass(frozen=True)
class Ground:
    """Fixed properties of the ground on an oversampled raster, row 0 in the north; arrays (y, x) float32."""

    spacing_m: float
    half_extent_m: float
    """Distance from the centre to the first cell's centre, the same on both axes."""
    elevation_m: np.ndarray
    slope_east: np.ndarray
    """Rise per metre eastwards."""
    slope_north: np.ndarray
    relief_m: tuple[float, float]
    """Lowest and highest ground."""
    rock: np.ndarray
    """Brightness pattern of the bare ground, mean 0, standard deviation 1."""
    strata: np.ndarray
    """Share of the darker of two kinds of rock."""
    meadow: np.ndarray
    """Share that is green in summer."""
    water: np.ndarray
    """Share of open water."""
    snow_patches: np.ndarray
    """What makes snow lie longer here than the height alone, metres of height."""
    bare: np.ndarray
    """Share where no snow stays: cliffs, and dark blocks that melt free."""
    glaciers: tuple[GlacierField, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.elevation_m.shape
        return rows, columns

    def rows_and_columns(self, east: np.ndarray, north: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return fractional cells of points given in metres from the centre."""
        return (self.half_extent_m - north) / self.spacing_m, (east + self.half_extent_m) / self.spacing_m


def make_ground(
    *, seed: int, extent_m: float, margin_m: float, spacing_m: float, max_speed_m_per_year: float
) -> Ground:
    """Make the ground of a seed.

    Parameters
    ----------
    seed : int
    extent_m : float
        Width of a scene.
    margin_m : float
        How far the ground reaches beyond the scene on every side.
    spacing_m : float
        Size of a cell.
    max_speed_m_per_year : float
        Of the fastest point of the main glacier.
    """
    cells = int(np.ceil((extent_m + 2 * margin_m) / spacing_m / 2)) * 2
    cells = (
        -(-cells // 32) * 32
    )  # a length without large prime factors: the transforms below are several times faster
    half = (cells - 1) / 2 * spacing_m
    axis = np.arange(cells) * spacing_m - half
    east, north = np.meshgrid(axis, -axis)
    rng = np.random.default_rng([seed, 1])
    curves = _curves(rng, extent_m)
    glaciers = tuple(
        place(_glacier(name, curve, extent_m), east, north).at_top_speed(
            max_speed_m_per_year * _RELATIVE_SPEED[name]
        )
        for name, curve in curves.items()
    )
    glaciers = _without_overlap(glaciers)
    elevation = _fine_elevation(rng, east, list(curves.values()), glaciers, extent_m, spacing_m)
    down, right = np.gradient(elevation, spacing_m)
    slope = np.hypot(down, right)
    lowest, highest = float(elevation.min()), float(elevation.max())
    height = (elevation - lowest) / (highest - lowest)
    shape = elevation.shape
    px = spacing_m * OVERSAMPLING
    rock = band_noise(rng, shape, spacing_m, shortest_m=2.2 * px, longest_m=40 * px, slope=0.6)
    bedding = band_noise(rng, shape, spacing_m, shortest_m=8 * px, longest_m=extent_m / 2, slope=1.5)
    patches = band_noise(rng, shape, spacing_m, shortest_m=4 * px, longest_m=extent_m / 5, slope=1.2)
    # From a pattern of its own, not from the shape of the ground: snow that followed hollows and shade that follows
    # slopes would look alike but shifted, and any alignment between seasons would follow that shift.
    patches = (highest - lowest) * (0.06 * patches - 0.08 * smoothstep(slope, 0.6, 1.4)).astype(np.float32)
    meadow = smoothstep(0.34 - height + 0.03 * bedding, -0.06, 0.10) * (1 - smoothstep(slope, 0.55, 0.95))
    meadow = meadow * smoothstep(0.5 * patches / patches.std() + bedding, -1.2, 0.8)
    return Ground(
        spacing_m=spacing_m,
        half_extent_m=half,
        elevation_m=elevation,
        slope_east=right.astype(np.float32),
        slope_north=-down.astype(np.float32),
        relief_m=(lowest, highest),
        rock=rock,
        strata=smoothstep(
            np.sin(elevation / (highest - lowest) * 22 + 1.5 * bedding) + 0.5 * bedding, -0.3, 1.0
        ),
        meadow=meadow.astype(np.float32),
        water=_water(next(iter(curves.values())), glaciers[0], east, north, extent_m),
        snow_patches=patches,
        bare=np.maximum(0.9 * smoothstep(slope, 0.95, 1.45), 0.55 * smoothstep(-rock, 0.7, 1.9)).astype(
            np.float32
        ),
        glaciers=glaciers,
    )


def _curves(rng: np.random.Generator, extent_m: float) -> dict[str, Curve]:
    curves = {}
    for name, points in _VALLEYS.items():
        shares = np.array(points)
        shares[1:-2] += rng.uniform(-0.018, 0.018, shares[1:-2].shape)
        curves[name] = Curve.through(shares * extent_m, step_m=extent_m / 1200)
    return curves


def _glacier(name: str, curve: Curve, extent_m: float) -> Glacier:
    return Glacier(
        name=name,
        curve=curve,
        length_m=float(_SHARE_WITH_ICE[name] * curve.s[-1]),
        half_width_m=0.062 * extent_m * _RELATIVE_WIDTH[name],
        top_speed_m_per_year=1.0,
    )


def _without_overlap(glaciers: tuple[GlacierField, ...]) -> tuple[GlacierField, ...]:
    """Give cells that two glaciers claim to the first of them."""
    taken = np.zeros(glaciers[0].mask.shape, bool)
    result = []
    for field in glaciers:
        keep = ~taken[field.mask]
        mask = field.mask & ~taken
        result.append(
            GlacierField(field.glacier, mask, field.s[keep], field.n[keep], field.vx[keep], field.vy[keep])
        )
        taken |= mask
    return tuple(result)


def _fine_elevation(
    rng: np.random.Generator,
    east: np.ndarray,
    curves: list[Curve],
    glaciers: tuple[GlacierField, ...],
    extent_m: float,
    spacing_m: float,
) -> np.ndarray:
    """Return heights in metres of every cell.

    Valleys need no more than some 400 rows: the distances to their centre lines are what takes time. A spline between
    those rows makes slopes smooth; in large scenes, noise brings back the detail they cannot hold.
    """
    cells = east.shape[0]
    stride = max(2, round(cells / 400))
    rows = np.arange(-1, cells + 2 * stride, stride)  # one beyond either rim, so that nothing is extrapolated
    axis = east[0, 0] + rows * spacing_m
    coarse_east, coarse_north = np.meshgrid(axis, -axis)
    coarse = _elevation(rng, coarse_east, coarse_north, curves, glaciers, extent_m, stride * spacing_m)
    at = (np.arange(cells) + 1) / stride
    heights = sample(coarse, *np.meshgrid(at, at, indexing="ij"))
    # Crags down to the size of a pixel: they are what stays the same under snow and under every sun.
    shape = (cells, cells)
    px = OVERSAMPLING * spacing_m
    crags = band_noise(
        rng, shape, spacing_m, shortest_m=2.5 * px, longest_m=max(8, 2 * stride) * px, slope=1.0
    )
    steep = np.minimum(np.hypot(*np.gradient(heights, spacing_m)), 0.7)
    ice = np.logical_or.reduce([field.mask for field in glaciers]).astype(np.float32)
    off_ice = 1 - ndimage.gaussian_filter(ndimage.grey_dilation(ice, 3), OVERSAMPLING)
    heights = heights + 0.22 * px * (0.25 + steep) * crags * off_ice
    return heights.astype(np.float32)


def _elevation(
    rng: np.random.Generator,
    east: np.ndarray,
    north: np.ndarray,
    curves: list[Curve],
    glaciers: tuple[GlacierField, ...],
    extent_m: float,
    spacing_m: float,
) -> np.ndarray:
    """Return heights in metres: the lowest of all valleys' profiles, which meet in sharp crests, roughened by
    noise."""
    relief = float(np.clip(0.27 * extent_m, 700.0, 3000.0))
    shape = (east.shape[0], east.shape[1])
    crests = ridged(rng, shape, spacing_m, longest_m=extent_m / 3.2, octaves=6)
    warp = [
        band_noise(rng, shape, spacing_m, shortest_m=extent_m / 12, longest_m=extent_m / 3) for _ in range(2)
    ]
    total = np.full(shape, np.inf)
    for curve, field in zip(curves, glaciers, strict=True):
        x, y = (a + 0.012 * extent_m * w for a, w in zip((east, north), warp, strict=True))
        s, across, _ = curve.locate(x, y)
        reach = curve.s[-1]
        width = 0.8 * np.maximum(field.glacier.half_width(s), 0.25 * field.glacier.half_width_m)
        away = np.maximum(np.abs(across) - width, 0.0) / (0.11 * extent_m)
        floor = 0.55 * _fall(s / reach)
        wall = 0.50 * away**1.1 / (1 + 0.45 * away)
        gullies = _gullies(rng, s, across, extent_m, spacing_m)
        rough = wall + away / (0.6 + away) * (0.34 * crests + 0.05 * gullies)
        total = np.minimum(total, floor + rough)
    rolling = band_noise(rng, shape, spacing_m, shortest_m=extent_m / 30, longest_m=extent_m / 6)
    total += 0.004 * rolling
    smooth = ndimage.gaussian_filter(total, 0.7)
    return (_FOOT_M + relief * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)


def _fall(share: np.ndarray) -> np.ndarray:
    """Height of a valley floor along its course: steep at the head, gentle at the foot, going on beyond the
    ends."""
    inside = np.clip(share, 0.0, 1.0)
    return (1 - inside) ** 1.15 - 1.15 * np.minimum(share, 0.0) - 0.1 * np.maximum(share - 1.0, 0.0)


def _gullies(
    rng: np.random.Generator, s: np.ndarray, across: np.ndarray, extent_m: float, spacing_m: float
) -> np.ndarray:
    """Return couloirs that run down the valley walls: noise drawn out five times across the valley."""
    cell = spacing_m
    shape = (1024, 256)
    spacing = max(cell, 2.4 * extent_m / 1024)
    noise = band_noise(
        rng, shape, spacing, shortest_m=extent_m / 40, longest_m=extent_m / 9, slope=0.8, stretch=(1.0, 5.0)
    )
    return -np.abs(sample(noise, s / spacing, across / spacing, mode="grid-wrap"))


def _water(
    curve: Curve, field: GlacierField, east: np.ndarray, north: np.ndarray, extent_m: float
) -> np.ndarray:
    """Return the share of water: a lake before the snout and the river below it."""
    s, across, _ = curve.locate(east, north, within_m=0.1 * extent_m)
    snout = field.glacier.length_m
    lake_length, lake_width = 0.05 * extent_m, 0.022 * extent_m
    middle = snout + 1.15 * lake_length
    lake = 1 - smoothstep(np.hypot((s - middle) / lake_length, across / lake_width), 0.85, 1.0)
    meander = 0.008 * extent_m * np.sin(s / (0.035 * extent_m))
    river = (
        0.6 * (1 - smoothstep(np.abs(across - meander), 0.002 * extent_m, 0.006 * extent_m)) * (s > middle)
    )
    return np.maximum(lake, river).astype(np.float32)
