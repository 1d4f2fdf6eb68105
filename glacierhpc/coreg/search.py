"""The way to a matrix: down the pyramid, and at full size as little as the evidence asks for.

The pyramid is in `descent`, whether the result is credible is decided in `pair`, one resolution's iteration is in
`glacierhpc.kernels.ecc`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from glacierhpc.coreg.descent import (
    AUTO,
    AUTO_MOTIONS,
    Descent,
    SearchOptions,
    best_start,
    coarser,
    descend,
    lost,
    motions_at,
    units,
    worth,
)
from glacierhpc.coreg.prepared import Prepared
from glacierhpc.kernels.ecc import correlation, ecc
from glacierhpc.kernels.ecc_look import EccResult, Units
from glacierhpc.kernels.ecc_step import FAILURES, MIN_STEP_PX
from glacierhpc.kernels.ecc_sums import block_side
from glacierhpc.kernels.motions import corner_motion, simplified

MIN_PIXELS = 128
# One more pass over everything is worth it while a step is longer, and this many times the predicted error: how much
# too long steps are is known from the approach, so that what one leaves is a fiftieth of it
LAST_STEP_PX, STEP_ERRORS = 0.005, 5.0
APPROACH_ROWS, LEAST_SHARE = 3, 10  # an approach looks at so many rows of blocks, or at a tenth of them
ROBUST_ITERATIONS, ROBUST_STEP_ERRORS = 10, 0.3
ROBUST_BLOCK_PX = 16  # on real series of 300 px the shifts scattered half as much as with 32
DOUBTFUL_RHO, FAR_PX = 0.4, 4.0  # below the one and beyond the other, a result is compared with no shift
UNEVEN_LIGHT = 0.005  # of correlation lost to differences of brightness between blocks
HALF_IS_BETTER = 0.95  # of the predicted error at full size
# The finest structure is heard unless it correlates too little, leaves the coarser look, or predicts so much more error
MIN_FINE_RHO, MAX_FINE_SHIFT_PX, MAX_FINE_ERRORS = 0.2, 1.0, 1.5
_EYE = np.eye(3)

_REASONS = {
    "no_overlap": "too few pixels are valid in both images",
    "flat": "an image has no contrast where both are valid",
    "singular": "the texture does not determine the motion (it varies in one direction only)",
    "lost": "the refinement left the start that the coarse search had found",
}


@dataclass(frozen=True)
class Search:
    """What the search found; `reason` is empty where there is a matrix."""

    reason: str
    matrix: np.ndarray
    """(3, 3), reference pixel to moving pixel."""
    motion: str = ""
    rho: float = float("nan")
    iterations: int = 0
    overlap_share: float = 0.0
    """Pixels valid in both, as a share of the smaller image's valid pixels."""
    error_px: float = float("nan")
    vectors: np.ndarray = field(default_factory=lambda: np.empty((0, 5)))
    plain: bool = False
    """Whether all pixels counted alike."""
    rho_before: float = float("nan")
    """With no alignment."""


def search(
    reference: Prepared, moving: Prepared, options: SearchOptions, start: np.ndarray | None = None
) -> Search:
    """Return the motion between two images, from a start (3, 3) right within about a pixel if one is known."""
    for name, image in (("reference", reference), ("moving image", moving)):
        if image.pixels < MIN_PIXELS:
            return Search(f"the {name} has fewer than {MIN_PIXELS} valid pixels", _EYE)
    top = min(len(reference.levels), len(moving.levels)) - 1
    if start is None:
        first = best_start(reference, moving, top, options)
        if isinstance(first, str):
            return Search(first, _EYE)
        found = _from(reference, moving, first, top, options)
    else:
        found = _from(reference, moving, coarser(start, min(top, 1)), min(top, 1), options)
    before = _before(reference, moving, plain=found.plain)
    far = corner_motion(found.matrix, _EYE, reference.shape) > FAR_PX
    if far and not found.reason and not found.rho > max(before, DOUBTFUL_RHO):
        # at low resolution cloud or snow may have looked like the ground elsewhere: images in place are in place
        still = _from(reference, moving, _EYE, min(top, 1), options)
        found = still if not still.reason and still.rho > found.rho else found
    return replace(found, rho_before=before)


def _from(
    reference: Prepared, moving: Prepared, matrix: np.ndarray, level: int, options: SearchOptions
) -> Search:
    return _finish(reference, moving, descend(reference, moving, matrix, level, options), options)


def _finish(reference: Prepared, moving: Prepared, descent: Descent, options: SearchOptions) -> Search:
    """Refine at full size: on everything where both show the same all over, else on what agrees."""
    plain = descent.same or not options.robust
    motion, found = _full_size(reference, moving, descent, options, plain=plain)
    if not plain:
        found = _fine_look(reference, moving, found, replace(options, motion=motion))
    if motion == descent.motion:
        found = _or_half(found, descent)
    gone = found.status not in FAILURES and lost(found.matrix, descent.matrix, motion, reference.shape)
    reason = _REASONS["lost" if gone else found.status] if gone or found.status in FAILURES else ""
    return Search(
        reason,
        found.matrix,
        motion,
        found.rho,
        found.iterations + descent.iterations,
        min(1.0, found.pixels / max(min(reference.pixels, moving.pixels), 1)),
        found.error_px,
        found.vectors,
        plain=plain,
    )


