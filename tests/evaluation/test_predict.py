"""Full scenes by blended tiles: no seams, masks respected, any scene size."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from glacierhpc import tiling
from glacierhpc.errors import InputError
from glacierhpc.evaluation.predict import NetworkForecaster, predict_scene


class Half(nn.Module):
    """Pixel by pixel: half the last input, minus the lead; dates and masks leave a trace."""

    def forward(self, images, images_valid, *, dates=None):
        shift = 0 if dates is None else dates[:, -1].view(-1, 1, 1, 1)
        return torch.stack([images[:, -1] / 2 - lead + shift for lead in (1, 2)], dim=1)


class Moody(Half):
    """Every tile with an offset of its own, by what it sees: pasted, its seams show."""

    def forward(self, images, images_valid, *, dates=None):
        return super().forward(images, images_valid) + images.mean(dim=(1, 2, 3, 4)).view(-1, 1, 1, 1, 1) * 10


@pytest.fixture(scope="module")
def scene():
    random = np.random.default_rng(0)
    images = random.normal(size=(3, 2, 50, 41)).cumsum(axis=-1).astype(np.float32) * 0.1
    return images, random.random((3, 50, 41)) < 0.6


def test_a_pixelwise_model_gives_the_same_tiled_and_whole(scene):
    images, valid = scene
    tiled = predict_scene(Half(), images, valid, size=16, years=np.full(5, 0.25), batch_size=4)
    last = np.where(valid[-1], images[-1], 0)
    assert tiled.values.shape == (2, 2, 50, 41)
    seen = valid.any(axis=0)
    for lead in range(2):
        np.testing.assert_array_equal(tiled.valid[lead], seen)
        expected = np.where(seen, last / 2 - (lead + 1) + 0.25, np.nan)
        np.testing.assert_allclose(tiled.values[lead], expected, atol=1e-5)


def test_what_stands_at_invalid_pixels_never_matters(scene):
    images, valid = scene
    clean = predict_scene(Moody(), images, valid, size=16)
    spoilt = predict_scene(Moody(), np.where(valid[:, None], images, np.nan), valid, size=16)
    np.testing.assert_array_equal(clean.values, spoilt.values)


def test_blended_tiles_leave_no_seams_where_pasted_ones_do():
    images = gaussian_filter(np.random.default_rng(3).normal(size=(2, 1, 96, 128)), (0, 0, 3, 3)).astype(
        np.float32
    )
    whole = np.ones((2, 96, 128), dtype=bool)
    pasted = predict_scene(Moody(), images, whole, size=16, overlap_px=0)
    blended = predict_scene(Moody(), images, whole, size=16)

    def seams(forecast):
        own, target = (
            tiling.seam_ratio(values, forecast.tiles) for values in (forecast.values[0], images[-1])
        )
        return own / target

    assert seams(pasted) > 2
    assert seams(blended) < 1.05


def test_a_scene_smaller_than_a_tile(scene):
    images, valid = (part[..., :10, :12] for part in scene)
    small = predict_scene(Half(), images, valid, size=16)
    assert small.values.shape == (2, 2, 10, 12)


def test_arrays_that_do_not_fit_are_refused(scene):
    with pytest.raises(InputError, match="do not fit"):
        predict_scene(Half(), scene[0], scene[1][:2], size=16)


def test_network_forecaster_of_a_batch(scene):
    images, valid = (torch.from_numpy(part)[None] for part in scene)
    batch = SimpleNamespace(inputs={"images": images, "images_valid": valid}, images_valid=valid)
    batch.to = lambda device: batch
    values, values_valid = NetworkForecaster(Half())(batch)
    assert values.shape == (1, 2, 2, 50, 41) and values_valid.shape == (1, 2, 50, 41)
    np.testing.assert_array_equal(values_valid[0, 1], scene[1].any(axis=0))
