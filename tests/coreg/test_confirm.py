"""The check of an alignment by small windows, and what they say against it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from glacierhpc.coreg import align_pair
from glacierhpc.coreg.confirm import confirmed
from tests.pairs import SMALL, make_pair, shift


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
