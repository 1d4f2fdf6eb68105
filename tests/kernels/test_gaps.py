"""Gap filling against a plain SciPy twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve

from glacierhpc.errors import InputError
from glacierhpc.kernels.gaps import fill_gaps

KERNEL = np.outer([1, 2, 3, 2, 1], [1, 2, 3, 2, 1]) / 81.0


def twin(image, valid, max_passes=None):
    """The same by whole-image convolutions."""
    values, known = np.where(valid, image, 0).astype(np.float64), valid.copy()
    passes = 0
    while known.any() and not known.all() and passes != max_passes:
        weight = convolve(known.astype(float), KERNEL, mode="constant")
        total = convolve(values, KERNEL, mode="constant")
        new = ~known & (weight > 1e-9)
        values[new] = total[new] / weight[new]
        known |= new
        passes += 1
    return np.where(known, values, np.nan), known & ~valid


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    share=st.floats(0.0, 1.0),
    max_passes=st.one_of(st.none(), st.integers(0, 4)),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_iterated_convolution(rows, columns, share, max_passes, seed):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(rows, columns)).astype(np.float32)
    valid = rng.random((rows, columns)) < share**3  # mostly sparse: large gaps, many passes
    filled, mask = fill_gaps(image, valid, max_passes=max_passes)
    expected, expected_mask = twin(image, valid, max_passes)
    np.testing.assert_array_equal(mask, expected_mask)
    np.testing.assert_allclose(filled, expected, atol=2e-6)
    np.testing.assert_array_equal(filled[valid], image[valid])


def test_margin_of_a_scene_closes_two_pixels_per_pass():
    image = np.full((30, 30), 5, np.float32)
    valid = np.zeros((30, 30), bool)
    valid[:, :10] = True
    filled, mask = fill_gaps(image, valid, max_passes=3)
    assert mask[:, 10:16].all() and not mask[:, 16:].any()
    np.testing.assert_allclose(filled[:, :16], 5, rtol=1e-6)
    assert np.isnan(filled[:, 16:]).all()


def test_values_of_invalid_pixels_never_matter():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(50, 60)).astype(np.float32)
    valid = rng.random(image.shape) < 0.4
    poisoned = np.where(valid, image, np.float32(np.nan))
    wild = np.where(valid, image, np.float32(1e30))
    np.testing.assert_array_equal(fill_gaps(poisoned, valid)[0], fill_gaps(wild, valid)[0])
    nan_marked_valid, mask = fill_gaps(poisoned, np.ones_like(valid))
    np.testing.assert_array_equal(mask, ~valid)
    np.testing.assert_array_equal(nan_marked_valid, fill_gaps(image, valid)[0])


def test_all_empty_and_all_valid_return_at_once():
    image = np.ones((2000, 2000), np.float32)
    filled, mask = fill_gaps(image, np.zeros(image.shape, bool))
    assert np.isnan(filled).all() and not mask.any()
    filled, mask = fill_gaps(image, np.ones(image.shape, bool))
    np.testing.assert_array_equal(filled, image)
    assert not mask.any()


@pytest.mark.parametrize("shape", [(3, 4, 5), (4,)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(InputError, match="equal in shape"):
        fill_gaps(np.zeros(shape, np.float32), np.ones((3, 3), bool))
    with pytest.raises(InputError, match="negative"):
        fill_gaps(np.zeros((3, 3), np.float32), np.ones((3, 3), bool), max_passes=-1)
