"""The ECC iteration against OpenCV's, on pairs with a known matrix; the coarse start."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from glacierhpc.errors import InputError
from glacierhpc.kernels.coarse import coarse_shift
from glacierhpc.kernels.ecc import MOTIONS, _basis, _NormalEquations, _Scale, ecc, gradients
from glacierhpc.kernels.ecc_sums import accumulate
from glacierhpc.kernels.filters import smooth
from tests.pairs import corner_rms, make_pair, rotation

SHAPE = (800, 800)
SMALL = (160, 200)
AFFINE = rotation(0.1, (1.3, -0.6), SHAPE, zoom=1.0005, shear=0.0005)
TRUTH = {
    "translation": np.array([[1, 0, 2.3], [0, 1, -1.7]]),
    "euclidean": rotation(0.1, (1.3, -0.6), SHAPE),
    "affine": AFFINE,
    "homography": np.vstack([AFFINE, [2e-7, -1e-7, 1]]),
}
# pixels; what OpenCV reaches on such pairs is 0.005 to 0.01
LIMITS = {"translation": 0.01, "euclidean": 0.02, "affine": 0.03, "homography": 0.06}


def standardised(image):
    return ((image - np.nanmean(image)) / np.nanstd(image)).astype(np.float32)


@pytest.mark.parametrize("motion", MOTIONS)
def test_as_accurate_as_opencv(motion):
    truth = TRUTH[motion]
    reference, moving = make_pair(SHAPE, truth, noise=0.03, seed=3)
    ours = ecc(*(smooth(standardised(image)) for image in (reference, moving)), np.eye(3), motion=motion)
    start = np.eye(3 if motion == "homography" else 2, 3, dtype=np.float32)
    mode = getattr(cv2, f"MOTION_{motion.upper()}")
    _, theirs = cv2.findTransformECC(reference * 255, moving * 255, start, mode, (3, 100, 1e-6), None, 1)
    error, error_opencv = corner_rms(ours.matrix, truth, SHAPE), corner_rms(theirs, truth, SHAPE)
    assert ours.status == "converged" and ours.iterations <= 10
    assert error <= LIMITS[motion]
    assert error <= error_opencv + 0.01
    assert ours.rho > ours.rho_start
    assert corner_rms(ours.matrix, theirs, SHAPE) < 0.03


@pytest.mark.parametrize("motion", MOTIONS)
def test_exact_without_noise_and_insensitive_to_gain_and_offset(motion):
    truth = TRUTH["translation"]
    reference, moving = make_pair(SMALL, truth, noise=0.0, seed=1)
    reference, moving = smooth(standardised(reference)), smooth(standardised(moving))
    plain = ecc(reference, moving, np.eye(3), motion=motion)
    scaled = ecc(reference, 0.4 * moving + 3, np.eye(3), motion=motion)
    assert corner_rms(plain.matrix, truth, SMALL) < 0.03
    assert corner_rms(scaled.matrix, plain.matrix, SMALL) < 0.02


def test_masked_pixels_never_matter_on_either_side():
    truth = np.array([[1, 0, 1.4], [0, 1, 0.7]])
    reference, moving = (standardised(image) for image in make_pair(SMALL, truth, seed=5))
    reference[20:60, 30:90] = np.nan
    moving[90:150, 100:180] = np.nan
    found = ecc(reference, moving, np.eye(3), motion="affine")
    assert corner_rms(found.matrix, truth, SMALL) < 0.1
    assert found.pixels < reference.size - 60 * 40 - 60 * 80
    assert np.isfinite(found.rho)


def test_pixel_count_and_correlation_are_those_of_the_common_pixels():
    reference, moving = (standardised(image) for image in make_pair(SMALL, np.eye(3), noise=0.1, seed=6))
    moving[50:70] = np.nan
    found = ecc(reference, moving, np.eye(3), max_iterations=0)
    inner = np.zeros(SMALL, bool)
    inner[1:-1, 1:-1] = True  # where the reference has gradients
    common = inner & np.isfinite(moving)
    # a whole-pixel sample needs its neighbour below: linear interpolation with weight zero is still NaN
    common[49] = False
    assert found.pixels == common.sum()
    assert found.rho == pytest.approx(np.corrcoef(reference[common], moving[common])[0, 1], abs=1e-5)


@pytest.mark.parametrize(
    ("status", "reference", "moving"),
    [
        ("no_overlap", np.nan, 1.0),
        ("no_overlap", 1.0, np.nan),
        ("flat", 1.0, None),
        ("flat", None, 0.0),
    ],
)
def test_images_that_determine_nothing_say_so(status, reference, moving):
    noise = np.random.default_rng(0).normal(size=(60, 60)).astype(np.float32)
    images = [
        noise if value is None else np.full((60, 60), value, np.float32) for value in (reference, moving)
    ]
    found = ecc(*images, np.eye(3), motion="affine")
    assert found.status == status
    assert np.isfinite(found.matrix).all()


def test_texture_in_one_direction_is_singular():
    stripes = np.tile(np.sin(np.arange(100) / 3).astype(np.float32), (100, 1))
    assert ecc(stripes, np.roll(stripes, 1, axis=1), np.eye(3)).status == "singular"


def test_unknown_motion_names_the_known_ones():
    with pytest.raises(InputError, match="did you mean 'affine'"):
        ecc(np.zeros((20, 20), np.float32), np.zeros((20, 20), np.float32), np.eye(3), motion="afine")


@pytest.mark.parametrize("shift", [(0, 0), (30, -12), (-41, 38)])
def test_coarse_start_finds_whole_pixels_among_masks_and_unequal_shapes(shift):
    truth = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], float)
    reference, moving = (standardised(image) for image in make_pair(SMALL, truth, seed=8))
    reference[:30] = np.nan
    moving[rng_blob(moving.shape)] = np.nan
    x, y, correlation = coarse_shift(reference, moving[:150, :190], max_shift_px=45)
    assert (x, y) == shift
    assert correlation > 0.8
    assert coarse_shift(reference, np.full_like(moving, np.nan), max_shift_px=45) is None


def rng_blob(shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (y - 60) ** 2 + (x - 70) ** 2 < 40**2


def test_one_pass_sums_what_plain_arrays_give():
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:30, :40].astype(float)
    reference = (rng.normal(size=(30, 40)) + 0.8 * x - 0.5 * y).astype(
        np.float32
    )  # mean gradients are not zero
    moving = (rng.normal(size=(30, 40)) + 0.8 * x).astype(np.float32)
    moving[10:15, 5:20] = np.nan
    gx, gy = gradients(reference)
    scale = _Scale.of(reference.shape)
    xs, ys = scale.axes(reference.shape)
    ok = np.isfinite(gx) & np.isfinite(gy)
    target = np.where(ok, reference, np.float32(np.nan))
    sums = accumulate(target, gx, gy, moving, np.eye(3), _basis("homography"), 2, xs, ys)
    normal = _NormalEquations.of(sums, 10)

    sampled = moving.copy()
    sampled[9, 5:20], sampled[10:15, 4] = np.nan, np.nan  # their interpolation touches the gap
    sampled[9, 4] = np.nan
    common = ok & np.isfinite(sampled)
    u, v = (axis[common] for axis in np.meshgrid(xs, ys))
    a, b = gx[common], gy[common]
    steepest = np.stack([a, b, a * u, a * v, b * u, b * v, -u * (a * u + b * v), -v * (a * u + b * v)])
    steepest = steepest.astype(np.float64) - steepest.mean(axis=1, keepdims=True)
    zero_mean = [image[common] - image[common].mean(dtype=np.float64) for image in (reference, moving)]
    assert normal.pixels == common.sum()
    np.testing.assert_allclose(normal.hessian, steepest @ steepest.T, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(normal.on_reference, steepest @ zero_mean[0], rtol=1e-3, atol=0.1)
    np.testing.assert_allclose(normal.on_moving, steepest @ zero_mean[1], rtol=1e-3, atol=0.1)
    assert normal.rho == pytest.approx(np.corrcoef(*zero_mean)[0, 1], abs=1e-5)
