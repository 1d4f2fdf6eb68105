"""The way to a matrix: a start at low resolution, a pyramid, and at full size as little as the evidence asks for.

Whether the result is credible is decided in `pair`; one resolution's iteration is in `glacierhpc.kernels.ecc`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from glacierhpc.coreg.prepared import Prepared
from glacierhpc.kernels.coarse import coarse_shifts
from glacierhpc.kernels.ecc import FAILURES, MIN_STEP_PX, EccResult, Units, correlation, ecc
from glacierhpc.kernels.motions import corner_motion, simplified

MIN_PIXELS = 128
# Starts that are followed: those with so much of the best one's correlation, unless that leaves no doubt
CANDIDATES, RIVAL_SHARE, SURE_RHO = 4, 0.7, 0.9
PARAMETRIC_PIXELS = 4096  # coarser levels determine a shift only
FULL_PIXELS = 20000  # and coarser than this no more than a turn and a zoom
# a step this short leaves a twentieth of itself, which the next level sees to; it has seen a tenth of a pixel off
JUMP, LAST_JUMP = (
    3,
    2,
)  # levels at once, and down to which: a twentieth of a pixel is less than half of one there
COARSE_ITERATIONS, COARSE_STEP_PX, HALF_STEP_PX = 6, 0.2, 0.2
MAX_LEVEL_SHIFT_PX = 4.0  # a start is right within a pixel of its level: what leaves further has lost its way
# Pairs that correlate above this, with next to no block that shows something else, show the same all over: all
# pixels count alike, which averages most noise away
SAME_RHO, MAX_MISTRUSTED = 0.95, 0.01
# One more iteration is worth it while a step is longer, and this many times the predicted error: what it leaves is a
# tenth of it
LAST_STEP_PX, STEP_ERRORS = 0.005, 1.5
HALF_IS_BETTER = 0.95
UNEVEN_LIGHT = 0.005  # of correlation lost to differences of brightness between blocks
ROBUST_ITERATIONS, ROBUST_STEP_ERRORS = 10, 0.3
AUTO, AUTO_MOTIONS = "auto", ("translation", "euclidean", "similarity", "affine")
# Of two motions the one with more parameters is taken where it moves a corner by more than this, and by more than so
# many of its own predicted errors; at coarse levels by half a pixel of theirs, since the finer ones decide
WORTH_PX, COARSE_WORTH_PX, WORTH_ERRORS = 0.1, 0.5, 4.0
ROBUST_BLOCK_PX = 16  # on real series of 300 px the shifts scattered half as much as with 32
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
class SearchOptions:
    """The arguments of `align_pair` that steer the search."""

    motion: str
    """One of `MOTIONS`, or `AUTO`: the one with the fewest parameters that the evidence supports, up to affine."""
    max_shift_px: float
    max_iterations: int
    epsilon: float
    min_overlap_share: float
    robust: bool = True


@dataclass(frozen=True)
class Search:
    """What the search found; `reason` is empty where there is a matrix."""

    reason: str
    matrix: np.ndarray
    """(3, 3), reference pixel to moving pixel."""
    motion: str = ""
    rho: float = float("nan")
    rho_before: float = float("nan")
    iterations: int = 0
    overlap_share: float = 0.0
    """Pixels valid in both, as a share of the smaller image's valid pixels."""
    error_px: float = float("nan")
    vectors: np.ndarray = field(default_factory=lambda: np.empty((0, 5)))


def search(
    reference: Prepared, moving: Prepared, options: SearchOptions, start: np.ndarray | None = None
) -> Search:
    """Return the motion between two images, from a start (3, 3) right within about a pixel if one is known."""
    for name, image in (("reference", reference), ("moving image", moving)):
        if image.pixels < MIN_PIXELS:
            return Search(f"the {name} has fewer than {MIN_PIXELS} valid pixels", _EYE)
    top = min(len(reference.levels), len(moving.levels)) - 1
    if start is None:
        found = _start(reference, moving, top, options)
        if isinstance(found, str):
            return Search(found, _EYE)
        descent = _descend(reference, moving, found, top, options)
    else:
        descent = _descend(reference, moving, _coarser(start, min(top, 1)), min(top, 1), options)
    return _finish(reference, moving, descent, options)


@dataclass(frozen=True)
class _Descent:
    """Where the coarser levels led."""

    matrix: np.ndarray
    """(3, 3) in pixels of the next finer level."""
    motion: str
    iterations: int
    same: bool
    """Whether both images show the same all over."""
    error_px: float = float("nan")
    """Predicted error of the corners, in pixels of the next finer level."""


