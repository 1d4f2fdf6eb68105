"""One pair: accuracy against the truth and OpenCV, masks, moving ice and cloud, the predicted error."""

from __future__ import annotations

from dataclasses import fields

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from glacierhpc.coreg import align_pair
from glacierhpc.coreg.prepared import prepare
from glacierhpc.kernels.motions import MOTIONS
from tests.pairs import corner_rms, generator, make_pair, rotation

SHAPE = (800, 800)
MIDDLE = (400, 420)
SMALL = (240, 260)
ALL_MOTIONS = (*MOTIONS, "auto")


def shift(x, y):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def clouds(shape, share, *, seed=0, size_px=20):
    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape), size_px)
    return field > np.quantile(field, 1 - share)


def cloudy(image, covered):
    """Return an image with bright, rough cloud where `covered` is True."""
    bright = gaussian_filter(np.random.default_rng(6).normal(size=image.shape), 2)
    return np.where(covered, 0.9 + 0.5 * bright, image).astype(np.float32)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def zoom_of(matrix):
    return np.sqrt(np.linalg.det(matrix[:2, :2]))


# ---- accuracy ----

# corner RMS, px, at 3 % noise and 800 x 800; measured 0.0031, 0.0037, 0.0050, 0.0086, 0.0118
TARGETS = {"translation": 0.01, "euclidean": 0.01, "similarity": 0.015, "affine": 0.02, "homography": 0.04}
OPENCV_MODES = {
    "translation": cv2.MOTION_TRANSLATION,
    "euclidean": cv2.MOTION_EUCLIDEAN,
    "affine": cv2.MOTION_AFFINE,
    "homography": cv2.MOTION_HOMOGRAPHY,
}


@pytest.mark.parametrize("motion", MOTIONS)
def test_within_the_targets_and_never_worse_than_opencv(motion):
    ours, theirs, zooms = [], [], []
    for seed in range(4):
        truth = generator.random_matrix(motion, SHAPE, np.random.default_rng(100 + seed), reach_px=5.0)
        reference, moving = make_pair(SHAPE, truth, noise=0.03, seed=seed)
        found = align_pair(reference, moving, motion=motion)
        assert found.ok, found.reason
        ours.append(corner_rms(found.matrix, truth, SHAPE))
        zooms.append(zoom_of(found.matrix) / zoom_of(truth) - 1)
        if motion in OPENCV_MODES:
            start = np.eye(3 if motion == "homography" else 2, 3, dtype=np.float32)
            given = (start, OPENCV_MODES[motion], (3, 100, 1e-6), None, 5)
            theirs.append(corner_rms(cv2.findTransformECC(reference, moving, *given)[1], truth, SHAPE))
    assert max(ours) <= TARGETS[motion]
    assert abs(np.mean(zooms)) < 1e-4
    assert not theirs or rms(ours) <= rms(theirs)


@pytest.mark.parametrize(
    ("motion", "truth"),
    [
        ("translation", shift(64, -64)),
        ("translation", shift(-63.6, 40.2)),
        ("affine", shift(-20.3, 61.7)),
        ("euclidean", rotation(2.0, (0.0, 0.0), MIDDLE)),
        ("euclidean", rotation(-2.0, (-30.3, 25.0), MIDDLE)),
        ("similarity", rotation(2.0, (30.3, -25.0), MIDDLE, zoom=1.02)),
        ("affine", rotation(2.0, (3.0, 8.0), MIDDLE, zoom=1.004, shear=0.005)),
        ("homography", np.vstack([rotation(-2.0, (20.0, 8.0), MIDDLE), [2e-6, -1e-6, 1]])),
    ],
)
def test_far_starts_are_captured(motion, truth):
    reference, moving = make_pair(MIDDLE, truth, seed=5, margin=100)
    found = align_pair(reference, moving, motion=motion, max_shift_px=100)
    assert found.ok, found.reason
    assert corner_rms(found.matrix, truth, MIDDLE) < 2 * TARGETS[motion]
    assert found.rho > 0.9 and found.rho > found.rho_before + 0.1


@settings(max_examples=10, deadline=None)
@given(x=st.floats(-15, 15), y=st.floats(-15, 15), seed=st.integers(0, 1000))
def test_any_shift_is_found_and_reversed_by_swapping(x, y, seed):
    reference, moving = make_pair((150, 170), shift(x, y), seed=seed)
    there, back = align_pair(reference, moving), align_pair(moving, reference)
    assert corner_rms(there.matrix, shift(x, y), SMALL) < 0.06
    assert corner_rms(back.matrix, shift(-x, -y), SMALL) < 0.06


def test_reported_shift_is_that_of_the_centre_and_brightness_does_not_matter():
    truth = rotation(1.0, (3.0, -4.0), SMALL)
    reference, moving = make_pair(SMALL, truth, seed=1)
    result = align_pair(reference, 3000 * moving + 7000, motion="euclidean")
    assert (result.shift_col_px, result.shift_row_px) == pytest.approx((3.0, -4.0), abs=0.03)
    assert result.shift_px == pytest.approx(5.0, abs=0.03)
    assert 0.8 < result.overlap_share <= 1 and result.iterations >= 0
    plain = align_pair(reference, moving, motion="euclidean")
    assert corner_rms(result.matrix, plain.matrix, SMALL) < 1e-3


