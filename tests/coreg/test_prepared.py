"""Images made ready: what is masked, what lies where on each level, and when there is nothing to compare."""

from __future__ import annotations

import numpy as np
import pytest

from glacierhpc.coreg.prepared import CLIP_DEVIATIONS, LEAST_SIDE_PX, TOP_SIDE_PX, prepare
from glacierhpc.kernels.pyramid import smooth
from tests.pairs import make_pair

SHAPE = (240, 260)


def scene(seed=0, shape=SHAPE, noise=0.0):
    return make_pair(shape, np.eye(3), noise=noise, seed=seed)[0]


def test_invalid_and_infinite_pixels_become_no_data_in_a_copy():
    image, valid = scene(), np.random.default_rng(0).random(SHAPE) < 0.7
    image[5, 6], image[7, 8], image[9, 9] = np.inf, -np.inf, np.nan
    before = image.copy()
    ready = prepare(image, valid)
    np.testing.assert_array_equal(np.isfinite(ready.image), valid & np.isfinite(before))
    np.testing.assert_array_equal(np.isfinite(prepare(image).image), np.isfinite(before))
    kept = np.isfinite(ready.image)
    np.testing.assert_array_equal(ready.image[kept], before[kept])
    np.testing.assert_array_equal(image, before)
    assert ready.pixels == kept.sum() and ready.shape == SHAPE
    assert not np.isinf(prepare(image).image).any()


@pytest.mark.parametrize("shape", [(31, 90), (64, 64), (65, 70), (101, 203)])
def test_pixels_are_counted_at_every_size_up_to_the_last_row(shape):
    image = np.random.default_rng(1).random(shape, np.float32)
    image[3, 4:9], image[-1, -1], image[-1, 0], image[:, 7] = np.nan, np.inf, -np.inf, np.nan
    ready = prepare(image)
    assert ready.pixels == np.isfinite(image).sum()
    np.testing.assert_array_equal(np.isfinite(ready.image), np.isfinite(image))
    for level in ready.levels:
        assert not np.isinf(level).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float64])
def test_any_type_and_order_is_read(dtype):
    numbers = (50 * scene() + 100).astype(dtype)
    ready = prepare(np.asfortranarray(numbers))
    assert ready.image.dtype == np.float32 and ready.image.flags.c_contiguous
    np.testing.assert_allclose(ready.image, numbers, rtol=1e-6)


def test_a_clean_float_image_is_not_copied_and_little_is_computed_early():
    image = scene()
    ready = prepare(image)
    assert ready.image is image
    assert set(vars(ready)) == {"image", "pixels", "_half"}  # the pass that halves counts
    assert ready.levels is ready.levels and ready.fine is ready.fine and ready.smooth is ready.smooth


@pytest.mark.parametrize("shape", [(16, 16), (64, 64), (65, 65), (300, 200), (1087, 1698), (40, 3000)])
def test_levels_halve_until_the_search_is_cheap(shape):
    levels = prepare(np.random.default_rng(0).random(shape, np.float32)).levels
    assert levels[0].shape == shape
    for finer, coarser in zip(levels[:-1], levels[1:], strict=True):
        assert coarser.shape == tuple(n // 2 for n in finer.shape)
    assert max(levels[-1].shape) <= TOP_SIDE_PX or min(levels[-1].shape) < 2 * LEAST_SIDE_PX
    assert len(levels) == 1 or min(levels[-1].shape) >= LEAST_SIDE_PX


def test_pixels_of_a_level_lie_where_the_search_believes():
    y, x = np.mgrid[:256, :192].astype(np.float32)
    for axis, ramp in ((0, y), (1, x)):
        for level, image in enumerate(prepare(ramp).levels):
            inner = image[4:-4, 4:-4]
            at = np.indices(image.shape)[axis][4:-4, 4:-4].astype(float)
            for _ in range(level):
                at = 2 * at + 0.5
            np.testing.assert_allclose(inner, at, atol=1e-3)


def test_the_full_size_is_smoothed_and_no_data_stays_no_data():
    image = scene(noise=0.05)
    image[30:90, 40:100] = np.nan
    ready = prepare(image)
    assert ready.levels[0] is image
    np.testing.assert_array_equal(ready.smooth, smooth(image))
    assert np.isnan(ready.smooth[32:88, 42:98]).all() and np.isnan(ready.levels[1][17:43, 22:48]).all()
    assert np.isfinite(ready.smooth[2:28, 2:-2]).all() and np.isfinite(ready.levels[1][2:12, 2:-2]).all()


def test_brightness_is_roughly_that_of_the_image():
    image = scene()
    numbers = (1000 * image + 20000).astype(np.float32)
    numbers[:60] = np.nan
    mean, deviation = prepare(numbers).brightness
    assert mean == pytest.approx(np.nanmean(numbers), abs=0.3 * float(np.nanstd(numbers)))
    assert 0.3 * np.nanstd(numbers) < deviation < 1.2 * np.nanstd(numbers)
    assert prepare(np.full(SHAPE, np.nan, np.float32)).brightness == (0.0, 0.0)


@pytest.mark.parametrize("radius", ["texture", "fine"])
def test_texture_has_neither_means_nor_outliers_nor_units(radius):
    image = scene(noise=0.02)
    bright = image.copy()
    bright[100:104, 50:54] = 40.0  # a small cloud
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    plain, hazy, clipped, scaled = (
        ready.texture(0) if radius == "texture" else ready.fine
        for ready in map(prepare, (image, (image + 0.01 * x).astype(np.float32), bright, 3000 * image + 7000))
    )
    inner = (slice(10, -10), slice(10, -10))
    assert abs(np.nanmean(plain)) < 0.02 and np.nanstd(plain) == pytest.approx(1.0, abs=0.5)
    np.testing.assert_allclose(hazy[inner], plain[inner], atol=0.05)
    np.testing.assert_allclose(scaled[inner], plain[inner], atol=0.02)
    assert np.nanmax(np.abs(clipped)) < 1.2 * CLIP_DEVIATIONS
    far = np.hypot(y - 102, x - 52) > 20
    np.testing.assert_allclose(clipped[far], plain[far], atol=0.2)


def test_flat_images_have_no_texture():
    noise = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    rounding = (np.float32(1e5) + np.float32(1e-2) * noise).astype(np.float32)
    for flat in (
        np.ones(SHAPE, np.float32),
        np.full(SHAPE, np.nan, np.float32),
        np.zeros(SHAPE, np.float32),
        rounding,
    ):
        ready = prepare(flat)
        assert (
            ready.texture(0) is None and ready.texture(len(ready.levels) - 1) is None and ready.fine is None
        )