def _start(reference: Prepared, moving: Prepared, top: int, options: SearchOptions) -> np.ndarray | str:
    """Return the matrix at the top level of the best start, or why there is none."""
    textures = reference.texture(top), moving.texture(top)
    for name, texture in zip(("reference", "moving image"), textures, strict=True):
        if texture is None:
            return f"the {name} has no contrast"
    peaks = coarse_shifts(
        *textures,  # type: ignore[arg-type]
        max_shift_px=options.max_shift_px / 2**top + 1,
        min_overlap_share=options.min_overlap_share,
        most=CANDIDATES,
    )
    if not peaks:
        return f"no shift within {options.max_shift_px:g} px leaves enough overlap and contrast"
    starts = [_shift(x, y) for x, y, rho in peaks if rho >= RIVAL_SHARE * peaks[0][2]]
    if len(starts) == 1 or top == 0 or peaks[0][2] > SURE_RHO:
        return starts[0]
    finer = [
        _step_down(reference, moving, start, top, replace(options, motion="translation")).matrix
        for start in starts
    ]
    levels = reference.levels[top - 1], moving.levels[top - 1]
    scores = [np.nan_to_num(correlation(*levels, matrix, local=True), nan=-1.0) for matrix in finer]
    return starts[int(np.argmax(scores))]


def _descend(
    reference: Prepared, moving: Prepared, matrix: np.ndarray, top: int, options: SearchOptions
) -> _Descent:
    """Refine a start from level `top` to level 1, leaving out levels where both images clearly show the same."""
    iterations, level, same, motion, error_px = 0, top, False, "translation", float("nan")
    while level > 0:
        step = _step_down(reference, moving, matrix, level, options)
        matrix, motion, same, error_px = step.matrix, step.motion, step.same, step.error_px
        iterations += step.iterations
        sure = same and motion == options.motion
        following = max(LAST_JUMP, level - JUMP) if sure and level > LAST_JUMP else level - 1
        for _ in range(level - 1 - following):
            matrix = _finer(matrix)
        level = following
    if top == 0 and options.motion != AUTO:
        motion = options.motion
    return _Descent(matrix, motion, iterations, same, error_px)


def _step_down(
    reference: Prepared, moving: Prepared, matrix: np.ndarray, level: int, options: SearchOptions
) -> _Descent:
    """Refine a matrix at one level."""
    shape, best = reference.levels[level].shape, matrix
    iterations, same, chosen, error_px = 0, False, "translation", float("nan")
    for motion in _motions_at(shape[0] * shape[1], options.motion):
        start = simplified(matrix, motion, shape) if options.motion == AUTO else best
        found = _at_level(reference, moving, start, motion, level, options)
        iterations += found.iterations
        if found.status in FAILURES or _lost(found.matrix, start, motion, shape):
            continue
        if options.motion != AUTO or motion == "translation" or _worth(found, best, level, shape):
            best, same, chosen, error_px = found.matrix, _same(found), motion, found.error_px
        if same and shape[0] * shape[1] < FULL_PIXELS:
            break  # what a shift leaves there is within reach of the next level
    return _Descent(_finer(best), chosen, iterations, same, 2 * error_px)


def _at_level(
    reference: Prepared, moving: Prepared, start: np.ndarray, motion: str, level: int, options: SearchOptions
) -> EccResult:
    return ecc(
        reference.levels[level],
        moving.levels[level],
        start,
        motion=motion,
        max_iterations=min(COARSE_ITERATIONS, options.max_iterations),
        epsilon=1e-4,
        min_step_px=HALF_STEP_PX if level == 1 else COARSE_STEP_PX,
        min_pixels=32,
        interpolation="cubic" if level == 1 else "linear",
        local=True,
        robust=options.robust,
        units=_units(reference, moving),
    )


def _worth(found: EccResult, simpler: np.ndarray, level: int, shape: tuple[int, ...]) -> bool:
    """Return whether a motion with more parameters moves a corner by more than its own error explains."""
    least_px = WORTH_PX / 2**level if level < 2 else COARSE_WORTH_PX
    return corner_motion(found.matrix, simpler, shape) > max(least_px, WORTH_ERRORS * found.error_px)


def _units(reference: Prepared, moving: Prepared) -> Units:
    """Return the pair's units, from the smallest level."""
    (mean_r, deviation_r), (mean_i, deviation_i) = reference.brightness, moving.brightness
    known = deviation_r > 0 and deviation_i > 0
    return Units(mean_r, mean_i, deviation_r / deviation_i if known else 1.0)


