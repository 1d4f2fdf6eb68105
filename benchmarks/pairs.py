"""Image pairs and stacks with exactly known matrices between them, for the benchmark and the tests of alignment.

Both images of a pair are views of one `world.World`, so the truth is exact and no interpolation favours a side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from world import Spectrum, World, homography, landscape

DEVIATIONS = 6.0  # the range of values, about [0, 1], is this many standard deviations of the landscape
CLOUD_SCALE = 16  # clouds come from a landscape this many times smaller
PARAMETERS = {"translation": 2, "euclidean": 3, "similarity": 4, "affine": 6, "homography": 8}


@dataclass(frozen=True)
class Pair:
    """Two images, ``reference(p) = moving(truth p)``, each with noise and clouds of its own."""

    reference: np.ndarray
    """(y, x) float32 in about [0, 1]."""
    moving: np.ndarray
    truth: np.ndarray
    """(3, 3) float64, reference pixel (x, y, 1) to moving pixel."""
    reference_valid: np.ndarray | None = None
    """(y, x) bool, False under clouds; None without clouds."""
    moving_valid: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.reference.shape[0], self.reference.shape[1]


def make(
    shape: tuple[int, int],
    matrix: np.ndarray,
    *,
    noise: float = 0.03,
    clouds: float = 0.0,
    seed: int | list[int] = 0,
    margin: int = 32,
    spectrum: Spectrum = landscape,
) -> Pair:
    """Return a pair with a known matrix.

    Parameters
    ----------
    matrix : (2, 3) or (3, 3) float
        Reference pixel to moving pixel.
    noise : float
        Deviation of the noise of each image, as a share of the range of values.
    clouds : float
        Share of each image under clouds; the two have different ones.
    margin : int
        The landscape repeats beyond this many pixels around the reference.
    """
    world = World((shape[0] + 2 * margin, shape[1] + 2 * margin), seed=seed, spectrum=spectrum)
    return observe(
        view(world, shape), view(world, shape, matrix), matrix, noise=noise, clouds=clouds, seed=seed
    )


def view(world: World, shape: tuple[int, int], matrix: np.ndarray | None = None) -> np.ndarray:
    """Return the noise-free image, in about [0, 1], that `matrix` maps the world's pixels to."""
    inverse = np.eye(3) if matrix is None else np.linalg.inv(homography(matrix))
    return world.image(shape, inverse) / np.float32(DEVIATIONS) + np.float32(0.5)


def observe(
    reference: np.ndarray,
    moving: np.ndarray,
    matrix: np.ndarray,
    *,
    noise: float,
    clouds: float = 0.0,
    seed: int | list[int] = 0,
) -> Pair:
    """Return two noise-free views as sensors see them: with noise, and under clouds."""
    rng = np.random.default_rng(np.append(seed, 1))
    images, masks = zip(*(_observed(image, noise, clouds, rng) for image in (reference, moving)))
    return Pair(*images, homography(matrix), *masks)


