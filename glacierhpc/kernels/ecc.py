"""Enhanced correlation coefficient alignment of two images at one resolution; the pyramid is in `coreg`.

The images are used as they are: smoothing, high-pass and masks (NaN) are the callers' choice.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np

from glacierhpc.kernels.ecc_normal import (
    MIN_CONTRAST,
    Blocks,
    Normal,
    covariance,
    offset_errors,
    offsets,
    residuals,
    robust_weights,
    taken,
)
from glacierhpc.kernels.ecc_sums import SUMS, accumulate, accumulate_softened, block_centres, block_side
from glacierhpc.kernels.motions import (
    Frame,
    as_homography,
    checked,
    corner_motion,
    corners,
    increment,
    jacobian,
)
from glacierhpc.kernels.sampling import CUBIC, LINEAR, QUINTIC, softened_kernels

FAILURES = ("no_overlap", "flat", "singular")
INTERPOLATIONS = {"linear": LINEAR, "cubic": CUBIC, "quintic": QUINTIC}
MIN_STEP_PX = 1e-3  # a step that moves no corner further than this ends the iteration
MAX_LAST_STEP_PX = 0.1  # what a step leaves is a twentieth of it
MAX_STEP_PX = 2.0  # the linearisation reaches no further
MAX_OFFSET_ERROR_PX = 0.3  # of a block's own offset: what is less certain is not told
MISTRUST = 0.3  # a block's weight
MIN_FALL = 1e-4  # of the coefficient: less is the weights' doing
# Passes over some rows of blocks, until a step is within their own error; what is left is for all rows to say
LEAST_APPROACHES, MOST_APPROACHES = 2, 5
OVERSHOOT = (
    0.8,
    1.5,
)  # least and most that a step can be too long by: central differences see less than the derivative


@dataclass(frozen=True)
class Units:
    """What brings two images to common units, roughly: their means, and the ratio of their deviations."""

    reference_mean: float
    moving_mean: float
    gain: float
    """Deviation of the reference over that of the moving image."""

    @classmethod
    def of(cls, reference: np.ndarray, moving: np.ndarray) -> Units:
        """Return those of two images (y, x), from every seventh row of each; 0, 0, 1 where they have none."""
        (mean_r, spread_r), (mean_i, spread_i) = (_brightness(image) for image in (reference, moving))
        return cls(mean_r, mean_i, spread_r / spread_i if spread_i > 0 and spread_r > 0 else 1.0)


def _brightness(image: np.ndarray) -> tuple[float, float]:
    sample = image[::7, :: 1 if image.shape[1] < 512 else 3]
    sample = sample[np.isfinite(sample)].astype(np.float64)
    return (float(sample.mean()), float(sample.std())) if sample.size else (0.0, 0.0)


@dataclass(frozen=True)
class EccResult:
    """Where the iteration ended."""

    status: str
    """``converged``, ``max_iterations``; or why there is no answer, one of `FAILURES`."""
    matrix: np.ndarray
    """(3, 3) float64, reference pixel to moving pixel."""
    rho: float
    """Correlation coefficient of all blocks where it was last measured, NaN without overlap."""
    iterations: int
    """Steps taken."""
    pixels: int
    """Pixels valid in both, with their neighbours."""
    rho_local: float = float("nan")
    """As `rho`, of what is left of each block after its own mean, whatever `local` was."""
    error_px: float = float("nan")
    """Predicted root mean square error of the corners, px."""
    mistrusted: float = 0.0
    """Share of the pixels that lie in blocks of a weight below `MISTRUST`."""
    vectors: np.ndarray = field(default_factory=lambda: np.empty((0, 5)))
    """(blocks, 5): centre x, y, px; displacement x, y left there, px, NaN where that is not determined;
    weight."""


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
        Weight blocks, see `ecc_normal.robust_weights`.
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
    level = _Level.of(reference, moving, checked(motion), interpolation, units, block_px, softened)
    at = _Place(as_homography(start), level.units.gain)
    manner = _Manner(local, robust, min_pixels)
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

    def after(self, look: _Look) -> _Place:
        """Return the place after the step of a look at this one."""
        gain = self.gain * (look.normal.gain if look.normal else 1.0)
        return replace(self, matrix=look.after(self.matrix), gain=gain, iterations=self.iterations + 1)


@dataclass(frozen=True)
class _Manner:
    """How a look is taken, see `ecc`."""

    local: bool
    robust: bool
    min_pixels: int


@dataclass(frozen=True)
class _Limits:
    """What ends the iteration, see `ecc`."""

    max_iterations: int
    epsilon: float
    min_step_px: float
    min_step_errors: float


def _approach(level: _Level, at: _Place, manner: _Manner, every: int, min_step_px: float) -> _Place:
    """Come near on every so many-th row of blocks, and measure there how many times too long steps are.

    Goes back to the start where these rows do not determine the motion.
    """
    start, before = at, None
    for done in range(MOST_APPROACHES):
        look = level.look(at.matrix, at.gain, manner, at.overshoot, every)
        if look.status or not np.isfinite(look.error_px):
            return start
        if before is not None:
            overshoot = look.overshoot(before, at.overshoot)
            look, at = look.shortened(overshoot / at.overshoot), replace(at, overshoot=overshoot)
        following = at.after(look)
        step_px = corner_motion(following.matrix, at.matrix, level.reference.shape)
        before, at = look, following
        if done + 1 >= LEAST_APPROACHES and step_px < max(min_step_px, look.error_px):
            break
    return at


def _iterate(level: _Level, at: _Place, manner: _Manner, limits: _Limits) -> EccResult:
    """Look and step until the limits say that it is enough; the best place counts."""
    best: tuple[_Look, _Place] | None = None
    last, falls, before = float("nan"), 0, at.iterations
    while True:
        look = level.look(at.matrix, at.gain, manner, at.overshoot)
        if look.status:
            return look.result(look.status, at)
        falls += best is not None and look.rho < best[0].rho - max(limits.epsilon, MIN_FALL)
        following = at.after(look)
        if best is None or look.rho > best[0].rho:
            best = look, following
        step_px = corner_motion(following.matrix, at.matrix, level.reference.shape)
        enough_px = max(limits.min_step_px, min(limits.min_step_errors * look.error_px, MAX_LAST_STEP_PX))
        settled = abs(look.rho - last) < limits.epsilon or step_px < enough_px or falls == 2
        done = at.iterations - before
        if settled or done == limits.max_iterations:
            chosen, end = best if falls else (look, following)
            # the step that is left costs nothing more; none is taken where none was asked for
            end = replace(
                end if limits.max_iterations > 0 else at,
                iterations=before + min(done + 1, limits.max_iterations),
            )
            return chosen.result("converged" if settled else "max_iterations", end)
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
    level = _Level.of(reference, moving, "translation", "linear", units, softened=softened)
    return Blocks.of(level.sums(as_homography(matrix), level.units.gain, every), local=local).rho


@dataclass(frozen=True)
class _Look:
    """One pass over the pixels, and the step it asks for; the rest is worked out when it is asked for."""

    level: _Level
    table: np.ndarray
    """The sums by block."""
    status: str
    """Empty, or one of `FAILURES`."""
    blocks: Blocks
    pixels: int
    weights: np.ndarray
    normal: Normal | None = None
    step: np.ndarray | None = None
    """(k) px at unit scaled coordinates, and the gain it holds for."""
    step_gain: float = 1.0

    @property
    def rho(self) -> float:
        """Correlation coefficient of the weighted blocks."""
        return self.normal.rho if self.normal else float("nan")

    def after(self, matrix: np.ndarray) -> np.ndarray:
        """Return the matrix after the step."""
        if self.step is None:
            return matrix
        frame = self.level.frame
        # the gradients are per pixel, the fields in scaled coordinates
        following = matrix @ frame.to_pixels(increment(self.level.motion, _bounded(self.step) / frame.half))
        return following / following[2, 2]

    def overshoot(self, before: _Look, known: float) -> float:
        """Return how many times too long a step is, from this one and the one before, `known` times shortened.

        What this one asks for in the direction of the other is what that one took too much: the pixels are the same,
        their noise too.
        """
        if self.normal is None or self.step is None or before.step is None:
            return known
        along = self.normal.hessian @ before.step
        most = float(np.abs(before.step).max())
        if not MIN_STEP_PX < most < MAX_STEP_PX:
            return known
        return float(np.clip(known * (1 - self.step @ along / (before.step @ along)), *OVERSHOOT))

    def shortened(self, factor: float) -> _Look:
        """Return the look with a step so many times shorter."""
        if self.normal is None or self.step is None:
            return self
        normal = replace(self.normal, newton=factor * self.normal.newton)
        return replace(self, normal=normal, step=self.step / factor)

    @cached_property
    def pull(self) -> np.ndarray:
        """What each block's residual still asks of a shift after the step, (blocks, 2)."""
        pull = residuals(self.blocks, self.step_gain)[1]
        if self.normal is None or self.step is None:
            return pull
        return pull - self.normal.newton * taken(self.blocks, self.level.jacobian @ _bounded(self.step))

    @cached_property
    def error_px(self) -> float:
        """Predicted root mean square error of the corners."""
        fields = self.level.jacobian
        variances = covariance(self.normal, self.weights, self.pull, fields) if self.normal else None
        if variances is None:
            return float("nan")
        each = _corner_fields(self.level.reference.shape, self.level.motion)
        return float(np.sqrt(((each @ variances) * each).sum() / 4))

    def vectors(self) -> np.ndarray:
        """Return `EccResult.vectors`."""
        newton = self.normal.newton if self.normal else 1.0
        left = offsets(self.blocks, self.pull, newton)
        variance = residuals(self.blocks, self.step_gain)[0]
        left[offset_errors(self.blocks, variance, newton) > MAX_OFFSET_ERROR_PX] = np.nan
        return np.column_stack([self.level.centres.reshape(-1, 2), left, self.weights])

    def result(self, status: str, end: _Place) -> EccResult:
        """Return the public form."""
        known = (end.matrix, self.blocks.rho, end.iterations, self.pixels)
        if status in FAILURES or self.normal is None:
            return EccResult(status, *known)
        mistrusted = float(self.blocks.count @ (self.weights < MISTRUST)) / self.pixels
        rho_local = Blocks.of(self.table, local=True).rho
        return EccResult(status, *known, rho_local, self.error_px, mistrusted, self.vectors())