def _same(found: EccResult) -> bool:
    """Return whether a pair has next to nothing that robust weights would take out."""
    return found.rho >= SAME_RHO and found.mistrusted <= MAX_MISTRUSTED


def _motions_at(pixels: int, motion: str) -> list[str]:
    """Return the motions that are tried at a level of so many pixels, one after another."""
    if motion == "translation" or pixels < PARAMETRIC_PIXELS:
        return ["translation"]
    if pixels < FULL_PIXELS:
        return ["translation", "euclidean" if motion == "euclidean" else "similarity"]
    if motion == AUTO:
        return list(AUTO_MOTIONS)
    # what the ice bends least comes first: its weights keep the ice out of what follows
    return ["affine", motion] if motion == "homography" else [motion]


def _lost(matrix: np.ndarray, start: np.ndarray, motion: str, shape: tuple[int, ...]) -> bool:
    return motion == "translation" and corner_motion(matrix, start, shape) > MAX_LEVEL_SHIFT_PX


def _finish(reference: Prepared, moving: Prepared, descent: _Descent, options: SearchOptions) -> Search:
    """Refine at full size: on everything where both show the same all over, else on what agrees."""
    chosen = descent.motion if options.motion == AUTO else options.motion
    plain = descent.same or not options.robust
    units = _units(reference, moving)
    # few passes smooth on the way, many are worth a smoothed copy
    pair = (reference.image, moving.image) if plain else (reference.smooth, moving.smooth)
    if options.motion == AUTO and _motions_at(_pixels_at(reference, 1), AUTO)[-1] != AUTO_MOTIONS[-1]:
        chosen, found = _choose(pair, descent.matrix, options, units, robust=not plain)
    else:
        found = _at_full_size(pair, descent.matrix, replace(options, motion=chosen), units, robust=not plain)
        if plain and found.rho < found.rho_local - UNEVEN_LIGHT:
            found = _at_full_size(
                pair, found.matrix, replace(options, motion=chosen), units, robust=False, local=True
            )
    options = replace(options, motion=chosen)
    if not plain:
        found = _fine_look(reference, moving, found, options)
    elif chosen == descent.motion and descent.error_px < HALF_IS_BETTER * found.error_px:
        # noise hides what only full size shows
        found = replace(found, matrix=descent.matrix, error_px=descent.error_px)
    lost = found.status not in FAILURES and _lost(found.matrix, descent.matrix, options.motion, pair[0].shape)
    reason = _REASONS["lost" if lost else found.status] if lost or found.status in FAILURES else ""
    return Search(
        reason,
        found.matrix,
        options.motion,
        found.rho,
        _before(pair, units, local=not plain),
        found.iterations + descent.iterations,
        found.pixels / max(min(reference.pixels, moving.pixels), 1),
        found.error_px,
        found.vectors,
    )


def _pixels_at(image: Prepared, level: int) -> int:
    return image.shape[0] * image.shape[1] // 4**level


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
        if best is None or (found.status not in FAILURES and _worth(found, best.matrix, 0, shape)):
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
        block_px=ROBUST_BLOCK_PX if robust else None,
        units=units,
    )


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


def _before(pair: tuple[np.ndarray, np.ndarray], units: Units, *, local: bool) -> float:
    """Return the correlation with no alignment: of every eighth row of blocks, of all where these have none."""
    sampled = correlation(*pair, _EYE, local=local, every=8, softened=not local, units=units)
    if np.isfinite(sampled):
        return sampled
    return correlation(*pair, _EYE, local=local, softened=not local, units=units)


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def _finer(matrix: np.ndarray) -> np.ndarray:
    """Express a matrix of halved images in pixels of the full ones: pixel i lies at 2 i + 0.5."""
    up = np.array([[2.0, 0.0, 0.5], [0.0, 2.0, 0.5], [0.0, 0.0, 1.0]])
    return up @ matrix @ np.linalg.inv(up)


def _coarser(matrix: np.ndarray, levels: int) -> np.ndarray:
    """Express a matrix in pixels of images halved so many times."""
    down = np.linalg.inv(np.array([[2.0, 0.0, 0.5], [0.0, 2.0, 0.5], [0.0, 0.0, 1.0]]))
    for _ in range(levels):
        matrix = down @ matrix @ np.linalg.inv(down)
    return matrix
