"""Resampling: equal to a plain twin, exact where it must be, OpenCV's linear result, the masks' rules."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glacierhpc.errors import InputError
from glacierhpc.kernels.warp import KERNELS, warp
from tests.pairs import apply, rotation, texture


def smooth_field(x, y):
    return np.sin(x / 9.0) * np.cos(y / 11.0) + 0.3 * np.sin((x + 2 * y) / 17.0)


def weights(fraction, half):
    """Keys' and Lanczos's weights as written in the papers, the latter normalised."""
    t = np.abs(fraction - np.arange(1 - half, half + 1))
    if half == 2:
        return np.where(t < 1, (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2)
    lanczos = np.sinc(t) * np.sinc(t / 3)
    return lanczos / lanczos.sum()


def linear(image, u, v):
    """Bilinear value of the neighbours with data, and their share of the weight."""
    total, share = 0.0, 0.0
    for j in range(math.floor(v), math.floor(v) + 2):
        for i in range(math.floor(u), math.floor(u) + 2):
            weight = (1 - abs(u - i)) * (1 - abs(v - j))
            if (
                0 <= i < image.shape[1]
                and 0 <= j < image.shape[0]
                and weight > 0
                and not np.isnan(image[j, i])
            ):
                total += weight * image[j, i]
                share += weight
    return total / max(share, 1e-9), share


def warp_pixel_by_pixel(image, matrix, kernel, out_shape):
    """The plain twin of `warp`: values, and the share of the weight that has data."""
    image, half = image.astype(float), KERNELS[kernel]
    values, shares = np.full(out_shape, np.nan), np.zeros(out_shape)
    rows, columns = image.shape
    for y, x in np.ndindex(*out_shape):
        u, v, w = matrix[:, 0] * x + matrix[:, 1] * y + matrix[:, 2]
        u, v = u / w, v / w
        if not (-0.5 <= u <= columns - 0.5 and -0.5 <= v <= rows - 0.5):
            continue
        i, j = math.floor(u) - half + 1, math.floor(v) - half + 1
        if half > 1 and i >= 0 and j >= 0 and i + 2 * half <= columns and j + 2 * half <= rows:
            window = image[j : j + 2 * half, i : i + 2 * half]
            values[y, x] = weights(v - math.floor(v), half) @ window @ weights(u - math.floor(u), half)
            shares[y, x] = 1
        if np.isnan(values[y, x]):
            values[y, x], shares[y, x] = linear(image, u, v)
    return np.where(shares >= 0.5, values, np.nan), shares


def check_against_the_twin(image, matrix, kernel, out_shape):
    expected, share = warp_pixel_by_pixel(image, matrix, kernel, out_shape)
    warped, valid = warp(image, matrix, kernel=kernel, out_shape=out_shape)
    decided = np.abs(share - 0.5) > 1e-5  # at half of the weight, rounding decides
    np.testing.assert_array_equal(valid, np.isfinite(warped))
    np.testing.assert_array_equal(valid[decided], np.isfinite(expected[decided]))
    np.testing.assert_allclose(warped[decided], expected[decided], rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.sampled_from(["linear", "cubic", "lanczos"]),
    degrees=st.sampled_from([0, 0, 0.05, -1.3, 4, 33, 90, 180]),
    zoom=st.sampled_from([1, 1, 1.0003, 0.97, 1.4, -1]),
    tilt=st.sampled_from([0, 0, 1e-5, -2e-3]),
    shift=st.tuples(*2 * [st.integers(-900, 900).map(lambda shift: shift / 97)]),  # whole pixels too
    gaps=st.sampled_from([0, 0.003, 0.3]),
    seed=st.integers(0, 99),
)
def test_runs_equal_pixel_by_pixel(kernel, degrees, zoom, tilt, shift, gaps, seed):
    """Long runs, short ones, none; mirrored, across the border, with gaps."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(17, 300)).astype(np.float32)
    image[rng.random(image.shape) < gaps] = np.nan
    matrix = np.vstack([rotation(degrees, shift, image.shape), [tilt, -tilt / 3, 1]])
    matrix[0] *= zoom
    matrix[0, 2] += 299 * (zoom == -1)
    check_against_the_twin(image, matrix, kernel, (7, 310))


@pytest.mark.parametrize("kernel", ["linear", "cubic", "lanczos"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3), (4, 4), (6, 7)])
def test_images_smaller_than_the_kernel(kernel, shape):
    image = np.random.default_rng(1).random(shape, dtype=np.float32)
    for matrix in ([[1, 0, 0.3], [0, 1, -0.2]], [[1.01, 0.02, 0.3], [0, 0.98, -0.2]], [[0, 1, 0], [1, 0, 0]]):
        check_against_the_twin(image, np.vstack([matrix, [0, 0, 1]]), kernel, (8, 20))


@pytest.mark.parametrize(("kernel", "limit"), [("linear", 0.012), ("cubic", 2e-3), ("lanczos", 4e-3)])
def test_a_turned_image_has_the_values_of_the_turned_function(kernel, limit):
    y, x = np.mgrid[:120, :150].astype(float)
    matrix = np.vstack([rotation(7, (3.3, -2.2), (120, 150), zoom=1.03), [1e-4, -5e-5, 1]])
    warped, valid = warp(smooth_field(x, y).astype(np.float32), matrix, kernel=kernel)
    u, v = apply(matrix, x, y)
    inside = (u >= 0) & (u <= 149) & (v >= 0) & (v <= 119)
    assert valid[inside].all()
    well_inside = (u >= 3) & (u <= 146) & (v >= 3) & (v <= 116)
    error = np.abs(warped - smooth_field(u, v))[well_inside]
    assert error.max() < limit


