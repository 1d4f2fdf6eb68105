"""One pair: the error that it predicts of itself, and the motion that its evidence supports."""

from __future__ import annotations

import numpy as np
import pytest

from glacierhpc.coreg import align_pair
from tests.pairs import (
    MIDDLE,
    SMALL,
    TARGETS,
    clouds,
    cloudy,
    corner_rms,
    generator,
    ice_pair,
    make_pair,
    rms,
    rotation,
    shift,
)


@pytest.mark.parametrize("noise", [0.02, 0.08])
@pytest.mark.parametrize("motion", ["translation", "euclidean", "affine", "homography"])
def test_the_predicted_error_is_honest(motion, noise):
    shape, actual, predicted = (220, 240), [], []
    for seed in range(30):
        truth = generator.random_matrix(motion, shape, np.random.default_rng(seed), reach_px=3.0)
        made = generator.make(shape, truth, noise=noise, seed=seed)
        found = align_pair(made.reference, made.moving, motion=motion)
        actual.append(corner_rms(found.matrix, truth, shape))
        predicted.append(found.error_px)
    assert 0.6 < rms(actual) / np.mean(predicted) < 1.3


@pytest.mark.parametrize("motion", ["translation", "affine"])
def test_the_predicted_error_is_honest_under_ice_and_cloud(motion):
    actual, predicted = [], []
    for seed in range(12):
        reference, _, truth, _, with_ice = ice_pair(motion, seed=seed, shape=SMALL)
        found = align_pair(reference, cloudy(with_ice, clouds(SMALL, 0.1, seed=seed)), motion=motion)
        actual.append(corner_rms(found.matrix, truth, SMALL))
        predicted.append(found.error_px)
    assert 0.4 < rms(actual) / np.mean(predicted) < 2.5


@pytest.mark.parametrize(
    ("motion", "truth"),
    [
        ("translation", shift(2.4, -1.7)),
        ("euclidean", rotation(0.4, (2.4, -1.7), MIDDLE)),
        ("similarity", rotation(0.4, (2.4, -1.7), MIDDLE, zoom=1.006)),
        ("affine", rotation(0.4, (2.4, -1.7), MIDDLE, zoom=1.006, shear=0.008)),
    ],
)
def test_auto_takes_the_fewest_parameters_that_the_evidence_supports(motion, truth):
    for seed in range(2):
        reference, moving = make_pair(MIDDLE, truth, seed=seed)
        found = align_pair(reference, moving, motion="auto")
        assert found.ok and found.motion == motion
        assert corner_rms(found.matrix, truth, MIDDLE) < 2 * TARGETS[motion]


def test_auto_sees_a_turn_of_a_small_image():
    for shape in ((100, 110), SMALL):
        truth = rotation(1.0, (2.4, -1.7), shape)
        reference, moving = make_pair(shape, truth, noise=0.02, seed=1)
        found = align_pair(reference, moving, motion="auto")
        assert found.motion == "euclidean" and corner_rms(found.matrix, truth, shape) < 0.05


def test_auto_does_not_bend_to_the_ice():
    reference, _, truth, _, with_ice = ice_pair("translation")
    found = align_pair(reference, with_ice, motion="auto")
    assert found.motion == "translation" and corner_rms(found.matrix, truth, MIDDLE) < 0.03
