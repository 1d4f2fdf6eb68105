"""Enhanced correlation coefficient alignment of two images at one resolution; the pyramid is in `coreg`.

The images are used as they are: smoothing, high-pass and masks (NaN) are the callers' choice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

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
from glacierhpc.kernels.motions import Frame, checked, corner_motion, corners, increment, jacobian
from glacierhpc.kernels.sampling import CUBIC, LINEAR, QUINTIC
from glacierhpc.kernels.warp import as_homography

FAILURES = ("no_overlap", "flat", "singular")
INTERPOLATIONS = {"linear": LINEAR, "cubic": CUBIC, "quintic": QUINTIC}
MIN_STEP_PX = 1e-3  # a step that moves no corner further than this ends the iteration
MAX_LAST_STEP_PX = 0.1  # what a step leaves is a twentieth of it
MAX_STEP_PX = 2.0  # the linearisation reaches no further
MAX_OFFSET_ERROR_PX = 0.3  # of a block's own offset: what is less certain is not told
MISTRUST = 0.3  # a block's weight
MIN_FALL = 1e-4  # of the coefficient: less is the weights' doing


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
    rho_start: float
    """Correlation coefficient at the start."""
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
        More pixels cost more and bias less: on a sharp landscape, softened, by up to 0.010, 0.0026 and 0.0010 px.
    softened : bool
        Compare both images after `pyramid.soften`, which is applied on the way: for a pass or two over large images
        that is faster than softening them before.
    local : bool
        Compare what is left of each block after its own mean, not the mean of all: slow changes of brightness drop out.
    robust : bool
        Weight blocks, see `ecc_normal.robust_weights`.
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
    matrix, gain = as_homography(start), level.units.gain
    best: tuple[_Look, np.ndarray] | None = None
    last, rho_start, falls = float("nan"), float("nan"), 0
    for done in range(max_iterations + 1):
        look = level.look(matrix, gain, local=local, robust=robust, min_pixels=min_pixels)
        rho_start = look.blocks.rho if done == 0 else rho_start
        if look.status:
            return look.result(look.status, matrix, rho_start, done)
        falls += best is not None and look.rho < best[0].rho - max(epsilon, MIN_FALL)
        following = look.after(matrix)
        if best is None or look.rho > best[0].rho:
            best = look, following
        step_px = corner_motion(following, matrix, reference.shape)
        enough_px = max(min_step_px, min(min_step_errors * look.error_px, MAX_LAST_STEP_PX))
        settled = abs(look.rho - last) < epsilon or step_px < enough_px or falls == 2
        if settled or done == max_iterations:
            chosen, end = best if falls else (look, following)
            # the step that is left costs nothing more; none is taken where none was asked for
            end = end if max_iterations > 0 else matrix
            status = "converged" if settled else "max_iterations"
            return chosen.result(status, end, rho_start, min(done + 1, max_iterations))
        matrix, last = following, look.rho
        gain *= look.normal.gain if look.normal else 1.0
    raise AssertionError("the loop returns")


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
        shape = self.level.reference.shape
        at_corners = jacobian(self.level.motion, self.level.frame.scaled(corners(shape)[:2].T))
        return float(np.sqrt(np.einsum("nck,kl,ncl->", at_corners, variances, at_corners) / len(at_corners)))

    def vectors(self) -> np.ndarray:
        """Return `EccResult.vectors`."""
        newton = self.normal.newton if self.normal else 1.0
        left = offsets(self.blocks, self.pull, newton)
        variance = residuals(self.blocks, self.step_gain)[0]
        left[offset_errors(self.blocks, variance, newton) > MAX_OFFSET_ERROR_PX] = np.nan
        return np.column_stack([self.level.centres.reshape(-1, 2), left, self.weights])

    def result(self, status: str, matrix: np.ndarray, rho_start: float, iterations: int) -> EccResult:
        """Return the public form."""
        known = (matrix, self.blocks.rho, rho_start, iterations, self.pixels)
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
        centres = block_centres(reference.shape, side)
        fields = jacobian(motion, frame.scaled(centres.reshape(-1, 2)))
        units = units or Units.of(reference, moving)
        half = INTERPOLATIONS[interpolation]
        return cls(reference, moving, motion, half, softened, units, side, centres, frame, fields)

    def sums(self, matrix: np.ndarray, gain: float, every: int = 1) -> np.ndarray:
        table = np.empty((*self.centres.shape[:2], len(SUMS)))
        mean, offset = np.float32(self.units.reference_mean), np.float32(-gain * self.units.moving_mean)
        add_up = accumulate_softened if self.softened else accumulate
        add_up(
            self.reference, mean, self.moving, matrix, np.float32(gain), offset, self.half, self.side, every, table
        )  # fmt: skip
        return table

    def look(self, matrix: np.ndarray, gain: float, *, local: bool, robust: bool, min_pixels: int) -> _Look:
        table = self.sums(matrix, gain)
        blocks = Blocks.of(table, local=local)
        pixels, weights = int(blocks.count.sum()), np.ones(len(blocks.count))
        if pixels < min_pixels:
            return _Look(self, table, "no_overlap", blocks, pixels, weights)
        if self._flat(blocks, pixels, gain):
            return _Look(self, table, "flat", blocks, pixels, weights)
        normal = Normal.of(blocks, weights, self.jacobian)
        solved = normal.solve()
        if robust and solved is not None:
            weights = robust_weights(blocks, solved[1], self.side)
            normal = Normal.of(blocks, weights, self.jacobian)
            solved = normal.solve()
        if solved is None:
            return _Look(self, table, "singular", blocks, pixels, weights, normal)
        return _Look(self, table, "", blocks, pixels, weights, normal, *solved)

    def _flat(self, blocks: Blocks, pixels: int, gain: float) -> bool:
        brightness = (self.units.reference_mean, gain * self.units.moving_mean)
        energy = (blocks.rr.sum(), blocks.ii.sum())
        return any(e <= pixels * (MIN_CONTRAST * b) ** 2 for e, b in zip(energy, brightness, strict=True))


def _bounded(step: np.ndarray) -> np.ndarray:
    """Shorten a step, px at the corners, to what the linearisation reaches."""
    return step * min(1.0, MAX_STEP_PX / max(float(np.abs(step).max()), 1e-30))
