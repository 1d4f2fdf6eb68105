"""One glacier as a flow: where it is, how fast each of its points moves, what its ice carries along.

Nothing here knows terrain, light or pixels of a scene. A glacier has coordinates of its own: ``s``, metres
along the centre line from the head, and ``n`` across it, -1 and 1 at the margins. Lines of constant ``n`` are
its streamlines, so travel along them has a closed form and the imposed velocity is exact, not integrated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

from glacierhpc.scenes.archive.noise import band_noise, sample, smoothstep

_SLOWEST = 0.02  # share of the top speed; keeps the travel time to the head finite
_RENEWAL_YEARS = 3.0  # after this time the ice surface has a new texture, as crevasses open and close


@dataclass(frozen=True)
class Curve:
    """A smooth line through points, by arc length; ``past_end`` metres of it lie beyond the glacier."""

    s: np.ndarray
    """(k,) metres from the first point."""
    xy: np.ndarray
    """(k, 2) metres east and north."""
    tangent: np.ndarray
    """(k, 2) unit vectors."""
    curvature: np.ndarray
    """(k,) 1/m, positive where the line turns left."""

    @classmethod
    def through(cls, points: np.ndarray, *, step_m: float = 4.0) -> Curve:
        """Return the cubic spline through (k, 2) points, sampled every `step_m` metres."""
        chord = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        spline = CubicSpline(chord, points)
        fine = np.linspace(0.0, chord[-1], max(int(chord[-1] / step_m) * 4, 200))
        length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(spline(fine), axis=0).T))])
        s = np.arange(0.0, length[-1], step_m)
        at = np.interp(s, length, fine)
        first, second = spline(at, 1), spline(at, 2)
        speed = np.hypot(*first.T)
        curvature = (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / speed**3
        return cls(s, spline(at), first / speed[:, None], curvature)

    def locate(
        self, x: np.ndarray, y: np.ndarray, *, within_m: float = np.inf
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (s, signed distance to the left, index of the nearest sample) of points, each like `x`.

        Points farther than `within_m` get the last sample and a distance beyond it: looking only nearby is
        ten times faster.
        """
        _, nearest = cKDTree(self.xy).query(
            np.column_stack([x.ravel(), y.ravel()]), distance_upper_bound=within_m
        )
        nearest = np.minimum(nearest, len(self.s) - 1)
        offset = np.column_stack([x.ravel(), y.ravel()]) - self.xy[nearest]
        tangent = self.tangent[nearest]
        along = np.einsum("ij,ij->i", offset, tangent)
        across = offset[:, 1] * tangent[:, 0] - offset[:, 0] * tangent[:, 1]
        ends = (nearest == 0) | (nearest == len(self.s) - 1)
        s = self.s[nearest] + along
        across = np.where(ends, np.copysign(np.hypot(along, across), across), across)
        return s.reshape(x.shape), across.reshape(x.shape), nearest.reshape(x.shape)


