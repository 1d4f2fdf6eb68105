"""What the published scripts print, and both widths side by side."""

import numpy as np
import pytest

from glacierhpc.errors import InputError
from glacierhpc.evaluation.bootstrap import Resampling, sequence_blocks
from glacierhpc.evaluation.metrics import SUMS
from glacierhpc.evaluation.paper import paper
from glacierhpc.evaluation.score import score, summarise


def sums_of(squared, absolute, count):
    sums = np.zeros((len(squared), 1, len(SUMS)))
    for name, values in (("squared", squared), ("absolute", absolute), ("count", count)):
        sums[:, 0, SUMS.index(name)] = values
    return sums


def test_errors_are_means_over_batches_the_last_of_which_counts_as_much():
    random = np.random.default_rng(0)
    squared, absolute = random.random((2, 250))
    told = paper({"net": sums_of(squared, absolute, np.full(250, 4.0))}, Resampling(np.arange(250)), draws=50)
    expected = np.mean([part.mean() / 4 for part in np.split(squared, [100, 200])])
    assert told["models"]["net"]["mse"]["value"] == pytest.approx(expected)
    expected = np.mean([part.mean() / 4 for part in np.split(absolute, [100, 200])])
    assert told["models"]["net"]["mae"]["value"] == pytest.approx(expected)


def test_the_published_interval_is_that_of_independent_sequences():
    squared = np.random.default_rng(1).normal(5, 1, size=400)
    told = paper({"net": sums_of(squared, squared, np.ones(400))}, Resampling(np.arange(400)))
    mse = told["models"]["net"]["mse"]
    assert told["draws"] == 2000 and told["batch"] == 100
    half = 1.96 * squared.std() / 20
    assert mse["iid_interval"] == pytest.approx([squared.mean() - half, squared.mean() + half], abs=0.02)
    assert mse["ratio"] == pytest.approx(1, abs=0.1)


def test_sequences_without_a_valid_pixel_are_left_out():
    count = np.where(np.arange(300) < 150, 0.0, 2.0)
    told = paper({"net": sums_of(count, count, count)}, Resampling(np.arange(300)), draws=20)
    assert told["models"]["net"]["mse"]["value"] == 1


def test_metrics_json_holds_both_widths(world, forecasters):
    """Patches that overlap in space and time: the published interval is much too narrow."""
    scores = score(forecasters, world)
    told = summarise(scores, sequence_blocks(world.starts, block_steps=4), model="net", samples=200)
    for name in forecasters:
        mse = told["paper"]["models"][name]["mse"]
        assert mse["block_interval"] == told["models"][name]["mse"]["interval"]
        assert mse["block_width"] == mse["block_interval"][1] - mse["block_interval"][0]
        assert mse["ratio"] == mse["block_width"] / mse["iid_width"]
    # errors of persistence go up and down within each window of a year: those of the model are of whole spells
    assert told["paper"]["models"]["net"]["mse"]["ratio"] > 1.5
    assert told["paper"]["confidence"] == 0.95


def test_impossible_batches_are_refused():
    with pytest.raises(InputError, match="batches of 0"):
        paper({}, Resampling(np.arange(2)), batch=0)
