"""What is left after an alignment, and what the windows say against it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from glacierhpc.coreg import align_pair, local_offsets, reference_image, stable_residual_px
from glacierhpc.coreg.confirm import confirmed
from glacierhpc.coreg.residual import fitting_window_px
from tests.pairs import make_pair

SMALL = (240, 260)


def shift(x, y):
    return np.array([[1, 0, x], [0, 1, y]], float)


def noise(seed, shape=(100, 100)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


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
