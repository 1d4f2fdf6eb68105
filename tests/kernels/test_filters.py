"""NaN-aware filters against SciPy and NumPy twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve, uniform_filter

from glacierhpc.kernels.filters import subtract_local_mean, temporal_median
from glacierhpc.kernels.pyramid import halve, smooth, smooth_and_halve, soften

# name: function, pixels of the image per pixel of the result, and the kernel's reach towards smaller and larger ones
FILTERS = {
    "smooth": (smooth, 1, 2, 2),
    "halve": (halve, 2, 1, 2),
    "subtract_local_mean": (lambda image: subtract_local_mean(image, 5), 1, 5, 5),
}


# name: function, weights in one direction, least share of the weight
SMOOTHINGS = {
    "soften": (soften, [1, 2, 1], 0.7),
    "smooth": (smooth, [1, 4, 6, 4, 1], 0.7),
    "halve": (halve, [1, 3, 3, 1], 0.5),
    "smooth_and_halve": (lambda image: smooth_and_halve(image)[0], [1, 5, 10, 10, 5, 1], 0.5),
}
SHAPES = [(40, 61), (41, 60), (3, 2), (1, 70), (70, 1)]


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def image(request):
    return with_gaps(request.param, seed=0)


def with_gaps(shape, seed, share=0.2):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=shape).astype(np.float32)
    image[rng.random(shape) < share] = np.nan
    return image


def normalised(image, kernel):
    """Weighted mean of the pixels with data, and the share of the weight that has data."""
    known = np.isfinite(image)
    share = convolve(known.astype(float), kernel, mode="constant")
    total = convolve(np.where(known, image, 0).astype(float), kernel, mode="constant")
    return total / np.maximum(share, 1e-9), share


@pytest.mark.parametrize("share", [0.0, 0.005, 0.2], ids="gaps {}".format)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", SMOOTHINGS)
def test_smoothing_equals_normalised_convolution(name, shape, share):
    smoothed, taps, least = SMOOTHINGS[name]
    image = with_gaps(shape, seed=0, share=share)
    expected, known = normalised(image, np.outer(taps, taps) / sum(taps) ** 2)
    if len(taps) % 2:
        expected[np.isnan(image) | (known < least)] = np.nan
    else:  # SciPy centres an even kernel behind the pixel: between pixels 2 i and 2 i + 1
        expected[known < least] = np.nan
        expected = expected[0::2, 0::2][: shape[0] // 2, : shape[1] // 2]
    result = smoothed(image)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 61), (41, 60)], ids=str)
def test_smooth_and_halve_counts_what_there_is(shape):
    image = with_gaps(shape, seed=1, share=0.01)
    image[-1, -1], image[0, 5], image[20, 7] = np.inf, -np.inf, 3e38  # a sum of large numbers is none
    assert smooth_and_halve(image)[1:] == (np.isfinite(image).sum(), 2)


def test_halve_needs_half_of_the_weight():
    """Half of the kernel on the edge of a mask is just enough, less is not."""
    image = np.ones((8, 8), np.float32)
    image[:, 4:] = np.nan
    assert np.isfinite(halve(image)).tolist() == [[True, True, False, False]] * 4
    image[:, 3] = np.nan  # the second column keeps 4 of 8; where a row is missing beyond the border too, less
    assert np.isfinite(halve(image))[:, 1].tolist() == [False, True, True, False]


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 7, 8, 100])
def test_local_mean_does_not_depend_on_the_way_it_is_summed(image, radius):
    size = 2 * radius + 1
    known = np.isfinite(image)
    padded = np.pad(np.where(known, image, 0).astype(float), radius)
    counts = np.pad(known.astype(float), radius)
    inside = np.s_[radius : radius + image.shape[0], radius : radius + image.shape[1]]
    mean = uniform_filter(padded, size)[inside] / np.maximum(uniform_filter(counts, size)[inside], 1e-12)
    np.testing.assert_allclose(subtract_local_mean(image, radius), image - mean, atol=1e-5)


def test_bright_rows_leave_no_trace_in_the_running_sums():
    rng = np.random.default_rng(1)
    image = rng.normal(size=(60, 30)).astype(np.float32)
    bright = image.copy()
    bright[:20] += 1e6
    expected = subtract_local_mean(image, 4)[30:]
    np.testing.assert_allclose(subtract_local_mean(bright, 4)[30:], expected, atol=1e-5)


@pytest.mark.parametrize("kernel", FILTERS, ids=list(FILTERS))
def test_a_constant_stays_constant_beside_gaps(kernel):
    image = np.where(np.isnan(with_gaps((50, 37), seed=2)), np.float32(np.nan), np.float32(7))
    filtered, expected = FILTERS[kernel][0](image), 0 if kernel == "subtract_local_mean" else 7
    assert np.isfinite(filtered).any()
    np.testing.assert_allclose(filtered[np.isfinite(filtered)], expected, atol=2e-6)


@pytest.mark.parametrize("kernel", FILTERS, ids=list(FILTERS))
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_pixel_changes_nothing_farther_than_the_kernel_reaches(kernel, data):
    function, step, before, behind = FILTERS[kernel]
    image = with_gaps((30, 34), seed=data.draw(st.integers(0, 99)))
    y, x = data.draw(st.integers(0, 29)), data.draw(st.integers(0, 33))
    changed = image.copy()
    changed[y, x] = data.draw(st.sampled_from([np.nan, 9.0]))
    difference = ~np.isclose(function(changed), function(image), rtol=0, atol=1e-5, equal_nan=True)
    for axis, position in enumerate((y, x)):
        touched = np.flatnonzero(difference.any(axis=1 - axis)) * step
        assert ((touched >= position - behind) & (touched <= position + before)).all()


@pytest.mark.parametrize("kernel", FILTERS, ids=list(FILTERS))
def test_views_and_read_only_images_are_filtered_alike(kernel):
    function = FILTERS[kernel][0]
    image = with_gaps((40, 66), seed=3)
    view = image[::2, ::3]
    expected = function(image), function(view.copy())
    image.flags.writeable = False
    for pixels, same in zip((image, view), expected):  # each is compiled by itself, and may round otherwise
        np.testing.assert_allclose(function(pixels), same, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    times=st.one_of(st.integers(1, 9), st.integers(10, 70)),
    columns=st.sampled_from([1, 19, 64, 130]),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_temporal_median_equals_nanmedian(times, columns, share, seed):
    rng = np.random.default_rng(seed)
    stack = rng.integers(0, 5 if seed % 2 else 10**6, (times, 3, columns)).astype(
        np.float32
    )  # equal ones too
    stack[rng.random(stack.shape) < 0.1] = np.nan
    valid = rng.random(stack.shape) < share
    masked = np.ma.masked_array(stack, ~valid | np.isnan(stack))
    expected = np.ma.median(masked, axis=0).filled(np.nan)
    np.testing.assert_array_equal(temporal_median(stack, valid), expected)
    wild = np.where(valid, stack, np.float32(-1e30))
    np.testing.assert_array_equal(temporal_median(wild, valid), expected)


def test_the_order_of_the_dates_does_not_matter():
    rng = np.random.default_rng(4)
    stack = rng.normal(size=(33, 5, 70)).astype(np.float32)
    valid = rng.random(stack.shape) < 0.7
    order = rng.permutation(33)
    expected = temporal_median(stack, valid)
    np.testing.assert_array_equal(temporal_median(stack[order], valid[order]), expected)
    turned = temporal_median(stack.transpose(0, 2, 1), valid.transpose(0, 2, 1))
    np.testing.assert_array_equal(turned.T, expected)


def test_a_stack_without_dates_has_no_median():
    assert np.isnan(temporal_median(np.empty((0, 2, 3), np.float32), np.empty((0, 2, 3), bool))).all()
