"""From block sums to a step: the weighted normal equations of an ECC iteration, and what each block says of it.

The pass over the pixels is in `ecc_sums`, the blocks' weights in `ecc_weights`, the iteration in `ecc`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

MAX_CONDITION = 1e6  # of the scaled Hessian
MIN_DIRECTION = 1e-4  # least share of gradient energy across the strongest direction
MIN_CONTRAST = 1e-6  # of the brightness: float32 keeps seven digits, less is rounding
LEAST_NEWTON = 0.3  # the gradients' shared part is not told from noise below
_compiled = njit(cache=True, nogil=True, error_model="numpy")


class Blocks(NamedTuple):
    """What the blocks of one pass say, flattened: n of them."""

    pixels: np.ndarray
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
    totals: tuple[float, float, float, float]
    """Of all blocks together: pixels, rr, ii, ri."""


@_compiled
def correlation_of(rr, ii, ri):
    """Return the coefficient of three sums of squares, NaN where one image has no contrast."""
    return ri / math.sqrt(rr * ii) if rr > 0 and ii > 0 else math.nan


@_compiled
def blocks_of(table, local):
    """Take means out of the sums (n, 16) of blocks: each block's own where `local`, or that of all."""
    count = table.shape[0]
    n, rr, ii, ri = table[:, 0].copy(), np.empty(count), np.empty(count), np.empty(count)
    on_r, on_i, hessian = np.empty((count, 2)), np.empty((count, 2)), table[:, 12:15] / 16
    total = max(n.sum(), 1.0)
    mean_r, mean_i = table[:, 1].sum() / total, table[:, 2].sum() / total
    all_rr = all_ii = all_ri = 0.0
    for b in range(count):
        r, i = table[b, 1], table[b, 2]
        if local:
            mean_r, mean_i = r / max(n[b], 1.0), i / max(n[b], 1.0)
        rr[b] = table[b, 3] - 2 * mean_r * r + n[b] * mean_r**2
        ii[b] = table[b, 4] - 2 * mean_i * i + n[b] * mean_i**2
        ri[b] = table[b, 5] - mean_r * i - mean_i * r + n[b] * mean_r * mean_i
        all_rr, all_ii, all_ri = all_rr + rr[b], all_ii + ii[b], all_ri + ri[b]
        for axis in range(2):
            g = table[b, 6 + axis]
            on_r[b, axis] = 0.25 * (table[b, 8 + axis] - g * mean_r)
            on_i[b, axis] = 0.25 * (table[b, 10 + axis] - g * mean_i)
    totals = n.sum(), all_rr, all_ii, all_ri
    return Blocks(n, rr, ii, ri, on_r, on_i, hessian, table[:, 15] / 4, totals)


class Normal(NamedTuple):
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


@_compiled
def normal_equations(blocks, weights, jacobian, overshoot):
    """Sum blocks (n) with weights (n), for displacement fields (n, 2, k) at their centres.

    Steps are made so many times shorter as they are known to overshoot.
    """
    rr, ii, ri, energy, both, hessian, on_r, on_i = _sums(blocks, weights, jacobian)
    shared = both / energy if energy > 0 else 0.0
    newton = min(max(shared, LEAST_NEWTON), 1.0) if shared > LEAST_NEWTON / 2 else 1.0
    gain = math.sqrt(rr / ii) if rr > 0 and ii > 0 else math.nan
    return Normal(correlation_of(rr, ii, ri), gain, hessian, overshoot * newton, on_r, on_i, rr, ri)


@_compiled
def solve(normal):
    """Return the step (k) of the correlation's linear model and the gain it holds for; an empty step where none is."""
    none = np.empty(0), math.nan
    hessian, k = normal.hessian, len(normal.on_moving)
    diagonal = np.sqrt(np.maximum(np.diag(hessian), 0.0))
    if not (diagonal > 0).all() or _one_direction(hessian):
        return none
    scaled, both = np.empty((k, k)), np.empty((k, 2))
    for p in range(k):
        both[p, 0] = normal.on_reference[p] / diagonal[p]
        both[p, 1] = normal.on_moving[p] / diagonal[p]
        for q in range(k):
            scaled[p, q] = hessian[p, q] / (diagonal[p] * diagonal[q])
    if k > 2 and not np.linalg.cond(scaled) <= MAX_CONDITION:
        return none
    solved = np.linalg.solve(scaled, both)
    r_r = r_i = i_i = 0.0
    for p in range(k):
        r_r += both[p, 0] * solved[p, 0]
        r_i += both[p, 0] * solved[p, 1]
        i_i += both[p, 1] * solved[p, 1]
    if normal.ri - r_i > 0:
        gain = (normal.rr - r_r) / (normal.ri - r_i)
    elif i_i > 0:  # the correlation would be minimised: equation (20), the smallest admissible gain
        gain = max(math.sqrt(max(r_r, 0.0) / i_i), (r_i - normal.ri) / i_i)
    else:
        return none
    step = (solved[:, 0] - gain * solved[:, 1]) / (diagonal * normal.newton)
    return (step, gain) if np.isfinite(step).all() else none


