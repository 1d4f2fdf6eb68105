"""The climatology of a sequence: other years' means, never its own composites, never the future when forecasting."""

import numpy as np
import pytest

from glacierhpc.datasets.climatology import Climatology
from glacierhpc.errors import InputError

TIMES = np.datetime64("2015-02-15", "ns") + (np.arange(16) * 91.31 * 86400e9).astype("timedelta64[ns]")
WHOLE = {"steps_in": 3, "steps": 5, "rows": slice(None), "cols": slice(None)}


@pytest.fixture()
def cube():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(16, 2, 6, 7)).astype(np.float32)
    valid = rng.random((16, 6, 7)) > 0.3
    data[~np.repeat(valid[:, None], 2, axis=1)] = np.nan
    return data, valid


def expected(data, steps):
    count = np.isfinite(data[steps]).sum(axis=0)
    return np.nansum(data[steps], axis=0) / np.maximum(count, 1), count[0] > 0


@pytest.mark.parametrize(
    ("known", "causal", "first", "means"),
    [
        # the last target of a sequence of steps 5 to 9 lies a year after its first input
        (range(16), False, 5, {3: [0, 4, 12], 4: [1, 5, 13], 0: [1, 13]}),
        (range(16), True, 5, {3: [0, 4], 4: [1, 5], 0: [1]}),
        (range(4), False, 8, {3: [3], 4: [0], 0: [0]}),
    ],
)
def test_means_of_other_years(cube, known, causal, first, means):
    data, valid = cube
    climatology = Climatology.build(data, valid, TIMES, np.array(known), causal=causal)
    values, found = climatology.frames(first, **WHOLE)
    assert values.shape == (5, 2, 6, 7) and found.shape == (5, 6, 7)
    for step, others in means.items():
        value, has = expected(data, others)
        np.testing.assert_array_equal(found[step], has)
        np.testing.assert_allclose(values[step], value, atol=1e-6)


def test_nothing_of_the_targets_or_the_future_is_in_it(cube):
    data, valid = cube
    before = Climatology.build(data, valid, TIMES, np.arange(16), causal=True).frames(6, **WHOLE)
    changed, unseen = data.copy(), valid.copy()
    changed[9:], unseen[9:] = 99.0, True
    after = Climatology.build(changed, unseen, TIMES, np.arange(16), causal=True).frames(6, **WHOLE)
    for ours, theirs in zip(before, after):
        np.testing.assert_array_equal(ours, theirs)
    # in training the other years may follow, the sequence's own targets may not
    own = np.arange(9, 11)
    changed, learning = data.copy(), Climatology.build(data, valid, TIMES, np.arange(16), causal=False)
    changed[own] = 99.0
    again = Climatology.build(changed, valid, TIMES, np.arange(16), causal=False)
    for ours, theirs in zip(learning.frames(6, **WHOLE), again.frames(6, **WHOLE)):
        np.testing.assert_array_equal(ours, theirs)


def test_a_patch_is_cut_from_the_whole(cube):
    climatology = Climatology.build(*cube, TIMES, np.arange(16), causal=True)
    whole, _ = climatology.frames(4, **WHOLE)
    patch, _ = climatology.frames(4, **WHOLE | {"rows": slice(1, 4), "cols": slice(2, 7)})
    np.testing.assert_allclose(patch, whole[..., 1:4, 2:7], atol=1e-6)


def test_shapes_that_do_not_belong_together(cube):
    data, valid = cube
    with pytest.raises(InputError, match="do not belong together"):
        Climatology.build(data, valid[:-1], TIMES, np.arange(16), causal=True)