@dataclass(frozen=True)
class Glacier:
    """A valley glacier that flows along a curve."""

    name: str
    curve: Curve
    length_m: float
    half_width_m: float
    top_speed_m_per_year: float

    def half_width(self, s: np.ndarray) -> np.ndarray:
        """Half width in metres: a broad accumulation basin, a tongue that narrows to a round snout."""
        x = np.clip(s / self.length_m, 0.0, 1.0)
        ends = np.sqrt(np.clip(1 - x**6, 0, 1)) * np.sqrt(np.clip(1 - (1 - x) ** 5, 0, 1))
        bays = 1.0 + 0.07 * np.sin(17.0 * x + self.half_width_m) + 0.05 * np.sin(37.0 * x + self.length_m)
        return self.half_width_m * (1.0 + 0.8 * (1 - x) ** 2) * ends * bays

    def speed_on_centre_line(self, s: np.ndarray) -> np.ndarray:
        """Speed in m/yr: slow in the basin, fastest near the middle, slow at the snout."""
        x = np.clip(s / self.length_m, 0.0, 1.0)
        shape = x**0.8 * (1 - x) ** 0.8 / 0.25**0.8
        return self.top_speed_m_per_year * np.maximum(shape, _SLOWEST)

    def speed_across(self, n: np.ndarray) -> np.ndarray:
        """Share of the centre line's speed: ``1 - |n|^4``, a wide channel of ice with Glen's exponent 3.

        References
        ----------
        Nye (1965), Journal of Glaciology 5(41), doi:10.3189/S0022143000018670
        """
        return np.clip(1.0 - np.abs(n) ** 4, 0.0, 1.0)

    def outline(self) -> np.ndarray:
        """Return the margin as a closed ring, (k, 2) metres."""
        s = self.curve.s[self.curve.s <= self.length_m]
        s = np.append(s[:: max(len(s) // 150, 1)], self.length_m)
        left, right = self.to_ground(s, np.ones_like(s)), self.to_ground(s[::-1], -np.ones_like(s))
        ring = np.concatenate([left, right])
        return np.concatenate([ring, ring[:1]])

    def to_ground(self, s: np.ndarray, n: np.ndarray) -> np.ndarray:
        """Return ground positions (k, 2) of glacier coordinates."""
        centre = np.column_stack([np.interp(s, self.curve.s, self.curve.xy[:, i]) for i in (0, 1)])
        east, north = (np.interp(s, self.curve.s, self.curve.tangent[:, i]) for i in (0, 1))
        normal = np.column_stack([-north, east]) / np.hypot(east, north)[:, None]
        return centre + (n * self.half_width(s))[:, None] * normal


@dataclass(frozen=True)
class GlacierField:
    """A glacier on a grid of points: coordinates and velocity where there is ice."""

    glacier: Glacier
    mask: np.ndarray
    """(y, x) bool."""
    s: np.ndarray
    """(k,) of the points in the mask, metres."""
    n: np.ndarray
    """(k,) of the points in the mask."""
    vx: np.ndarray
    """(k,) m/yr east."""
    vy: np.ndarray
    """(k,) m/yr north."""

    def at_top_speed(self, metres_per_year: float) -> GlacierField:
        """Return the same field with another speed of its fastest point."""
        factor = metres_per_year / max(float(np.hypot(self.vx, self.vy).max()), 1e-12)
        glacier = replace(self.glacier, top_speed_m_per_year=self.glacier.top_speed_m_per_year * factor)
        return replace(self, glacier=glacier, vx=self.vx * factor, vy=self.vy * factor)


def place(glacier: Glacier, x: np.ndarray, y: np.ndarray) -> GlacierField:
    """Lay a glacier over points: its mask, its coordinates there and the velocity of each point.

    With ``X(s, n) = c(s) + n w(s) N(s)``, a point that keeps its ``n`` moves at ``dX/ds ds/dt``, and
    ``dX/ds = (1 - n w k) T + n w' N`` (k the curvature), which is what `vx` and `vy` hold.
    """
    s, across, nearest = glacier.curve.locate(x, y, within_m=2.0 * glacier.half_width_m)
    width = glacier.half_width(s)
    inside = (s > 0) & (s < glacier.length_m) & (np.abs(across) < width)
    s_in, w_in, index = s[inside], width[inside], nearest[inside]
    n = across[inside] / w_in
    widening = (glacier.half_width(s_in + 1.0) - glacier.half_width(s_in - 1.0)) / 2.0
    tangent = glacier.curve.tangent[index]
    rate = glacier.speed_on_centre_line(s_in) * glacier.speed_across(n)
    along = rate * (1.0 - n * w_in * glacier.curve.curvature[index])
    aside = rate * n * np.clip(widening, -1.0, 1.0)
    vx = along * tangent[:, 0] - aside * tangent[:, 1]
    vy = along * tangent[:, 1] + aside * tangent[:, 0]
    return GlacierField(glacier, inside, s_in, n, vx, vy)


class IceTexture:
    """The brightness pattern that the ice of one glacier carries along.

    Two patterns overlap at any time; each fades in, moves with the ice and fades out over twice
    `_RENEWAL_YEARS`. A single pattern would be sheared into unresolvable streaks at the margins after a few
    years, as real crevasses would if they did not close.
    """

    def __init__(self, field: GlacierField, *, spacing_m: float, seed: int) -> None:
        self._field, self._spacing, self._seed = field, spacing_m, seed
        glacier = field.glacier
        self._s = np.arange(-0.6 * glacier.length_m, 1.6 * glacier.length_m, 5.0)
        slowness = 1.0 / np.maximum(glacier.speed_on_centre_line(self._s), 1e-9)
        self._travel = np.concatenate([[0.0], np.cumsum((slowness[1:] + slowness[:-1]) / 2 * 5.0)])
        self._layers: dict[int, np.ndarray] = {}

    def at(self, years: float) -> np.ndarray:
        """Return the pattern at a time in years, (k,) float32 of unit variance, at the field's points."""
        epoch = int(np.floor(years / _RENEWAL_YEARS))
        total = np.zeros(self._field.s.shape, np.float32)
        for layer in (epoch, epoch + 1):
            age = years - layer * _RENEWAL_YEARS
            total += np.float32(np.cos(np.pi / 2 * age / _RENEWAL_YEARS)) * self._moved(layer, age)
        return total

    def _moved(self, layer: int, age_years: float) -> np.ndarray:
        field = self._field
        now = np.interp(field.s, self._s, self._travel)
        then = np.interp(now - field.glacier.speed_across(field.n) * age_years, self._travel, self._s)
        across = field.n * field.glacier.half_width_m
        pattern = self._pattern(layer)
        rows = (then - self._s[0]) / self._spacing
        return sample(pattern, rows, across / self._spacing + pattern.shape[1] / 2, mode="grid-wrap")

    def _pattern(self, layer: int) -> np.ndarray:
        if layer not in self._layers:
            rng = np.random.default_rng([self._seed, 7001 + layer % 1000])
            rows = int((self._s[-1] - self._s[0]) / self._spacing)
            shape = (rows, int(3 * self._field.glacier.half_width_m / self._spacing) + 8)
            fine = self._spacing * 6
            crevasses = band_noise(
                rng, shape, self._spacing, shortest_m=fine, longest_m=4 * fine, slope=0.5, stretch=(1, 1.6)
            )
            patches = band_noise(
                rng, shape, self._spacing, shortest_m=2 * fine, longest_m=12 * fine, slope=1.5
            )
            mixed = crevasses + 0.6 * patches
            self._layers = {k: v for k, v in self._layers.items() if abs(k - layer) <= 1}
            self._layers[layer] = mixed / mixed.std()
        return self._layers[layer]


def debris_cover(field: GlacierField, pattern: np.ndarray) -> np.ndarray:
    """Return the share of rock debris on the ice, (k,): medial and lateral moraines, a covered snout.

    Moraines follow streamlines, so their place does not change although the ice in them moves; `pattern`
    (k,), carried by the ice, makes them patchy.
    """
    x = field.s / field.glacier.length_m
    medial = np.exp(-(((field.n - 0.22) / 0.09) ** 2)) * smoothstep(x, 0.25, 0.5)
    second = np.exp(-(((field.n + 0.42) / 0.06) ** 2)) * smoothstep(x, 0.45, 0.7)
    lateral = smoothstep(np.abs(field.n), 0.86, 0.97) * smoothstep(x, 0.3, 0.6)
    snout = smoothstep(x + 0.10 * np.abs(field.n), 0.86, 0.98)
    cover = np.maximum.reduce([0.9 * medial, 0.7 * second, lateral, snout])
    return np.clip(cover * (1.0 + 0.18 * pattern), 0.0, 1.0).astype(np.float32)
