"""The way down a pyramid: a start at the lowest resolution, refined level by level to half of the full one.

What is done at full size is in `search`; one level's iteration is in `glacierhpc.kernels.ecc`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from glacierhpc.coreg.prepared import Prepared
from glacierhpc.kernels.coarse import coarse_shifts
from glacierhpc.kernels.ecc import correlation, ecc
from glacierhpc.kernels.ecc_look import EccResult, Units
from glacierhpc.kernels.ecc_step import FAILURES
from glacierhpc.kernels.motions import corner_motion, shift_matrix, simplified

# Starts that are followed: those with so much of the best one's correlation, unless that leaves no doubt
CANDIDATES, RIVAL_SHARE, SURE_RHO = 4, 0.7, 0.9
PARAMETRIC_PIXELS = 4096  # coarser levels determine a shift only
FULL_PIXELS = 20000  # and coarser than this no more than a turn and a zoom
# Levels at once, and down to which: what a level leaves, a twentieth of a pixel, is less than half of one there
JUMP, LAST_JUMP = 3, 2
# From there straight to full size where both correlate like this: under more noise half of it may tell more
CLEAR_RHO = 0.99
# A shorter step leaves a twentieth of itself, which the next level sees to
COARSE_ITERATIONS, STEP_PX = 6, 0.2
# What it leaves may look like something else to blocks far out: while few do, a closer look tells
CLOSE_STEP_PX, FEW_MISTRUSTED = 0.05, 0.2
MAX_LEVEL_SHIFT_PX = 4.0  # a start is right within a pixel of its level: what leaves further has lost its way
# Pairs that correlate above this, with next to no block that shows something else, show the same all over
SAME_RHO, MAX_MISTRUSTED = 0.95, 0.01
AUTO, AUTO_MOTIONS = "auto", ("translation", "euclidean", "similarity", "affine")
# Of two motions the one with more parameters is taken where it moves a corner by more than this, and by more than so
# many of its own predicted errors; at coarse levels by half a pixel of theirs, since the finer ones decide
WORTH_PX, COARSE_WORTH_PX, WORTH_ERRORS = 0.1, 0.5, 6.0


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
class Descent:
    """Where the coarser levels led."""

    matrix: np.ndarray
    """(3, 3) in pixels of the level that comes next."""
    motion: str
    iterations: int
    last: EccResult | None = None
    """The last level's result, None where it had none."""
    levels: int = 1
    """By how many the level that comes next is finer."""

    @property
    def same(self) -> bool:
        """Whether both images show the same all over: robust weights would take next to nothing out."""
        return self._alike(MAX_MISTRUSTED)

    @property
    def nearly_same(self) -> bool:
        """Whether they do but for few blocks, which may be owed to the last step alone."""
        return not self.same and self._alike(FEW_MISTRUSTED)

    def _alike(self, mistrusted: float) -> bool:
        return self.last is not None and self.last.rho >= SAME_RHO and self.last.mistrusted <= mistrusted

    @property
    def error_px(self) -> float:
        """Predicted error of the corners, in pixels of the level that comes next."""
        return 2**self.levels * self.last.error_px if self.last else float("nan")

    def down(self, levels: int) -> Descent:
        """Return it for a level that is so much finer still."""
        return replace(self, matrix=finer(self.matrix, levels), levels=self.levels + levels)


def best_start(reference: Prepared, moving: Prepared, top: int, options: SearchOptions) -> np.ndarray | str:
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
    starts = [shift_matrix(x, y) for x, y, rho in peaks if rho >= RIVAL_SHARE * peaks[0][2]]
    if len(starts) == 1 or top == 0 or peaks[0][2] > SURE_RHO:
        return starts[0]
    shift = replace(options, motion="translation")
    refined = [_step_down(reference, moving, start, top, shift).matrix for start in starts]
    levels = reference.levels[top - 1], moving.levels[top - 1]
    scores = [np.nan_to_num(correlation(*levels, matrix, local=True), nan=-1.0) for matrix in refined]
    return starts[int(np.argmax(scores))]


def descend(
    reference: Prepared, moving: Prepared, matrix: np.ndarray, top: int, options: SearchOptions
) -> Descent:
    """Refine a start from level `top` down to half size, leaving out levels where both clearly show the same."""
    step = Descent(matrix, "translation", 0)
    iterations, level = 0, top
    while level > 0:
        step = _step_down(reference, moving, step.matrix, level, options)
        iterations += step.iterations
        following = _following(level, step, options)
        step = step.down(level - 1 - following)
        level = following
    return replace(step, iterations=iterations)


