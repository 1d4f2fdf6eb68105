"""The motion models of an alignment: their displacement fields, and matrices from their parameters."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from glacierhpc.errors import InputError, unknown_name

# Displacement fields (u_x, u_y) of each motion's parameters, as {(component, power of x, power of y): factor}
_TRANSLATION = ({(0, 0, 0): 1}, {(1, 0, 0): 1})
_LINEAR = ({(0, 1, 0): 1}, {(0, 0, 1): 1}, {(1, 1, 0): 1}, {(1, 0, 1): 1})
_TURN, _ZOOM = {(0, 0, 1): -1, (1, 1, 0): 1}, {(0, 1, 0): 1, (1, 0, 1): 1}
_PROJECTIVE = ({(0, 2, 0): -1, (1, 1, 1): -1}, {(0, 1, 1): -1, (1, 0, 2): -1})
_FIELDS = {
    "translation": _TRANSLATION,
    "euclidean": (*_TRANSLATION, _TURN),
    "similarity": (*_TRANSLATION, _TURN, _ZOOM),
    "affine": (*_TRANSLATION, *_LINEAR),
    "homography": (*_TRANSLATION, *_LINEAR, *_PROJECTIVE),
}
MOTIONS = tuple(_FIELDS)
"""From two parameters to eight; each contains the ones before it."""


class Frame(NamedTuple):
    """An image's pixel coordinates brought to about [-1, 1], so that normal equations are well conditioned."""

    centre_x: float
    centre_y: float
    half: float

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Frame:
        """Return the frame of an image (y, x)."""
        return cls((shape[1] - 1) / 2, (shape[0] - 1) / 2, max(shape) / 2)

    def scaled(self, points: np.ndarray) -> np.ndarray:
        """Express pixel positions (n, 2) as x, y in the frame."""
        return (points - (self.centre_x, self.centre_y)) / self.half


def checked(motion: str) -> str:
    """Return the name of a motion.

    Raises
    ------
    InputError
        For an unknown one.
    """
    if motion not in _FIELDS:
        raise unknown_name("motion", motion, MOTIONS)
    return motion


def jacobian(motion: str, points: np.ndarray) -> np.ndarray:
    """Return the displacement (n, 2, k) of scaled positions (n, 2) for a unit of each of k parameters."""
    fields = _FIELDS[checked(motion)]
    out = np.zeros((len(points), 2, len(fields)))
    for parameter, field in enumerate(fields):
        for (component, i, j), factor in field.items():
            out[:, component, parameter] += factor * points[:, 0] ** i * points[:, 1] ** j
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def increment(p):
    """Return the (3, 3) map of scaled coordinates for small parameters (k): their number tells the motion."""
    out = np.eye(3)
    out[0, 2], out[1, 2] = p[0], p[1]
    if len(p) in (3, 4):
        zoom = 1.0 + (p[3] if len(p) == 4 else 0.0)
        out[0, 0] = out[1, 1] = zoom * math.cos(p[2])
        out[1, 0] = zoom * math.sin(p[2])
        out[0, 1] = -out[1, 0]
    elif len(p) > 4:
        out[0, 0], out[0, 1], out[1, 0], out[1, 1] = 1 + p[2], p[3], p[4], 1 + p[5]
    if len(p) == 8:
        out[2, 0], out[2, 1] = p[6], p[7]
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def to_pixels(matrix, frame):
    """Express a (3, 3) map of scaled coordinates in the pixels of a frame."""
    half, x, y = frame.half, frame.centre_x, frame.centre_y
    up = np.array([[half, 0.0, x], [0.0, half, y], [0.0, 0.0, 1.0]])
    down = np.array([[1 / half, 0.0, -x / half], [0.0, 1 / half, -y / half], [0.0, 0.0, 1.0]])
    return up @ matrix @ down


def as_homography(matrix: np.ndarray) -> np.ndarray:
    """Return the (3, 3) float64 form of a (2, 3) or (3, 3) matrix."""
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape == (2, 3):
        matrix = np.vstack([matrix, [0.0, 0.0, 1.0]])
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise InputError(f"{matrix.tolist()!r} is not a finite (2, 3) or (3, 3) matrix")
    return np.ascontiguousarray(matrix)


def simplified(matrix: np.ndarray, motion: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the (3, 3) matrix of a motion, up to affine, nearest to a matrix at the centre of an image (y, x)."""
    centre = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2, 1.0])
    u, v, w = matrix @ centre
    linear = matrix[:2, :2] / matrix[2, 2]
    if motion == "translation":
        linear = np.eye(2)
    elif motion in ("euclidean", "similarity"):
        cos, sin = linear[0, 0] + linear[1, 1], linear[1, 0] - linear[0, 1]
        zoom = np.hypot(cos, sin) / 2 if motion == "similarity" else 1.0
        linear = zoom * np.array([[cos, -sin], [sin, cos]]) / np.hypot(cos, sin)
    shift = np.array([u / w, v / w]) - linear @ centre[:2]
    return np.array([[*linear[0], shift[0]], [*linear[1], shift[1]], [0.0, 0.0, 1.0]])


def corners(shape: tuple[int, ...]) -> np.ndarray:
    """Return the homogeneous coordinates (3, 4) of the centres of an image's corner pixels."""
    x, y = shape[1] - 1.0, shape[0] - 1.0
    return np.array([[0, x, 0, x], [0, 0, y, y], [1, 1, 1, 1]], np.float64)


def centre(shape: tuple[int, ...]) -> np.ndarray:
    """Return the homogeneous coordinates (3, 1) of the centre of an image."""
    return np.array([[(shape[1] - 1) / 2], [(shape[0] - 1) / 2], [1.0]])


def shift_matrix(x: float, y: float) -> np.ndarray:
    """Return the (3, 3) matrix of a shift, px."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def corner_motion(matrix: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return the largest difference, pixels in x or y, between what two (3, 3) matrices make of the corners."""
    return _corner_motion(matrix, other, shape[1] - 1.0, shape[0] - 1.0)


@njit(cache=True, nogil=True, error_model="numpy")
def _corner_motion(matrix, other, last_x, last_y):
    most = 0.0
    for x in (0.0, last_x):
        for y in (0.0, last_y):
            scale = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
            other_scale = other[2, 0] * x + other[2, 1] * y + other[2, 2]
            for row in range(2):
                here = (matrix[row, 0] * x + matrix[row, 1] * y + matrix[row, 2]) / scale
                there = (other[row, 0] * x + other[row, 1] * y + other[row, 2]) / other_scale
                difference = abs(here - there)
                if not difference <= most:  # NaN stays
                    most = difference
    return most
