"""From block sums to a step: the weighted normal equations of an ECC iteration, and what each block says of it.

The pass over the pixels is in `ecc_sums`, the iteration in `ecc`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

MAX_CONDITION = 1e6  # of the scaled Hessian
MIN_DIRECTION = 1e-4  # least share of gradient energy across the strongest direction
MIN_CONTRAST = 1e-6  # of the brightness: float32 keeps seven digits, less is rounding
LEAST_NEWTON = 0.3  # the gradients' shared part is not told from noise below
MIN_BLOCK_SHARE, MIN_BLOCK_PIXELS = 0.03, 16  # fewer pixels of a block say nothing for themselves
LEAST_OFFSET_PX = 1e-3
# Blocks further off than so many deviations lose weight, and have none from the second on (Hampel's psi)
HAMPEL = (3.0, 6.0)
LEAST_NOISE = 1e-4  # of the reference's variance: images that differ by less are equal
QUIET_QUANTILE = 0.4  # of the blocks' residual variances: what noise alone leaves


@dataclass(frozen=True)
class Blocks:
    """What the blocks of one pass say, flattened: n of them."""

    count: np.ndarray
    """(n) pixels valid in both."""
    rr: np.ndarray
    """(n) sums of squares about the mean: reference, moving, and their product."""
    ii: np.ndarray
    ri: np.ndarray
    on_r: np.ndarray
    """(n, 2) gradient on the reference, and on the moving image."""
    on_i: np.ndarray
    hessian: np.ndarray
    """(n, 3) xx, xy, yy of the mean gradient."""
    cross: np.ndarray
    """(n) inner product of the two images' gradients."""

    @classmethod
    def of(cls, table: np.ndarray, *, local: bool) -> Blocks:
        """Take means out of the sums (blocks y, blocks x, 16): each block's own, or that of all."""
        return cls(*_about_means(table.reshape(-1, table.shape[-1]), local))

    @property
    def rho(self) -> float:
        """Correlation coefficient of all pixels, NaN where one image has no contrast."""
        rr, ii = self.rr.sum(), self.ii.sum()
        return float(self.ri.sum() / np.sqrt(rr * ii)) if rr > 0 and ii > 0 else float("nan")


@njit(cache=True, nogil=True, error_model="numpy")
def _about_means(table, local):
    """Return what `Blocks` holds, from the sums (blocks, 16)."""
    count = table.shape[0]
    n, rr, ii, ri = table[:, 0].copy(), np.empty(count), np.empty(count), np.empty(count)
    on_r, on_i, hessian = np.empty((count, 2)), np.empty((count, 2)), table[:, 12:15] / 16
    total = max(n.sum(), 1.0)
    mean_r, mean_i = table[:, 1].sum() / total, table[:, 2].sum() / total
    for b in range(count):
        r, i = table[b, 1], table[b, 2]
        if local:
            mean_r, mean_i = r / max(n[b], 1.0), i / max(n[b], 1.0)
        rr[b] = table[b, 3] - 2 * mean_r * r + n[b] * mean_r**2
        ii[b] = table[b, 4] - 2 * mean_i * i + n[b] * mean_i**2
        ri[b] = table[b, 5] - mean_r * i - mean_i * r + n[b] * mean_r * mean_i
        for axis in range(2):
            g = table[b, 6 + axis]
            on_r[b, axis] = 0.25 * (table[b, 8 + axis] - g * mean_r)
            on_i[b, axis] = 0.25 * (table[b, 10 + axis] - g * mean_i)
    return n, rr, ii, ri, on_r, on_i, hessian, table[:, 15] / 4