def test_better_kernels_are_better():
    image = texture((100, 100), margin=0).astype(np.float32)
    there, back = [np.array([[1, 0, s * 0.5], [0, 1, s * 0.5]]) for s in (1, -1)]
    errors = []
    for kernel in ("linear", "cubic", "lanczos"):
        once, _ = warp(image, there, kernel=kernel)
        again, _ = warp(once, back, kernel=kernel)
        errors.append(np.abs(again - image)[5:-5, 5:-5].mean())
    assert errors[0] > 2 * errors[1] > 3 * errors[2]


def test_linear_equals_opencv():
    image = texture((90, 110), margin=0).astype(np.float32)
    matrix = rotation(3, (1.25, -4.5), (90, 110))
    ours, _ = warp(image, matrix, kernel="linear", out_shape=(80, 100))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    theirs = cv2.warpAffine(image, matrix, (100, 80), flags=flags, borderValue=np.nan)
    both = np.isfinite(ours) & np.isfinite(theirs)
    assert both.mean() > 0.9
    assert np.abs(ours - theirs)[both].max() < 0.05  # OpenCV rounds positions to 1/32 px


@settings(max_examples=20, deadline=None)
@given(dx=st.integers(-6, 6), dy=st.integers(-6, 6), kernel=st.sampled_from(["linear", "cubic", "lanczos"]))
def test_whole_pixel_shifts_copy(dx, dy, kernel):
    rng = np.random.default_rng(3)
    image = rng.normal(size=(30, 41)).astype(np.float32)
    image[rng.random(image.shape) < 0.2] = np.nan
    warped, valid = warp(image, np.array([[1, 0, dx], [0, 1, dy]]), kernel=kernel)
    expected = np.full_like(image, np.nan)
    rows, columns = image.shape
    expected[max(0, -dy) : rows - max(0, dy), max(0, -dx) : columns - max(0, dx)] = image[
        max(0, dy) : rows + min(0, dy), max(0, dx) : columns + min(0, dx)
    ]
    np.testing.assert_array_equal(warped, expected)
    np.testing.assert_array_equal(valid, np.isfinite(expected))


@settings(max_examples=20, deadline=None)
@given(dx=st.floats(-3, 3), dy=st.floats(-3, 3), kernel=st.sampled_from(["linear", "cubic", "lanczos"]))
def test_values_behind_the_mask_never_matter(dx, dy, kernel):
    rng = np.random.default_rng(4)
    image = rng.random((40, 40), dtype=np.float32)
    valid = rng.random(image.shape) > 0.3
    matrix = np.array([[1, 0, dx], [0, 1, dy]])
    clean, clean_valid = warp(image, matrix, valid=valid, kernel=kernel)
    wild, wild_valid = warp(np.where(valid, image, 1e9), matrix, valid=valid, kernel=kernel)
    np.testing.assert_array_equal(clean, wild)
    np.testing.assert_array_equal(clean_valid, wild_valid)
    if kernel == "linear":
        assert np.nanmin(clean) >= 0 and np.nanmax(clean) <= 1


@pytest.mark.parametrize("kernel", ["linear", "cubic", "lanczos"])
def test_a_constant_stays_constant_beside_masks_and_borders(kernel):
    valid = np.random.default_rng(5).random((50, 50)) > 0.2
    warped, ok = warp(
        np.full((50, 50), 7, np.float32), rotation(5, (0.3, 0.4), (50, 50)), valid=valid, kernel=kernel
    )
    np.testing.assert_allclose(warped[ok], 7, rtol=1e-5)


def test_nothing_outside_and_nothing_singular():
    image = np.ones((20, 20), np.float32)
    far, valid = warp(image, np.array([[1, 0, 1000], [0, 1, 0]]))
    assert np.isnan(far).all() and not valid.any()
    for matrix in ([[1, 0, 1e30], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 0], [0, 0, 0]], [[0, 0, 0]] * 3):
        _, valid = warp(image, np.array(matrix, float))
        assert not valid.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": "sinc"}, "'sinc' is not known"),
        ({"valid": np.ones((3, 3), bool)}, "must be equal"),
        ({"matrix": np.full((2, 3), np.nan)}, "not a finite"),
        ({"image": np.ones((2, 5, 5), np.float32)}, "one band at a time"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    given = {"image": np.ones((5, 5), np.float32), "matrix": np.eye(3), **arguments}
    with pytest.raises(InputError, match=message):
        warp(given.pop("image"), given.pop("matrix"), **given)


def test_a_pixel_needs_half_of_its_linear_weight():
    image = np.full((6, 6), np.nan, np.float32)
    image[:, :3] = 2
    for shift_x, expected in ((0.4, True), (0.6, False)):
        warped, valid = warp(image, np.array([[1, 0, shift_x], [0, 1, 0]]), kernel="linear")
        assert valid[3, 2] == expected
        assert not expected or warped[3, 2] == 2
