"""A pair at one resolution, and looks at it through a matrix; what one comes to is in `ecc_step`.

The iteration is in `ecc`, the compiled pass over the pixels is in `ecc_sums`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from glacierhpc.kernels.ecc_normal import MIN_CONTRAST
from glacierhpc.kernels.ecc_step import Look, blocks_told, correlation_at, look_at
from glacierhpc.kernels.ecc_sums import SUMS, accumulate, accumulate_softened, block_centres, block_side
from glacierhpc.kernels.motions import Frame, corners, jacobian
from glacierhpc.kernels.sampling import CUBIC, LINEAR, QUINTIC, softened_kernels

INTERPOLATIONS = {"linear": LINEAR, "cubic": CUBIC, "quintic": QUINTIC}


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
class Fields:
    """Where an image's blocks lie, and how far a unit of each of k parameters moves them."""

    frame: Frame
    blocks: tuple[int, ...]
    """Rows and columns of them."""
    centres: np.ndarray
    """(blocks, 2) x, y in pixels."""
    at_centres: np.ndarray
    """(blocks, 2, k)."""
    at_corners: np.ndarray
    """(8, k) of the image's corners, x and y of one after another."""


@lru_cache(maxsize=64)
def _fields(shape: tuple[int, int], side: int, motion: str) -> Fields:
    """Return the fields of an image: its levels have them in common with those of others."""
    centres, frame = block_centres(shape, side), Frame.of(shape)
    flat = centres.reshape(-1, 2)
    at_centres = jacobian(motion, frame.scaled(flat))
    at_corners = jacobian(motion, frame.scaled(corners(shape)[:2].T)).reshape(8, -1)
    for each in (flat, at_centres, at_corners):
        each.flags.writeable = False
    return Fields(frame, centres.shape[:2], flat, at_centres, at_corners)


@dataclass(frozen=True)
class Level:
    """A pair at one resolution, and what stays the same over its iterations."""

    reference: np.ndarray
    moving: np.ndarray
    half: int
    softened: bool
    units: Units
    side: int
    fields: Fields

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
        side = block_px or block_side(reference.shape)
        fields, units = _fields(reference.shape, side, motion), units or Units.of(reference, moving)
        return cls(reference, moving, INTERPOLATIONS[interpolation], softened, units, side, fields)

    def sums(self, matrix: np.ndarray, gain: float, every: int = 1) -> np.ndarray:
        """Return the sums (blocks, 16) of one pass through a matrix."""
        table = np.empty((*self.fields.blocks, len(SUMS)))
        mean, offset = np.float32(self.units.reference_mean), np.float32(-gain * self.units.moving_mean)
        add_up, kernel = (
            (accumulate_softened, softened_kernels()) if self.softened else (accumulate, self.half)
        )
        add_up(
            self.reference, mean, self.moving, matrix, np.float32(gain), offset, kernel, self.side, every, table
        )  # fmt: skip
        return table.reshape(-1, len(SUMS))

    def look(
        self, matrix: np.ndarray, gain: float, manner: Manner, overshoot: float = 1.0, every: int = 1
    ) -> Look:
        """Return what a pass comes to, see `ecc_step.look_at`."""
        fields, units = self.fields, self.units
        dark = (MIN_CONTRAST * units.reference_mean) ** 2, (MIN_CONTRAST * gain * units.moving_mean) ** 2
        return look_at(
            self.sums(matrix, gain, every), fields.at_centres, fields.at_corners, self.side, manner.local,
            manner.robust, dark, manner.min_pixels, overshoot,
        )  # fmt: skip

    def result(
        self, look: Look, manner: Manner, status: str, matrix: np.ndarray, iterations: int
    ) -> EccResult:
        """Return the public form of a look."""
        known = status, matrix, look.rho_all, iterations, int(look.pixels)
        if look.failure:
            return EccResult(*known)
        mistrusted, vectors = blocks_told(look, self.fields.centres, self.fields.at_centres, manner.local)
        return EccResult(*known, correlation_at(look.table, True), look.error_px, mistrusted, vectors)
