"""What the georeferencing of scenes says about the references of their seasons."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from glacierhpc.coreg import align_pair
from glacierhpc.coreg.georeference import KIND, season_links
from glacierhpc.coreg.stack_tasks import Pair
from tests.pairs import shift


def season_pairs(offsets, scatter_px, count, *, seed=0):
    """Return pairs of scenes with references that lie off by known offsets from where the scenes are right."""
    rng = np.random.default_rng(seed)
    base = align_pair(np.zeros((20, 20), np.float32), np.zeros((20, 20), np.float32))
    pairs = []
    for name, offset in offsets.items():
        for i in range(count):
            x, y = rng.normal(0, scatter_px, 2) - offset
            found = replace(base, ok=True, matrix=shift(x, y))
            pairs.append(Pair(name, len(pairs) + i, "reference", found))
    return pairs


def test_the_median_georeferencing_of_seasons_links_their_references():
    offsets = {"JJA": np.array([0.0, 0.0]), "MAM": np.array([0.7, -0.3])}
    errors, predicted = [], []
    for seed in range(40):
        (link,) = season_links(season_pairs(offsets, 0.3, 15, seed=seed), (300, 300))
        assert (link.first, link.second, link.kind) == ("JJA", "MAM", KIND)
        errors.append(np.hypot(*(link.result.matrix[:2, 2] - (offsets["MAM"] - offsets["JJA"]))))
        predicted.append(link.result.error_px)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.mean(predicted), rel=0.25)


def test_few_scenes_or_one_season_say_nothing():
    offsets = {"JJA": np.zeros(2), "MAM": np.zeros(2)}
    assert season_links(season_pairs(offsets, 0.3, 2), (300, 300)) == []
    assert season_links(season_pairs({"JJA": np.zeros(2)}, 0.3, 9), (300, 300)) == []
