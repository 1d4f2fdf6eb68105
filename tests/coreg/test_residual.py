"""What is left after an alignment, as small windows measure it."""

from __future__ import annotations

import numpy as np
import pytest

from glacierhpc.coreg import local_offsets, stable_residual_px
from glacierhpc.coreg.residual import fitting_window_px
from tests.pairs import make_pair, shift


def test_local_offsets_measure_what_is_left():
    first, second = make_pair((400, 400), shift(0.37, -0.21), seed=7, noise=0.02)
    offsets = local_offsets(first, second)
    assert len(offsets) == 64
    np.testing.assert_allclose(np.median(offsets, axis=0), [0.37, -0.21], atol=0.03)
    assert stable_residual_px(offsets) == pytest.approx(np.hypot(0.37, 0.21), abs=0.04)
    stable = np.zeros((400, 400), bool)
    stable[:, 200:] = True
    assert len(local_offsets(first, second, stable=stable)) == 32 - 8  # a window astride the edge is left out
    unlike = np.random.default_rng(3).normal(size=(400, 400)).astype(np.float32)
    assert len(local_offsets(first, unlike)) < 16
    assert np.isnan(stable_residual_px(local_offsets(first, np.full_like(first, np.nan))))


def test_windows_shrink_where_stable_ground_is_scarce():
    usable = np.zeros((300, 300), bool)
    usable[:, :50] = True
    assert fitting_window_px(usable) == 32
    assert fitting_window_px(np.ones((300, 300), bool)) == 48
    assert fitting_window_px(np.zeros((300, 300), bool)) == 24
