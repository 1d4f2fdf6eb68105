"""Sweeps and comparisons: nothing copied, nothing done twice; runs of the same targets side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from glacierhpc.config import Config
from glacierhpc.errors import GlacierError, InputError
from glacierhpc.report.run_files import RunFiles
from glacierhpc.report.sweep import trials as sweep_blocks
from glacierhpc.rundir import RunDirectory, read_json, read_table
from glacierhpc.workflows import run_step, run_steps, sweep
from glacierhpc.workflows.comparison import compare_runs
from tests.workflows.cubes import given_config, given_cube, store

SWEEP = {"variations": [{}, {"train.learning_rate": 0.02}], "seeds": [0, 3]}


def swept_config(folder: Path, **sections: Any) -> Config:
    sections.setdefault("sweep", SWEEP)
    return given_config(folder / "base", folder / "mine.zarr", **sections)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict[str, Any]]:
    """A sweep of two learning rates with two seeds each."""
    folder = tmp_path_factory.mktemp("sweep")
    store(given_cube(), folder / "mine.zarr")
    config = swept_config(folder)
    return config, sweep.sweep(config)


def test_every_variation_is_trained_with_every_seed(swept: tuple[Config, dict[str, Any]]) -> None:
    config, told = swept
    run = RunDirectory(config.run_path)
    rows = read_table(run.sweep_table)
    assert list(rows.seed) == [0, 3, 0, 3] and rows.trial.is_unique
    assert list(rows.variation) == ["unchanged"] * 2 + ["train.learning_rate=0.02"] * 2
    assert rows.mse.nunique() == 4 and rows.mse.notna().all()
    for row in rows.itertuples():
        folder = run.sweep / row.trial
        assert read_json(folder / "metrics.json")["models"]["convlstm"]["mse"]["all"] == row.mse
        for shared in ("composite.zarr", "sequences.parquet", "split.json"):
            link = folder / shared
            assert link.is_symlink() and link.resolve() == (run.path / shared).resolve()
    figures = told["summary"]["variations"]["unchanged"]["mse"]
    alone = rows.mse[rows.variation == "unchanged"]
    assert figures["n"] == 2 and figures["mean"] == pytest.approx(alone.mean())
    assert figures["std"] == pytest.approx(alone.std())
    losses = rows.groupby("variation").best_loss.mean()
    assert told["summary"]["best"] == losses.idxmin()
    assert ["trials", 4] in told["table"]


def test_started_again_it_only_does_what_is_missing(swept: tuple[Config, dict[str, Any]]) -> None:
    config, _ = swept
    run = RunDirectory(config.run_path)
    names = list(read_table(run.sweep_table).trial)
    (run.sweep / names[1] / "steps" / "evaluate.json").unlink()  # killed there
    begun = {name: read_json(run.sweep / name / "steps" / "train.json")["started"] for name in names}
    longer = config.model_copy(
        update={"sweep": config.sweep.model_copy(update={"seeds": (3, 0, 5), "variations": ({},)})}
    )
    told = sweep.sweep(longer)
    assert [row["seed"] for row in told["trials"]] == [3, 0, 5]
    assert {row["trial"] for row in told["trials"]} >= set(names[:2])
    for name in names[:2]:
        assert read_json(run.sweep / name / "steps" / "train.json")["started"] == begun[name]
    assert (run.sweep / names[1] / "steps" / "evaluate.json").is_file()
    run_step("sequences", config)  # what trials share is new: they are trained again
    sweep.sweep(longer)
    assert all(read_json(run.sweep / n / "steps" / "train.json")["started"] > begun[n] for n in names[:2])


def test_trials_apart_and_gathered_are_those_of_one_sweep(
    swept: tuple[Config, dict[str, Any]], tmp_path: Path
) -> None:
    """As the tasks of a job array do it; the last one is missing at first."""
    _, together = swept
    store(given_cube(), tmp_path / "mine.zarr")
    config = swept_config(tmp_path)
    with pytest.raises(InputError, match="run CONFIG --to sequences"):
        sweep.run_trial(config, 0)
    run_steps(config, to_step="sequences")
    for number in (2, 0, 1):
        sweep.run_trial(config, number)
    with pytest.raises(GlacierError, match=r"1 of 4 trials are not done: .*seed3; .*glacierhpc resume"):
        sweep.gather(config)
    run = RunDirectory(config.run_path)
    assert len(read_table(run.sweep_table)) == 3
    assert sweep.run_trial(config, 3)["trial"]["seed"] == 3
    told = sweep.gather(config)
    for apart, one in zip(told["trials"], together["trials"], strict=True):
        assert {**apart, "seconds": 0} == {**one, "seconds": 0}
    assert told["summary"]["best"] == together["summary"]["best"]
    with pytest.raises(InputError, match="trial 4 does not exist; there are 4"):
        sweep.run_trial(config, 4)
    run_step("sequences", config)  # what trials share is new: none of them counts
    with pytest.raises(GlacierError, match="4 of 4"):
        sweep.gather(config)


def test_the_report_shows_the_trials(swept: tuple[Config, dict[str, Any]]) -> None:
    config, _ = swept
    picture, table, choice = sweep_blocks(RunFiles(config.run_path))
    rows = read_table(RunDirectory(config.run_path).sweep_table)
    assert picture.kind == "picture" and len(table.rows) == rows.variation.nunique()
    assert "The test decided nothing" in choice.text


def test_models_of_different_losses_are_not_ranked() -> None:
    rows = [
        {"variation": name, "loss": loss, "seed": 0, "best_loss": 1.0, "mse": 1.0}
        for name, loss in (("a", "mse"), ("b", "mae"))
    ]
    assert sweep.summarise_trials(rows)["best"] is None
    assert sweep.summarise_trials(rows[:1])["best"] == "a"


def test_a_sweep_of_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.zarr").mkdir()
    with pytest.raises(InputError, match="nothing to vary: write sweep.seeds"):
        sweep.sweep(swept_config(tmp_path, sweep={}))


def test_runs_are_compared_on_the_same_targets(swept: tuple[Config, dict[str, Any]], tmp_path: Path) -> None:
    config, _ = swept
    run = RunDirectory(config.run_path)
    first, second = (run.sweep / name for name in list(read_table(run.sweep_table).trial)[:2])
    told = compare_runs([str(first), f"other seed={second}"], tmp_path / "out")
    one, other = told["rows"][:2]
    assert one["run"] == first.name and other["run"] == "other seed" and one["mse_difference"] is None
    assert other["mse_difference"] == pytest.approx(other["mse"] - one["mse"])
    assert {row["forecaster"] for row in told["rows"][2:]} >= {"persistence", "climatology", "blend"}
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert "other seed" in page and "<svg" in page or "data:image/svg" in page
    assert len(pd.read_parquet(tmp_path / "out" / "comparison.parquet")) == len(told["rows"])
    assert read_json(tmp_path / "out" / "comparison.json")["first"] == first.name
    assert compare_runs([str(first), str(second)])["page"] is None


def test_what_cannot_be_compared_is_said(swept: tuple[Config, dict[str, Any]], tmp_path: Path) -> None:
    config, _ = swept
    run = RunDirectory(config.run_path)
    first, second = (str(run.sweep / name) for name in list(read_table(run.sweep_table).trial)[:2])
    shifted = given_config(
        tmp_path / "shifted",
        store(given_cube(start="2011-02-15"), tmp_path / "later.zarr"),
        train={"epochs": 1},
    )
    run_steps(shifted, to_step="evaluate")
    for given, words in [
        ([first], "give the folders of two or more"),
        ([first, first], "two runs are called"),
        ([first, "nowhere"], "there is no run at 'nowhere'"),
        ([first, str(run.path)], "run the step that writes it first: glacierhpc evaluate"),
        ([first, str(tmp_path / "shifted")], "the dates of the targets differ"),
    ]:
        with pytest.raises(InputError, match=words):
            compare_runs(given)
    assert compare_runs([f"a={first}", f"b={second}"])["rows"][0]["run"] == "a"
