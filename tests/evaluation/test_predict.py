"""Full scenes by blended tiles: no seams, masks respected, any scene size."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from glacierhpc import tiling
from glacierhpc.errors import InputError
from glacierhpc.evaluation.predict import (
    ArrayScene,
    NetworkForecaster,
    forecast_blocks,
    predict_scene,
    scene_tiles,
)


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


class BadRim(Half):
    """Right inside, far off within three pixels of a tile's rim, where a network sees only one side."""

    def forward(self, images, images_valid, *, dates=None):
        bad = torch.zeros(images.shape[-2:])
        bad[:3] = bad[:, :3] = 5
        bad[-3:] = bad[:, -3:] = -5
        return super().forward(images, images_valid) + bad


def test_the_bad_rim_of_a_network_is_left_out():
    noise = np.random.default_rng(4).normal(size=(2, 1, 160, 192))
    images = gaussian_filter(noise, (0, 0, 2, 2)).astype(np.float32)
    whole = np.ones((2, 160, 192), dtype=bool)
    pasted = predict_scene(BadRim(), images, whole, size=64, overlap_px=0, rim_px=0)
    blended = predict_scene(BadRim(), images, whole, size=64)
    rimless = predict_scene(BadRim(), images, whole, size=64, rim_px=3)

    def seams(forecast):
        own, target = (
            tiling.seam_ratio(values, forecast.tiles) for values in (forecast.values[0, 0], images[-1, 0])
        )
        return own / target

    assert seams(pasted) > 2
    assert seams(blended) <= 1.05 and seams(rimless) <= 1.05
    inside = (..., slice(3, -3), slice(3, -3))  # at the rim of the scene there is nothing better
    right = images[-1] / 2 - 1
    np.testing.assert_allclose(rimless.values[0][inside], right[inside], atol=1e-5)
    assert np.abs(blended.values[0][inside] - right[inside]).max() > 0.05


@pytest.mark.parametrize("block_px", [16, 23, 50, 200])
def test_blocks_are_parts_of_the_whole(scene, block_px):
    images, valid = scene
    valid = valid.copy()
    valid[:, 20:, 25:] = False  # some tiles and one block see nothing
    usual = np.zeros((5, 2, 50, 41), np.float32), np.ones((5, 50, 41), bool)
    whole = predict_scene(Wise(), images, valid, size=16, climatology=usual, years=np.arange(5.0))
    reader = ArrayScene(images, valid, np.arange(5.0), usual)
    tiles = scene_tiles((50, 41), 16)
    values, seen = np.full_like(whole.values, 7), np.zeros_like(whole.valid)
    for block in forecast_blocks(Wise(), reader, tiles, block_px=block_px, batch_size=3):
        values[..., block.rows, block.cols], seen[:, block.rows, block.cols] = block.values, block.valid
    np.testing.assert_allclose(values, whole.values, atol=1e-5)
    np.testing.assert_array_equal(seen, whole.valid)


class Wise(nn.Module):
    """Sees its whole tile, the dates and what is usual."""

    def forward(self, images, images_valid, *, dates, climatology, climatology_valid):
        mood = images.mean(dim=(1, 2, 3, 4)) * images_valid.float().mean(dim=(1, 2, 3)) + dates[:, -1]
        return (
            images[:, :2] + mood.view(-1, 1, 1, 1, 1) + climatology[:, -2:] * climatology_valid[:, -2:, None]
        )


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
