"""The ConvLSTM: any sizes, masks that carry no signal, persistence before training."""

import numpy as np
import pytest
import torch

from glacierhpc.errors import InputError
from glacierhpc.models import build_model
from glacierhpc.models.convlstm import _recall


def inputs(batch=2, steps=4, bands=1, height=16, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, steps, bands, height, width, generator=generator)
    valid = torch.rand(batch, steps, height, width, generator=generator) > 0.3
    return images, valid


def stirred(**parameters):
    """A model whose every weight acts, as after training."""
    model = build_model("convlstm", hidden=(6,), attention=3, **parameters).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        model.head.decode.weight.copy_(0.3 * torch.randn(model.head.decode.weight.shape, generator=generator))
    return model


@pytest.mark.parametrize(
    ("bands", "steps", "steps_out", "height", "width", "reduction", "hidden"),
    [
        (1, 4, 4, 50, 50, 2, (6,)),
        (3, 1, 2, 17, 33, 2, (4, 5)),
        (2, 7, 1, 8, 9, 1, (4,)),
        (1, 2, 3, 21, 19, 4, (3, 3, 3)),
    ],
)
def test_any_bands_sizes_and_lengths(bands, steps, steps_out, height, width, reduction, hidden):
    images, valid = inputs(2, steps, bands, height, width)
    model = build_model("convlstm", bands=bands, steps_out=steps_out, reduction=reduction, hidden=hidden)
    dates = torch.arange(steps + steps_out).expand(2, -1) * 0.25
    assert model(images, valid, dates=dates).shape == (2, steps_out, bands, height, width)
    assert model(images).shape == (2, steps_out, bands, height, width)


