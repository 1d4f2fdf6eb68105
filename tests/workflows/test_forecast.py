"""From composites to a judged forecast: what training goes on from, what a map may be compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glacierhpc.config import Config, run_config
from glacierhpc.cube import Variable, create_cube, finish_cube, open_cube, write_time
from glacierhpc.errors import GlacierError
from glacierhpc.grid import Grid
from glacierhpc.rundir import RunDirectory, read_json, read_table
from glacierhpc.workflows import forecast, judging, learning, products, results, run_steps
from glacierhpc.workflows.material import Material

EDGE, COUNT = 40, 24


def write_composites(path: Path, *, offset: float = 0.0) -> None:
    """Six years of quarters: a season over a slope, with noise; 0.1 apart from another offset."""
    random = np.random.default_rng(0)
    season = 0.3 * np.cos(np.pi / 2 * np.arange(COUNT))[:, None, None]
    data = season + np.linspace(-0.4, 0.4, EDGE)[:, None] + 0.05 * random.normal(size=(COUNT, EDGE, EDGE))
    data[:, :4, :] = np.nan
    grid = Grid("EPSG:32643", (30.0, 0.0, 500000.0, 0.0, -30.0, 3600000.0), (EDGE, EDGE))
    days = (np.arange(COUNT) * 91.31).astype(int) * np.timedelta64(1, "D")
    create_cube(
        path,
        grid,
        times=np.datetime64("2015-02-15", "ns") + days,
        bands=["ndsi"],
        variables={
            "data": Variable(("time", "band", "y", "x"), "float32"),
            "valid": Variable(("time", "y", "x"), "bool", False),
        },
    )
    for step, image in enumerate(data):
        write_time(
            path, step, {"data": (image + offset)[None].astype(np.float32), "valid": np.isfinite(image)}
        )
    finish_cube(path)


def config_of(folder: Path, **sections: Any) -> Config:
    return Config.model_validate(
        {
            "name": "small",
            "run_dir": folder / "run",
            "area": {"bbox_lonlat": [77.6, 32.0, 77.62, 32.02]},
            "period": {"start": "2015-01-01", "end": "2020-12-31"},
            "archive": {"catalogue": "unused", "collections": ["unused"]},
            "sequences": {"size_px": 8, "stride_px": 8, "steps_in": 2, "steps_out": 2},
            "model": {"parameters": {"hidden": [2], "head": 2, "attention": 2}},
            "train": {"epochs": 2, "batch_size": 32},
            "evaluate": {"bootstrap_samples": 10},
            "cluster": {"kind": "serial"},
            **sections,
        }
    )


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    (tmp_path / "run").mkdir()
    found = RunDirectory(tmp_path / "run")
    write_composites(found.composite)
    return found


def epochs_trained(run: RunDirectory, monkeypatch: pytest.MonkeyPatch, config: Config, **options: Any) -> int:
    """Run the training step and return how many epochs were gone through, not taken from a checkpoint."""
    from glacierhpc.training.engine import Engine

    seen: list[int] = []
    train_epoch = Engine.train_epoch
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "train_epoch", lambda *a, **k: seen.append(1) or train_epoch(*a, **k))
        if options:
            run_steps(config, to_step="train", **options)
        else:
            learning.train(config, run)
    return len(seen)


def test_a_checkpoint_of_other_data_or_another_model_is_not_gone_on_from(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path)
    forecast.sequences(config, run)
    assert epochs_trained(run, monkeypatch, config) == 2
    assert epochs_trained(run, monkeypatch, config) == 0
    write_composites(run.composite, offset=0.1)
    assert epochs_trained(run, monkeypatch, config) == 2
    wider = config_of(tmp_path, model={"parameters": {"hidden": [3], "head": 2, "attention": 2}})
    assert epochs_trained(run, monkeypatch, wider) == 2
    assert epochs_trained(run, monkeypatch, wider) == 0


def test_from_train_trains_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path)
    with RunDirectory.open(config.run_path, run_config(config)) as run:
        write_composites(run.composite)
    run_steps(config, from_step="sequences", to_step="sequences")
    assert epochs_trained(run, monkeypatch, config, from_step="train") == 2
    assert epochs_trained(run, monkeypatch, config, from_step="train") == 2


def test_the_task_to_its_figures(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path)
    for step in (forecast.sequences, learning.train):
        step(config, run)
    told = judging.evaluate(config, run)
    assert read_json(run.metrics)["bootstrap"]["few_blocks"]
    assert ["windows of time", "1 independent: too few to rely on the intervals"] in told["table"]
    with monkeypatch.context() as patch:  # an area of any size is forecast without the whole series in memory
        for whole in ("data", "valid"):
            patch.setattr(Material, whole, property(lambda self: pytest.fail("the whole series was read")))
        seams = forecast.predict(config, run)["seams"]
    assert 0.5 < seams["forecast"] < 1.5 and 0.5 < seams["observed"] < 1.5
    assert open_cube(run.prediction).attrs["seam_ratio"] == seams["forecast"]
    results.flow(config, run)
    assert open_cube(run.flow).attrs["shows"] == read_json(run.flow_summary)["shows"]
    assert "not ice velocity" in open_cube(run.flow).attrs["shows"]


def test_a_split_of_ground_shows_targets_on_test_ground_only(run: RunDirectory, tmp_path: Path) -> None:
    config = config_of(tmp_path, split={"method": "block", "validation_share": 0.2, "test_share": 0.2})
    for step in (forecast.sequences, learning.train, forecast.predict):
        step(config, run)
    shown = products.open_prediction(run.prediction)
    judged = shown.target_valid.values
    ground = np.zeros((EDGE, EDGE), dtype=bool)
    table = read_table(run.sequences)
    for row, col in table.loc[table.split == "test", ["row", "col"]].to_numpy():
        ground[row : row + 8, col : col + 8] = True
    assert judged.any() and not (judged & ~ground).any()
    assert np.isfinite(shown.target.values[:, 0]).sum() == judged.sum()
    assert np.isfinite(shown.prediction.values).sum() > judged.sum()
    scaling = read_json(run.model / "model.json")["scaling"]["ndsi"]
    cube = open_cube(run.composite)
    assert scaling["mean"] != pytest.approx(float(cube.data.mean()), abs=1e-4)


def test_a_split_that_leaks_is_written_before_it_is_refused(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaking(plan: Any, **_: Any) -> Any:
        labels = np.resize(["train", "validation", "test"], len(plan))
        return forecast.Split("time", labels, 1)

    monkeypatch.setattr(forecast, "split_by_time", leaking)
    with pytest.raises(GlacierError, match="the split leaks"):
        forecast.sequences(config_of(tmp_path), run)
    assert read_json(run.split)["audit"]["leaks"] and not run.sequences.exists()
