"""One look at a pair through a matrix: the pass over its pixels, the step it asks for, and what that is worth.

The iteration is in `ecc`, the equations are in `ecc_normal`, the compiled pass is in `ecc_sums`.
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
    pull_after,
    residuals,
)
from glacierhpc.kernels.ecc_sums import SUMS, accumulate, accumulate_softened, block_centres, block_side
from glacierhpc.kernels.ecc_weights import robust_weights
from glacierhpc.kernels.motions import Frame, corners, increment, jacobian
from glacierhpc.kernels.sampling import CUBIC, LINEAR, QUINTIC, softened_kernels

FAILURES = ("no_overlap", "flat", "singular")
INTERPOLATIONS = {"linear": LINEAR, "cubic": CUBIC, "quintic": QUINTIC}
MIN_STEP_PX = 1e-3  # a step that moves no corner further than this ends the iteration
MAX_STEP_PX = 2.0  # the linearisation reaches no further
MAX_OFFSET_ERROR_PX = 0.3  # of a block's own offset: what is less certain is not told
MISTRUST = 0.3  # a block's weight
# Least and most that a step can be too long by: central differences see less than the derivative
OVERSHOOT = 0.8, 1.5


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


@dataclass(frozen=True)
class Manner:
    """How a look is taken, see `ecc`."""

    local: bool
    robust: bool
    min_pixels: int


@dataclass(frozen=True)
class Look:
    """One pass over the pixels, and the step it asks for; the rest is worked out when it is asked for."""

    level: Level
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

    def overshoot(self, before: Look, known: float) -> float:
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

    def shortened(self, factor: float) -> Look:
        """Return the look with a step so many times shorter."""
        if factor == 1.0 or self.normal is None or self.step is None:
            return self
        normal = replace(self.normal, newton=factor * self.normal.newton)
        return replace(self, normal=normal, step=self.step / factor)

    @cached_property
    def pull(self) -> np.ndarray:
        """What each block's residual still asks of a shift after the step, (blocks, 2)."""
        if self.normal is None or self.step is None:
            return residuals(self.blocks, self.step_gain)[1]
        step = self.normal.newton * _bounded(self.step)
        return pull_after(self.blocks, self.step_gain, self.level.jacobian, step)

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

    def result(self, status: str, matrix: np.ndarray, iterations: int) -> EccResult:
        """Return the public form."""
        known = (matrix, self.blocks.rho, iterations, self.pixels)
        if status in FAILURES or self.normal is None:
            return EccResult(status, *known)
        mistrusted = float(self.blocks.count @ (self.weights < MISTRUST)) / self.pixels
        rho_local = Blocks.of(self.table, local=True).rho
        return EccResult(status, *known, rho_local, self.error_px, mistrusted, self.vectors())


@dataclass(frozen=True)
class Level:
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
    ) -> Level:
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
        self, matrix: np.ndarray, gain: float, manner: Manner, overshoot: float = 1.0, every: int = 1
    ) -> Look:
        table = self.sums(matrix, gain, every)
        blocks = Blocks.of(table, local=manner.local)
        pixels, weights = int(blocks.totals[0]), np.ones(len(blocks.count))
        if pixels < manner.min_pixels:
            return Look(self, table, "no_overlap", blocks, pixels, weights)
        if self._flat(blocks, pixels, gain):
            return Look(self, table, "flat", blocks, pixels, weights)
        normal = Normal.of(blocks, weights, self.jacobian, overshoot)
        solved = normal.solve()
        if manner.robust and solved is not None:
            weights = robust_weights(blocks, solved[1], self.side)
            normal = Normal.of(blocks, weights, self.jacobian, overshoot)
            solved = normal.solve()
        if solved is None:
            return Look(self, table, "singular", blocks, pixels, weights, normal)
        return Look(self, table, "", blocks, pixels, weights, normal, *solved)

    def _flat(self, blocks: Blocks, pixels: int, gain: float) -> bool:
        brightness = (self.units.reference_mean, gain * self.units.moving_mean)
        energy = blocks.totals[1:3]
        return any(e <= pixels * (MIN_CONTRAST * b) ** 2 for e, b in zip(energy, brightness, strict=True))


@lru_cache(maxsize=64)
def _fields(shape: tuple[int, int], side: int, motion: str) -> tuple[np.ndarray, np.ndarray]:
    """Return `Level.centres` and `Level.jacobian`: an image's levels have them in common with those of others."""
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
