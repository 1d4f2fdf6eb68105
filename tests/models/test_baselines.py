"""The baselines against plain loops over pixels, with gaps."""

from types import SimpleNamespace

import numpy as np
import pytest

from glacierhpc.errors import InputError
from glacierhpc.models.baselines import Record, SequenceBaseline, build_baseline, climatology
from glacierhpc.models.scene_baselines import SCENE_BASELINES

STEPS = 14  # three and a half years of quarters


@pytest.fixture(scope="module")
def record():
    random = np.random.default_rng(0)
    times = np.datetime64("2015-02-15", "ns") + (np.arange(STEPS) * 91.3).astype(int) * np.timedelta64(1, "D")
    data = random.normal(size=(STEPS, 2, 6, 7)).astype(np.float32)
    valid = random.random((STEPS, 6, 7)) < 0.6
    return Record(np.where(valid[:, None], data, np.nan).astype(np.float32), valid, times)


def scene(record, name, last_input, targets):
    return build_baseline(name, record)(last_input, np.array(targets))


def first_valid(record, steps, row, col):
    for step in steps:
        if step >= 0 and record.valid[step, row, col]:
            return record.data[step, :, row, col]
    return None


def check(record, values, valid, lead, expected):
    """`expected(row, col)` gives the bands of a pixel, or None."""
    for row, col in np.ndindex(6, 7):
        wanted = expected(row, col)
        assert valid[lead, row, col] == (wanted is not None)
        if wanted is not None:
            np.testing.assert_allclose(values[lead, :, row, col], wanted, rtol=1e-5)


def test_persistence_is_the_latest_valid_value(record):
    values, valid = scene(record, "persistence", 9, [10, 11])
    for lead in range(2):
        check(record, values, valid, lead, lambda r, c: first_valid(record, range(9, -1, -1), r, c))


def test_same_season_falls_back_to_earlier_years(record):
    values, valid = scene(record, "same_season_last_year", 9, [10, 13])
    check(record, values, valid, 0, lambda r, c: first_valid(record, (6, 2), r, c))
    check(record, values, valid, 1, lambda r, c: first_valid(record, (9, 5, 1), r, c))
    assert not valid[0].all(), "some pixels have no earlier year: they must be invalid, not invented"


def test_same_season_never_uses_what_is_not_yet_observed(record):
    values, valid = scene(record, "same_season_last_year", 7, [12])
    check(record, values, valid, 0, lambda r, c: first_valid(record, (4, 0), r, c))


def test_climatology_is_that_of_the_batch():
    usual, known = np.random.default_rng(0).normal(size=(2, 5, 1, 4, 4)), np.ones((2, 5, 4, 4), dtype=bool)
    batch = SimpleNamespace(images=np.zeros((2, 3, 1, 4, 4)), climatology=usual, climatology_valid=known)
    values, valid = climatology(batch)
    np.testing.assert_array_equal(values, usual[:, 3:])
    assert valid.shape == (2, 2, 4, 4)
    with pytest.raises(InputError, match="carry no climatology"):
        climatology(SimpleNamespace(climatology=None, climatology_valid=None))


def test_no_baseline_sees_the_future(record):
    spoilt = Record(record.data.copy(), record.valid.copy(), record.times)
    spoilt.data[8:], spoilt.valid[8:] = 99, True
    for name in SCENE_BASELINES:
        ours, theirs = (scene(r, name, 7, [8, 9, 12]) for r in (record, spoilt))
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_patches_of_sequences_are_cut_from_the_scene(record):
    starts = np.array([[0, 0, 0], [3, 2, 3], [3, 0, 1], [5, 1, 2]])
    baseline = build_baseline("same_season_last_year", record)
    cut = SequenceBaseline(baseline, starts, steps_in=4, steps_out=2, size=4)
    values, valid = cut(SimpleNamespace(numbers=np.array([1, 2, 3])))
    assert values.shape == (3, 2, 2, 4, 4) and valid.shape == (3, 2, 4, 4)
    for position, (first, row, col) in enumerate(starts[1:]):
        whole, whole_valid = baseline(first + 3, first + 4 + np.arange(2))
        patch = (..., slice(row, row + 4), slice(col, col + 4))
        np.testing.assert_array_equal(values[position], whole[patch])
        np.testing.assert_array_equal(valid[position], whole_valid[patch])


def test_unknown_names_and_ill_fitting_arrays_are_refused(record):
    with pytest.raises(InputError, match="did you mean 'persistence'"):
        build_baseline("persistance", record)
    with pytest.raises(InputError, match="do not belong together"):
        Record(record.data, record.valid[:3], record.times)
