"""What cannot be aligned: hopeless input, limits, wrong arguments; always a reason, and bounded work."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from glacierhpc.coreg import align_pair
from glacierhpc.errors import InputError
from glacierhpc.kernels import ecc_look
from tests.pairs import ALL_MOTIONS, SMALL, clouds, cloudy, make_pair, shift


def noise(seed, shape=(100, 100)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


ONE_ROW = np.zeros((100, 100), bool)
ONE_ROW[50] = True
LEFT, RIGHT = np.zeros((2, 100, 100), bool)
LEFT[:, :20], RIGHT[:, 80:] = True, True
STRIPES = np.tile(np.sin(np.arange(100) / 3), (100, 1)).astype(np.float32)
NAN = np.full((100, 100), np.nan, np.float32)
CLOUD = (0.9 + 0.01 * gaussian_filter(noise(7), 12)).astype(np.float32)
STEP = np.where(np.arange(100) < 50, np.float32(0), np.float32(1)) * np.ones((100, 1), np.float32)
SPECK = np.zeros((100, 100), np.float32)
SPECK[40, 60] = 1

HOPELESS = {
    "no overlap": (noise(0), noise(0), {"reference_valid": LEFT, "moving_valid": RIGHT, "max_shift_px": 20}, "overlap"),
    "all cloud": (noise(0), noise(0), {"moving_valid": np.zeros((100, 100), bool)}, "fewer than 128 valid"),
    "unmasked cloud": (noise(0), CLOUD, {}, ""),
    "constant": (noise(0), np.full((100, 100), 0.3, np.float32), {}, "no contrast"),
    "constant reference": (np.zeros((100, 100), np.float32), noise(0), {}, "no contrast"),
    "both constant": (np.ones((100, 100), np.float32), np.ones((100, 100), np.float32), {}, "no contrast"),
    "saturated": (noise(0), np.full((100, 100), 65535, np.float32), {}, "no contrast"),
    "contrast below rounding": (np.float32(1e4) + np.float32(1e-3) * noise(0), noise(0), {}, "no contrast"),
    "one valid row": (noise(0), noise(0), {"moving_valid": ONE_ROW}, "fewer than 128 valid"),
    "one long valid row": (
        noise(0, (100, 400)), noise(0, (100, 400)), {"stable": np.repeat(ONE_ROW, 4, axis=1)}, "",
    ),
    "no data": (noise(0), NAN, {}, "fewer than 128 valid"),
    "no data at all": (NAN, NAN, {}, "fewer than 128 valid"),
    "infinite": (np.where(noise(1) > 0, np.inf, np.nan).astype(np.float32), noise(0), {}, "fewer than 128 valid"),
    "tiny": (noise(0, (5, 5)), noise(0, (5, 5)), {}, "fewer than 16 rows"),
    "one row": (noise(0), noise(0, (1, 300)), {}, "fewer than 16 rows"),
    "empty": (noise(0, (0, 0)), noise(0), {}, "fewer than 16 rows"),
    "unrelated": (noise(0), noise(1), {}, ""),
    "unrelated, larger": (noise(0, (300, 300)), noise(1, (300, 300)), {}, ""),
    "stripes": (STRIPES, np.roll(STRIPES, 2, axis=1), {}, "one direction"),
    "one step": (STEP, np.roll(STEP, 3, axis=1), {}, ""),
    "one bright pixel": (SPECK, noise(0), {}, ""),
}  # fmt: skip


def counted(function, calls):
    def call(*given):
        calls.append(1)
        return function(*given)

    return call


@pytest.mark.parametrize("robust", [True, False])
@pytest.mark.parametrize("motion", ALL_MOTIONS)
@pytest.mark.parametrize("name", HOPELESS)
def test_hopeless_input_is_a_result_with_a_reason(name, motion, robust, monkeypatch):
    reference, moving, options, reason = HOPELESS[name]
    passes = []
    for name_of_pass in ("accumulate", "accumulate_softened"):
        plain = getattr(ecc_look, name_of_pass)
        monkeypatch.setattr(ecc_look, name_of_pass, counted(plain, passes))
    result = align_pair(reference, moving, motion=motion, robust=robust, **options)
    assert not result.ok and result.reason and reason in result.reason
    assert np.isnan(result.matrix).all() and np.isnan(result.error_px)
    # bounded work: a few looks at each start and level, and as many as asked at full size
    assert result.iterations <= 100 + 7 * 4 * 4 and len(passes) <= 100 + 8 * (4 + 4 * 4) + 2


@pytest.mark.parametrize("motion", ALL_MOTIONS)
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_iterations_are_bounded_as_asked(motion, limit):
    reference, moving = make_pair(SMALL, shift(3.0, 2.0), seed=3)
    found = align_pair(reference, cloudy(moving, clouds(SMALL, 0.2)), motion=motion, max_iterations=limit)
    assert found.iterations <= limit * (2 + 4 * 3)


def test_a_shift_beyond_the_limit_is_refused():
    reference, moving = make_pair(SMALL, shift(12, 0), seed=2)
    result = align_pair(reference, moving, max_shift_px=8)
    assert not result.ok and result.reason
    assert align_pair(reference, moving, max_shift_px=13).ok


def test_each_limit_refuses_with_its_reason_and_keeps_what_was_measured():
    reference, moving = make_pair(SMALL, shift(2.2, 1.1), noise=0.1, seed=2)
    for options, reason in (
        ({"min_correlation": 0.999}, "correlation 0."),
        ({"max_error_px": 1e-4}, "predicted error"),
        ({"min_overlap_share": 0.9999}, "overlap"),
    ):
        found = align_pair(reference, moving, **options)
        assert not found.ok and reason in found.reason
        assert np.isnan(found.matrix).all() and np.isnan(found.error_px)
        if "overlap" not in reason:
            assert found.shift_px == pytest.approx(np.hypot(2.2, 1.1), abs=0.05) and found.rho > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"motion": "rigid"}, "'rigid' is not known"),
        ({"motion": "afine"}, "did you mean 'affine'"),
        ({"moving": np.zeros((3, 20, 20), np.float32)}, "one band at a time"),
        ({"stable": np.ones((4, 4), bool)}, "`stable` has shape"),
        ({"reference_valid": np.ones((4, 4), bool)}, "`reference_valid` has shape"),
        ({"moving_valid": np.ones((4, 4), bool)}, "`moving_valid` has shape"),
        ({"moving_valid": True}, "`moving_valid` has shape"),
        ({"moving_valid": np.full((20, 20), np.nan)}, "write moving_valid == 1"),
        ({"moving": np.zeros((20, 20), complex)}, "give real numbers"),
        ({"reference": None}, "`reference` has shape"),
        ({"max_iterations": 0}, "at least 1"),
        ({"max_shift_px": 0}, "above 0 px"),
        ({"max_shift_px": float("nan")}, "above 0 px"),
    ],
)
def test_wrong_arguments_raise(options, message):
    given = {"reference": np.zeros((20, 20), np.float32), "moving": np.zeros((20, 20), np.float32), **options}
    with pytest.raises(InputError, match=message):
        align_pair(given.pop("reference"), given.pop("moving"), **given)


def test_lists_and_masked_arrays_are_images_too():
    reference, moving = make_pair(SMALL, shift(2.2, 1.1), noise=0.02, seed=2)
    known = align_pair(reference, moving)
    assert np.array_equal(align_pair(reference.tolist(), moving.tolist()).matrix, known.matrix)
    covered = np.zeros(SMALL, bool)
    covered[60:160, 60:160] = True
    cloudy = np.where(covered, 5, moving)
    hidden = align_pair(reference, np.ma.MaskedArray(cloudy, covered))
    assert hidden.ok, hidden.reason
    assert np.array_equal(hidden.matrix, align_pair(reference, cloudy, moving_valid=~covered).matrix)


@pytest.mark.parametrize("fill", [np.finfo(np.float32).min, 1e300])
def test_fill_values_that_have_no_square_are_no_alarm(fill):
    reference, moving = make_pair(SMALL, shift(2.2, 1.1), noise=0.02, seed=2)
    moving = moving.astype(np.float64)
    moving[:, :20] = fill
    found = align_pair(reference, moving)
    assert found.ok, found.reason
    # measured 0.08 and 0.002 px: the larger becomes infinite, and so invalid
    assert np.hypot(found.shift_col_px - 2.2, found.shift_row_px - 1.1) < 0.15
