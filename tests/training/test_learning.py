"""From a cube to a score: the ConvLSTM learns a seasonal cycle that persistence cannot know."""

import numpy as np
import pytest

from glacierhpc.datasets.climatology import Climatology
from glacierhpc.datasets.samples import SequenceDataset
from glacierhpc.datasets.sequences import SequencePlan
from glacierhpc.datasets.splits import sample_steps, split_by_time
from glacierhpc.evaluation.bootstrap import sequence_blocks
from glacierhpc.evaluation.predict import NetworkForecaster, predict_scene
from glacierhpc.evaluation.score import evaluate
from glacierhpc.models import build_model
from glacierhpc.models.baselines import Record, SequenceBaseline, build_baseline, climatology
from glacierhpc.models.scene_baselines import SCENE_BASELINES
from glacierhpc.models.weights import ModelDescription, load_model, save_model
from glacierhpc.training.distributed import Single
from glacierhpc.training.loop import fit

SIZE, IN, OUT = 16, 2, 2


@pytest.fixture(scope="module")
def record():
    """Six years of quarterly snow cover: a snow line that goes up and down a slope, with noise and gaps."""
    random = np.random.default_rng(0)
    count, edge = 24, 40
    height = np.linspace(0, 1, edge)[:, None] + 0.1 * random.random((edge, edge))
    line = 0.5 - 0.35 * np.cos(np.pi / 2 * np.arange(count)) + 0.03 * random.normal(size=count)
    snow = 1 / (1 + np.exp(-(height - line[:, None, None]) / 0.05))
    data = -0.2 + 0.9 * snow + 0.03 * random.normal(size=snow.shape)
    valid = random.random(snow.shape) < 0.9
    times = np.datetime64("2015-02-15", "ns") + (np.arange(count) * 91.31).astype(int) * np.timedelta64(
        1, "D"
    )
    return Record(np.where(valid, data, np.nan)[:, None].astype(np.float32), valid, times)


@pytest.fixture(scope="module")
def plan(record):
    shape = record.valid.shape
    return SequencePlan.build(shape, record.times, size=SIZE, stride=8, steps_in=IN, steps_out=OUT)


def test_a_trained_model_beats_persistence_and_survives_its_files(record, plan, tmp_path):
    split = split_by_time(plan)
    assert split.describe(plan)["audit"]["ok"]
    parts = {
        name: SequenceDataset.from_cube(record.data, record.valid, plan, split.indices(name))
        for name in ("train", "validation", "test")
    }
    training = sample_steps(plan, split.indices("train"))
    seen = record.data[training][:, 0][record.valid[training]]
    parameters = {"bands": 1, "steps_out": OUT, "hidden": [8], "means": [float(seen.mean())]}
    parameters |= {"deviations": [float(seen.std())], "value_range": [-1, 1]}
    model = build_model("convlstm", **parameters)
    history = fit(
        model, parts["train"], parts["validation"], epochs=12, learning_rate=5e-3, backend=Single("cpu")
    )
    assert history.best_loss < 0.5 * history.rows[0]["valid_loss"]

    cut = {"starts": plan.starts, "steps_in": IN, "steps_out": OUT, "size": SIZE}
    forecasters = {name: SequenceBaseline(build_baseline(name, record), **cut) for name in SCENE_BASELINES}
    test = split.indices("test")
    blocks = sequence_blocks(plan.starts[test], size=SIZE, block_px=16, block_steps=OUT)
    told = evaluate(
        {"convlstm": NetworkForecaster(model), **forecasters},
        parts["test"],
        blocks,
        model="convlstm",
        samples=200,
    )
    assert told["skill"]["persistence"]["interval"][0] > 0.5
    assert told["models"]["convlstm"]["iou"]["all"] > told["models"]["persistence"]["iou"]["all"]
    assert all(value > 0.3 for value in told["skill"]["persistence"]["by_lead"])

    description = ModelDescription(
        "convlstm",
        parameters,
        ("ndsi",),
        "1",
        {},
        30.0,
        IN,
        OUT,
        split.digest(plan),
        {"epochs": len(history.rows)},
    )
    save_model(tmp_path, model, description)
    again, _ = load_model(tmp_path, architecture="convlstm", bands=["ndsi"], units="1")
    first = plan.starts[test[0], 0]
    steps = slice(first, first + IN)
    years = plan.years(test[:1])[0]
    ours, theirs = (
        predict_scene(m, record.data[steps], record.valid[steps], years=years, size=SIZE)
        for m in (model, again)
    )
    np.testing.assert_array_equal(ours.values, theirs.values)
    target, known = record.data[first + IN, 0], record.valid[first + IN] & ours.valid[0]
    error = np.mean((ours.values[0, 0] - target)[known] ** 2)
    stays = build_baseline("persistence", record)(first + IN - 1, np.array([first + IN]))
    assert error < 0.5 * np.mean((stays[0][0, 0] - target)[known & stays[1][0]] ** 2)


def test_an_untrained_model_has_no_skill_against_climatology(record, plan):
    """Both are given the same years: whatever a trained model wins, it has learned."""
    usual = Climatology.build(record.data, record.valid, record.times, np.arange(24), causal=True)
    indices = split_by_time(plan).indices("test")
    test = SequenceDataset.from_cube(record.data, record.valid, plan, indices, climatology=usual)
    model = build_model("convlstm", steps_out=OUT, means=[0.2], deviations=[0.4], value_range=[-1, 1])
    told = evaluate(
        {"convlstm": NetworkForecaster(model), "climatology": climatology},
        test,
        np.arange(len(indices)),
        model="convlstm",
        samples=10,
    )
    assert told["models"]["climatology"]["mse"]["all"] > 0
    assert told["skill"]["climatology"]["all"] == pytest.approx(0, abs=1e-6)
