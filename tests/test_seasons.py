"""Distances in the year, whatever the years."""

import numpy as np
import pytest

from glacierhpc.seasons import days_apart, tolerance_days


def test_the_turn_of_the_year_is_no_distance():
    winter = np.array(["2015-12-30", "2019-01-02", "2017-07-01"], dtype="datetime64[ns]")
    np.testing.assert_allclose(days_apart(winter, winter[1]), [3, 0, 180], atol=1.5)
    assert days_apart(winter[:, None], winter[None]).shape == (3, 3)


def test_tolerance_is_half_the_usual_distance():
    months = np.datetime64("2015-01-16", "ns") + np.array([0, 30, 61, 91]) * np.timedelta64(1, "D")
    assert tolerance_days(months) == pytest.approx(15)
    assert tolerance_days(months[:1]) > 30