def _following(level: int, step: Descent, options: SearchOptions) -> int:
    """Return the level that is looked at after one."""
    if level < LAST_JUMP or not step.same or step.motion != options.motion:
        return level - 1
    if level > LAST_JUMP:
        return max(LAST_JUMP, level - JUMP)
    return 0 if step.last and step.last.rho >= CLEAR_RHO else 1


def _step_down(
    reference: Prepared, moving: Prepared, matrix: np.ndarray, level: int, options: SearchOptions
) -> Descent:
    """Refine a matrix at one level."""
    shape, best, chosen = reference.levels[level].shape, matrix, "translation"
    iterations, last = 0, None
    for motion in motions_at(shape[0] * shape[1], options.motion):
        start = simplified(matrix, motion, shape) if options.motion == AUTO else best
        found = _at_level(reference, moving, start, motion, level, options)
        iterations += found.iterations
        if found.status in FAILURES or lost(found.matrix, start, motion, shape):
            continue
        if options.motion != AUTO or motion == "translation" or worth(found, best, level, shape):
            best, last, chosen = found.matrix, found, motion
        if shape[0] * shape[1] < FULL_PIXELS and Descent(best, chosen, 0, last).same:
            break  # what a shift leaves there is within reach of the next level
    if Descent(best, chosen, 0, last).nearly_same:
        found = _at_level(reference, moving, best, chosen, level, options, step_px=CLOSE_STEP_PX)
        iterations += found.iterations
        if found.status not in FAILURES and not lost(found.matrix, best, chosen, shape):
            best, last = found.matrix, found
    return Descent(finer(best), chosen, iterations, last)


def _at_level(
    reference: Prepared,
    moving: Prepared,
    start: np.ndarray,
    motion: str,
    level: int,
    options: SearchOptions,
    step_px: float = STEP_PX,
) -> EccResult:
    return ecc(
        reference.levels[level],
        moving.levels[level],
        start,
        motion=motion,
        max_iterations=min(COARSE_ITERATIONS, options.max_iterations),
        epsilon=1e-4,
        min_step_px=step_px,
        min_pixels=32,
        interpolation="cubic" if level == 1 else "linear",
        local=True,
        robust=options.robust,
        units=units(reference, moving),
    )


def worth(found: EccResult, simpler: np.ndarray, level: int, shape: tuple[int, ...]) -> bool:
    """Return whether a motion with more parameters moves a corner by more than its own error explains."""
    least_px = WORTH_PX / 2**level if level < 2 else COARSE_WORTH_PX
    return corner_motion(found.matrix, simpler, shape) > max(least_px, WORTH_ERRORS * found.error_px)


def units(reference: Prepared, moving: Prepared) -> Units:
    """Return the pair's units, from the smallest level."""
    (mean_r, deviation_r), (mean_i, deviation_i) = reference.brightness, moving.brightness
    known = deviation_r > 0 and deviation_i > 0
    return Units(mean_r, mean_i, deviation_r / deviation_i if known else 1.0)


def motions_at(pixels: int, motion: str) -> list[str]:
    """Return the motions that are tried at a level of so many pixels, one after another."""
    if motion == "translation" or pixels < PARAMETRIC_PIXELS:
        return ["translation"]
    if pixels < FULL_PIXELS:
        return ["translation", "euclidean" if motion == "euclidean" else "similarity"]
    if motion == AUTO:
        return list(AUTO_MOTIONS)
    # what the ice bends least comes first: its weights keep the ice out of what follows
    return ["affine", motion] if motion == "homography" else [motion]


def lost(matrix: np.ndarray, start: np.ndarray, motion: str, shape: tuple[int, ...]) -> bool:
    """Return whether a shift has left its start further than a start is wrong."""
    return motion == "translation" and corner_motion(matrix, start, shape) > MAX_LEVEL_SHIFT_PX


def finer(matrix: np.ndarray, levels: int = 1) -> np.ndarray:
    """Express a matrix of images halved so many times in pixels of the full ones."""
    up, down = _halvings(levels)
    return up @ matrix @ down


def coarser(matrix: np.ndarray, levels: int) -> np.ndarray:
    """Express a matrix in pixels of images halved so many times."""
    up, down = _halvings(levels)
    return down @ matrix @ up


def _halvings(levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the maps (3, 3) from a halved image's pixels to the full one's, and back: i lies at 2 i + 0.5."""
    scale = 2.0**levels
    shift = 0.5 * (scale - 1)
    up = np.array([[scale, 0.0, shift], [0.0, scale, shift], [0.0, 0.0, 1.0]])
    down = np.array([[1 / scale, 0.0, -shift / scale], [0.0, 1 / scale, -shift / scale], [0.0, 0.0, 1.0]])
    return up, down
