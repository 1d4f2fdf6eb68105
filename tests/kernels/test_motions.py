"""Motion models: their fields are the derivatives of their matrices, each contains the ones before it."""

from __future__ import annotations

import numpy as np
import pytest

from glacierhpc.errors import InputError
from glacierhpc.kernels.motions import (
    MOTIONS,
    Frame,
    corner_motion,
    corners,
    increment,
    jacobian,
    to_pixels,
)
from tests.pairs import apply, rotation

SHAPE = (120, 200)
POINTS = np.random.default_rng(0).uniform(-1, 1, (50, 2))


def parameters(motion):
    return jacobian(motion, POINTS).shape[2]


@pytest.mark.parametrize("motion", MOTIONS)
def test_fields_are_the_derivatives_of_the_increment(motion):
    step = 1e-5
    fields = jacobian(motion, POINTS)
    for k in range(parameters(motion)):
        p = np.zeros(parameters(motion))
        p[k] = step
        there, back = (np.stack(apply(increment(sign * p), *POINTS.T), axis=1) for sign in (1, -1))
        np.testing.assert_allclose(fields[:, :, k], (there - back) / (2 * step), atol=1e-8)


@pytest.mark.parametrize("motion", MOTIONS)
def test_no_step_is_the_identity(motion):
    np.testing.assert_array_equal(increment(np.zeros(parameters(motion))), np.eye(3))


@pytest.mark.parametrize("motion", MOTIONS)
def test_increments_are_of_their_motion(motion):
    matrix = increment(np.random.default_rng(1).uniform(-0.1, 0.1, parameters(motion)))
    linear = matrix[:2, :2]
    gram = linear.T @ linear
    if motion == "translation":
        np.testing.assert_array_equal(linear, np.eye(2))
    if motion == "euclidean":
        np.testing.assert_allclose(gram, np.eye(2), atol=1e-12)
    if motion == "similarity":
        np.testing.assert_allclose(gram, gram[0, 0] * np.eye(2), atol=1e-12)
        assert abs(gram[0, 0] - 1) > 1e-3
    assert np.linalg.det(linear) > 0 and matrix[2, 2] == 1
    assert (matrix[2, :2] != 0).all() == (motion == "homography")


def test_parameters_grow_from_motion_to_motion():
    assert [parameters(motion) for motion in MOTIONS] == [2, 3, 4, 6, 8]


def test_a_frame_brings_pixels_to_about_one_and_back():
    frame = Frame.of(SHAPE)
    scaled = frame.scaled(corners(SHAPE)[:2].T)
    assert 0.99 < np.abs(scaled).max() <= 1
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    local = increment(np.random.default_rng(2).uniform(-0.05, 0.05, 8))
    x, y = corners(SHAPE)[:2]
    moved = np.stack(apply(to_pixels(local, frame), x, y), axis=1)
    np.testing.assert_allclose(frame.scaled(moved), np.stack(apply(local, *scaled.T), axis=1), atol=1e-12)


def test_corner_motion_is_the_largest_component():
    turned = np.vstack([rotation(1.0, (0.0, 0.0), SHAPE), [0, 0, 1]])
    shifted = turned.copy()
    shifted[:2, 2] += (0.5, -2.5)
    assert corner_motion(turned, turned, SHAPE) == 0
    assert corner_motion(shifted, turned, SHAPE) == pytest.approx(2.5)
    # x is 99.5 px from the centre, which moves its end up or down by so much
    assert corner_motion(turned, np.eye(3), SHAPE) == pytest.approx(99.5 * np.sin(np.deg2rad(1)), rel=0.01)


def test_unknown_motions_name_the_closest():
    with pytest.raises(InputError, match="did you mean 'affine'"):
        jacobian("afine", POINTS)
