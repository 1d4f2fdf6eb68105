"""Intervals: right for independent data, wider in blocks than i.i.d. for overlapping patches."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from scipy import stats

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


def overlapping_patches(random, *, count, by_place):
    """Return starts and errors of patches that overlap by 80 per cent in space and half in time; their truth is 1.

    Errors are those of pixels: a part common to each date, a part of each place that never changes, and noise.
    """
    steps_out, cells, wide = 2, 14, 5
    dates = 1 + 0.5 * random.normal(size=count + steps_out)
    places = by_place * np.kron(random.normal(size=(7, 7)), np.ones((2, 2)))
    pixels = dates[:, None, None] + places + 0.5 * random.normal(size=(len(dates), cells, cells))
    patches = sliding_window_view(pixels, (wide, wide), axis=(1, 2))[:, ::3, ::3].mean(axis=(-2, -1))
    step, row, col = np.indices((count, *patches.shape[1:]))
    errors = np.mean([patches[lead : lead + count] for lead in range(steps_out)], axis=0)
    return np.stack([step, 30 * row, 30 * col], axis=-1).reshape(-1, 3), errors.reshape(-1)


@pytest.mark.parametrize(
    ("by_place", "block_px", "least"),
    [(0.0, None, 0.88), (0.5, 60, 0.88)],
    ids=["other years of this ground", "other years on other ground"],
)
def test_iid_resampling_of_overlapping_patches_is_far_too_sure(by_place, block_px, least):
    """The published way (sequences one by one) against whole blocks, side by side: how often each holds the truth."""
    random = np.random.default_rng(1)
    inside, widths = np.zeros((2, 120)), np.zeros((2, 120))
    for trial in range(120):
        starts, errors = overlapping_patches(random, count=40, by_place=by_place)
        blocks = sequence_blocks(starts, block_steps=4, size=50, block_px=block_px)
        for way, ids in enumerate((np.arange(len(starts)), blocks)):
            low, high = block_bootstrap(mean, ids, sums_of(errors), samples=200, seed=trial)
            inside[way, trial], widths[way, trial] = low <= 1 <= high, high - low
    iid, block = inside.mean(axis=1)
    assert iid < 0.6
    assert least <= block <= 0.995
    assert (widths[1] > 2 * widths[0]).all()


def test_without_what_places_have_in_common_windows_alone_are_too_sure_of_other_ground():
    random, inside = np.random.default_rng(5), []
    for trial in range(60):
        starts, errors = overlapping_patches(random, count=40, by_place=1.0)
        windows = sequence_blocks(starts, block_steps=4)
        low, high = block_bootstrap(mean, windows, sums_of(errors), samples=200, seed=trial)
        inside.append(low <= 1 <= high)
    assert np.mean(inside) < 0.75


def test_few_blocks_are_given_room():
    """Of six windows the plain percentiles hold the truth in 0.88 of the cases."""
    random, inside, blocks = np.random.default_rng(6), [], np.arange(6)
    for trial in range(400):
        values = random.normal(size=6)
        low, high = block_bootstrap(mean, blocks, sums_of(values), samples=500, seed=trial)
        inside.append(low <= 0 <= high)
    assert 0.905 < np.mean(inside) < 0.98


def test_few_blocks_give_nearly_the_interval_of_student():
    random, ratios = np.random.default_rng(6), []
    for trial in range(200):
        values = random.normal(size=8)
        low, high = block_bootstrap(mean, np.arange(8), sums_of(values), seed=trial)
        student = 2 * stats.t.ppf(0.975, 7) * values.std(ddof=1) / np.sqrt(8)
        ratios.append((high - low) / student)
    assert 0.94 < np.mean(ratios) < 1.02


def test_blocks_hold_what_is_near_in_time_and_space():
    starts = np.array([[0, 0, 0], [1, 4, 4], [2, 0, 0], [0, 60, 0], [0, 0, 60], [1, 9, 9]])
    blocks = sequence_blocks(starts, size=8, block_px=32, block_steps=2)
    assert blocks.shape == (6, 2)
    assert blocks[:, 0].tolist() == [0, 0, 1, 0, 0, 0]
    assert blocks[0, 1] == blocks[1, 1] == blocks[2, 1] == blocks[5, 1]
    assert len(set(blocks[[0, 3, 4], 1].tolist())) == 3


def test_crossed_blocks_are_drawn_as_rows_and_columns():
    """What depends on the place alone varies as the draws of places do, whatever is drawn of the windows."""
    window, place = (part.reshape(-1) for part in np.indices((8, 12)))
    of_place = np.random.default_rng(3).normal(size=12)
    both = np.stack([window, place], axis=1)
    crossed = block_bootstrap(mean, both, sums_of(of_place[place]), samples=4000)
    # the fewest blocks decide how far out the percentiles are: 8 windows for the one, 12 places for the other
    alone = block_bootstrap(mean, place, sums_of(of_place[place]), samples=4000)
    assert np.diff(crossed, axis=0) == pytest.approx(np.diff(alone, axis=0), rel=0.2)
    windows = block_bootstrap(mean, window, sums_of(of_place[place]), samples=4000)
    assert np.diff(windows, axis=0) == pytest.approx(0, abs=1e-9)
    one_ground = np.stack([window, np.zeros_like(window)], axis=1)
    values = sums_of(np.random.default_rng(4).normal(size=96))
    np.testing.assert_allclose(
        block_bootstrap(mean, one_ground, values), block_bootstrap(mean, window, values)
    )


def test_by_default_a_block_is_a_window_of_time_over_the_whole_area():
    starts = np.array([[first, row, 0] for first in range(50, 63) for row in (0, 32, 64)])
    blocks = sequence_blocks(starts, block_steps=4)
    assert all(len(set(blocks[starts[:, 0] == first])) == 1 for first in range(50, 63))
    assert np.bincount(blocks).tolist() == [15, 12, 12]
    assert set(sequence_blocks(starts[:5], block_steps=8)) == {0}


def test_squares_of_ground_under_one_sky_are_no_independent_witnesses():
    """Coverage of 24 windows: near nominal over the whole area, far below with one block to each square and window."""
    random, steps_out, count = np.random.default_rng(4), 2, 96
    places = np.array([(row, col) for row in range(0, 96, 32) for col in range(0, 96, 32)])
    starts = np.array([(first, *place) for first in range(count) for place in places])
    windows = sequence_blocks(starts, block_steps=4)
    squares = windows * len(places) + np.tile(np.arange(len(places)), count)
    inside = []
    for trial in range(150):
        by_date = random.gamma(2, 0.5, size=count + steps_out)  # mean 1, the same at every place
        errors = np.mean([by_date[starts[:, 0] + lead] for lead in range(steps_out)], axis=0)
        errors = errors + 0.05 * random.normal(size=len(errors))
        for blocks in (windows, squares):
            low, high = block_bootstrap(mean, blocks, sums_of(errors), samples=200, seed=trial)
            inside.append(low <= 1 <= high)
    assert 0.84 < np.mean(inside[::2]) <= 0.99
    assert np.mean(inside[1::2]) < 0.6


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
