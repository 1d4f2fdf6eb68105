"""What a pass over the pixels comes to: the step that its block sums ask for, and what that is worth.

The equations are in `ecc_normal`, the pass is in `ecc_sums`; the iteration over such looks is in `ecc`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from glacierhpc.kernels.ecc_normal import (
    blocks_of,
    correlation_of,
    covariance,
    normal_equations,
    offset_errors,
    offsets,
    pull_after,
    residuals,
    solve,
)
from glacierhpc.kernels.ecc_weights import robust_weights
from glacierhpc.kernels.motions import increment, to_pixels

FAILURES = ("no_overlap", "flat", "singular")
NO_OVERLAP, FLAT, SINGULAR = 1, 2, 3  # places in `FAILURES`, of which 0 is none
MIN_STEP_PX = 1e-3  # a step that moves no corner further than this ends the iteration
MAX_STEP_PX = 2.0  # the linearisation reaches no further
MAX_OFFSET_ERROR_PX = 0.3  # of a block's own offset: what is less certain is not told
MISTRUST = 0.3  # a block's weight
# Least and most that a step can be too long by: central differences see less than the derivative
OVERSHOOT = 0.8, 1.5
_compiled = njit(cache=True, nogil=True, error_model="numpy")


class Look(NamedTuple):
    """What one pass says of n blocks and k parameters."""

    table: np.ndarray
    """(n, 16) the sums by block."""
    failure: int
    """0, or what hinders a step, counted from 1 in `FAILURES`."""
    pixels: float
    """Valid in both images."""
    rho: float
    """Correlation coefficient of the weighted blocks."""
    rho_all: float
    """The same with all blocks counting alike."""
    gain: float
    """Factor that brings the deviation of the moving image to that of the reference."""
    weights: np.ndarray
    """(n)"""
    hessian: np.ndarray
    """(k, k) of `ecc_normal.Normal`, and its `newton`."""
    newton: float
    step: np.ndarray
    """(k) px at unit scaled coordinates, and the gain it holds for; empty where there is none."""
    step_gain: float
    error_px: float
    """Predicted root mean square error of the corners, NaN where it is not known."""

    def overshoot(self, before: Look, known: float) -> float:
        """Return how many times too long a step is, from this one and the one before, `known` times shortened.

        What this one asks for in the direction of the other is what that one took too much: the pixels are the same,
        their noise too.
        """
        if not MIN_STEP_PX < float(np.abs(before.step).max()) < MAX_STEP_PX:
            return known
        along = self.hessian @ before.step
        least, most = OVERSHOOT
        return min(max(known * float(1 - self.step @ along / (before.step @ along)), least), most)

    def shortened(self, factor: float) -> Look:
        """Return the look with a step so many times shorter."""
        newton, step, error_px = factor * self.newton, self.step / factor, self.error_px / factor
        return self._replace(newton=newton, step=step, error_px=error_px)


@_compiled
def look_at(table, jacobian, at_corners, side, local, robust, dark, min_pixels, overshoot):
    """Return the `Look` that block sums come to.

    Parameters
    ----------
    table : (n, 16) float64
        `ecc_sums.SUMS`.
    jacobian, at_corners : (n, 2, k) and (8, k) float64
        Displacement fields at the blocks' centres, and at the image's corners, x and y of one after another.
    side : int
        Of the blocks, px.
    local, robust : bool
        As in `ecc.ecc`.
    dark : tuple of two floats
        The mean square of less contrast than this is rounding, in either image.
    min_pixels : int
        Fewer are no overlap.
    overshoot : float
        By how many times steps are known to be too long.
    """
    blocks = blocks_of(table, local)
    pixels, rr, ii, ri = blocks.totals
    weights, step, step_gain, error_px = np.ones(len(table)), np.empty(0), 1.0, math.nan
    normal = normal_equations(blocks, weights, jacobian, overshoot)
    if pixels < min_pixels:
        failure = NO_OVERLAP
    elif rr <= pixels * dark[0] or ii <= pixels * dark[1]:
        failure = FLAT
    else:
        step, step_gain = solve(normal)
        if robust and len(step):
            weights = robust_weights(blocks, step_gain, side)
            normal = normal_equations(blocks, weights, jacobian, overshoot)
            step, step_gain = solve(normal)
        failure = 0 if len(step) else SINGULAR
    if failure == 0:
        pull = pull_after(blocks, step_gain, jacobian, normal.newton * _bounded(step))
        variances = covariance(normal, weights, pull, jacobian)
        if len(variances):
            error_px = math.sqrt(((at_corners @ variances) * at_corners).sum() / 4)
    return Look(
        table, failure, pixels, normal.rho, correlation_of(rr, ii, ri), normal.gain, weights, normal.hessian,
        normal.newton, step, step_gain, error_px,
    )  # fmt: skip


@_compiled
def stepped(matrix, step, frame):
    """Return the matrix (3, 3) after a step (k), shortened to what the linearisation reaches."""
    # the gradients are per pixel, the fields in scaled coordinates
    following = matrix @ to_pixels(increment(_bounded(step) / frame.half), frame)
    return following / following[2, 2]


@_compiled
def _bounded(step):
    return step * min(1.0, MAX_STEP_PX / max(np.abs(step).max(), 1e-30))


@_compiled
def correlation_at(table, local):
    """Return the correlation coefficient of all pixels in block sums (n, 16), NaN without overlap or contrast."""
    _, rr, ii, ri = blocks_of(table, local).totals
    return correlation_of(rr, ii, ri)


@_compiled
def blocks_told(look, centres, jacobian, local):
    """Return the share of the pixels in mistrusted blocks, and `EccResult.vectors` for centres (n, 2)."""
    blocks = blocks_of(look.table, local)
    pull = pull_after(blocks, look.step_gain, jacobian, look.newton * _bounded(look.step))
    left = offsets(blocks, pull, look.newton)
    errors = offset_errors(blocks, residuals(blocks, look.step_gain)[0], look.newton)
    vectors, mistrusted = np.empty((len(centres), 5)), 0.0
    for b in range(len(centres)):
        known = not errors[b] > MAX_OFFSET_ERROR_PX
        vectors[b, 0], vectors[b, 1] = centres[b, 0], centres[b, 1]
        vectors[b, 2], vectors[b, 3] = (left[b, 0], left[b, 1]) if known else (math.nan, math.nan)
        vectors[b, 4] = look.weights[b]
        if look.weights[b] < MISTRUST:
            mistrusted += blocks.pixels[b]
    return mistrusted / look.pixels, vectors
