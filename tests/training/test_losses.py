"""Losses count valid values only and add up over batches of any size."""

import pytest
import torch

from glacierhpc.errors import InputError
from glacierhpc.evaluation.metrics import ssim_map
from glacierhpc.training.losses import LOSSES, SSIM_WEIGHT, count_valid, dissimilarity, find_loss


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


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_and_nothing_flows_to_invalid_values(case, name):
    prediction, target, valid = case
    spoilt = torch.where(valid.unsqueeze(2), target, float("nan"))
    prediction = prediction.clone().requires_grad_()
    total, count = LOSSES[name](prediction, spoilt, valid)
    total.backward()
    assert torch.isfinite(prediction.grad).all() and count == count_valid(target, valid)
    assert (prediction.grad[~valid.unsqueeze(2).expand_as(target)] == 0).all()
    assert (prediction.grad != 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_forecast_costs_nothing_and_nothing_valid_counts_nothing(case, name):
    _, target, valid = case
    assert LOSSES[name](target, target, valid)[0].item() == pytest.approx(0, abs=1e-3)
    total, count = LOSSES[name](target + 1, target, torch.zeros_like(valid))
    assert total == 0 and count == 0


@pytest.mark.parametrize("shape", [(7, 6), (9, 16)])
@pytest.mark.parametrize("data_range", [2.0, 1.0])
def test_ssim_is_that_of_the_evaluation(shape, data_range):
    generator = torch.Generator().manual_seed(1)
    prediction, target = (torch.rand(3, 2, 2, *shape, generator=generator) * 2 - 1 for _ in range(2))
    valid = torch.rand(3, 2, *shape, generator=generator) > 0.45
    similarity, counts = ssim_map(prediction.numpy(), target.numpy(), valid.numpy(), data_range=data_range)
    expected = torch.from_numpy(1 - similarity) * torch.from_numpy(counts).unsqueeze(2)
    ours = dissimilarity(prediction, target, valid, data_range=data_range)
    torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-4)
    assert counts.any() and not counts.all()
    squared, mixed = (LOSSES[name](prediction, target, valid)[0] for name in ("mse", "ssim_mse"))
    if data_range == 2.0:
        torch.testing.assert_close(mixed, squared + SSIM_WEIGHT * ours.sum())


def test_gradient_difference_is_the_papers_sum_over_valid_pairs(case):
    prediction, target, valid = (part[:1] for part in case)
    total = LOSSES["mse"](prediction, target, valid)[0]
    for t in range(2):
        for c in range(3):
            p, y, v = prediction[0, t, c], target[0, t, c], valid[0, t]
            for i in range(4):
                for j in range(4):
                    for a, b in ((i + 1, j), (i, j + 1)):
                        if a < 4 and b < 4 and v[i, j] and v[a, b]:
                            total = total + abs(abs(y[a, b] - y[i, j]) - abs(p[a, b] - p[i, j]))
    torch.testing.assert_close(LOSSES["gradient_difference"](prediction, target, valid)[0], total)


def test_find_loss():
    assert find_loss("mae") is LOSSES["mae"]
    assert find_loss(LOSSES["mse"]) is LOSSES["mse"]
    with pytest.raises(InputError, match="'msa' is not known"):
        find_loss("msa")
    with pytest.raises(InputError, match="cannot be 3"):
        find_loss(3)
