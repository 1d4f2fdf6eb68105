"""Metrics against plain formulas and scikit-image, pooled over valid pixels only."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from glacierhpc.evaluation import metrics


@pytest.fixture
def case():
    random = np.random.default_rng(0)
    target = np.clip(random.normal(size=(5, 3, 2, 24, 20)).cumsum(axis=-1) * 0.1, -1, 1)
    prediction = target + random.normal(size=target.shape) * 0.1
    valid = random.random((5, 3, 24, 20)) < 0.7
    return prediction, target, valid


def test_metrics_equal_plain_formulas(case):
    prediction, target, valid = case
    mask = np.broadcast_to(valid[:, :, None], target.shape)
    error = (prediction - target)[mask]
    assert metrics.mse(*case) == pytest.approx(np.mean(error**2))
    assert metrics.mae(*case) == pytest.approx(np.mean(np.abs(error)))
    assert metrics.rmse(*case) == pytest.approx(np.sqrt(np.mean(error**2)))
    assert metrics.psnr(*case, data_range=2) == pytest.approx(
        peak_signal_noise_ratio(target[mask], prediction[mask], data_range=2)
    )
    scatter = np.sum((target[mask] - target[mask].mean()) ** 2)
    assert metrics.nse(*case) == pytest.approx(1 - np.sum(error**2) / scatter)
    forecast, truth = (values[:, :, 0][valid] > 0.1 for values in (prediction, target))
    assert metrics.iou(*case, threshold=0.1) == pytest.approx(
        (forecast & truth).sum() / (forecast | truth).sum()
    )


def test_ssim_of_whole_images_equals_scikit_image_inside_the_rim(case):
    prediction, target, _ = case
    whole = np.ones(target.shape[:2] + target.shape[3:], dtype=bool)
    ours, counts = metrics.ssim_map(prediction, target, whole, data_range=2)
    _, theirs = structural_similarity(
        prediction[1, 2, 1], target[1, 2, 1], data_range=2, full=True, use_sample_covariance=False
    )
    np.testing.assert_allclose(ours[1, 2, 1, 3:-3, 3:-3], theirs[3:-3, 3:-3], atol=1e-10)
    assert counts[:, :, 3:-3, 3:-3].all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([np.nan, np.inf, 1e6]))
def test_what_stands_at_invalid_pixels_never_matters(seed, rubbish):
    random = np.random.default_rng(seed)
    prediction, target = random.normal(size=(2, 2, 1, 12, 12))
    valid = random.random((2, 12, 12)) < 0.6
    mask = valid[:, None]
    clean = metrics.error_sums(prediction, target, valid, data_range=2, threshold=0)
    spoilt = metrics.error_sums(
        np.where(mask, prediction, rubbish), np.where(mask, target, rubbish), valid, data_range=2, threshold=0
    )
    np.testing.assert_array_equal(clean, spoilt)


def test_pooling_does_not_depend_on_how_sequences_are_batched(case):
    prediction, target, valid = case
    whole = metrics.error_sums(*case, data_range=2, threshold=0)
    parts = [
        metrics.error_sums(prediction[s], target[s], valid[s], data_range=2, threshold=0)
        for s in (slice(0, 2), slice(2, 5))
    ]
    np.testing.assert_allclose(np.concatenate(parts), whole)
    assert whole.shape == (5, 3, len(metrics.SUMS))


def test_a_perfect_forecast(case):
    _, target, valid = case
    sums = metrics.error_sums(target, target, valid, data_range=2, threshold=0).sum(axis=(0, 1))
    perfect = metrics.metrics_of(sums, data_range=2)
    assert perfect["mse"] == 0 and perfect["iou"] == 1 and perfect["ssim"] == pytest.approx(1)
    assert perfect["psnr"] == np.inf


def test_efficiency_is_the_skill_against_the_mean_of_all(case):
    _, target, valid = case
    mask = np.broadcast_to(valid[:, :, None], target.shape)
    assert metrics.nse(np.full_like(target, target[mask].mean()), target, valid) == pytest.approx(
        0, abs=1e-12
    )
    assert metrics.nse(target, target, valid) == 1
    assert np.isnan(metrics.nse(target, np.full_like(target, 0.3), valid))
    far = target + 1e4  # metres a year, say: the squares cancel to seven digits
    assert metrics.nse(far + 0.1, far, valid) == pytest.approx(
        metrics.nse(target + 0.1, target, valid), rel=1e-5
    )


def test_nothing_valid_gives_nan(case):
    prediction, target, valid = case
    assert np.isnan(metrics.mse(prediction, target, np.zeros_like(valid)))
    assert np.isnan(metrics.ssim(prediction, target, np.zeros_like(valid), data_range=2))
    assert np.isnan(metrics.nse(prediction, target, np.zeros_like(valid)))
    assert np.isnan(metrics.iou(prediction, target, valid, threshold=9))


def test_skill_is_one_minus_the_ratio_of_errors(case):
    prediction, target, valid = case
    model, reference = (
        metrics.error_sums(p, target, valid, data_range=2, threshold=0).sum(axis=(0, 1))
        for p in (prediction, target + 2 * (prediction - target))
    )
    assert metrics.skill_of(model, reference) == pytest.approx(0.75)
    assert metrics.skill_of(model, model) == 0
