"""The content of metrics.json: common pixels, leads, skill, intervals, and JSON that every reader takes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from glacierhpc.errors import InputError
from glacierhpc.evaluation import metrics
from glacierhpc.evaluation.score import evaluate, score, summarise

COUNT, LEADS, SIZE = 40, 3, 8


class Targets:
    """Sequences of noise with gaps."""

    def __init__(self):
        random = np.random.default_rng(0)
        self.targets = random.uniform(-1, 1, size=(COUNT, LEADS, 1, SIZE, SIZE))
        self.valid = random.random((COUNT, LEADS, SIZE, SIZE)) < 0.8

    def __len__(self):
        return COUNT

    def __getitems__(self, items):
        items = np.asarray(items)
        return SimpleNamespace(targets=self.targets[items], targets_valid=self.valid[items], numbers=items)


@pytest.fixture(scope="module")
def data():
    return Targets()


@pytest.fixture(scope="module")
def forecasts(data):
    random = np.random.default_rng(1)
    spread = np.array([0.1, 0.2, 0.4])[None, :, None, None, None]
    noise = random.normal(size=data.targets.shape) * spread
    seen = random.random(data.valid.shape) < 0.9
    return {
        "net": (data.targets + noise, np.ones_like(data.valid)),
        "persistence": (data.targets + 2 * noise, seen),
    }


def forecasters(forecasts):
    return {
        name: lambda batch, v=values, m=valid: (v[batch.numbers], m[batch.numbers])
        for name, (values, valid) in forecasts.items()
    }


def test_everything_is_scored_on_the_common_pixels(data, forecasts):
    common = data.valid & forecasts["persistence"][1]
    scores = score(forecasters(forecasts), data, batch_size=7)
    assert scores.common_share == pytest.approx(common.sum() / data.valid.sum())
    told = summarise(scores, np.arange(COUNT) // 4, model="net", samples=200)
    for name, (values, _) in forecasts.items():
        assert told["models"][name]["mse"]["all"] == pytest.approx(metrics.mse(values, data.targets, common))
        for lead in range(LEADS):
            by_lead = metrics.mae(values[:, lead], data.targets[:, lead], common[:, lead])
            assert told["models"][name]["mae"]["by_lead"][lead] == pytest.approx(by_lead)
    assert told["skill"]["persistence"]["all"] == pytest.approx(0.75)
    assert told["skill"]["persistence"]["by_lead_interval"] == [[pytest.approx(0.75)] * 2] * LEADS


def test_content_is_that_of_the_contract_and_plain_json(data, forecasts):
    audit = {"ok": True}
    told = evaluate(forecasters(forecasts), data, np.arange(COUNT) // 4, model="net", samples=50, audit=audit)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["shows"] == "snow and ice cover (index values), not ice motion"
    assert told["leads"] == [1, 2, 3] and told["n_sequences"] == COUNT
    assert told["bootstrap"] == {
        "samples": 50,
        "confidence": 0.95,
        "blocks": 10,
        "windows": 10,
        "few_blocks": False,
    }
    assert told["audit"] == audit and told["split"] == "test"
    assert list(told["models"]["net"]) == ["mse", "mae", "rmse", "ssim", "psnr", "nse", "iou"]
    entry = told["models"]["net"]["mse"]
    assert entry["interval"][0] < entry["all"] < entry["interval"][1]
    assert entry["by_lead"] == sorted(entry["by_lead"])
    assert list(told["skill"]) == ["persistence"]


def test_few_windows_of_time_are_called_few(data, forecasts):
    blocks = np.arange(COUNT) // 4
    told = evaluate(forecasters(forecasts), data, blocks, model="net", samples=10, windows=2)
    assert told["bootstrap"]["blocks"] == 10
    assert told["bootstrap"]["windows"] == 2 and told["bootstrap"]["few_blocks"] is True


def test_perfect_and_undefined_numbers_become_null(data):
    perfect = {"net": (data.targets, np.ones_like(data.valid))}
    told = evaluate(forecasters(perfect), data, np.zeros(COUNT), model="net", threshold=5.0, samples=10)
    assert told["models"]["net"]["psnr"]["all"] is None
    assert told["models"]["net"]["iou"]["all"] is None
    assert told["models"]["net"]["mse"]["interval"] == [None, None]
    json.dumps(told, allow_nan=False)


def test_without_a_threshold_there_is_no_overlap(data, forecasts):
    told = evaluate(
        forecasters(forecasts), data, np.arange(COUNT) // 4, model="net", threshold=np.nan, samples=10
    )
    assert told["threshold"] is None and told["models"]["net"]["iou"]["all"] is None
    json.dumps(told, allow_nan=False)


def test_crossed_blocks_are_counted_by_window_and_ground(data, forecasts):
    blocks = np.stack([np.arange(COUNT) // 10, np.arange(COUNT) % 5], axis=1)
    told = evaluate(forecasters(forecasts), data, blocks, model="net", samples=50)
    drawn = told["bootstrap"]
    assert (drawn["blocks"], drawn["windows"], drawn["grounds"]) == (20, 4, 5)
    assert told["paired"]["persistence"]["grounds"] == 5
    low, high = told["skill"]["persistence"]["interval"]
    assert low == pytest.approx(0.75) == high


def test_a_forecast_of_nan_is_not_scored_as_if_it_were_one(data, forecasts):
    values = forecasts["net"][0].copy()
    values[:, 0, 0, :4] = np.nan
    scores = score(forecasters({"net": (values, np.ones_like(data.valid))}), data)
    assert np.isfinite(scores.sums["net"]).all()
    assert scores.common_share < 0.9


def test_nothing_to_compare_is_refused(data, forecasts):
    never = {"net": forecasts["net"], "same": (data.targets, np.zeros_like(data.valid))}
    with pytest.raises(InputError, match="no pixel of these sequences"):
        score(forecasters(never), data)
    with pytest.raises(InputError, match="'nett' is not known"):
        evaluate(forecasters(forecasts), data, np.arange(COUNT), model="nett")


def test_each_skill_has_a_second_interval_of_other_ground(data, forecasts):
    """The reference errs by places and not by windows of time: only other ground can change what is found."""
    places, windows = np.arange(COUNT) % 8, np.arange(COUNT) // 8
    shift = (places >= 4)[:, None, None, None, None]
    bad = {**forecasts, "persistence": (data.targets + shift, np.ones_like(data.valid))}
    scores = score(forecasters(bad), data)
    told = summarise(scores, windows, model="net", samples=200, grounds=places)
    assert told["bootstrap"]["grounds"] == 8 and told["bootstrap"]["blocks"] == 5
    (low, high), (least, most) = (
        told["skill"]["persistence"][key] for key in ("interval", "ground_interval")
    )
    assert most - least > 2 * (high - low) > 0
    assert (
        "ground_interval" not in summarise(scores, windows, model="net", samples=20)["skill"]["persistence"]
    )
