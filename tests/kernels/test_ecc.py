"""The ECC iteration at one resolution: exact pairs, units, masks, statuses, and what it says about its own result."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from glacierhpc.errors import InputError
from glacierhpc.kernels.ecc import correlation, ecc
from glacierhpc.kernels.ecc_look import Units
from glacierhpc.kernels.ecc_step import FAILURES
from glacierhpc.kernels.motions import MOTIONS, shift_matrix
from glacierhpc.kernels.pyramid import smooth
from tests.pairs import corner_rms, generator, make_pair

SHAPE = (300, 320)
SMALL = (160, 200)
# pixels, root mean square of three pairs. Measured without noise: 0.0001 to 0.0002, and 0.0025 for a homography, whose
# positions are interpolated; at 3 %: 0.006, 0.006, 0.010, 0.018, 0.025
CLEAR = {"translation": 1e-3, "euclidean": 1e-3, "similarity": 1e-3, "affine": 1e-3, "homography": 5e-3}
NOISY = {"translation": 0.01, "euclidean": 0.01, "similarity": 0.015, "affine": 0.03, "homography": 0.04}
OPENCV_MODES = {
    "translation": cv2.MOTION_TRANSLATION,
    "euclidean": cv2.MOTION_EUCLIDEAN,
    "affine": cv2.MOTION_AFFINE,
    "homography": cv2.MOTION_HOMOGRAPHY,
}


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def pairs(motion, noise, *, seeds=range(3), shape=SHAPE):
    for seed in seeds:
        truth = generator.random_matrix(motion, shape, np.random.default_rng(seed), reach_px=1.5)
        yield (*(smooth(image) for image in make_pair(shape, truth, noise=noise, seed=seed)), truth)


@pytest.mark.parametrize("noise", [0.0, 0.03])
@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_converges_to_the_truth(motion, noise):
    errors = []
    for reference, moving, truth in pairs(motion, noise):
        found = ecc(reference, moving, np.eye(3), motion=motion, interpolation="cubic")
        assert found.status == "converged" and found.iterations <= 8
        assert found.rho > correlation(reference, moving, np.eye(3))
        errors.append(corner_rms(found.matrix, truth, SHAPE))
    assert rms(errors) <= (NOISY if noise else CLEAR)[motion]


@pytest.mark.parametrize("motion", OPENCV_MODES)
def test_no_less_accurate_than_opencv(motion):
    """On landscapes with detail as sensors see it, both smoothed by about a pixel."""
    ours, theirs = [], []
    for seed in range(12):
        truth = generator.random_matrix(motion, SHAPE, np.random.default_rng(seed), reach_px=1.5)
        made = generator.make(SHAPE, truth, noise=0.03, seed=seed)
        pair = made.reference, made.moving
        start = np.eye(3 if motion == "homography" else 2, 3, dtype=np.float32)
        _, matrix = cv2.findTransformECC(*pair, start, OPENCV_MODES[motion], (3, 100, 1e-6), None, 5)
        theirs.append(corner_rms(matrix, truth, SHAPE))
        found = ecc(*(smooth(image) for image in pair), np.eye(3), motion=motion, interpolation="cubic")
        ours.append(corner_rms(found.matrix, truth, SHAPE))
    assert rms(ours) <= rms(theirs)


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize(("gain", "offset"), [(0.02, 0.0), (40.0, 20000.0), (3000.0, -7000.0)])
def test_units_of_either_image_do_not_matter(motion, gain, offset):
    [(reference, moving, _)] = pairs(motion, 0.03, seeds=[4])
    plain = ecc(reference, moving, np.eye(3), motion=motion)
    for pair in ((gain * reference + offset, moving), (reference, gain * moving + offset)):
        other = ecc(*(image.astype(np.float32) for image in pair), np.eye(3), motion=motion)
        assert other.iterations == plain.iterations and other.pixels == plain.pixels
        assert corner_rms(other.matrix, plain.matrix, SHAPE) < 1e-3
        assert other.rho == pytest.approx(plain.rho, abs=1e-5)
        assert other.error_px == pytest.approx(plain.error_px, rel=0.02)


@pytest.mark.parametrize("robust", [False, True])
def test_raw_digital_numbers_around_20000_are_as_good_as_reflectances(robust):
    [(reference, moving, truth)] = pairs("affine", 0.0, seeds=[2])
    numbers = [np.round(20000 + 900 * image).astype(np.float32) for image in (reference, moving)]
    options = {"motion": "affine", "interpolation": "cubic", "local": robust, "robust": robust}
    found = ecc(*numbers, np.eye(3), **options)
    assert found.status == "converged"
    assert corner_rms(found.matrix, truth, SHAPE) < 0.02
    # one bright number may not outweigh the rest where units are given
    again = ecc(*numbers, np.eye(3), **options, units=Units(20000.0, 20500.0, 1.1))
    assert corner_rms(again.matrix, found.matrix, SHAPE) < 1e-3


def test_units_that_are_far_off_are_put_right_on_the_way():
    [(reference, moving, truth)] = pairs("affine", 0.0, seeds=[2])
    options = {"motion": "affine", "interpolation": "cubic"}
    for gain in (0.2, 5.0):
        found = ecc(reference, moving, np.eye(3), **options, units=Units(0.5, 0.5, gain))
        assert found.status == "converged" and found.iterations <= 12
        assert corner_rms(found.matrix, truth, SHAPE) < 1e-3


@pytest.mark.parametrize("motion", MOTIONS)
def test_some_rows_of_blocks_lead_to_where_all_do(motion):
    """One look at everything from there ends where many do: how much too long a step is has been measured."""
    shape = (400, 420)
    truth = generator.random_matrix(motion, shape, np.random.default_rng(7), reach_px=0.6)
    pair = make_pair(shape, truth, noise=0.03, seed=7)
    full = ecc(*pair, np.eye(3), motion=motion, softened=True, min_step_px=1e-5, epsilon=0.0)
    some = ecc(
        *pair, np.eye(3), motion=motion, softened=True, min_step_px=0.005, min_step_errors=5.0, approach=3
    )
    assert some.status == "converged" and some.pixels > 0.999 * full.pixels
    assert corner_rms(some.matrix, full.matrix, shape) < 0.12 * full.error_px
    # one look from the start leaves more than the noise does
    one = ecc(*pair, np.eye(3), motion=motion, softened=True, min_step_px=10.0)
    assert corner_rms(one.matrix, full.matrix, shape) > 2 * corner_rms(some.matrix, full.matrix, shape)


def test_rows_that_do_not_determine_the_motion_leave_the_start_alone():
    reference, moving = make_pair((400, 420), shift_matrix(0.4, -0.3), noise=0.01, seed=4)
    reference[97:161] = np.nan  # the second of six rows of blocks, and so on
    reference[225:289], reference[353:] = np.nan, np.nan
    found = ecc(reference, moving, np.eye(3), softened=True, approach=2)
    assert found.status == "converged"
    np.testing.assert_allclose(found.matrix[:2, 2], [0.4, -0.3], atol=0.01)


def test_masked_pixels_never_matter_on_either_side():
    [(reference, moving, truth)] = pairs("affine", 0.02, seeds=[5], shape=SMALL)
    reference[20:60, 30:90] = np.nan
    moving[90:150, 100:180] = np.nan
    found = ecc(reference, moving, np.eye(3), motion="affine", interpolation="cubic")
    assert corner_rms(found.matrix, truth, SMALL) < 0.05
    assert found.pixels < reference.size - 60 * 40 - 60 * 80
    assert np.isfinite(found.rho) and np.isfinite(found.error_px)


def test_looking_only_measures():
    reference, moving = make_pair(SMALL, np.eye(3), noise=0.1, seed=6)
    moving[50:70] = np.nan
    start = np.array([[1, 0, 0.0], [0, 1, 0.0], [1e-7, 0, 1]])
    found = ecc(reference, moving, start, motion="homography", max_iterations=0)
    np.testing.assert_array_equal(found.matrix, start)
    assert found.iterations == 0 and found.rho == pytest.approx(
        correlation(reference, moving, start), abs=1e-9
    )
    found = ecc(reference, moving, np.eye(3), max_iterations=0)
    inner = np.zeros(SMALL, bool)
    inner[1:-2, 1:-2] = (
        True  # a rim without gradients, and on a whole pixel the bilinear kernel needs the next
    )
    inner[48:71] = False
    assert found.pixels == inner.sum()
    assert found.rho == pytest.approx(np.corrcoef(reference[inner], moving[inner])[0, 1], abs=1e-5)
    assert correlation(reference, moving, np.eye(3)) == pytest.approx(found.rho, abs=1e-9)


def test_local_means_see_texture_only():
    [(reference, moving, truth)] = pairs("translation", 0.0, seeds=[7])
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    hazy = (moving + 0.1 * np.sin(x / 60.0) * np.cos(y / 50.0)).astype(np.float32)
    plain, local = (
        ecc(reference, hazy, np.eye(3), interpolation="cubic", local=flag) for flag in (False, True)
    )
    assert corner_rms(plain.matrix, truth, SHAPE) > 2 * corner_rms(local.matrix, truth, SHAPE)
    assert local.rho > plain.rho


def test_robust_weights_find_what_moves_and_where_it_points():
    [(reference, moving, truth)] = pairs("translation", 0.02, seeds=[8])
    away = truth + [[0, 0, 1.0], [0, 0, -0.6], [0, 0, 0]]
    moved = smooth(make_pair(SHAPE, away, noise=0.02, seed=8)[1])
    moving[97:193, 97:193] = moved[97:193, 97:193]
    found = ecc(reference, moving, np.eye(3), interpolation="cubic", local=True, robust=True, block_px=16)
    fooled = ecc(reference, moving, np.eye(3), interpolation="cubic")
    assert corner_rms(found.matrix, truth, SHAPE) < 0.01 < 0.03 < corner_rms(fooled.matrix, truth, SHAPE)
    x, y, dx, dy, weight = found.vectors.T
    inside = (x > 110) & (x < 180) & (y > 110) & (y < 180)
    outside = (x < 80) | (x > 210) | (y < 80) | (y > 210)
    np.testing.assert_allclose([np.median(dx[inside]), np.median(dy[inside])], [1.0, -0.6], atol=0.15)
    np.testing.assert_allclose([np.median(dx[outside]), np.median(dy[outside])], 0, atol=0.02)
    assert weight[inside].max() < 0.2 and np.median(weight[outside]) > 0.6
    assert found.mistrusted == pytest.approx(96**2 / SHAPE[0] / SHAPE[1], abs=0.05)


NOISE = np.random.default_rng(0).normal(size=(60, 60)).astype(np.float32)
EMPTY, ONES = np.full((60, 60), np.nan, np.float32), np.ones((60, 60), np.float32)
DIM = (np.float32(1e4) + np.float32(1e-3) * NOISE).astype(np.float32)  # less contrast than float32 has digits
STRIPES = np.tile(np.sin(np.arange(100) / 3).astype(np.float32), (100, 1))


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize(
    ("status", "reference", "moving"),
    [
        ("no_overlap", EMPTY, NOISE),
        ("no_overlap", NOISE, EMPTY),
        ("no_overlap", NOISE[:5, :5], NOISE),
        ("flat", ONES, NOISE),
        ("flat", NOISE, 0 * ONES),
        ("flat", DIM, NOISE),
        ("flat", NOISE, DIM),
        ("singular", STRIPES, np.roll(STRIPES, 1, axis=1)),
    ],
)
def test_images_that_determine_nothing_say_so(status, reference, moving, motion, robust):
    found = ecc(reference, moving, np.eye(3), motion=motion, local=robust, robust=robust)
    assert found.status == status and status in FAILURES
    assert found.iterations == 0
    np.testing.assert_array_equal(found.matrix, np.eye(3))
    assert np.isnan(found.error_px) and found.vectors.shape == (0, 5)


def test_a_start_off_the_image_has_no_overlap():
    start = np.array([[1, 0, 500.0], [0, 1, 0.0]])
    assert ecc(NOISE, NOISE, start).status == "no_overlap"
    assert np.isnan(correlation(NOISE, NOISE, start))


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_iteration_is_bounded_whatever_it_meets(motion):
    other = np.random.default_rng(1).normal(size=(60, 60)).astype(np.float32)
    for limit in (1, 7):
        found = ecc(NOISE, other, np.eye(3), motion=motion, max_iterations=limit)
        assert found.iterations <= limit and np.isfinite(found.matrix).all()


def test_the_best_of_several_looks_is_kept():
    """Where the iteration falls back, the answer is no worse than the start."""
    for seed in range(5):
        a, b = (
            smooth(np.random.default_rng([seed, k]).normal(size=(60, 60)).astype(np.float32)) for k in (0, 1)
        )
        found = ecc(a, b, np.eye(3), motion="homography", max_iterations=20)
        assert found.status in FAILURES or found.rho >= correlation(a, b, np.eye(3)) - 1e-4


def test_unknown_motion_names_the_known_ones():
    with pytest.raises(InputError, match="did you mean 'affine'"):
        ecc(ONES, ONES, np.eye(3), motion="afine")
