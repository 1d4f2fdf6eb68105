"""Alignment of pairs: known matrices, masks, clouds, moving ice, real scenes, hopeless input."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import rasterio
import rasterio.warp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from glacierhpc.coreg import align_pair, local_offsets, reference_image, stable_residual_px
from glacierhpc.coreg.confirm import confirmed
from glacierhpc.coreg.residual import fitting_window_px
from glacierhpc.errors import InputError
from tests.pairs import corner_rms, make_pair, rotation

SHAPE = (800, 800)
SMALL = (240, 260)


def shift(x, y):
    return np.array([[1, 0, x], [0, 1, y]], float)


def clouds(shape, share, *, seed=0, size_px=20):
    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape), size_px)
    return field > np.quantile(field, 1 - share)


HOMOGRAPHY = np.vstack([rotation(0.3, (5.3, -2.6), SHAPE, zoom=1.001), [1e-6, -8e-7, 1]])


@pytest.mark.parametrize(
    ("motion", "truth", "limit"),
    [
        ("translation", shift(2.3, -1.7), 0.01),
        ("translation", shift(63.6, -40.2), 0.01),
        ("euclidean", rotation(1.0, (5.3, -2.6), SHAPE), 0.02),
        ("affine", rotation(0.5, (-3.3, 8.6), SHAPE, zoom=1.004, shear=0.001), 0.03),
        ("homography", HOMOGRAPHY, 0.06),
    ],
)
def test_known_matrix_clear_and_under_cloud(motion, truth, limit):
    reference, moving = make_pair(SHAPE, truth, noise=0.03, seed=3, margin=100)
    clear = align_pair(reference, moving, motion=motion, max_shift_px=80)
    assert clear.ok, clear.reason
    assert corner_rms(clear.matrix, truth, SHAPE) <= limit
    assert clear.rho > 0.9 > clear.rho_before

    covered = clouds(SHAPE, 0.3)
    moving = np.where(covered, 0.9, moving).astype(np.float32)
    under_cloud = align_pair(reference, moving, motion=motion, moving_valid=~covered, max_shift_px=80)
    assert corner_rms(under_cloud.matrix, truth, SHAPE) <= 0.05


def test_reported_shift_is_that_of_the_centre_and_brightness_does_not_matter():
    truth = rotation(1.0, (3.0, -4.0), SMALL)
    reference, moving = make_pair(SMALL, truth, seed=1)
    result = align_pair(reference, 3000 * moving + 7000, motion="euclidean")
    assert (result.shift_col_px, result.shift_row_px) == pytest.approx((3.0, -4.0), abs=0.05)
    assert result.shift_px == pytest.approx(5.0, abs=0.05)
    assert 0.8 < result.overlap_share <= 1 and result.iterations > 0


def test_cloud_that_no_mask_has_found_pulls_little():
    truth = shift(2.3, -1.7)
    reference, moving = make_pair(SHAPE, truth, seed=3)
    bright = gaussian_filter(np.random.default_rng(6).normal(size=SHAPE), 2)
    moving = np.where(clouds(SHAPE, 0.3, seed=5), 0.9 + 0.5 * bright, moving).astype(np.float32)
    result = align_pair(reference, moving, min_correlation=0.1)
    assert corner_rms(result.matrix, truth, SHAPE) < 0.1


def test_stable_ground_keeps_moving_ice_from_pulling():
    truth, ice = shift(1.2, 0.4), shift(4.2, -2.6)
    reference, ground = make_pair(SMALL, truth, seed=4)
    _, moved = make_pair(SMALL, ice, seed=4)
    y, x = np.mgrid[: SMALL[0], : SMALL[1]]
    glacier = np.abs(x - y - 10) < 75  # half of the scene
    moving = np.where(glacier, moved, ground).astype(np.float32)
    without = align_pair(reference, moving)
    with_mask = align_pair(reference, moving, stable=~glacier)
    assert corner_rms(without.matrix, truth, SMALL) > 0.3
    assert corner_rms(with_mask.matrix, truth, SMALL) < 0.05


@settings(max_examples=10, deadline=None)
@given(x=st.floats(-15, 15), y=st.floats(-15, 15), seed=st.integers(0, 1000))
def test_any_shift_is_found_and_reversed_by_swapping(x, y, seed):
    reference, moving = make_pair((150, 170), shift(x, y), seed=seed)
    there, back = align_pair(reference, moving), align_pair(moving, reference)
    assert corner_rms(there.matrix, shift(x, y), SMALL) < 0.06
    assert corner_rms(back.matrix, shift(-x, -y), SMALL) < 0.06


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_values_behind_masks_never_matter(seed):
    reference, moving = make_pair((150, 170), shift(2.2, 1.1), seed=seed)
    masks = [~clouds(reference.shape, 0.2, seed=seed + i, size_px=8) for i in (0, 1)]
    options = {"reference_valid": masks[0], "moving_valid": masks[1], "motion": "affine"}
    plain = align_pair(reference, moving, **options)
    wild = align_pair(np.where(masks[0], reference, np.nan), np.where(masks[1], moving, 1e6), **options)
    np.testing.assert_array_equal(plain.matrix, wild.matrix)
    assert plain.rho == wild.rho


def noise(seed, shape=(100, 100)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


ONE_ROW = np.zeros((100, 100), bool)
ONE_ROW[50] = True
LEFT, RIGHT = np.zeros((2, 100, 100), bool)
LEFT[:, :20], RIGHT[:, 80:] = True, True
STRIPES = np.tile(np.sin(np.arange(100) / 3), (100, 1)).astype(np.float32)
NAN = np.full((100, 100), np.nan, np.float32)


@pytest.mark.parametrize("motion", ["translation", "homography"])
@pytest.mark.parametrize(
    ("reference", "moving", "options", "reason"),
    [
        (noise(0), noise(0), {"reference_valid": LEFT, "moving_valid": RIGHT, "max_shift_px": 20}, "overlap"),
        (noise(0), noise(0), {"moving_valid": np.zeros((100, 100), bool)}, "fewer than 128 valid"),
        (noise(0), np.full((100, 100), 0.3, np.float32), {}, "no contrast"),
        (np.zeros((100, 100), np.float32), noise(0), {}, "no contrast"),
        (noise(0), np.full((100, 100), 65535, np.float32), {}, "no contrast"),
        (np.float32(1e4) + np.float32(1e-3) * noise(0), noise(0), {}, "no contrast"),
        (noise(0), noise(0), {"moving_valid": ONE_ROW}, "fewer than 128 valid"),
        (noise(0, (100, 400)), noise(0, (100, 400)), {"stable": np.repeat(ONE_ROW, 4, axis=1)}, ""),
        (noise(0), NAN, {}, "fewer than 128 valid"),
        (NAN, NAN, {}, "fewer than 128 valid"),
        (np.where(noise(1) > 0, np.inf, np.nan).astype(np.float32), noise(0), {}, "fewer than 128 valid"),
        (noise(0, (5, 5)), noise(0, (5, 5)), {}, "fewer than 16 rows"),
        (noise(0), noise(0, (1, 300)), {}, "fewer than 16 rows"),
        (noise(0, (0, 0)), noise(0), {}, "fewer than 16 rows"),
        (noise(0), noise(1), {}, "correlation"),
        (noise(0, (300, 300)), noise(1, (300, 300)), {}, "correlation"),
        (STRIPES, np.roll(STRIPES, 2, axis=1), {}, "one direction"),
    ],
)
def test_hopeless_input_is_a_result_with_a_reason(reference, moving, options, reason, motion):
    result = align_pair(reference, moving, motion=motion, **options)
    assert not result.ok and result.reason and reason in result.reason
    assert np.isnan(result.matrix).all()
    # bounded work: no motion is iterated more often than asked, on any level of the pyramid
    assert result.iterations <= 1000


def test_a_shift_beyond_the_limit_is_refused():
    reference, moving = make_pair(SMALL, shift(12, 0), seed=2)
    result = align_pair(reference, moving, max_shift_px=8)
    assert not result.ok and result.reason
    assert align_pair(reference, moving, max_shift_px=13).ok


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"motion": "rigid"}, "'rigid' is not known"),
        ({"moving": np.zeros((3, 20, 20), np.float32)}, "one band at a time"),
        ({"stable": np.ones((4, 4), bool)}, "`stable` has shape"),
        ({"moving_valid": np.ones((4, 4), bool)}, "`moving_valid` has shape"),
    ],
)
def test_wrong_arguments_raise(options, message):
    given = {"reference": np.zeros((20, 20), np.float32), "moving": np.zeros((20, 20), np.float32), **options}
    with pytest.raises(InputError, match=message):
        align_pair(given.pop("reference"), given.pop("moving"), **given)


def test_local_offsets_measure_what_is_left():
    first, second = make_pair((400, 400), shift(0.37, -0.21), seed=7, noise=0.02)
    offsets = local_offsets(first, second)
    assert len(offsets) == 64
    np.testing.assert_allclose(np.median(offsets, axis=0), [0.37, -0.21], atol=0.03)
    assert stable_residual_px(offsets) == pytest.approx(np.hypot(0.37, 0.21), abs=0.04)
    stable = np.zeros((400, 400), bool)
    stable[:, 200:] = True
    assert len(local_offsets(first, second, stable=stable)) == 32 - 8  # a window astride the edge is left out
    assert len(local_offsets(first, noise(3, (400, 400)))) < 16
    assert np.isnan(stable_residual_px(local_offsets(first, np.full_like(first, np.nan))))


def test_windows_shrink_where_stable_ground_is_scarce():
    usable = np.zeros((300, 300), bool)
    usable[:, :50] = True
    assert fitting_window_px(usable) == 32
    assert fitting_window_px(np.ones((300, 300), bool)) == 48
    assert fitting_window_px(np.zeros((300, 300), bool)) == 24


def test_reference_image_is_the_masked_median():
    stack = np.array([[[1, 5]], [[2, 6]], [[90, 7]]], np.float32)
    valid = np.array([[[True, False]], [[True, False]], [[False, False]]])
    image, ok = reference_image(stack, valid)
    np.testing.assert_array_equal(image, [[1.5, np.nan]])
    np.testing.assert_array_equal(ok, [[True, False]])


# ---- the check by windows ----


def test_windows_do_not_reach_further_than_the_limit():
    reference, moving = make_pair(SMALL, shift(9.0, 0.0), seed=4)
    found = replace(align_pair(reference, moving), matrix=np.eye(3) + [[0, 0, -4.0], [0, 0, 5.0], [0, 0, 0]])
    within, _ = confirmed(reference, moving, found, None, 48, 10.0)
    assert within.ok and np.isnan(within.rho) and within.shift_px == pytest.approx(9.0, abs=0.3)
    beyond, _ = confirmed(reference, moving, found, None, 48, 8.0)
    assert not beyond.ok and np.isnan(beyond.matrix).all()
    assert "over 8 px" in beyond.reason


def test_a_residual_that_can_no_longer_be_measured_has_risen():
    reference, moving = make_pair(SMALL, shift(1.0, 0.5), seed=4)
    far = replace(align_pair(reference, moving), matrix=np.eye(3) + [[0, 0, 30.0], [0, 0, 150.0], [0, 0, 0]])
    result, residuals = confirmed(reference, moving, far, None, 48, 200.0)
    assert result.ok and np.isnan(result.rho) and residuals["residual_px"] < 0.3
    assert (result.shift_col_px, result.shift_row_px) == pytest.approx((1.0, 0.5), abs=0.2)


# ---- real scenes ----


def read(path, window=None):
    with rasterio.open(path) as source:
        return source.read(1, window=window).astype(np.float32)


def on_grid(path, like, nodata):
    """Return a coarser map resampled onto the pixels of an image."""
    with rasterio.open(path) as source, rasterio.open(like) as target:
        values = source.read(1).astype(np.float32)
        values[values == nodata] = np.nan
        out = np.full(target.shape, np.nan, np.float32)
        rasterio.warp.reproject(
            values,
            out,
            src_transform=source.transform,
            src_crs=source.crs,
            dst_transform=target.transform,
            dst_crs=target.crs,
            src_nodata=np.nan,
            dst_nodata=np.nan,
            resampling=rasterio.warp.Resampling.bilinear,
        )
    return out


def test_real_pair_does_not_follow_the_ice(real_data):
    folder = real_data("yahtse-landsat8-pair")
    paths = sorted(folder.glob("*_B8_yahtse.TIF"))
    first, second = (read(path) for path in paths)
    slope = np.hypot(*np.gradient(on_grid(folder / "yahtse_srtm_dem.tif", paths[0], np.nan), 15.0))
    stable = slope > 0.35  # rock: the ice is flatter
    result = align_pair(first, second, stable=stable)
    assert result.ok, result.reason
    # phase correlation over stable ground says (0.3, -1.8) m east and north, (0.02, 0.12) px
    assert np.hypot(result.shift_col_px - 0.02, result.shift_row_px - 0.12) < 0.15
    # the trunk moved by 1 to 8 px; without the mask it pulls a little, without a second look far more
    whole = align_pair(first, second)
    assert result.shift_px < whole.shift_px < 0.4
    injected = np.roll(second, (7, -11), axis=(0, 1))
    moved = align_pair(first, injected, stable=stable)
    assert moved.shift_col_px - result.shift_col_px == pytest.approx(-11, abs=0.05)
    assert moved.shift_row_px - result.shift_row_px == pytest.approx(7, abs=0.05)


@pytest.mark.parametrize("glacier", ["Jakobshavn", "Sverdrup"])
def test_real_series_lies_on_one_grid(real_data, glacier):
    folder = real_data("greenland-fronts-landsat")
    index = pd.read_csv(folder / "index.csv")
    index = index[index["glacier"] == glacier]
    images = []
    for name in index["image"]:
        images.append(cv2.imread(str(folder / name), cv2.IMREAD_GRAYSCALE).astype(np.float32))
    valid = [image > 0 for image in images]
    reference, ok = reference_image(np.stack(images), np.stack(valid))
    results = [
        align_pair(reference, image, reference_valid=ok, moving_valid=mask, max_shift_px=16)
        for image, mask in zip(images, valid)
    ]
    good = [result for result in results if result.ok]
    assert len(good) >= 0.8 * len(images)
    shifts = np.array([(result.shift_col_px, result.shift_row_px) for result in good])
    assert np.abs(np.median(shifts, axis=0)).max() < 0.4
    recovered = []
    for image, mask, result in list(zip(images, valid, results))[::7]:
        if result.ok:
            moved, seen = np.roll(image, (6, -9), axis=(0, 1)), np.roll(mask, (6, -9), axis=(0, 1))
            again = align_pair(reference, moved, reference_valid=ok, moving_valid=seen)
            recovered.append(
                np.hypot(
                    again.shift_col_px - result.shift_col_px + 9, again.shift_row_px - result.shift_row_px - 6
                )
            )
    assert np.median(recovered) < 0.1


def test_real_crop_is_found_in_its_scene(real_data):
    folder = real_data("everest-landsat7-rgi")
    scene = read(folder / "LE71400412000304SGS00_B4.tif")
    crop = read(folder / "LE71400412000304SGS00_B4_cropped.tif")
    inside = align_pair(scene, crop, max_shift_px=300)
    assert corner_rms(inside.matrix, shift(-181, -181), crop.shape) < 0.01
    outside = align_pair(crop, scene, max_shift_px=300)
    assert corner_rms(outside.matrix, shift(181, 181), crop.shape) < 0.01
