"""Scores by season and glacier: every pixel in its own group, and together all of them."""

import numpy as np
import pytest

from glacierhpc.errors import InputError
from glacierhpc.evaluation import metrics
from glacierhpc.evaluation.bootstrap import Resampling, sequence_blocks
from glacierhpc.evaluation.groups import Glaciers, by_season, season_names
from glacierhpc.evaluation.score import score, summarise


@pytest.fixture(scope="module")
def glaciers():
    labels = np.zeros((16, 16), int)
    labels[:, 5:9], labels[10:, 9:] = 3, 7
    return Glaciers(labels, {3: "Parvati"})


@pytest.fixture(scope="module")
def scores(world, forecasters, glaciers):
    return score(forecasters, world, glaciers=glaciers, starts=world.starts, batch_size=50)


def test_seasons_are_those_of_the_meteorologists():
    dates = np.array([f"2020-{month:02d}-15" for month in range(1, 13)], "datetime64[ns]")
    names = season_names(dates).tolist()
    assert names == ["DJF"] * 2 + ["MAM"] * 3 + ["JJA"] * 3 + ["SON"] * 3 + ["DJF"]
    assert season_names(np.array([["1969-12-31", "1969-07-01"]], "datetime64[D]")).tolist() == [
        ["DJF", "JJA"]
    ]


def test_each_season_holds_the_targets_of_its_dates(world, scores):
    blocks = sequence_blocks(world.starts, block_steps=4)
    found = by_season(
        scores.sums, world.target_times, Resampling(blocks, samples=50), model="net", data_range=2
    )
    assert list(found) == ["DJF", "MAM", "JJA", "SON"]
    sums = scores.sums["net"]
    summer = season_names(world.target_times) == "JJA"
    pooled = metrics.metrics_of(sums[summer].sum(axis=0), data_range=2)
    for name in metrics.METRICS:
        told = found["JJA"]["models"]["net"][name]
        if np.isfinite(pooled[name]):
            assert told["all"] == pytest.approx(float(pooled[name]))
        else:
            assert told["all"] is None
    assert found["JJA"]["sequences"] == summer.any(axis=1).sum()
    assert sum(season["pixels"] for season in found.values()) == sums[..., 0].sum()
    skill = found["JJA"]["skill"]["climatology"]
    assert skill["interval"][0] < skill["all"] < skill["interval"][1]


def test_glaciers_are_told_apart_by_the_pixel(world, forecasters, glaciers, scores):
    told = summarise(
        scores, sequence_blocks(world.starts, block_steps=4), model="net", samples=20, target_times=None
    )
    found = told["by_glacier"]
    assert list(found) == ["Parvati", "glacier 7", "other ground"]
    assert "by_season" not in told
    assert sum(part["pixels"] for part in found.values()) == scores.sums["net"][..., 0].sum()
    everything = world.__getitems__(range(len(world)))
    forecast = forecasters["net"](everything)[0]
    inside = everything.targets_valid & (glaciers.patches(world.starts, world.size) == 3)[:, None]
    assert found["Parvati"]["models"]["net"]["mae"]["all"] == pytest.approx(
        metrics.mae(forecast, everything.targets, inside)
    )
    assert found["glacier 7"]["sequences"] < len(world)


def test_without_outlines_there_is_one_glacier(world, forecasters):
    plain = score(forecasters, world)
    told = summarise(plain, sequence_blocks(world.starts, block_steps=4), model="net", samples=20)
    assert list(told["by_glacier"]) == ["all"]
    assert told["by_glacier"]["all"]["models"]["net"]["mse"]["all"] == told["models"]["net"]["mse"]["all"]


def test_glaciers_that_do_not_fit_are_refused(world, forecasters):
    small = Glaciers(np.zeros((10, 10), int), {})
    with pytest.raises(InputError, match="do not cover patches that reach to row 15"):
        score(forecasters, world, glaciers=small, starts=world.starts)
    with pytest.raises(InputError, match="give starts"):
        score(forecasters, world, glaciers=small)
