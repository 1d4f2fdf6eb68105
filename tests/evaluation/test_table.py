"""scores.parquet: there and back through Parquet, whatever the order of the rows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from glacierhpc.errors import InputError
from glacierhpc.evaluation.metrics import SUMS
from glacierhpc.evaluation.score import score
from glacierhpc.evaluation.table import Scored, from_table, to_table


@pytest.fixture(scope="module")
def scored(world, forecasters):
    return Scored(
        score(forecasters, world),
        "net",
        np.arange(len(world)) + 100,
        world.starts,
        world.times[world.starts[:, 0]],
        world.target_times,
        world.size,
        world.steps_in,
        block_px=16,
    )


def test_there_and_back_through_parquet(scored, tmp_path):
    table = to_table(scored)
    assert len(table) == len(scored.numbers) * 2 * 3
    assert set(SUMS) < set(table.columns)
    table.sample(frac=1, random_state=0).to_parquet(tmp_path / "scores.parquet")
    back = from_table(pd.read_parquet(tmp_path / "scores.parquet"))
    assert set(back.scores.sums) == set(scored.scores.sums)
    for name, sums in scored.scores.sums.items():
        np.testing.assert_array_equal(back.scores.sums[name], sums)
    for name in ("numbers", "starts", "target_times", "first_dates"):
        np.testing.assert_array_equal(getattr(back, name), getattr(scored, name))
    assert (back.model, back.size, back.steps_in, back.block_px, back.steps) == ("net", 8, 2, 16, 4)
    assert back.scores.data_range == 2 and back.scores.common_share == scored.scores.common_share


def test_a_threshold_that_does_not_exist_survives(scored, tmp_path):
    without = Scored(**{**scored.__dict__, "scores": replace(scored.scores, threshold=np.nan)})
    to_table(without).to_parquet(tmp_path / "scores.parquet")
    assert np.isnan(from_table(pd.read_parquet(tmp_path / "scores.parquet")).scores.threshold)


def test_rows_say_where_and_when(scored):
    table = to_table(scored)
    row = table[(table.forecaster == "climatology") & (table.sequence == 103) & (table.lead == 2)].iloc[0]
    assert (row.row, row.col) == tuple(scored.starts[3, 1:])
    assert row.target_date == scored.target_times[3, 1]
    assert row.season == "SON"
    assert row.squared == scored.scores.sums["climatology"][3, 1, SUMS.index("squared")]


def test_tables_of_something_else_are_refused(scored):
    table = to_table(scored)
    with pytest.raises(InputError, match="lacks observed: it was written by something else"):
        from_table(table.drop(columns="observed"))
    with pytest.raises(InputError, match="does not hold every sequence at 2 leads"):
        from_table(table.iloc[:-1])
    with pytest.raises(InputError, match="do not belong to 2 sequences"):
        to_table(Scored(**{**scored.__dict__, "numbers": np.arange(2)}))
