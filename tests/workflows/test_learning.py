"""Training from weights and runs made elsewhere: what they give, and what is refused because it would be memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from glacierhpc.config import Config
from glacierhpc.datasets.mixed import MixedDataset
from glacierhpc.errors import InputError
from glacierhpc.rundir import RunDirectory, read_json, read_table
from glacierhpc.workflows import learning, run_step, run_steps
from glacierhpc.workflows.material import Material
from tests.workflows.cubes import ORIGIN, given_config, given_cube, store

FAR = (ORIGIN[0] + 90_000.0, ORIGIN[1])
"""Another place on the same map."""

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the cubes of two places and the run `first`, trained on the far one."""
    folder = tmp_path_factory.mktemp("places")
    store(given_cube(seed=1, origin=FAR), folder / "far.zarr")
    store(given_cube(seed=2), folder / "here.zarr")
    run_steps(given_config(folder / "first", folder / "far.zarr"), to_step="evaluate")
    return folder


@pytest.fixture
def here(places: Path, tmp_path: Path) -> MakeConfig:
    """Return a function that makes a configuration for the place that has not been trained on."""

    def make(**sections: Any) -> Config:
        return given_config(tmp_path / "run", places / "here.zarr", **sections)

    return make


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_weights_made_elsewhere_are_judged_without_training(places: Path, here: MakeConfig) -> None:
    config = here(model={"weights": places / "first" / "model"})
    told = run_steps(config, to_step="predict")
    run = RunDirectory(config.run_path)
    assert ["train: training", "skipped: the weights are used as they are"] in told["table"]
    assert not run.model.exists() and not run.checkpoints.exists()
    assert np.isfinite(read_json(run.metrics)["models"]["convlstm"]["mse"]["all"])


def test_training_goes_on_from_weights_with_parts_of_them_frozen(places: Path, here: MakeConfig) -> None:
    first = weights(places / "first")
    frozen = next(name for name in first if name.endswith("weight"))
    config = here(train={"start_from": places / "first" / "model", "freeze": [frozen], "epochs": 2})
    told = run_steps(config, to_step="train")["steps"]["train"]
    run = RunDirectory(config.run_path)
    tuned, story = weights(run.path), read_json(run.model / "model.json")
    assert torch.equal(tuned[frozen], first[frozen])
    assert any(not torch.equal(tuned[name], first[name]) for name in first)
    old = read_json(places / "first" / "model" / "model.json")
    assert story["scaling"] == old["scaling"]  # the weights were learnt with it
    assert story["training"]["started_from"] == old["weights_sha256"] and story["training"]["frozen"] == [
        frozen
    ]
    assert [ground["run"] for ground in story["training"]["grounds"]] == ["first", "run"]
    assert ["started from", str(places / "first" / "model")] in told["table"]
    # started again it goes on; from other weights it starts anew
    assert run_step("train", config)["epochs"] == 2


def test_other_runs_are_learnt_from_with_their_own_climatology(places: Path, here: MakeConfig) -> None:
    config = here(train={"also": [places / "first"]})
    told = dict(map(tuple, run_steps(config, to_step="train")["steps"]["train"]["table"]))
    far, own = (
        Material.read(each, RunDirectory(each.run_path))
        for each in (given_config(places / "first", places / "far.zarr"), config)
    )
    assert told["sequences"].startswith(
        f"{len(own.part('train'))} + {len(far.part('train'))} of first to train"
    )
    scaling = read_json(config.run_path / "model" / "model.json")["scaling"]["ndvi"]
    together = np.concatenate([material.data[:, 0][material.seen()] for material in (own, far)])
    assert scaling["mean"] == pytest.approx(together.mean()) and scaling["deviation"] == pytest.approx(
        together.std()
    )
    mixed = MixedDataset([own.dataset("train"), far.dataset("train")])
    count = len(own.part("train"))
    batch = mixed.__getitems__([count + 3, 0, count, 5])
    for position, (material, number) in enumerate([(far, 3), (own, 0), (far, 0), (own, 5)]):
        alone = material.dataset("train")[number]
        assert all(torch.equal(mine[position], its) for mine, its in zip(batch, alone, strict=True))
    assert len(mixed) == count + len(far.part("train"))


