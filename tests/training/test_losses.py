"""Losses count valid values only and add up over batches of any size."""

import pytest
import torch

from glacierhpc.errors import InputError
from glacierhpc.training.losses import LOSSES, find_loss


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(5, 2, 3, 4, 4, generator=generator) for _ in range(2))
    valid = torch.rand(5, 2, 4, 4, generator=generator) > 0.4
    return prediction, target, valid


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("mse", lambda error: error**2),
        ("mae", lambda error: error.abs()),
        ("huber", lambda e: torch.where(e.abs() < 0.1, 0.5 * e**2, 0.1 * (e.abs() - 0.05))),
    ],
)
def test_losses_equal_plain_formulas(case, name, plain):
    prediction, target, valid = case
    total, count = LOSSES[name](prediction, target, valid)
    errors = plain(prediction - target)[valid.unsqueeze(2).expand_as(target)]
    torch.testing.assert_close(total, errors.sum())
    assert count == errors.numel() == 3 * valid.sum()


@pytest.mark.parametrize("name", LOSSES)
def test_parts_add_up_and_invalid_values_do_not_matter(case, name):
    prediction, target, valid = case
    whole = LOSSES[name](prediction, target, valid)
    parts = [LOSSES[name](prediction[s], target[s], valid[s]) for s in (slice(0, 1), slice(1, 5))]
    torch.testing.assert_close(parts[0][0] + parts[1][0], whole[0])
    assert parts[0][1] + parts[1][1] == whole[1]
    spoilt = torch.where(valid.unsqueeze(2), target, float("nan"))
    assert torch.equal(LOSSES[name](prediction, spoilt, valid)[0], whole[0])


def test_find_loss():
    assert find_loss("mae") is LOSSES["mae"]
    assert find_loss(LOSSES["mse"]) is LOSSES["mse"]
    with pytest.raises(InputError, match="'msa' is not known"):
        find_loss("msa")
    with pytest.raises(InputError, match="cannot be 3"):
        find_loss(3)
