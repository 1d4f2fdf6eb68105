"""Forecasts of real series: learnt on one glacier and used on another, of a meadow, and of measured velocity."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glacierhpc.rundir import RunDirectory, read_json, read_table
from tests.conftest import ROOT

WAYS = ("scratch", "zero-shot", "fine-tuned", "mixed")


@pytest.fixture(scope="module")
def series(real_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """All runs of the benchmark's real part, trained for one epoch, and where they lie."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        real = importlib.import_module("forecast_real")
        sys.modules.pop("forecast_real")
    homes = {real_data(name).parent for name in (real.FRONTS, real.NDVI, real.VELOCITY)}
    folder = tmp_path_factory.mktemp("real")
    return real.real_series(homes.pop(), folder, epochs=1, samples=50), folder


def test_every_series_says_who_wins(series: tuple[Any, Path]) -> None:
    found, _ = series
    assert set(found) == {"jakobshavn", *(f"sverdrup, {way}" for way in WAYS), "ndvi", "velocity"}
    for name, told in found.items():
        assert np.isfinite(list(told["mse"].values())).all() and "persistence" in told["mse"], name
        assert told["mse"][told["wins"]] == min(told["mse"].values()), name
        assert f"{told['wins']} wins" in told["said"] or "not told apart" in told["said"], name


def test_another_glacier_is_forecast_without_with_and_beside_training(series: tuple[Any, Path]) -> None:
    _, folder = series
    runs = {way: RunDirectory(folder / f"sverdrup-{way}") for way in WAYS}
    # the same targets, so that errors can be compared
    targets = [
        set(read_table(run.scores).query("forecaster == 'persistence'").squared) for run in runs.values()
    ]
    assert all(each == targets[0] for each in targets)
    assert not runs["zero-shot"].model.exists() and not runs["zero-shot"].history.exists()
    stories = {
        way: read_json(runs[way].model / "model.json")["training"] for way in WAYS if way != "zero-shot"
    }
    assert "started_from" in stories["fine-tuned"] and "started_from" not in stories["scratch"]
    grounds = {way: [ground["run"] for ground in story["grounds"]] for way, story in stories.items()}
    assert grounds["scratch"] == ["sverdrup-scratch"]
    assert grounds["fine-tuned"] == ["jakobshavn", "sverdrup-fine-tuned"]
    assert grounds["mixed"] == ["sverdrup-mixed", "jakobshavn"]
    errors = [read_json(run.metrics)["models"]["convlstm"]["mse"]["all"] for run in runs.values()]
    assert len(set(errors)) == len(errors)


def test_the_ways_are_compared_on_one_page(series: tuple[Any, Path]) -> None:
    _, folder = series
    page = (folder / "comparison" / "comparison.html").read_text(encoding="utf-8")
    assert all(way in page for way in WAYS) and page.count("<img") + page.count("<svg") >= 1
    rows = read_table(folder / "comparison" / "comparison.parquet")
    assert set(WAYS) <= set(rows.run) and "persistence" in set(rows.forecaster)


def test_velocity_is_forecast_in_both_directions_and_named_so(series: tuple[Any, Path]) -> None:
    _, folder = series
    run = RunDirectory(folder / "velocity")
    metrics = read_json(run.metrics)
    assert metrics["shows"] == "measured ice velocity, east and north"
    assert read_json(run.model / "model.json")["bands"] == ["vx", "vy"]
    assert 5 < metrics["models"]["persistence"]["mae"]["all"] < 200  # meters a year
