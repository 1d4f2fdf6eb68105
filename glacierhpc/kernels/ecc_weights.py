"""How far each block of a pair is trusted: weights by what its residual and its own offset say.

The equations that they are used in are in `ecc_normal`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from glacierhpc.kernels.ecc_normal import offsets, residuals

MIN_BLOCK_SHARE, MIN_BLOCK_PIXELS = 0.03, 16  # fewer pixels of a block say nothing for themselves
LEAST_OFFSET_PX = 1e-3
# Blocks further off than so many deviations lose weight, and have none from the second on (Hampel's psi)
HAMPEL = (3.0, 6.0)
LEAST_NOISE = 1e-4  # of the reference's variance: images that differ by less are equal
QUIET_QUANTILE = 0.4  # of the blocks' residual variances: what noise alone leaves
_compiled = njit(cache=True, nogil=True, error_model="numpy")


@_compiled
def robust_weights(blocks, gain, side):
    """Return weights (n) in [0, 1] that take from blocks what does not belong to the common picture.

    A block whose residual is larger than noise explains (cloud, new snow, shadow) counts in inverse proportion to
    its variance; one that lies further off than `HAMPEL` says (moving ice) loses the rest. Typical is what the blocks
    with most information lie off.
    Equal blocks all have weight 1, so that nothing is lost where there is nothing to mistrust.
    """
    enough = blocks.pixels >= max(MIN_BLOCK_SHARE * side**2, MIN_BLOCK_PIXELS)
    enough &= (blocks.rr > 0) & (blocks.ii > 0)
    if enough.sum() < 4:
        return np.ones(len(enough))
    variance, pull = residuals(blocks, gain)
    variance += LEAST_NOISE * blocks.rr[enough].sum() / blocks.pixels[enough].sum()
    quiet = _quantile(variance[enough], QUIET_QUANTILE)
    offset = offsets(blocks, pull, 1.0)
    length = np.hypot(offset[:, 0], offset[:, 1])
    known, typical = enough & np.isfinite(length), LEAST_OFFSET_PX
    if known.any():
        information = (blocks.hessian[:, 0] + blocks.hessian[:, 2]) / variance
        median = _weighted_median(length[known], information[known])
        typical = max(median / math.sqrt(2 * math.log(2)), typical)  # of a Rayleigh law
    return _weights(enough, variance, quiet, length, typical)


@_compiled
def _weights(enough, variance, quiet, length, typical):
    """Return the weights (n): by variance, those of offsets from `HAMPEL` on less, of unknown ones not."""
    weights = np.zeros(len(variance))
    for b in range(len(weights)):
        if enough[b]:
            weights[b] = min(1.0, quiet / variance[b])
            if length[b] == length[b]:
                far = (HAMPEL[1] - length[b] / typical) / (HAMPEL[1] - HAMPEL[0])
                weights[b] *= min(max(far, 0.0), 1.0)
    return weights


@_compiled
def _quantile(values, share):
    """Do what `numpy.quantile` does, which is compiled for seconds."""
    place = share * (len(values) - 1)
    before = int(place)
    after = min(before + 1, len(values) - 1)
    ordered = np.partition(values, after)
    low = ordered[: before + 1].max()
    return low + (place - before) * (ordered[after] - low)


@_compiled
def _weighted_median(values, weights):
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return values[order[np.searchsorted(reached, 0.5 * reached[-1])]]