@dataclass(frozen=True)
class Normal:
    """The normal equations of one iteration, equations (15) to (20) of Evangelidis & Psarakis (2008)."""

    rho: float
    """Correlation coefficient, weighted as asked."""
    gain: float
    """Factor that brings the deviation of the moving image to that of the reference."""
    hessian: np.ndarray
    """(k, k) of the mean gradient."""
    newton: float
    """Share of it that both images have: by it the curvature of the correlation is smaller."""
    on_reference: np.ndarray
    on_moving: np.ndarray
    rr: float
    ri: float

    @classmethod
    def of(cls, blocks: Blocks, weights: np.ndarray, jacobian: np.ndarray) -> Normal:
        """Sum blocks (n) with weights (n), for displacement fields (n, 2, k) at their centres."""
        rr, ii, ri = (float(weights @ values) for values in (blocks.rr, blocks.ii, blocks.ri))
        hessian, on_r, on_i = _sums(blocks.hessian, blocks.on_r, blocks.on_i, weights, jacobian)
        energy = float(weights @ (blocks.hessian[:, 0] + blocks.hessian[:, 2]))
        shared = float(weights @ blocks.cross) / energy if energy > 0 else 0.0
        return cls(
            rho=ri / np.sqrt(rr * ii) if rr > 0 and ii > 0 else float("nan"),
            gain=float(np.sqrt(rr / ii)) if rr > 0 and ii > 0 else float("nan"),
            hessian=hessian,
            newton=float(np.clip(shared, LEAST_NEWTON, 1.0)) if shared > LEAST_NEWTON / 2 else 1.0,
            on_reference=on_r,
            on_moving=on_i,
            rr=rr,
            ri=ri,
        )

    def solve(self) -> tuple[np.ndarray, float] | None:
        """Return the step (k) and the gain it holds for, or None where the texture does not determine it."""
        diagonal = np.sqrt(np.maximum(np.diag(self.hessian), 0.0))
        if not (diagonal > 0).all() or _one_direction(self.hessian):
            return None
        scaled = self.hessian / np.outer(diagonal, diagonal)
        if len(diagonal) > 2 and np.linalg.cond(scaled) > MAX_CONDITION:
            return None
        r, i = self.on_reference / diagonal, self.on_moving / diagonal
        solved_r, solved_i = np.linalg.solve(scaled, np.array([r, i]).T).T
        denominator = self.ri - r @ solved_i
        if denominator > 0:
            gain = (self.rr - r @ solved_r) / denominator
        else:  # the correlation would be minimised: equation (20), the smallest admissible gain
            norm = i @ solved_i
            if norm <= 0:
                return None
            gain = max(np.sqrt(max(r @ solved_r, 0.0) / norm), (r @ solved_i - self.ri) / norm)
        step = (solved_r - gain * solved_i) / diagonal / self.newton
        return (step, float(gain)) if np.isfinite(step).all() else None


def _one_direction(hessian: np.ndarray) -> bool:
    """Return whether the texture varies in one direction only; the two parameters of a shift come first."""
    (xx, xy), (_, yy) = hessian[:2, :2]
    spread = np.hypot(xx - yy, 2 * xy)  # between the eigenvalues
    return not xx + yy - spread > MIN_DIRECTION * (xx + yy + spread)


@njit(cache=True, nogil=True, error_model="numpy")
def _sums(hessians, on_r, on_i, weights, jacobian):
    count, _, k = jacobian.shape
    hessian, sum_r, sum_i = np.zeros((k, k)), np.zeros(k), np.zeros(k)
    for b in range(count):
        weight = weights[b]
        if weight == 0.0:
            continue
        xx, xy, yy = hessians[b, 0], hessians[b, 1], hessians[b, 2]
        for p in range(k):
            jx, jy = weight * jacobian[b, 0, p], weight * jacobian[b, 1, p]
            sum_r[p] += jx * on_r[b, 0] + jy * on_r[b, 1]
            sum_i[p] += jx * on_i[b, 0] + jy * on_i[b, 1]
            for q in range(p + 1):
                kx, ky = jacobian[b, 0, q], jacobian[b, 1, q]
                hessian[p, q] += jx * (xx * kx + xy * ky) + jy * (xy * kx + yy * ky)
    for p in range(k):
        for q in range(p):
            hessian[q, p] = hessian[p, q]
    return hessian, sum_r, sum_i