@_compiled
def _one_direction(hessian):
    """Return whether the texture varies in one direction only; the two parameters of a shift come first."""
    xx, xy, yy = hessian[0, 0], hessian[0, 1], hessian[1, 1]
    spread = math.hypot(xx - yy, 2 * xy)  # between the eigenvalues
    return not xx + yy - spread > MIN_DIRECTION * (xx + yy + spread)


@_compiled
def _sums(blocks, weights, jacobian):
    """Return the weighted sums of rr, ii, ri, gradient energy, its shared part; (k, k) hessian, (k) pulls."""
    rr, ii, ri, hessians, cross = blocks.rr, blocks.ii, blocks.ri, blocks.hessian, blocks.cross
    on_r, on_i = blocks.on_r, blocks.on_i
    count, _, k = jacobian.shape
    hessian, sum_r, sum_i = np.zeros((k, k)), np.zeros(k), np.zeros(k)
    all_rr = all_ii = all_ri = energy = both = 0.0
    for b in range(count):
        weight = weights[b]
        if weight == 0.0:
            continue
        xx, xy, yy = hessians[b, 0], hessians[b, 1], hessians[b, 2]
        all_rr += weight * rr[b]
        all_ii += weight * ii[b]
        all_ri += weight * ri[b]
        energy += weight * (xx + yy)
        both += weight * cross[b]
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
    return all_rr, all_ii, all_ri, energy, both, hessian, sum_r, sum_i


@_compiled
def residuals(blocks, gain):
    """Return each block's residual variance (n), and the pull (n, 2) that its residual has on a shift."""
    squares = blocks.rr - 2 * gain * blocks.ri + gain**2 * blocks.ii
    return np.maximum(squares, 0.0) / np.maximum(blocks.pixels, 1.0), blocks.on_r - gain * blocks.on_i


@_compiled
def pull_after(blocks, gain, jacobian, step):
    """Return the pull (n, 2) that is left of each block's after a step (k) of displacement fields (n, 2, k), px."""
    left = blocks.on_r - gain * blocks.on_i
    for b in range(len(left)):
        x = y = 0.0
        for p in range(len(step)):
            x += jacobian[b, 0, p] * step[p]
            y += jacobian[b, 1, p] * step[p]
        xx, xy, yy = blocks.hessian[b, 0], blocks.hessian[b, 1], blocks.hessian[b, 2]
        left[b, 0] -= xx * x + xy * y
        left[b, 1] -= xy * x + yy * y
    return left


@_compiled
def offsets(blocks, pull, newton):
    """Return the displacement (n, 2), px, that would set each block right by itself; NaN without texture."""
    out = np.empty(pull.shape)
    for b in range(len(out)):
        xx, xy, yy = blocks.hessian[b, 0], blocks.hessian[b, 1], blocks.hessian[b, 2]
        determinant = xx * yy - xy * xy
        if determinant > MIN_DIRECTION * (xx + yy) ** 2:
            out[b, 0] = (yy * pull[b, 0] - xy * pull[b, 1]) / (determinant * newton)
            out[b, 1] = (xx * pull[b, 1] - xy * pull[b, 0]) / (determinant * newton)
        else:
            out[b] = np.nan
    return out


@_compiled
def offset_errors(blocks, variance, newton):
    """Return the standard error (n), px, of the length of each block's offset, from its residual variance (n).

    As if the residual were white; after smoothing it is up to twice that. Infinite without texture.
    """
    out = np.full(len(variance), np.inf)
    for b in range(len(out)):
        xx, xy, yy = blocks.hessian[b, 0], blocks.hessian[b, 1], blocks.hessian[b, 2]
        determinant = xx * yy - xy * xy
        if determinant > 0:
            out[b] = math.sqrt(variance[b] * (xx + yy) / determinant) / newton
    return out


@_compiled
def covariance(normal, weights, pull, jacobian):
    """Return the covariance (k, k) of the parameters from the scatter of the blocks' pulls (the sandwich form).

    It holds whatever the noise is made of, as long as it is independent between blocks; empty from too few blocks.
    Of equations that `solve` has solved: others may have no inverse.

    References
    ----------
    White (1980), Econometrica 48(4), doi:10.2307/1912934; for few blocks: MacKinnon & White (1985), J. Econometrics
    29(3), doi:10.1016/0304-4076(85)90158-7, with equal leverages
    """
    count, _, k = jacobian.shape
    used, scatter, score = 0, np.zeros((k, k)), np.empty(k)
    for b in range(count):
        if weights[b] == 0.0:
            continue
        used += 1
        x, y = weights[b] * pull[b, 0], weights[b] * pull[b, 1]
        for p in range(k):
            score[p] = jacobian[b, 0, p] * x + jacobian[b, 1, p] * y
            for q in range(p + 1):
                scatter[p, q] += score[p] * score[q]
    if used < 2 * k:
        return np.empty((0, 0))
    for p in range(k):
        for q in range(p):
            scatter[q, p] = scatter[p, q]
    inverse = np.linalg.inv(normal.newton * normal.hessian)
    return inverse @ scatter @ inverse * (used / (used - k)) ** 2