@dataclass(frozen=True)
class _Level:
    """A pair at one resolution, and what stays the same over its iterations."""

    reference: np.ndarray
    moving: np.ndarray
    motion: str
    half: int
    softened: bool
    units: Units
    side: int
    centres: np.ndarray
    """(blocks y, blocks x, 2) x, y in pixels."""
    frame: Frame
    jacobian: np.ndarray
    """(blocks, 2, k)."""

    @classmethod
    def of(
        cls,
        reference: np.ndarray,
        moving: np.ndarray,
        motion: str,
        interpolation: str,
        units: Units | None,
        block_px: int | None = None,
        softened: bool = False,
    ) -> _Level:
        side, frame = block_px or block_side(reference.shape), Frame.of(reference.shape)
        centres, fields = _fields(reference.shape, side, motion)
        units = units or Units.of(reference, moving)
        half = INTERPOLATIONS[interpolation]
        return cls(reference, moving, motion, half, softened, units, side, centres, frame, fields)

    def sums(self, matrix: np.ndarray, gain: float, every: int = 1) -> np.ndarray:
        table = np.empty((*self.centres.shape[:2], len(SUMS)))
        mean, offset = np.float32(self.units.reference_mean), np.float32(-gain * self.units.moving_mean)
        add_up, kernel = (
            (accumulate_softened, softened_kernels()) if self.softened else (accumulate, self.half)
        )
        add_up(
            self.reference,
            mean,
            self.moving,
            matrix,
            np.float32(gain),
            offset,
            kernel,
            self.side,
            every,
            table,
        )
        return table

    def look(
        self, matrix: np.ndarray, gain: float, manner: _Manner, overshoot: float = 1.0, every: int = 1
    ) -> _Look:
        table = self.sums(matrix, gain, every)
        blocks = Blocks.of(table, local=manner.local)
        pixels, weights = int(blocks.count.sum()), np.ones(len(blocks.count))
        if pixels < manner.min_pixels:
            return _Look(self, table, "no_overlap", blocks, pixels, weights)
        if self._flat(blocks, pixels, gain):
            return _Look(self, table, "flat", blocks, pixels, weights)
        normal = Normal.of(blocks, weights, self.jacobian)
        solved = normal.solve()
        if manner.robust and solved is not None:
            weights = robust_weights(blocks, solved[1], self.side)
            normal = Normal.of(blocks, weights, self.jacobian)
            solved = normal.solve()
        if solved is None:
            return _Look(self, table, "singular", blocks, pixels, weights, normal)
        return _Look(self, table, "", blocks, pixels, weights, normal, *solved).shortened(overshoot)

    def _flat(self, blocks: Blocks, pixels: int, gain: float) -> bool:
        brightness = (self.units.reference_mean, gain * self.units.moving_mean)
        energy = (blocks.rr.sum(), blocks.ii.sum())
        return any(e <= pixels * (MIN_CONTRAST * b) ** 2 for e, b in zip(energy, brightness, strict=True))


@lru_cache(maxsize=64)
def _fields(shape: tuple[int, int], side: int, motion: str) -> tuple[np.ndarray, np.ndarray]:
    """Return `_Level.centres` and `_Level.jacobian`: an image's levels have them in common with those of others."""
    centres = block_centres(shape, side)
    fields = jacobian(motion, Frame.of(shape).scaled(centres.reshape(-1, 2)))
    centres.flags.writeable = fields.flags.writeable = False
    return centres, fields


@lru_cache(maxsize=64)
def _corner_fields(shape: tuple[int, int], motion: str) -> np.ndarray:
    """Return the displacements (8, k) of an image's corners, x and y of one after another."""
    return jacobian(motion, Frame.of(shape).scaled(corners(shape)[:2].T)).reshape(8, -1)


def _bounded(step: np.ndarray) -> np.ndarray:
    """Shorten a step, px at the corners, to what the linearisation reaches."""
    return step * min(1.0, MAX_STEP_PX / max(float(np.abs(step).max()), 1e-30))
