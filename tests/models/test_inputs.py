"""What every model does with its inputs, and the norm between the layers of ours."""

import pytest
import torch

from glacierhpc.errors import InputError
from glacierhpc.models.inputs import PixelNorm, Scaling, mask_or_all, padded, spread


def test_a_norm_looks_at_one_pixel_only():
    norm, features = PixelNorm(3), torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    centred = features - features.mean(dim=1, keepdim=True)
    wanted = centred / (features.var(dim=1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(features), wanted)
    elsewhere = features.clone()
    elsewhere[1, :, 2, 3] += torch.tensor([1.0, 2.0, 4.0])
    same = torch.ones(2, 4, 5, dtype=torch.bool)
    same[1, 2, 3] = False
    changed = (norm(elsewhere) != norm(features)).any(dim=1)
    assert torch.equal(changed, ~same)


def test_frames_grow_below_and_to_the_right_by_their_rim():
    frame = torch.arange(6.0).view(1, 1, 2, 3)
    grown = padded(frame, 4)
    assert grown.shape == (1, 1, 4, 4)
    assert torch.equal(grown[..., :2, :3], frame) and (grown[..., 3, :3] == frame[..., 1, :]).all()
    assert padded(frame, 1) is frame
    assert spread(torch.tensor([[1.0, 2.0]]), frame).shape == (1, 2, 2, 3)


def test_scaling_returns_what_it_was_given_and_nothing_where_invalid():
    scaling = Scaling(2, [1.0, -3.0], [2.0, 0.5])
    images = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    valid = torch.rand(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(2)) > 0.5
    scaled = scaling(torch.where(valid, images, float("inf")), valid)
    assert (scaled[~valid.expand_as(scaled)] == 0).all()
    torch.testing.assert_close(torch.where(valid, scaling.undo(scaled), images), images)
    with pytest.raises(InputError, match="have 1 bands, the model 2"):
        scaling(images[:, :, :1], valid)


def test_without_a_mask_all_is_valid():
    images = torch.full((1, 2, 3, 4, 5), torch.nan)
    assert mask_or_all(images, None).shape == (1, 2, 1, 4, 5) and mask_or_all(images, None).all()
    with pytest.raises(InputError, match="does not fit images"):
        mask_or_all(images, torch.ones(1, 2, 5, 4, dtype=torch.bool))