def residuals(blocks: Blocks, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Return each block's residual variance (n), and the pull (n, 2) that its residual has on a shift."""
    squares = blocks.rr - 2 * gain * blocks.ri + gain**2 * blocks.ii
    return np.maximum(squares, 0.0) / np.maximum(blocks.count, 1), blocks.on_r - gain * blocks.on_i


def taken(blocks: Blocks, displacement: np.ndarray) -> np.ndarray:
    """Return how much of each block's pull (n, 2) a displacement (n, 2), px, of it answers."""
    (xx, xy, yy), (x, y) = blocks.hessian.T, displacement.T
    answered = np.empty((len(xx), 2))
    answered[:, 0], answered[:, 1] = xx * x + xy * y, xy * x + yy * y
    return answered


def robust_weights(blocks: Blocks, gain: float, side: int) -> np.ndarray:
    """Return weights (n) in [0, 1] that take from blocks what does not belong to the common picture.

    A block whose residual is larger than noise explains (cloud, new snow, shadow) counts in inverse proportion to
    its variance; one that lies further off than `HAMPEL` says (moving ice) loses the rest. Typical is what the blocks
    with most information lie off.
    Equal blocks all have weight 1, so that nothing is lost where there is nothing to mistrust.
    """
    enough = blocks.count >= max(MIN_BLOCK_SHARE * side**2, MIN_BLOCK_PIXELS)
    enough &= (blocks.rr > 0) & (blocks.ii > 0)
    if np.count_nonzero(enough) < 4:
        return np.ones(len(blocks.count))
    variance, pull = residuals(blocks, gain)
    variance = variance + LEAST_NOISE * blocks.rr[enough].sum() / blocks.count[enough].sum()
    weights = np.minimum(1.0, _quantile(variance[enough], QUIET_QUANTILE) / variance)
    length = np.hypot(*offsets(blocks, pull, 1.0).T)
    known = enough & np.isfinite(length)
    if not known.any():
        return np.where(enough, weights, 0.0)
    information = (blocks.hessian[:, 0] + blocks.hessian[:, 2]) / variance
    typical = _weighted_median(length[known], information[known]) / np.sqrt(
        2 * np.log(2)
    )  # of a Rayleigh law
    distance = np.where(known, length, 0.0) / max(typical, LEAST_OFFSET_PX)
    far = np.clip((HAMPEL[1] - distance) / (HAMPEL[1] - HAMPEL[0]), 0.0, 1.0)
    return np.where(enough, weights * far, 0.0)


def _quantile(values: np.ndarray, share: float) -> float:
    """Do what `numpy.quantile` does, which takes longer than the pass over a small level."""
    place = share * (len(values) - 1)
    before = int(place)
    low, high = np.partition(values, (before, min(before + 1, len(values) - 1)))[
        [before, min(before + 1, len(values) - 1)]
    ]
    return float(low + (place - before) * (high - low))


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, 0.5 * reached[-1])])


def offsets(blocks: Blocks, pull: np.ndarray, newton: float) -> np.ndarray:
    """Return the displacement (n, 2), px, that would set each block right by itself; NaN without texture."""
    xx, xy, yy = blocks.hessian.T
    determinant = xx * yy - xy**2
    with np.errstate(divide="ignore", invalid="ignore"):
        x = (yy * pull[:, 0] - xy * pull[:, 1]) / determinant
        y = (xx * pull[:, 1] - xy * pull[:, 0]) / determinant
    flat = ~(determinant > MIN_DIRECTION * (xx + yy) ** 2)
    out = np.empty((len(x), 2))
    out[:, 0], out[:, 1] = x / newton, y / newton
    out[flat] = np.nan
    return out


def offset_errors(blocks: Blocks, variance: np.ndarray, newton: float) -> np.ndarray:
    """Return the standard error (n), px, of the length of each block's offset, from its residual variance (n).

    As if the residual were white; after smoothing it is up to twice that. Infinite without texture.
    """
    xx, xy, yy = blocks.hessian.T
    determinant = xx * yy - xy**2
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.sqrt(variance * (xx + yy) / determinant) / newton
    return np.where(determinant > 0, errors, np.inf)


def covariance(
    normal: Normal, weights: np.ndarray, pull: np.ndarray, jacobian: np.ndarray
) -> np.ndarray | None:
    """Return the covariance (k, k) of the parameters from the scatter of the blocks' pulls (the sandwich form).

    It holds whatever the noise is made of, as long as it is independent between blocks; None from too few blocks.

    References
    ----------
    White (1980), Econometrica 48(4), doi:10.2307/1912934; for few blocks: MacKinnon & White (1985), J. Econometrics
    29(3), doi:10.1016/0304-4076(85)90158-7, with equal leverages
    """
    k = jacobian.shape[2]
    used = np.count_nonzero(weights > 0)
    if used < 2 * k:
        return None
    pull = weights[:, None] * pull
    scores = jacobian[:, 0] * pull[:, :1] + jacobian[:, 1] * pull[:, 1:]
    try:
        inverse = np.linalg.inv(normal.newton * normal.hessian)
    except np.linalg.LinAlgError:
        return None
    return inverse @ (scores.T @ scores) @ inverse * (used / (used - k)) ** 2
