"""Runs compared on the same targets: equal where they are, refused where the targets differ."""

import json
from dataclasses import replace

import numpy as np
import pytest

from glacierhpc.errors import InputError
from glacierhpc.evaluation.compare import compare, comparison_rows, spread
from glacierhpc.evaluation.metrics import SUMS
from glacierhpc.evaluation.score import score
from glacierhpc.evaluation.table import Scored


def scored(world, forecasters):
    dates = world.times[world.starts[:, 0]]
    place = (np.arange(len(world)), world.starts, dates, world.target_times, world.size, world.steps_in)
    return Scored(score(forecasters, world), "net", *place)


@pytest.fixture(scope="module")
def runs(world, forecasters):
    """A run, one with a worse model of another name, and their order of sequences turned round."""

    def worse(batch):
        values, valid = forecasters["net"](batch)
        return values + 0.1, valid

    def blend(offset):
        return lambda batch: (
            forecasters["persistence"](batch)[0] + offset,
            np.ones_like(batch.targets_valid),
        )

    first = scored(world, {**forecasters, "blend": blend(0.01)})
    second = scored(world, {**forecasters, "net": worse, "blend": blend(0.02)})
    back = np.arange(len(world))[::-1]
    sums = {name: part[back] for name, part in second.scores.sums.items()}
    turned = {
        name: getattr(second, name)[back] for name in ("numbers", "starts", "first_dates", "target_times")
    }
    return {
        "fine-tuned": first,
        "zero-shot": replace(second, scores=replace(second.scores, sums=sums), **turned),
    }


def test_each_run_has_its_scores_and_the_difference_to_the_first(runs):
    told = compare(runs, samples=100)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["first"] == "fine-tuned" and told["leads"] == [1, 2]
    fine, zero = told["runs"].values()
    assert fine["paired"] is None
    difference = zero["paired"]["mse_difference"]
    assert difference["all"] == pytest.approx(zero["metrics"]["mse"]["all"] - fine["metrics"]["mse"]["all"])
    assert difference["interval"][0] > 0 and zero["paired"]["won"] < 0.5
    assert fine["skill"]["climatology"]["all"] > zero["skill"]["climatology"]["all"]


def test_baselines_stand_once_unless_they_were_fitted(runs):
    told = compare(runs, samples=20)
    assert list(told["baselines"]) == ["persistence", "climatology", "blend", "blend (zero-shot)"]


def test_the_table_has_a_row_for_each_run_and_baseline(runs):
    told = compare(runs, samples=20)
    rows = comparison_rows(told)
    assert [(row["run"], row["forecaster"]) for row in rows[:3]] == [
        ("fine-tuned", "net"),
        ("zero-shot", "net"),
        (None, "persistence"),
    ]
    assert len({tuple(row) for row in rows}) == 1
    assert rows[0]["mse_difference"] is None and rows[1]["mse_difference"] > 0
    assert rows[1]["mse_low"] < rows[1]["mse"] < rows[1]["mse_high"]
    assert rows[2]["skill_climatology"] is None


def changed(run, name, change):
    sums = {each: part.copy() for each, part in run.scores.sums.items()}
    for part in sums.values():
        part[3, 1, SUMS.index(name)] += change
    return replace(run, scores=replace(run.scores, sums=sums))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda run: changed(run, "count", -1), "in 1 of 405 sequences other pixels counted"),
        (lambda run: changed(run, "observed", 0.5), "the observed values differ"),
        (
            lambda run: replace(run, target_times=run.target_times + np.timedelta64(1, "D")),
            "the dates of the targets differ",
        ),
        (lambda run: replace(run, starts=run.starts + 4), "their patches lie elsewhere"),
        (lambda run: replace(run, size=16), "405 sequences of 2 leads and 8 px and 405 sequences"),
        (lambda run: replace(run, scores=replace(run.scores, data_range=1.0)), "values range over 2 and 1"),
    ],
)
def test_other_targets_are_refused(runs, spoil, words):
    first = runs["fine-tuned"]
    with pytest.raises(InputError, match=words):
        compare({"a": first, "b": spoil(first)})


def test_one_run_is_no_comparison(runs):
    with pytest.raises(InputError, match="two or more"):
        compare({"a": runs["fine-tuned"]})


def test_spread_over_seeds():
    rows = [{"mse": 1.0, "skill": 0.5, "run": "a"}, {"mse": 3.0, "skill": None, "run": "b"}, {"mse": 2.0}]
    assert spread(rows) == {
        "mse": {"mean": 2.0, "std": 1.0, "min": 1.0, "max": 3.0, "n": 3},
        "skill": {"mean": 0.5, "std": None, "min": 0.5, "max": 0.5, "n": 1},
    }
    assert spread([]) == {}


def test_a_difference_has_the_interval_of_other_ground_too(runs):
    told = compare(
        {label: replace(run, size=2) for label, run in runs.items()}, samples=200
    )  # squares of 4 px
    zero = told["runs"]["zero-shot"]
    assert told["bootstrap"]["grounds"] > 1
    for entry in (zero["paired"]["mse_difference"], zero["skill"]["climatology"]):
        (low, high), (least, most) = entry["interval"], entry["ground_interval"]
        assert most - least > high - low
