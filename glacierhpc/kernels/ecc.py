"""Enhanced correlation coefficient alignment of two images at one resolution; the pyramid is in `coreg`.

The images are used as they are: smoothing, high-pass and masks (NaN) are the callers' choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from glacierhpc.kernels.ecc_look import EccResult, Level, Manner, Units
from glacierhpc.kernels.ecc_step import FAILURES, MIN_STEP_PX, Look, correlation_at, stepped
from glacierhpc.kernels.motions import Frame, as_homography, checked, corner_motion

MAX_LAST_STEP_PX = 0.1  # what a step leaves is a twentieth of it
MIN_FALL = 1e-4  # of the coefficient: less is the weights' doing
# Passes over some rows of blocks, until what a step leaves is within their own error; the rest is for all rows to say
LEAST_APPROACHES, MOST_APPROACHES = 2, 5
MEASURED_STEP_ERRORS = 20.0  # a step so long leaves half of an error, now that its excess is known


def ecc(
    reference: np.ndarray,
    moving: np.ndarray,
    start: np.ndarray,
    *,
    motion: str = "translation",
    max_iterations: int = 100,
    epsilon: float = 1e-6,
    min_step_px: float = MIN_STEP_PX,
    min_step_errors: float = 0.0,
    min_pixels: int = 64,
    interpolation: str = "linear",
    softened: bool = False,
    local: bool = False,
    robust: bool = False,
    approach: int = 1,
    block_px: int | None = None,
    units: Units | None = None,
) -> EccResult:
    """Maximise the correlation coefficient of two images over a motion, from a start close by.

    Every step's warp is composed with the one before. The gradient is the mean of both images', warped, which
    converges faster and lets less noise through than that of one. Insensitive to gain and offset of either image.
    Only pixels valid in both images count, anew in every iteration. Converges from a start within about the images'
    correlation length.

    Parameters
    ----------
    reference, moving : (y, x) float32
        NaN is invalid; any unit; shapes may differ.
    start : (2, 3) or (3, 3) float
        Reference pixel to moving pixel.
    motion : {"translation", "euclidean", "similarity", "affine", "homography"}
        2, 3, 4, 6 or 8 parameters.
    epsilon : float
        Ends when the coefficient changes by less than this from one iteration to the next.
    min_step_px : float
        Ends when a step moves no corner further than this.
    min_step_errors : float
        Or no further than so many predicted errors, and `MAX_LAST_STEP_PX`.
    min_pixels : int
        Fewer common pixels are ``no_overlap``.
    interpolation : {"linear", "cubic", "quintic"}
        More pixels cost more and bias less. Not looked at where `softened`.
    softened : bool
        Compare both images softened by [1, 6, 1] / 8, which is done on the way, in one with an interpolation that
        biases the shift of a sharp landscape by up to 0.0001 px: for a pass or two over large images.
    local : bool
        Compare what is left of each block after its own mean, not the mean of all: slow changes of brightness drop out.
    robust : bool
        Weight blocks, see `ecc_weights.robust_weights`.
    approach : int
        Come near on every so many-th row of blocks first, as far as these tell; 1 does without.
    block_px : {16, 32, 64}, optional
        Side of the blocks; by default what leaves six or more along the shorter side. Smaller ones follow the
        outlines of clouds and glaciers better, and cost more.
    units : Units, optional
        Where they are known already.

    Returns
    -------
    EccResult
        Never raises for what the images contain.

    References
    ----------
    Evangelidis & Psarakis (2008), IEEE TPAMI 30(10), doi:10.1109/TPAMI.2008.113; the mean gradient: Benhimane &
    Malis (2007), Int. J. Robotics Research 26(7), doi:10.1177/0278364907080252
    """
    level = Level.of(reference, moving, checked(motion), interpolation, units, block_px, softened)
    at = _Place(as_homography(start), level.units.gain)
    manner = Manner(local, robust, min_pixels)
    limits = _Limits(max_iterations, epsilon, min_step_px, min_step_errors)
    if approach > 1 and max_iterations > MOST_APPROACHES:
        at = _approach(level, at, manner, approach, min_step_px)
    return _iterate(level, at, manner, limits)


@dataclass(frozen=True)
class _Place:
    """Where an iteration stands."""

    matrix: np.ndarray
    gain: float
    overshoot: float = 1.0
    """How many times too long a step is."""
    iterations: int = 0

    def after(self, look: Look, frame: Frame) -> _Place:
        """Return the place after the step of a look at this one."""
        matrix = stepped(self.matrix, look.step, frame)
        return _Place(matrix, self.gain * look.gain, self.overshoot, self.iterations + 1)


@dataclass(frozen=True)
class _Limits:
    """What ends the iteration, see `ecc`."""

    max_iterations: int
    epsilon: float
    min_step_px: float
    min_step_errors: float


def _approach(level: Level, at: _Place, manner: Manner, every: int, min_step_px: float) -> _Place:
    """Come near on every so many-th row of blocks, and measure there how many times too long steps are.

    Goes back to the start where these rows do not determine the motion.
    """
    shape, start, before = level.reference.shape, at, None
    for done in range(MOST_APPROACHES):
        look = level.look(at.matrix, at.gain, manner, at.overshoot, every)
        if look.failure or not math.isfinite(look.error_px):
            return start
        if before is not None:
            overshoot = look.overshoot(before, at.overshoot)
            look, at = look.shortened(overshoot / at.overshoot), replace(at, overshoot=overshoot)
        following = at.after(look, level.fields.frame)
        step_px = corner_motion(following.matrix, at.matrix, shape)
        before, at = look, following
        known_px = min(MEASURED_STEP_ERRORS * look.error_px, MAX_LAST_STEP_PX)
        if done + 1 >= LEAST_APPROACHES and step_px < max(min_step_px, look.error_px, known_px):
            break
    return at


def _iterate(level: Level, at: _Place, manner: Manner, limits: _Limits) -> EccResult:
    """Look and step until the limits say that it is enough; the best place counts."""
    shape, best = level.reference.shape, None
    last, falls, before = float("nan"), 0, at.iterations
    while True:
        look = level.look(at.matrix, at.gain, manner, at.overshoot)
        if look.failure:
            return level.result(look, manner, FAILURES[look.failure - 1], at.matrix, at.iterations)
        falls += best is not None and look.rho < best[0].rho - max(limits.epsilon, MIN_FALL)
        following = at.after(look, level.fields.frame)
        if best is None or look.rho > best[0].rho:
            best = look, following
        step_px = corner_motion(following.matrix, at.matrix, shape)
        enough_px = max(limits.min_step_px, min(limits.min_step_errors * look.error_px, MAX_LAST_STEP_PX))
        settled = abs(look.rho - last) < limits.epsilon or step_px < enough_px or falls == 2
        done = at.iterations - before
        if settled or done == limits.max_iterations:
            chosen, end = best if falls else (look, following)
            # the step that is left costs nothing more; none is taken where none was asked for
            matrix = end.matrix if limits.max_iterations > 0 else at.matrix
            taken = before + min(done + 1, limits.max_iterations)
            status = "converged" if settled else "max_iterations"
            return level.result(chosen, manner, status, matrix, taken)
        at, last = following, look.rho


def correlation(
    reference: np.ndarray,
    moving: np.ndarray,
    matrix: np.ndarray,
    *,
    local: bool = False,
    every: int = 1,
    softened: bool = False,
    units: Units | None = None,
) -> float:
    """Return the correlation coefficient of two images through a matrix, NaN without overlap or contrast.

    Parameters
    ----------
    reference, moving, matrix, local, softened, units
        As in `ecc`.
    every : int
        Looks at every so many-th row of blocks only.
    """
    level = Level.of(reference, moving, "translation", "linear", units, softened=softened)
    return correlation_at(level.sums(as_homography(matrix), level.units.gain, every), local)
