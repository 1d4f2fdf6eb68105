"""Dense flow: the scale of the values does not matter, masks do not leak."""

from __future__ import annotations

import numpy as np
import pytest

from glacierhpc.errors import InputError
from glacierhpc.velocity import dense_flow
from tests.pairs import make_pair

SHIFT = np.array([[1, 0, 1.0], [0, 1, 0.5]])
SHAPE = (200, 220)
INSIDE = (slice(20, -20), slice(20, -20))


@pytest.fixture(scope="module")
def pair():
    return make_pair(SHAPE, SHIFT, noise=0.0, seed=2)


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (255.0, 0.0), (20000.0, 7000.0), (1e-3, -0.2)])
def test_a_known_shift_in_any_unit(pair, gain, offset):
    first, second = (image * np.float32(gain) + np.float32(offset) for image in pair)
    u, v, valid = dense_flow(first, second)
    assert valid.all()
    assert np.median(u[INSIDE]) == pytest.approx(1.0, abs=0.01)
    assert np.median(v[INSIDE]) == pytest.approx(0.5, abs=0.01)
    assert np.quantile(np.hypot(u - 1.0, v - 0.5)[INSIDE], 0.95) < 0.03
    same_u, same_v, _ = dense_flow(*pair)
    np.testing.assert_allclose(u, same_u, atol=5e-3)
    np.testing.assert_allclose(v, same_v, atol=5e-3)


def test_a_given_range_is_used(pair):
    u, _, _ = dense_flow(*pair, value_range=(0.0, 1.0))
    assert np.median(u[INSIDE]) == pytest.approx(1.0, abs=0.01)
    # a range far too wide makes the images flat for the algorithm: this is the trap that scaling avoids
    flat, _, _ = dense_flow(*pair, value_range=(0.0, 255.0))
    assert abs(np.median(flat[INSIDE])) < 0.1


def test_values_behind_masks_never_matter(pair):
    first, second = pair
    mask = np.ones(SHAPE, bool)
    mask[60:110, 80:140] = False
    wild = np.where(mask, second, 1e6).astype(np.float32)
    u, v, valid = dense_flow(first, wild, second_valid=mask)
    with_nan = dense_flow(first, np.where(mask, second, np.nan).astype(np.float32))
    np.testing.assert_array_equal(u, with_nan[0])
    assert np.isnan(u[~valid]).all() and not valid[~mask].any()
    assert valid[mask].mean() > 0.95
    assert np.median(np.abs(u[INSIDE][valid[INSIDE]] - 1.0)) < 0.01
    assert np.median(np.abs(v[INSIDE][valid[INSIDE]] - 0.5)) < 0.01


def test_nothing_to_see_gives_nothing_or_zero():
    flat = np.full((40, 40), 0.3, np.float32)
    u, v, valid = dense_flow(flat, flat)
    assert valid.all() and not u.any() and not v.any()
    u, _, valid = dense_flow(flat, np.full_like(flat, np.nan))
    assert not valid.any() and np.isnan(u).all()


@pytest.mark.parametrize(
    ("second", "options"),
    [
        (np.zeros((5, 6), np.float32), {}),
        (np.zeros((5, 5), np.float32), {"window_px": 2}),
        (np.zeros((5, 5), np.float32), {"poly_n": 6}),
        (np.zeros((5, 5), np.float32), {"value_range": (1.0, 1.0)}),
    ],
)
def test_wrong_arguments_are_refused(second, options):
    with pytest.raises(InputError):
        dense_flow(np.zeros((5, 5), np.float32), second, **options)