def _observed(
    image: np.ndarray, noise: float, clouds: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    noisy = image + np.float32(noise) * rng.standard_normal(image.shape, np.float32)
    if not clouds:
        return noisy, None
    cover = cloud_field(image.shape, rng)
    valid = cover <= np.quantile(cover, 1 - clouds)
    noisy[~valid] = np.float32(1.0) + cover[~valid] / 20  # bright, thicker in the middle
    return noisy, valid


def cloud_field(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random field (y, x) float32; where it is high there are clouds."""
    small = tuple(max(n // CLOUD_SCALE, 8) for n in shape)
    world = World((small[0], small[1]), seed=int(rng.integers(2**31)), spectrum=_billows)
    return world.image((shape[0], shape[1]), np.diag([small[1] / shape[1], small[0] / shape[0], 1.0]))


def _billows(frequency: np.ndarray) -> np.ndarray:
    return (frequency**2 + 0.1**2) ** -1.2


def random_matrix(
    motion: str, shape: tuple[int, int], rng: np.random.Generator, *, reach_px: float
) -> np.ndarray:
    """Return a random (3, 3) matrix of a motion that moves its furthest corner by about `reach_px`."""
    parameters = rng.standard_normal(PARAMETERS[motion])
    factor = reach_px
    for _ in range(2):
        matrix = _of_parameters(motion, factor * parameters, shape)
        corners = corner_points(shape)
        factor *= reach_px / np.hypot(*(np.array(apply(matrix, *corners)) - corners)).max()
    return _of_parameters(motion, factor * parameters, shape)


def _of_parameters(motion: str, moved_px: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the matrix whose parameters each move the edge of an image by about so many pixels."""
    half = max(shape) / 2
    p = moved_px / half
    local = np.eye(3)
    if motion in ("euclidean", "similarity"):
        zoom = 1 + p[3] if motion == "similarity" else 1.0
        local[:2, :2] = zoom * np.array([[np.cos(p[2]), -np.sin(p[2])], [np.sin(p[2]), np.cos(p[2])]])
    elif motion in ("affine", "homography"):
        local[:2, :2] += p[2:6].reshape(2, 2)
    if motion == "homography":
        local[2, :2] = p[6:8]
    local[:2, 2] = p[:2]
    centre = np.array([[half, 0, (shape[1] - 1) / 2], [0, half, (shape[0] - 1) / 2], [0, 0, 1]])
    matrix = centre @ local @ np.linalg.inv(centre)
    return matrix / matrix[2, 2]


def stack_images(
    n: int,
    size: int,
    *,
    motion: str = "euclidean",
    noise: float = 0.03,
    clouds: float = 0.2,
    reach_px: float = 3.0,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scenes of one landscape, each moved, noisy and clouded in its own way.

    Parameters
    ----------
    clouds : float
        Mean share under clouds; a scene has from none to twice as much.

    Returns
    -------
    images : (n, size, size) float32
    valid : (n, size, size) bool
    truth : (n, 3, 3) float64
        Pixel of the common grid to pixel of the scene.
    """
    shape = (size, size)
    rng = np.random.default_rng(seed)
    world = World((size + 64, size + 64), seed=seed)
    images, valid = np.empty((n, *shape), np.float32), np.ones((n, *shape), bool)
    truth = np.empty((n, 3, 3))
    for k in range(n):
        truth[k] = random_matrix(motion, shape, rng, reach_px=reach_px * rng.uniform(0.3, 1))
        images[k], mask = _observed(view(world, shape, truth[k]), noise, rng.uniform(0, 2 * clouds), rng)
        if mask is not None:
            valid[k] = mask
    return images, valid, truth


def apply(matrix: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map pixel coordinates by a (2, 3) or (3, 3) matrix."""
    matrix = homography(matrix)
    u, v, w = (matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] for i in range(3))
    return u / w, v / w


def corner_points(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the centres of an image's four corner pixels."""
    right, bottom = shape[1] - 1.0, shape[0] - 1.0
    return np.array([0, right, 0, right]), np.array([0, 0, bottom, bottom])


def corner_rms(matrix: np.ndarray, truth: np.ndarray, shape: tuple[int, int]) -> float:
    """Return the root mean square distance of the images of the four corners, pixels."""
    corners = corner_points(shape)
    difference = np.array(apply(matrix, *corners)) - np.array(apply(truth, *corners))
    return float(np.sqrt((difference**2).sum(axis=0).mean()))


def rotation(
    degrees: float,
    shift: tuple[float, float],
    shape: tuple[int, int],
    *,
    zoom: float = 1.0,
    shear: float = 0.0,
) -> np.ndarray:
    """Return the (2, 3) matrix of a turn about the centre, then a shift (x, y)."""
    angle = np.deg2rad(degrees)
    linear = zoom * np.array([[np.cos(angle), -np.sin(angle) + shear], [np.sin(angle), np.cos(angle)]])
    centre = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    return np.column_stack([linear, centre - linear @ centre + shift])
