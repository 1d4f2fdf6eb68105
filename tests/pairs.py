"""Synthetic image pairs with a known matrix between them, for the tests of alignment and motion."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates


def texture(shape, *, seed=0, margin=80):
    """Return a landscape-like texture (detail of 1.5 to 20 px, unit deviation) with a margin around."""
    rng = np.random.default_rng(seed)
    size = (shape[0] + 2 * margin, shape[1] + 2 * margin)
    noise = rng.normal(size=size)
    image = sum(sigma**1.2 * gaussian_filter(noise, sigma) for sigma in (1.5, 3.0, 7.0, 20.0))
    return ((image - image.mean()) / image.std()).astype(np.float64)


def apply(matrix, x, y):
    """Map pixel coordinates by a (2, 3) or (3, 3) matrix."""
    matrix = np.vstack([np.asarray(matrix, float), [0, 0, 1]])[:3]
    u, v, w = (matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] for i in range(3))
    return u / w, v / w


def make_pair(shape, matrix, *, noise=0.03, seed=0, margin=80):
    """Return (reference, moving) with reference(x) = moving(matrix x), float32 in about [0, 1].

    `noise` is the deviation of independent noise on both, as a share of the range of values (6 deviations).
    """
    world = texture(shape, seed=seed, margin=margin)
    rng = np.random.default_rng(seed + 1)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    u, v = apply(np.linalg.inv(np.vstack([np.asarray(matrix, float), [0, 0, 1]])[:3]), x, y)
    reference = world[margin : margin + shape[0], margin : margin + shape[1]]
    moving = map_coordinates(world, [v + margin, u + margin], order=5, mode="reflect")
    images = [image / 6 + 0.5 + rng.normal(scale=noise, size=shape) for image in (reference, moving)]
    return tuple(image.astype(np.float32) for image in images)


def corner_rms(matrix, truth, shape):
    """Root mean square distance of the images of the four corners, pixels."""
    x = np.array([0, shape[1] - 1, 0, shape[1] - 1], float)
    y = np.array([0, 0, shape[0] - 1, shape[0] - 1], float)
    difference = np.array(apply(matrix, x, y)) - np.array(apply(truth, x, y))
    return float(np.sqrt((difference**2).sum(axis=0).mean()))


def rotation(degrees, shift, shape, *, zoom=1.0, shear=0.0):
    """Return the (2, 3) matrix of a turn about the centre, then a shift (x, y)."""
    angle = np.deg2rad(degrees)
    linear = zoom * np.array([[np.cos(angle), -np.sin(angle) + shear], [np.sin(angle), np.cos(angle)]])
    centre = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    return np.column_stack([linear, centre - linear @ centre + shift])