@pytest.mark.parametrize("size", [33, 49, 50])
@pytest.mark.parametrize("reduction", [4, 8, 16])
def test_attention_lies_over_the_pixels_it_was_made_from(size, reduction):
    """Each input step is one value; a query that finds step 1 in one cell recalls it there and nowhere else."""
    cells = -(-size // reduction)
    keys, query = torch.zeros(1, 2, 1, cells, cells), torch.full((1, 1, cells, cells), 100.0)
    keys[:, 1, 0, -1, -1], keys[:, 0, 0] = 1.0, 0.5
    images = torch.stack([torch.zeros(1, 1, size, size), torch.ones(1, 1, size, size)], dim=1)
    masked, last = torch.ones(1, 2, 1, size, size, dtype=torch.bool), torch.zeros(1, 1, size, size)
    recalled = _recall(query, keys, torch.zeros(1, 2), images, masked, last, reduction)
    expected = torch.zeros(size, size)
    expected[(cells - 1) * reduction :, (cells - 1) * reduction :] = 1.0
    torch.testing.assert_close(recalled[0, 0], expected)


def test_untrained_it_is_persistence():
    images, valid = inputs()
    model = build_model("convlstm", steps_out=3, means=[0.2], deviations=[0.7])
    forecast = model(images, valid).detach().numpy()
    expected = np.full((2, 1, 16, 16), 0.2, dtype=np.float32)  # the mean where nothing was valid
    for step in range(4):
        expected = np.where(valid[:, step, None], images[:, step], expected)
    for lead in range(3):
        np.testing.assert_allclose(forecast[:, lead], expected, atol=1e-6)


def test_untrained_it_is_climatology_where_one_is_known():
    images, valid = inputs()
    usual, _ = inputs(steps=7, seed=3)
    known = torch.rand(2, 7, 16, 16, generator=torch.Generator().manual_seed(4)) > 0.5
    model = build_model("convlstm", steps_out=3, means=[0.2], deviations=[0.7])
    forecast = model(images, valid, climatology=usual, climatology_valid=known)
    plain = model(images, valid)
    expected = torch.where(known[:, 4:, None], usual[:, 4:], plain)
    torch.testing.assert_close(forecast, expected)


def test_what_stands_where_no_climatology_is_known_never_matters():
    images, valid = inputs(seed=1)
    usual, _ = inputs(steps=6, seed=3)
    known = torch.rand(2, 6, 16, 16, generator=torch.Generator().manual_seed(4)) > 0.5
    model = stirred(steps_out=2)
    reference = model(images, valid, climatology=usual, climatology_valid=known)
    spoilt = torch.where(known[:, :, None], usual, float("nan"))
    assert torch.equal(reference, model(images, valid, climatology=spoilt, climatology_valid=known))
    assert not torch.allclose(reference, model(images, valid))


def test_what_stands_at_invalid_pixels_never_matters():
    images, valid = inputs(seed=1)
    model = stirred(steps_out=2)
    dates = torch.linspace(10, 11.25, 6).expand(2, -1)
    reference = model(images, valid, dates=dates)
    for rubbish in (float("nan"), float("inf"), 1e9):
        spoilt = torch.where(valid.unsqueeze(2), images, rubbish)
        assert torch.equal(model(spoilt, valid, dates=dates), reference)
    spoilt = torch.where(valid.unsqueeze(2), images, float("nan")).requires_grad_()
    model(spoilt, valid, dates=dates).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert (spoilt.grad[~valid.unsqueeze(2)] == 0).all()


def test_masks_and_dates_do_matter():
    images, valid = inputs(seed=2)
    model = stirred(steps_out=2)
    dates = torch.linspace(10, 11.25, 6).expand(2, -1)
    reference = model(images, valid, dates=dates)
    assert not torch.equal(model(images, torch.ones_like(valid), dates=dates), reference)
    assert not torch.equal(model(images, valid, dates=dates + 0.5), reference)
    assert not torch.equal(model(images, valid), reference)


def test_forecast_stays_in_range_outside_of_training():
    images, valid = inputs(seed=3)
    model = stirred(steps_out=2, value_range=(-1, 1))
    assert model(images, valid).abs().max() <= 1
    assert model.train()(images, valid).abs().max() > 1


def test_sequences_of_a_batch_do_not_touch_each_other():
    images, valid = inputs(3, seed=4)
    model = stirred(steps_out=2)
    together = model(images, valid)
    for number in range(3):
        alone = model(images[number : number + 1], valid[number : number + 1])
        torch.testing.assert_close(alone[0], together[number], atol=1e-5, rtol=1e-5)


def test_seed_decides_the_weights_and_the_global_state_is_left_alone():
    before = torch.get_rng_state()
    one, same, other = (build_model("convlstm", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    pairs = zip(one.state_dict().values(), same.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.embed.weight, other.embed.weight)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"hidden": ()}, "hidden=\\(\\)"),
        ({"kernel": 4}, "odd kernel"),
        ({"steps_out": 0}, "steps_out=0"),
        ({"bands": 2, "means": [0.0]}, "do not scale 2 bands"),
        ({"deviations": [0.0]}, "deviation > 0"),
        ({"hiden": (4,)}, "did you mean 'hidden'"),
    ],
)
def test_impossible_parameters_are_refused(parameters, says):
    with pytest.raises(InputError, match=says):
        build_model("convlstm", **parameters)


def test_dates_must_fit():
    images, valid = inputs()
    with pytest.raises(InputError, match="give \\(2, 8\\)"):
        build_model("convlstm")(images, valid, dates=torch.zeros(2, 4))


def test_what_is_recalled_lies_between_the_valid_inputs():
    images, valid = inputs(seed=6)
    images += 5  # far from the mean, which invalid inputs would pull towards
    model = stirred(steps_out=2)
    with torch.no_grad():
        model.head.decode.weight.zero_()
        model.head.decode.bias[2] = 20.0  # gate fully open, no fade, no change
    forecast = model(images, valid, dates=torch.linspace(10, 11.25, 6).expand(2, -1))
    mask = valid.unsqueeze(2)
    low, high = (torch.where(mask, images, fill) for fill in (torch.inf, -torch.inf))
    known = mask.any(dim=1, keepdim=True).expand_as(forecast)
    assert (forecast >= low.amin(dim=1, keepdim=True) - 1e-4)[known].all()
    assert (forecast <= high.amax(dim=1, keepdim=True) + 1e-4)[known].all()
