"""One pair: accuracy against the truth and OpenCV, far starts, and what must not matter."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glacierhpc.coreg import align_pair
from glacierhpc.coreg.prepared import prepare
from glacierhpc.kernels.motions import MOTIONS
from tests.pairs import (
    MIDDLE,
    SMALL,
    TARGETS,
    clouds,
    cloudy,
    corner_rms,
    generator,
    make_pair,
    rms,
    rotation,
    shift,
)

SHAPE = (800, 800)
OPENCV_MODES = {
    "translation": cv2.MOTION_TRANSLATION,
    "euclidean": cv2.MOTION_EUCLIDEAN,
    "affine": cv2.MOTION_AFFINE,
    "homography": cv2.MOTION_HOMOGRAPHY,
}


def zoom_of(matrix):
    return np.sqrt(np.linalg.det(matrix[:2, :2]))


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