@pytest.mark.parametrize("robust", [True, False])
def test_raw_digital_numbers_and_other_types_give_the_same(robust):
    truth = shift(2.3, -1.4)
    reference, moving = make_pair(SMALL, truth, noise=0.02, seed=2)
    covered = clouds(SMALL, 0.2, seed=3)  # so that the robust way is taken
    plain = align_pair(reference, cloudy(moving, covered), robust=robust)
    numbers = [np.round(20000 + 9000 * image) for image in (reference, cloudy(moving, covered))]
    for dtype in (np.uint16, np.int32, np.float64):
        other = align_pair(
            numbers[0].astype(dtype), np.asfortranarray(numbers[1].astype(dtype)), robust=robust
        )
        assert corner_rms(other.matrix, plain.matrix, SMALL) < 2e-3
        assert other.rho == pytest.approx(plain.rho, abs=1e-3)


@pytest.mark.parametrize("motion", ["translation", "affine"])
def test_light_that_changes_across_the_scene_pulls_little(motion):
    y, x = np.mgrid[: MIDDLE[0], : MIDDLE[1]]
    errors = []
    for seed in range(4):
        truth = generator.random_matrix(motion, MIDDLE, np.random.default_rng(seed), reach_px=4.0)
        made = generator.make(MIDDLE, truth, noise=0.02, seed=seed)
        lit = (made.moving * (1 + 0.001 * x) + 0.0005 * y).astype(np.float32)
        errors.append(corner_rms(align_pair(made.reference, lit, motion=motion).matrix, truth, MIDDLE))
    # measured at most 0.105 and 0.100
    assert max(errors) < 0.15


def test_shapes_may_differ():
    reference, moving = make_pair(SMALL, shift(-7.4, 3.2), seed=2)
    found = align_pair(reference, moving[:200, 10:], motion="affine")
    assert corner_rms(found.matrix, shift(-17.4, 3.2), SMALL) < 0.05
    found = align_pair(reference[:200, 10:], moving, motion="affine")
    assert corner_rms(found.matrix, shift(2.6, 3.2), SMALL) < 0.05


# ---- masks ----


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


def glacier_of(shape, share):
    """Return a diagonal band of the scene."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    across = np.abs(x - y - 10)
    return across < np.quantile(across, share)


def ice_pair(motion, *, seed=4, share=0.2, shape=MIDDLE):
    """Return a pair without ice, its truth, the glacier, and the moving image with ice that moved by 6 px."""
    truth = generator.random_matrix(motion, shape, np.random.default_rng(seed), reach_px=3.0)
    reference, ground = make_pair(shape, truth, seed=seed)
    ice = make_pair(shape, shift(4.8, -3.6) @ truth, seed=seed)[1]
    glacier = glacier_of(shape, share)
    return reference, ground, truth, glacier, np.where(glacier, ice, ground).astype(np.float32)


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


# ---- what it says of itself ----


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


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("covered", [0.0, 0.2])
def test_a_start_gives_what_the_search_gives(motion, covered):
    truth = generator.random_matrix(motion, SMALL, np.random.default_rng(1), reach_px=9.0)
    reference, moving = make_pair(SMALL, truth, seed=3)
    moving = cloudy(moving, clouds(SMALL, covered, seed=5)) if covered else moving
    searched = align_pair(reference, moving, motion=motion)
    near = shift(0.5, -0.6) @ truth
    for start in (near, near[:2] if motion != "homography" else near):
        started = align_pair(reference, moving, motion=motion, start=start)
        # a look whose step is this much below the predicted error ends the iteration
        assert corner_rms(started.matrix, searched.matrix, SMALL) < max(0.6 * searched.error_px, 2e-3)
        assert started.rho == pytest.approx(searched.rho, abs=1e-2)


def test_prepared_images_give_the_same_as_arrays():
    truth = shift(3.3, -2.1)
    reference, moving = make_pair(SMALL, truth, seed=3)
    moving[50:90, 60:120] = np.nan
    masks = [~clouds(SMALL, 0.15, seed=i) for i in (0, 1)]
    options = {"motion": "affine"}
    plain = align_pair(reference, moving, reference_valid=masks[0], moving_valid=masks[1], **options)
    ready = prepare(reference, masks[0]), prepare(moving, masks[1])
    late = align_pair(
        prepare(reference), prepare(moving), reference_valid=masks[0], moving_valid=masks[1], **options
    )
    for other in (align_pair(*ready, **options), align_pair(*ready, **options), late):
        np.testing.assert_array_equal(other.matrix, plain.matrix)
        assert (other.rho, other.error_px, other.overlap_share) == (
            plain.rho,
            plain.error_px,
            plain.overlap_share,
        )


def test_images_are_left_alone():
    reference, moving = make_pair(SMALL, shift(1.0, 0.0), seed=3)
    moving[3, 4] = np.inf
    mask, before = ~clouds(SMALL, 0.2), (reference.copy(), moving.copy())
    align_pair(reference, moving, reference_valid=mask, stable=mask)
    align_pair(prepare(reference), prepare(moving))
    np.testing.assert_array_equal(reference, before[0])
    np.testing.assert_array_equal(moving, before[1])
    np.testing.assert_array_equal(mask, ~clouds(SMALL, 0.2))


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
