"""Enhanced correlation coefficient alignment of two images at one resolution; the pyramid is in `coreg`.

The images are used as they are: smoothing, high-pass and masks (NaN) are the callers' choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glacierhpc.errors import unknown_name
from glacierhpc.kernels.ecc_sums import accumulate
from glacierhpc.kernels.warp import as_homography

# Displacement fields (u_x, u_y) of each motion's parameters, as {(component, power of x, power of y): factor}
_TRANSLATION = ({(0, 0, 0): 1}, {(1, 0, 0): 1})
_LINEAR = ({(0, 1, 0): 1}, {(0, 0, 1): 1}, {(1, 1, 0): 1}, {(1, 0, 1): 1})
_PROJECTIVE = ({(0, 2, 0): -1, (1, 1, 1): -1}, {(0, 1, 1): -1, (1, 0, 2): -1})
_FIELDS = {
    "translation": _TRANSLATION,
    "euclidean": (*_TRANSLATION, {(0, 0, 1): -1, (1, 1, 0): 1}),
    "affine": (*_TRANSLATION, *_LINEAR),
    "homography": (*_TRANSLATION, *_LINEAR, *_PROJECTIVE),
}
_DEGREE = {"translation": 0, "euclidean": 1, "affine": 1, "homography": 2}
MOTIONS = tuple(_FIELDS)

MAX_CONDITION = 1e6  # of the scaled Hessian
MIN_DIRECTION = 1e-4  # least share of gradient energy across the strongest direction
MIN_STEP_PX = 1e-3  # a step that moves no corner further than this ends the iteration


@dataclass(frozen=True)
class EccResult:
    """Where the iteration ended."""

    status: str
    """``converged``, ``max_iterations``; or why there is no answer: ``no_overlap``, ``flat``, ``singular``."""
    matrix: np.ndarray
    """(3, 3) float64, reference pixel to moving pixel; the best one met."""
    rho: float
    """Correlation coefficient at `matrix`, NaN without overlap."""
    rho_start: float
    """Correlation coefficient at the start."""
    iterations: int
    pixels: int
    """Pixels valid in both at `matrix`."""


def gradients(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the central differences (g_x, g_y) of an image, float32, NaN where a neighbour has no data."""
    out = np.full((2, *image.shape), np.nan, np.float32)
    out[0, :, 1:-1] = (image[:, 2:] - image[:, :-2]) * np.float32(0.5)
    out[1, 1:-1, :] = (image[2:, :] - image[:-2, :]) * np.float32(0.5)
    return out[0], out[1]


def ecc(
    reference: np.ndarray,
    moving: np.ndarray,
    start: np.ndarray,
    *,
    motion: str = "translation",
    max_iterations: int = 100,
    epsilon: float = 1e-6,
    min_pixels: int = 64,
) -> EccResult:
    """Maximise the correlation coefficient of two images over a motion, from a start close by.

    The inverse compositional form: the reference carries the gradients, and every step's warp is inverted
    and composed. Insensitive to gain and offset of either image. Only pixels valid in both images count,
    anew in every iteration. Converges from a start within about the images' correlation length.

    Parameters
    ----------
    reference, moving : (y, x) float32
        NaN is invalid. Both of about unit standard deviation; shapes may differ.
    start : (2, 3) or (3, 3) float
        Reference pixel to moving pixel.
    motion : {"translation", "euclidean", "affine", "homography"}
        2, 3, 6 or 8 parameters.
    epsilon : float
        Ends when the coefficient rises by less than this, or when a step moves no corner by `MIN_STEP_PX`.
    min_pixels : int
        Fewer common pixels are ``no_overlap``.

    Returns
    -------
    EccResult
        Never raises for what the images contain.

    References
    ----------
    Evangelidis & Psarakis (2008), IEEE TPAMI 30(10), doi:10.1109/TPAMI.2008.113
    """
    if motion not in _FIELDS:
        raise unknown_name("motion", motion, MOTIONS)
    grad_x, grad_y = gradients(reference)
    usable = np.isfinite(grad_x) & np.isfinite(grad_y) & np.isfinite(reference)
    target = np.where(usable, reference, np.float32(np.nan)).astype(np.float32)
    scale = _Scale.of(reference.shape)
    xs, ys = scale.axes(reference.shape)
    basis = _basis(motion)

    matrix = best = as_homography(start)
    best_rho, rho_start, best_pixels, status = -np.inf, np.nan, 0, "max_iterations"
    iteration = falls = 0
    for iteration in range(max_iterations + 1):
        sums = accumulate(target, grad_x, grad_y, moving, matrix, basis, _DEGREE[motion], xs, ys)
        normal = _NormalEquations.of(sums, min_pixels)
        if normal.status != "ok":
            status = normal.status
            break
        if iteration == 0:
            rho_start = normal.rho
        gain = normal.rho - best_rho
        falls += gain < -epsilon
        if gain > 0:
            best, best_rho, best_pixels = matrix, normal.rho, normal.pixels
        if abs(gain) < epsilon or falls == 2:
            status = "converged"
            break
        step = normal.solve()
        if step is None:
            status = "singular"
            break
        # the gradients are per pixel, the fields in scaled coordinates
        update = scale.to_pixels(np.linalg.inv(_increment(motion, step / scale.half)))
        if not np.isfinite(update).all():
            status = "singular"
            break
        matrix = _normalised(matrix @ update)
        if corner_motion(update, np.eye(3), reference.shape) < MIN_STEP_PX:
            status = "converged"
            best = matrix
            break
    rho = best_rho if np.isfinite(best_rho) else float("nan")
    return EccResult(status, best, float(rho), float(rho_start), iteration, int(best_pixels))


