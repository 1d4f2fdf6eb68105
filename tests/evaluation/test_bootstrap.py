"""Intervals: right for independent data, wider in blocks than i.i.d. for overlapping patches."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from glacierhpc.errors import InputError
from glacierhpc.evaluation.bootstrap import block_bootstrap, sequence_blocks


def mean(sums):
    return sums[..., 0] / sums[..., 1]


def sums_of(values):
    return np.stack([values, np.ones_like(values)], axis=-1)


def test_of_independent_values_it_is_the_textbook_interval():
    values = np.random.default_rng(0).normal(3, 1, size=400)
    low, high = block_bootstrap(mean, np.arange(400), sums_of(values), samples=4000)
    half = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.01)
    assert high == pytest.approx(values.mean() + half, abs=0.01)


def test_iid_resampling_of_overlapping_patches_is_far_too_sure():
    """The published way (sequences one by one) against whole blocks, on patches that overlap by 80 per cent."""
    random = np.random.default_rng(1)
    step, row, col = np.meshgrid(np.arange(4), np.arange(0, 250, 10), np.arange(0, 250, 10), indexing="ij")
    starts = np.stack([step, row, col], axis=-1).reshape(-1, 3)
    fields = gaussian_filter(random.normal(size=(300, 300)), 12) * 20
    errors = np.array([np.mean(fields[r : r + 50, c : c + 50] ** 2) for _, r, c in starts])
    blocks = sequence_blocks(starts, size=50, block_px=100, block_steps=4)
    widths = [
        np.diff(block_bootstrap(mean, ids, sums_of(errors)), axis=0)[0]
        for ids in (np.arange(len(starts)), blocks)
    ]
    assert len(np.unique(blocks)) == 9
    assert widths[0] < 0.05 * errors.mean()
    assert widths[1] > 5 * widths[0]


def test_blocks_hold_what_is_near_in_time_and_space():
    starts = np.array([[0, 0, 0], [1, 4, 4], [2, 0, 0], [0, 60, 0], [0, 0, 60], [1, 9, 9]])
    blocks = sequence_blocks(starts, size=8, block_px=32, block_steps=2)
    assert blocks[0] == blocks[1] == blocks[5]
    assert len(set(blocks[[0, 2, 3, 4]])) == 4
    assert blocks.min() == 0 and blocks.max() == 3


def test_by_default_a_block_is_a_window_of_time_over_the_whole_area():
    starts = np.array([[first, row, 0] for first in range(50, 63) for row in (0, 32, 64)])
    blocks = sequence_blocks(starts, block_steps=4)
    assert all(len(set(blocks[starts[:, 0] == first])) == 1 for first in range(50, 63))
    assert np.bincount(blocks).tolist() == [15, 12, 12]
    assert set(sequence_blocks(starts[:5], block_steps=8)) == {0}


def test_intervals_hold_the_truth_when_errors_are_common_to_a_date():
    """Coverage of 24 windows: near nominal over the whole area, far below with blocks of ground."""
    random, steps_out, count = np.random.default_rng(4), 2, 96
    places = np.array([(row, col) for row in range(0, 96, 32) for col in range(0, 96, 32)])
    starts = np.array([(first, *place) for first in range(count) for place in places])
    ways = {None: [], 32: []}
    for trial in range(150):
        by_date = random.gamma(2, 0.5, size=count + steps_out)  # mean 1, the same at every place
        errors = np.mean([by_date[starts[:, 0] + lead] for lead in range(steps_out)], axis=0)
        errors = errors + 0.05 * random.normal(size=len(errors))
        for block_px, inside in ways.items():
            blocks = sequence_blocks(starts, block_steps=4, size=32, block_px=block_px)
            low, high = block_bootstrap(mean, blocks, sums_of(errors), samples=200, seed=trial)
            inside.append(low <= 1 <= high)
    assert 0.84 < np.mean(ways[None]) <= 0.99
    assert np.mean(ways[32]) < 0.6


def test_comparisons_are_paired():
    """A model that is always ten per cent better is better beyond doubt, though both errors vary wildly."""
    reference = np.random.default_rng(2).lognormal(0, 1.5, size=60)

    def skill(model, other):
        return 1 - model[..., 0] / other[..., 0]

    low, high = block_bootstrap(skill, np.arange(60), sums_of(0.9 * reference), sums_of(reference))
    assert low == pytest.approx(0.1) and high == pytest.approx(0.1)
    low, high = block_bootstrap(mean, np.arange(60), sums_of(reference))
    assert high > 1.3 * low


def test_seed_decides_the_draws():
    values = np.random.default_rng(0).normal(size=(50, 3))
    sums = sums_of(values)
    one, same = (block_bootstrap(mean, np.arange(50) // 5, sums, seed=1) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert one[0].shape == (3,)
    other = block_bootstrap(mean, np.arange(50) // 5, sums, seed=2)
    assert not np.array_equal(one, other)


def test_one_block_tells_nothing_and_empty_draws_are_left_out():
    values = sums_of(np.ones(4))
    assert np.isnan(block_bootstrap(mean, np.zeros(4), values)).all()
    some_empty = np.array([[2.0, 1.0], [0, 0], [0, 0]])
    with np.errstate(invalid="ignore"):
        low, high = block_bootstrap(mean, np.arange(3), some_empty)
    assert low == high == 2


@pytest.mark.parametrize("options", [{"samples": 1}, {"confidence": 95}])
def test_impossible_bootstraps_are_refused(options):
    with pytest.raises(InputError, match="cannot be"):
        block_bootstrap(mean, np.arange(3), sums_of(np.ones(3)), **options)
    with pytest.raises(InputError, match="0 px"):
        sequence_blocks(np.zeros((1, 3), int), size=4, block_px=0, block_steps=1)
    with pytest.raises(InputError, match="0 steps"):
        sequence_blocks(np.zeros((1, 3), int), block_steps=0)
