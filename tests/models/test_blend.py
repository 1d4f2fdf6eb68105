"""The blend recovers weights it was not told, through gaps, and in any number of batches."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from glacierhpc.errors import InputError
from glacierhpc.models.baselines import Record, build_baselines
from glacierhpc.models.blend import Blend

IN, OUT, BANDS = 3, 2, 2
WEIGHTS = np.array([[[0.2, 0.0, 0.7], [0.0, -0.3, 1.1]], [[0.5, 0.1, 0.1], [0.4, 0.0, 0.2]]])
CONSTANT = np.array([[0.1, -2.0], [0.0, 5.0]])


def sequences(seed=0, count=4, size=6, gaps=0.0, climatology=False, noise=0.0):
    """Sequences whose targets are blends of their (filled) inputs, bands of very different size."""
    random = np.random.default_rng(seed)
    images = random.normal(size=(count, IN, BANDS, size, size)) * np.array([1.0, 30.0])[:, None, None]
    valid = random.random((count, IN, size, size)) >= gaps
    usual = random.normal(size=(count, IN + OUT, BANDS, size, size))
    usual_known = random.random((count, IN + OUT, size, size)) < 0.5
    filled = fill(images, valid, usual, usual_known & climatology)
    targets = np.einsum("lck,bkcyx->blcyx", WEIGHTS, filled) + CONSTANT[:, :, None, None]
    targets += noise * random.normal(size=targets.shape)
    targets_valid = random.random((count, OUT, size, size)) >= gaps
    return SimpleNamespace(
        images=np.where(valid[:, :, None], images, np.nan),
        images_valid=valid,
        targets=np.where(targets_valid[:, :, None], targets, np.nan),
        targets_valid=targets_valid,
        climatology=usual if climatology else None,
        climatology_valid=usual_known if climatology else None,
        numbers=np.arange(count),
    )


def fill(images, valid, usual, known):
    """A plain loop over pixels: the value before, else what is usual, else the value after."""
    filled = np.zeros_like(images)
    for b, row, col in np.ndindex(images.shape[0], *images.shape[-2:]):
        at = lambda step: images[b, step, :, row, col]  # noqa: B023, E731
        there = valid[b, :, row, col]
        values = [None] * IN
        for step in range(IN):
            before = [s for s in range(step + 1) if there[s]]
            if before:
                values[step] = at(before[-1])
            elif known[b, step, row, col]:
                values[step] = usual[b, step, :, row, col]
        for step in range(IN):
            after = [value for value in values[step:] if value is not None]
            filled[b, step, :, row, col] = after[0] if after else 0
    return filled


@pytest.mark.parametrize(("gaps", "climatology"), [(0.0, False), (0.4, False), (0.4, True)])
def test_known_weights_are_recovered(gaps, climatology):
    batches = [sequences(seed, gaps=gaps, climatology=climatology) for seed in range(3)]
    blend = Blend().fit(iter(batches))
    np.testing.assert_allclose(blend.weights, WEIGHTS, atol=1e-6)
    np.testing.assert_allclose(blend.constant, CONSTANT, atol=1e-5)
    other = sequences(9, gaps=gaps, climatology=climatology)
    values, valid = blend(other)
    np.testing.assert_array_equal(valid, np.repeat(other.images_valid.any(axis=1)[:, None], OUT, axis=1))
    judged = valid & other.targets_valid
    assert values.dtype == np.float32 and np.isfinite(values).all()
    np.testing.assert_allclose(
        np.moveaxis(values, 2, -1)[judged], np.moveaxis(other.targets, 2, -1)[judged], atol=1e-3
    )


def test_it_is_ordinary_least_squares_and_batches_do_not_matter():
    whole = sequences(1, count=6, noise=0.5)
    blend = Blend().fit([whole])
    for lead, band in np.ndindex(OUT, BANDS):
        regressors = [whole.images[:, step, band].ravel() for step in range(IN)]
        design = np.stack([*regressors, np.ones_like(regressors[0])], axis=-1)
        wanted = np.linalg.lstsq(design, whole.targets[:, lead, band].ravel(), rcond=None)[0]
        np.testing.assert_allclose(blend.weights[lead, band], wanted[:-1], atol=1e-8)
        np.testing.assert_allclose(blend.constant[lead, band], wanted[-1], atol=1e-7)
    parts = [
        SimpleNamespace(
            **{name: None if value is None else value[part] for name, value in vars(whole).items()}
        )
        for part in (slice(0, 1), slice(1, 6))
    ]
    np.testing.assert_allclose(Blend().fit(parts).weights, blend.weights, atol=1e-9)


def test_inputs_that_say_the_same_share_their_weight():
    batch = sequences(2)
    batch.images[:] = batch.images[:, :1]
    batch.targets[:] = 3 * batch.images[:, :1]
    np.testing.assert_allclose(Blend().fit([batch]).weights, 1.0, atol=1e-6)


def test_weights_can_be_read():
    told = json.loads(json.dumps(Blend().fit([sequences()]).describe()))
    np.testing.assert_allclose(told["weights"], WEIGHTS, atol=1e-6)
    np.testing.assert_allclose(told["constant"], CONSTANT, atol=1e-5)


def test_what_cannot_be_fitted_or_used_is_refused():
    with pytest.raises(InputError, match="no training sequences"):
        Blend().fit([])
    blind = sequences()
    blind.targets_valid[:, 1] = False
    with pytest.raises(InputError, match="lead 2 has a valid pixel"):
        Blend().fit([blind])
    with pytest.raises(InputError, match="call fit"):
        Blend()(sequences())
    shorter = sequences()
    shorter.images, shorter.images_valid = shorter.images[:, 1:], shorter.images_valid[:, 1:]
    with pytest.raises(InputError, match="3 inputs of 2 bands cannot forecast from 2 inputs"):
        Blend().fit([sequences()])(shorter)


def test_every_baseline_forecasts_the_same_batch():
    random = np.random.default_rng(0)
    data = random.normal(size=(12, BANDS, 8, 8)).astype(np.float32)
    times = np.datetime64("2015-02-15", "ns") + (np.arange(12) * 91) * np.timedelta64(1, "D")
    record = Record(data, np.ones((12, 8, 8), dtype=bool), times)
    starts = np.array([[4, 0, 0], [4, 0, 2], [5, 1, 1], [6, 2, 2]])
    batch = sequences(climatology=True)
    made = build_baselines(record, starts=starts, steps_in=IN, steps_out=OUT, size=6, training=iter([batch]))
    assert list(made) == ["persistence", "same_season_last_year", "climatology", "blend"]
    for forecast in made.values():
        values, valid = forecast(batch)
        assert values.shape == batch.targets.shape and valid.shape == batch.targets_valid.shape
    np.testing.assert_array_equal(made["persistence"](batch)[0][1, 0], data[6, :, 0:6, 2:8])