def test_what_has_seen_the_test_is_refused(places: Path, tmp_path: Path) -> None:
    """The same ground with a later split: training samples of the other reach into what is judged here."""
    early = given_config(tmp_path / "early", places / "far.zarr", split={"test_share": 0.5})
    memory = "trained on this ground up to .* its skill would be memory"
    for sections in (
        {"train": {"start_from": places / "first" / "model"}},
        {"train": {"also": [places / "first"]}},
        {"model": {"weights": places / "first" / "model"}},
    ):
        config = given_config(tmp_path / "early", places / "far.zarr", split={"test_share": 0.5}, **sections)
        shutil.rmtree(tmp_path / "early", ignore_errors=True)
        with pytest.raises(InputError, match=memory):
            run_steps(config, to_step="train")
    shutil.rmtree(tmp_path / "early")
    run_steps(early, to_step="train")
    # the other way round nothing of the test has been seen
    later = given_config(
        tmp_path / "later", places / "far.zarr", train={"start_from": tmp_path / "early" / "model"}
    )
    run_steps(later, to_step="train")
    again = given_config(
        tmp_path / "again", places / "far.zarr", model={"weights": places / "first" / "model"}
    )
    run_steps(again, to_step="evaluate")  # the very split the weights were trained on
    assert (
        read_json(tmp_path / "again" / "metrics.json")["models"]["convlstm"]
        == (read_json(places / "first" / "metrics.json")["models"]["convlstm"])
    )


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"train": {"start_from": "first"}}, "holds no model.json: .*did you mean .*first/model"),
        ({"model": {"weights": "none"}}, "model.weights: .*none' holds no model.json"),
        ({"train": {"also": ["none"]}}, "is no run: give the folder of one"),
        ({"train": {"also": ["first"]}, "sequences": {"steps_out": 1}}, "sequences.steps_out 2, here 1"),
        ({"model": {"weights": "first/model"}, "sequences": {"steps_in": 3}}, "trained with 2 windows in"),
        ({"train": {"start_from": "first/model", "freeze": ["no.*"]}}, "'no.*' matches no parameter"),
        (
            {"input": {"units": "m/yr"}, "train": {"start_from": "first/model"}},
            "in units '1', but the data have",
        ),
        (
            {"train": {"also": ["first"]}, "input": {"units": "m/yr"}},
            "run 'first' has units '1', here 'm/yr'",
        ),
    ],
)
def test_each_misfit_is_said(places: Path, here: MakeConfig, sections: dict[str, Any], words: str) -> None:
    for section in sections.values():
        for key in ("start_from", "weights", "also"):
            if key in section:
                given = section[key]
                section[key] = [places / each for each in given] if key == "also" else places / given
    with pytest.raises(InputError, match=words):
        run_steps(here(**sections), to_step="train")


def test_scores_are_kept_for_comparisons(places: Path) -> None:
    table = read_table(places / "first" / "scores.parquet")
    names = {"convlstm", "persistence", "same_season_last_year", "climatology", "blend"}
    assert set(table.forecaster) == names and set(table.lead) == {1, 2}


@pytest.mark.parametrize(("loss", "known"), [("ssim_mse", 2000.0), ("mse", None)])
def test_a_loss_with_constants_is_told_the_range_of_values(
    here: MakeConfig, monkeypatch: pytest.MonkeyPatch, loss: str, known: float | None
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        learning, "fit", lambda *a, **k: seen.append(k["loss"]) or learning.History((), 0, 0.0)
    )
    config = here(input={"value_range": [-1000, 1000]}, train={"loss": loss})
    run_steps(config, to_step="train")
    assert seen[0] == loss if known is None else seen[0].keywords == {"data_range": known}