@dataclass(frozen=True)
class _Scale:
    """Pixel coordinates brought to about [-1, 1], so that the normal equations are well conditioned."""

    centre_x: float
    centre_y: float
    half: float

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> _Scale:
        return cls((shape[1] - 1) / 2, (shape[0] - 1) / 2, max(shape) / 2)

    def axes(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        xs = (np.arange(shape[1]) - self.centre_x) / self.half
        ys = (np.arange(shape[0]) - self.centre_y) / self.half
        return xs.astype(np.float32), ys

    def to_pixels(self, matrix: np.ndarray) -> np.ndarray:
        """Express a map of scaled coordinates in pixels."""
        to_pixel = np.array(
            [[self.half, 0, self.centre_x], [0, self.half, self.centre_y], [0, 0, 1]], np.float64
        )
        return to_pixel @ matrix @ np.linalg.inv(to_pixel)


@dataclass(frozen=True)
class _NormalEquations:
    """Zero-mean sums of one iteration, equations (15) to (18) of the paper with the roles exchanged."""

    status: str
    pixels: int = 0
    rho: float = float("nan")
    reference_norm: float = 0.0
    """Squared norm of the zero-mean reference."""
    product: float = 0.0
    """Inner product of the zero-mean reference and moving image."""
    hessian: np.ndarray | None = None
    on_reference: np.ndarray | None = None
    on_moving: np.ndarray | None = None

    @classmethod
    def of(cls, sums: tuple[np.ndarray, ...], min_pixels: int) -> _NormalEquations:
        hessian, projections, scalars = sums
        n, sum_r, sum_i, sum_rr, sum_ii, sum_ri = scalars
        if n < min_pixels:
            return cls("no_overlap", int(n))
        rr, ii, ri = sum_rr - sum_r**2 / n, sum_ii - sum_i**2 / n, sum_ri - sum_r * sum_i / n
        if rr <= 1e-6 * max(sum_rr, 1e-30) or ii <= 1e-6 * max(sum_ii, 1e-30):
            return cls("flat", int(n))
        ones, on_r, on_i = projections
        return cls(
            "ok",
            int(n),
            float(ri / np.sqrt(rr * ii)),
            rr,
            ri,
            hessian - np.outer(ones, ones) / n,
            on_r - ones * sum_r / n,
            on_i - ones * sum_i / n,
        )

    def solve(self) -> np.ndarray | None:
        """Return the step, or None where the texture does not determine it."""
        if self.hessian is None or self.on_reference is None or self.on_moving is None:
            return None
        diagonal = np.sqrt(np.diag(self.hessian))
        least, most = np.linalg.eigvalsh(self.hessian[:2, :2])  # the two parameters of a shift come first
        if not least > MIN_DIRECTION * most or not (diagonal > 0).all():
            return None
        scaled = self.hessian / np.outer(diagonal, diagonal)
        if np.linalg.cond(scaled) > MAX_CONDITION:
            return None
        r, i = self.on_reference / diagonal, self.on_moving / diagonal
        solved_r, solved_i = np.linalg.solve(scaled, np.stack([r, i], axis=1)).T
        denominator = self.product - r @ solved_i
        if denominator > 0:
            gain = (self.reference_norm - r @ solved_r) / denominator
        else:  # the correlation would be minimised: equation (20), the smallest admissible gain
            norm = i @ solved_i
            if norm <= 0:
                return None
            gain = max(np.sqrt(max(r @ solved_r, 0.0) / norm), (r @ solved_i - self.product) / norm)
        step = (gain * solved_i - solved_r) / diagonal
        return step if np.isfinite(step).all() else None


def _basis(motion: str) -> np.ndarray:
    """Coefficients (parameter, component, power of x, power of y) of the displacement fields."""
    basis = np.zeros((len(_FIELDS[motion]), 2, 3, 3))
    for parameter, field in enumerate(_FIELDS[motion]):
        for place, factor in field.items():
            basis[parameter][place] = factor
    return basis


def _increment(motion: str, p: np.ndarray) -> np.ndarray:
    """Return the (3, 3) map of scaled coordinates for the parameters of a step."""
    if motion == "translation":
        return np.array([[1, 0, p[0]], [0, 1, p[1]], [0, 0, 1]])
    if motion == "euclidean":
        cos, sin = np.cos(p[2]), np.sin(p[2])
        return np.array([[cos, -sin, p[0]], [sin, cos, p[1]], [0, 0, 1]])
    bottom = p[6:8] if motion == "homography" else (0.0, 0.0)
    return np.array([[1 + p[2], p[3], p[0]], [p[4], 1 + p[5], p[1]], [*bottom, 1]])


def _normalised(matrix: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(matrix / matrix[2, 2])


def corners(shape: tuple[int, ...]) -> np.ndarray:
    """Return the homogeneous coordinates (3, 4) of the centres of an image's corner pixels."""
    x, y = shape[1] - 1.0, shape[0] - 1.0
    return np.array([[0, x, 0, x], [0, 0, y, y], [1, 1, 1, 1]], np.float64)


def corner_motion(matrix: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return the largest difference, pixels in x or y, between what two (3, 3) matrices make of the corners."""
    first, second = (m @ corners(shape) for m in (matrix, other))
    return float(np.abs(first[:2] / first[2] - second[:2] / second[2]).max())