def _or_half(full: EccResult, descent: Descent) -> EccResult:
    """Return the result at full size, or that at half of it where noise or gaps hide what only full size shows."""
    half = descent.last
    if half is None:
        return full
    # single gaps cost more of them at full size
    full = replace(full, pixels=max(full.pixels, 4**descent.levels * half.pixels))
    if full.status not in FAILURES and not descent.error_px < HALF_IS_BETTER * full.error_px:
        return full
    known = full if full.status not in FAILURES else half
    return replace(
        half,
        matrix=descent.matrix,
        rho=known.rho,
        pixels=full.pixels,
        iterations=full.iterations,
        error_px=descent.error_px,
        vectors=full.vectors,
    )


def _full_size(
    reference: Prepared, moving: Prepared, descent: Descent, options: SearchOptions, *, plain: bool
) -> tuple[str, EccResult]:
    """Return the motion, and the result for it."""
    pair = _pair(reference, moving, plain=plain)
    common = units(reference, moving)
    half_pixels = reference.shape[0] * reference.shape[1] // 4
    if options.motion == AUTO and motions_at(half_pixels, AUTO)[-1] != AUTO_MOTIONS[-1]:
        return _choose(pair, descent.matrix, options, common, robust=not plain)
    motion = descent.motion if options.motion == AUTO else options.motion
    options = replace(options, motion=motion)
    found = _at_full_size(pair, descent.matrix, options, common, robust=not plain)
    if plain and found.rho < found.rho_local - UNEVEN_LIGHT:
        found = _at_full_size(pair, found.matrix, options, common, robust=False, local=True)
    return motion, found


def _pair(reference: Prepared, moving: Prepared, *, plain: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return what is compared at full size: few passes soften on the way, many are worth a smoothed copy."""
    return (reference.image, moving.image) if plain else (reference.smooth, moving.smooth)


def _choose(
    pair: tuple[np.ndarray, np.ndarray],
    matrix: np.ndarray,
    options: SearchOptions,
    units: Units,
    *,
    robust: bool,
) -> tuple[str, EccResult]:
    """Choose the motion at full size, for images whose half is too small for it."""
    shape, chosen = pair[0].shape, AUTO_MOTIONS[0]
    best = None
    for motion in AUTO_MOTIONS:
        start = simplified(matrix, motion, shape)
        found = _at_full_size(pair, start, replace(options, motion=motion), units, robust=robust)
        if best is None or (found.status not in FAILURES and worth(found, best.matrix, 0, shape)):
            best, chosen = found, motion
    assert best is not None
    return chosen, best


def _at_full_size(
    pair: tuple[np.ndarray, np.ndarray],
    matrix: np.ndarray,
    options: SearchOptions,
    units: Units | None = None,
    *,
    robust: bool,
    local: bool = False,
) -> EccResult:
    return ecc(
        *pair,
        matrix,
        motion=options.motion,
        max_iterations=min(ROBUST_ITERATIONS, options.max_iterations) if robust else options.max_iterations,
        epsilon=options.epsilon,
        min_step_px=MIN_STEP_PX if robust else LAST_STEP_PX,
        min_step_errors=ROBUST_STEP_ERRORS if robust else STEP_ERRORS,
        min_pixels=MIN_PIXELS,
        interpolation="cubic" if robust else "quintic",
        softened=not robust,
        local=robust or local,
        robust=robust,
        approach=1 if robust else _every(pair[0].shape),  # weights of some rows are not those of all
        block_px=ROBUST_BLOCK_PX if robust else None,
        units=units,
    )


def _every(shape: tuple[int, ...]) -> int:
    """Return how far apart the rows of an image's blocks may lie that stand for all."""
    return max(1, min(shape[0] // block_side(shape) // APPROACH_ROWS, LEAST_SHARE))


def _fine_look(reference: Prepared, moving: Prepared, coarse: EccResult, options: SearchOptions) -> EccResult:
    """Refine on the finest structure, which neither sunlight nor snow lines move.

    It says nothing where haze or noise cover it. The coarse correlation stays the verdict's.
    """
    if coarse.status in FAILURES or reference.fine is None or moving.fine is None:
        return coarse
    fine = _at_full_size((reference.fine, moving.fine), coarse.matrix, options, robust=True)
    shape = reference.shape
    far = corner_motion(fine.matrix, coarse.matrix, shape) > MAX_FINE_SHIFT_PX
    worse = fine.error_px > MAX_FINE_ERRORS * coarse.error_px
    if fine.status in FAILURES or fine.rho < MIN_FINE_RHO or far or worse:
        return coarse
    return replace(fine, rho=coarse.rho, pixels=coarse.pixels, iterations=coarse.iterations + fine.iterations)


def _before(reference: Prepared, moving: Prepared, *, plain: bool) -> float:
    """Return the correlation with no alignment: of some rows of blocks, of all where these have none."""
    pair = _pair(reference, moving, plain=plain)
    common = units(reference, moving)
    every = _every(reference.shape) * (2 if plain else 1)  # what shows the same all over does so in few rows
    sampled = correlation(*pair, _EYE, local=not plain, every=every, softened=plain, units=common)
    if np.isfinite(sampled):
        return sampled
    return correlation(*pair, _EYE, local=not plain, softened=plain, units=common)
