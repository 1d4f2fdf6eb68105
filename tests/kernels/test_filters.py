"""NaN-aware filters against SciPy and NumPy twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve, uniform_filter

from glacierhpc.kernels.filters import halve, smooth, subtract_local_mean, temporal_median


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(40, 61)).astype(np.float32)
    image[rng.random(image.shape) < 0.2] = np.nan
    return image


def normalised(image, kernel):
    """Weighted mean of the pixels with data, and the share of the weight that has data."""
    known = np.isfinite(image)
    share = convolve(known.astype(float), kernel, mode="constant")
    total = convolve(np.where(known, image, 0).astype(float), kernel, mode="constant")
    return total / np.maximum(share, 1e-9), share


def test_smooth_equals_normalised_convolution(image):
    taps = np.array([1, 4, 6, 4, 1]) / 16
    expected, share = normalised(image, np.outer(taps, taps))
    expected[np.isnan(image) | (share < 0.7)] = np.nan
    np.testing.assert_allclose(smooth(image), expected, atol=1e-5)


def test_halve_equals_normalised_convolution_at_every_second_corner(image):
    taps = np.array([1, 3, 3, 1]) / 8
    expected, share = normalised(image, np.outer(taps, taps))
    # SciPy centres an even kernel behind the pixel: between pixels 2 i and 2 i + 1
    expected, share = expected[0::2, 0::2], share[0::2, 0::2]
    expected[share < 0.5] = np.nan
    result = halve(image)
    assert result.shape == (20, 30)
    np.testing.assert_allclose(result, expected[:20, :30], atol=1e-5)


@pytest.mark.parametrize("radius", [1, 7, 100])
def test_local_mean_does_not_depend_on_the_way_it_is_summed(image, radius):
    size = 2 * radius + 1
    known = np.isfinite(image)
    padded = np.pad(np.where(known, image, 0).astype(float), radius)
    counts = np.pad(known.astype(float), radius)
    mean = uniform_filter(padded, size) / np.maximum(uniform_filter(counts, size), 1e-12)
    expected = image - mean[radius:-radius, radius:-radius]
    np.testing.assert_allclose(subtract_local_mean(image, radius), expected, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(times=st.integers(1, 9), share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_temporal_median_equals_nanmedian(times, share, seed):
    rng = np.random.default_rng(seed)
    stack = rng.integers(0, 5, (times, 7, 19)).astype(np.float32)  # many equal values
    stack[rng.random(stack.shape) < 0.1] = np.nan
    valid = rng.random(stack.shape) < share
    masked = np.ma.masked_array(stack, ~valid | np.isnan(stack))
    expected = np.ma.median(masked, axis=0).filled(np.nan)
    np.testing.assert_array_equal(temporal_median(stack, valid), expected)
