"""Counting and masking pixels, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from glacierhpc.kernels.masks import masked, survey

LARGEST = np.finfo(np.float32).max
TINY = np.finfo(np.float32).tiny


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 1), (37, 53), (64, 128)])
def test_finite_and_infinite_pixels_are_counted(shape):
    rng = np.random.default_rng(sum(shape))
    values = np.array([0.0, -1.5, LARGEST, -LARGEST, TINY, np.nan, np.inf, -np.inf], np.float32)
    image = rng.choice(values, size=shape)
    assert survey(image) == (np.isfinite(image).sum(), np.isinf(image).sum())


def test_masked_keeps_what_is_valid_and_finite_and_leaves_its_arguments_alone():
    rng = np.random.default_rng(1)
    image = rng.choice(np.array([0.25, LARGEST, np.nan, np.inf, -np.inf], np.float32), size=(40, 30))
    valid = rng.random(image.shape) < 0.5
    before = image.copy()
    out = masked(image, valid)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, np.where(valid & np.isfinite(image), image, np.float32(np.nan)))
    np.testing.assert_array_equal(image, before)
