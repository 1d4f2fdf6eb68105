"""The index table: golden counts, places, dates, the trip through Parquet."""

import numpy as np
import pandas as pd
import pytest

from glacierhpc.datasets.sequences import SequencePlan, box_sums
from glacierhpc.errors import InputError


def times(count, first="2015-02-15", days=91):
    return np.datetime64(first, "ns") + np.arange(count) * np.timedelta64(days, "D")


def build(shape, **options):
    return SequencePlan.build(shape, times(shape[0]), **options)


@pytest.mark.parametrize(
    ("shape", "count"),
    [((35, 800, 800), 161_728), ((19, 600, 600), 37_632)],
)
def test_golden_counts_of_the_published_experiments(shape, count):
    plan = build(shape, size=50, stride=10, steps_in=4, steps_out=4)
    assert len(plan) == count
    assert len(np.unique(plan.starts, axis=0)) == count
    assert (plan.starts.max(axis=0) == [shape[0] - 8, shape[1] - 50, shape[2] - 50]).all()


def test_rows_and_columns_are_not_swapped():
    plan = build((3, 10, 30), size=10, stride=5, steps_in=1, steps_out=1)
    assert set(plan.starts[:, 1]) == {0}
    assert set(plan.starts[:, 2]) == {0, 5, 10, 15, 20}


def test_plan_survives_parquet(tmp_path):
    plan = build((9, 20, 31), size=8, stride=3, steps_in=3, steps_out=2)
    split = np.where(np.arange(len(plan)) % 3 == 0, "test", "train")
    plan.to_table(split=split, valid_share=np.linspace(0, 1, len(plan))).to_parquet(tmp_path / "s.parquet")
    table = pd.read_parquet(tmp_path / "s.parquet")
    again = SequencePlan.from_table(table)
    assert (again.shape, again.size, again.stride) == (plan.shape, 8, 3)
    assert (again.steps_in, again.steps_out) == (3, 2)
    np.testing.assert_array_equal(again.times, plan.times)
    np.testing.assert_array_equal(again.starts, plan.starts)
    np.testing.assert_array_equal(table["split"], split)
    row = table.iloc[-1]
    assert row["first_input"] == pd.Timestamp(plan.times[4])
    assert row["last_input"] == pd.Timestamp(plan.times[6])
    assert row["first_target"] == pd.Timestamp(plan.times[7])
    assert row["last_target"] == pd.Timestamp(plan.times[8])


def test_table_without_its_plan_is_refused():
    table = build((4, 8, 8), size=8, stride=8, steps_in=1, steps_out=1).to_table()
    table.attrs = {}
    with pytest.raises(InputError, match="carries no plan"):
        SequencePlan.from_table(table)


def test_valid_share_is_that_of_the_poorer_half():
    plan = build((4, 12, 14), size=5, stride=3, steps_in=2, steps_out=2)
    valid = np.random.default_rng(0).random((4, 12, 14)) < 0.7
    expected = []
    for first, row, col in plan.starts:
        patch = valid[first : first + 4, row : row + 5, col : col + 5]
        expected.append(min(patch[:2].mean(), patch[2:].mean()))
    np.testing.assert_allclose(plan.valid_share(valid), expected, atol=1e-6)


def test_years_are_years_since_2000():
    plan = SequencePlan.build(
        (2, 4, 4),
        np.array(["2000-01-01", "2016-01-01"], "datetime64[ns]"),
        size=4,
        stride=4,
        steps_in=1,
        steps_out=1,
    )
    np.testing.assert_allclose(plan.years(np.array([0])), [[0, 16]], atol=2e-3)


def test_box_sums_equal_plain_sums():
    image = np.random.default_rng(0).random((9, 11)) < 0.5
    rows, cols = np.array([0, 2, 5]), np.array([0, 7])
    expected = [[image[r : r + 4, c : c + 4].sum() for c in cols] for r in rows]
    np.testing.assert_array_equal(box_sums(image, rows, cols, 4), expected)


@pytest.mark.parametrize(
    ("shape", "options", "says"),
    [
        ((7, 60, 60), {}, "holds no sequence of 4 \\+ 4"),
        ((9, 60, 40), {}, "60 x 40 px"),
        ((9, 60, 60), {"stride": 0}, "stride = 0"),
        ((9, 60, 60), {"steps_out": -1}, "steps_out = -1"),
    ],
)
def test_impossible_sequences_are_refused(shape, options, says):
    with pytest.raises(InputError, match=says):
        build(shape, **{"size": 50, "stride": 10, "steps_in": 4, "steps_out": 4, **options})


def test_times_must_fit_and_rise():
    options = {"size": 4, "stride": 4, "steps_in": 1, "steps_out": 1}
    with pytest.raises(InputError, match="5 times given for a cube of 4"):
        SequencePlan.build((4, 8, 8), times(5), **options)
    with pytest.raises(InputError, match="rise strictly"):
        SequencePlan.build((4, 8, 8), times(4)[::-1], **options)
