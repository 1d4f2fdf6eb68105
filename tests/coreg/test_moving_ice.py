"""One pair behind masks, and with ice and clouds that no mask tells: weights, stable ground, vectors."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from glacierhpc.coreg import align_pair
from glacierhpc.kernels.motions import MOTIONS
from tests.pairs import (
    ALL_MOTIONS,
    MIDDLE,
    TARGETS,
    clouds,
    cloudy,
    corner_rms,
    glacier_of,
    ice_pair,
    make_pair,
    shift,
)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 1000),
    motion=st.sampled_from(ALL_MOTIONS),
    robust=st.booleans(),
    wild=st.sampled_from([1e6, np.inf]),
)
def test_values_behind_masks_never_matter(seed, motion, robust, wild):
    reference, moving = make_pair((150, 170), shift(2.2, 1.1), seed=seed)
    masks = [~clouds(reference.shape, 0.2, seed=seed + i, size_px=8) for i in (0, 1)]
    options = {"reference_valid": masks[0], "moving_valid": masks[1], "motion": motion, "robust": robust}
    plain = align_pair(reference, moving, **options)
    other = align_pair(
        np.where(masks[0], reference, np.nan), np.where(masks[1], moving, np.float32(wild)), **options
    )
    for field in fields(plain):
        if field.name != "seconds":
            np.testing.assert_array_equal(getattr(plain, field.name), getattr(other, field.name))


@pytest.mark.parametrize("motion", MOTIONS)
def test_ice_and_cloud_under_the_masks_change_nothing_and_pull_without(motion):
    reference, ground, truth, glacier, with_ice = ice_pair(motion)
    covered = clouds(MIDDLE, 0.2, seed=3)
    valid = ~covered & ~glacier
    clear = align_pair(reference, ground, motion=motion, moving_valid=valid, stable=~glacier)
    painted = cloudy(with_ice, covered)
    masked = align_pair(reference, painted, motion=motion, moving_valid=valid, stable=~glacier)
    assert masked.ok and corner_rms(masked.matrix, clear.matrix, MIDDLE) < 1e-3
    assert corner_rms(masked.matrix, truth, MIDDLE) < 3 * TARGETS[motion]
    pulled = align_pair(reference, with_ice, motion=motion, robust=False, max_error_px=np.inf)
    assert corner_rms(pulled.matrix, truth, MIDDLE) > 0.2


# measured at most 0.018 px for up to four parameters, 0.027 and 0.036; without weights 0.05 to 1.2
ROBUST = {"translation": 0.03, "euclidean": 0.03, "similarity": 0.04, "affine": 0.05, "homography": 0.08}


@pytest.mark.parametrize("motion", MOTIONS)
def test_weights_reject_unmasked_ice_and_cloud(motion):
    reference, ground, truth, glacier, with_ice = ice_pair(motion)
    covered = clouds(MIDDLE, 0.2, seed=5)
    for image in (with_ice, cloudy(ground, covered), cloudy(with_ice, covered)):
        found = align_pair(reference, image, motion=motion)
        plain = align_pair(
            reference, image, motion=motion, robust=False, max_error_px=np.inf, min_correlation=0.0
        )
        assert found.ok, found.reason
        assert corner_rms(found.matrix, truth, MIDDLE) <= ROBUST[motion]
        assert corner_rms(plain.matrix, truth, MIDDLE) > 2 * corner_rms(found.matrix, truth, MIDDLE)


@pytest.mark.parametrize("motion", MOTIONS)
def test_ice_and_cloud_over_half_of_the_scene_are_refused_or_seen_through(motion):
    for seed in (4, 5):
        reference, _, truth, _, with_ice = ice_pair(motion, seed=seed, share=0.44)
        found = align_pair(reference, cloudy(with_ice, clouds(MIDDLE, 0.2, seed=seed)), motion=motion)
        assert not found.ok or corner_rms(found.matrix, truth, MIDDLE) < 0.3


def test_stable_ground_keeps_ice_over_half_of_the_scene_from_pulling():
    reference, _, truth, glacier, with_ice = ice_pair("translation", share=0.6)
    with_mask = align_pair(reference, with_ice, stable=~glacier)
    assert corner_rms(with_mask.matrix, truth, MIDDLE) < 0.02
    assert corner_rms(align_pair(reference, with_ice).matrix, truth, MIDDLE) > 0.3


def test_vectors_point_along_moving_ice():
    truth = shift(0.7, -0.4)
    reference, moving = make_pair(MIDDLE, truth, seed=4)
    glacier = glacier_of(MIDDLE, 0.25)
    ice = make_pair(MIDDLE, shift(1.6, -1.2) @ truth, seed=4)[1]
    found = align_pair(reference, np.where(glacier, ice, moving).astype(np.float32))
    x, y, dx, dy, weight = found.vectors.T
    assert found.vectors.dtype == np.float64 and len(found.vectors) > 300
    assert x.min() >= 0 and x.max() < MIDDLE[1] and y.min() >= 0 and y.max() < MIDDLE[0]
    # blocks wholly on the ice, and wholly off it
    near = gaussian_filter(glacier.astype(float), 8)[y.round().astype(int), x.round().astype(int)]
    on, off = near > 0.999, near < 1e-3
    assert on.sum() > 30 and off.sum() > 100
    np.testing.assert_allclose([np.nanmedian(dx[on]), np.nanmedian(dy[on])], [1.6, -1.2], atol=0.4)
    np.testing.assert_allclose([np.nanmedian(dx[off]), np.nanmedian(dy[off])], 0, atol=0.03)
    assert weight[on].max() < 0.3 and np.median(weight[off]) > 0.7
    assert weight.min() >= 0 and weight.max() <= 1
