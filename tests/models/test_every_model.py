"""What all models promise: any sizes and lengths, masks that carry no signal, finite numbers, weights that return."""

import pytest
import torch

from glacierhpc.errors import InputError
from glacierhpc.models import MODELS, build_model
from tests.models.zoo import ANCHORED, SMALL, TAUGHT, inputs, make, named, size_of, stirred

OUT = 2
every_model = pytest.mark.parametrize("name", SMALL)
FIXED_SIZE = {"paper_lstm", "paper_attention_lstm"}
"""Built for one size of images; heavy ones are tried at few."""


def test_the_zoo_is_complete():
    assert {named(name) for name in SMALL} == set(MODELS)


@every_model
@pytest.mark.parametrize(
    ("bands", "steps", "steps_out", "size"), [(1, 4, 4, 50), (3, 1, 2, 33), (2, 6, 1, 17), (2, 2, 5, 9)]
)
def test_any_bands_sizes_and_lengths(name, bands, steps, steps_out, size):
    if name in FIXED_SIZE:
        size = {50: 10, 33: 7, 17: 5, 9: 6}[size]
    if name == "paper_unet":
        size, steps_out = max(size, 16), min(steps_out, 2)
    own = {"size": size} if "size" in SMALL[name] else {}
    known = {"steps_in": steps} if named(name) in ("unet", "simvp", "paper_attention_lstm") else {}
    model = make(name, bands=bands, steps_out=steps_out, **own, **known).eval()
    shape = (1, steps_out, bands, size, size)
    given = inputs(name, batch=1, steps=steps, steps_out=steps_out, bands=bands, height=size)
    with torch.no_grad():
        assert model(**given).shape == shape
        assert model(given["images"]).shape == shape


@pytest.mark.parametrize("name", [name for name in SMALL if name not in FIXED_SIZE])
def test_images_need_not_be_square(name):
    model = make(name, steps_out=OUT).eval()
    with torch.no_grad():
        assert model(**inputs(name, height=19, width=22)).shape == (2, OUT, 1, 19, 22)


@every_model
def test_what_stands_at_invalid_pixels_never_matters(name):
    model, given = stirred(name, steps_out=OUT), inputs(name, seed=1)
    valid, known = given["images_valid"].unsqueeze(2), given["climatology_valid"].unsqueeze(2)
    with torch.no_grad():
        reference = model(**given)
        assert torch.isfinite(reference).all()
        for rubbish in (float("nan"), float("inf"), 1e9):
            spoilt = {
                "images": torch.where(valid, given["images"], rubbish),
                "climatology": torch.where(known, given["climatology"], rubbish),
            }
            assert torch.equal(model(**(given | spoilt)), reference)


@every_model
def test_gradients_are_finite_and_none_reaches_invalid_pixels(name):
    model, given = stirred(name, steps_out=OUT).train(), inputs(name, seed=1)
    valid = given["images_valid"].unsqueeze(2)
    images = torch.where(valid, given["images"], float("nan")).requires_grad_()
    model(**(given | {"images": images})).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert (images.grad[~valid] == 0).all()
    assert (images.grad[valid] != 0).any()
    # a softmax over the inputs does not see what is added to all of them
    weights = {told: p for told, p in model.named_parameters() if told != "key.bias"}
    idle = [told for told, p in weights.items() if p.grad is None or not p.grad.any()]
    assert not idle, "every weight takes part"


@every_model
@pytest.mark.parametrize("steps_out", [1, 3])
def test_every_weight_has_a_gradient_even_without_dates_and_climatology(name, steps_out):
    """Else ranks that share gradients as they come would wait for those that never do."""
    model, given = make(name, steps_out=steps_out).train(), inputs(name, steps_out=steps_out)
    model(given["images"]).square().sum().backward()
    assert not [told for told, parameter in model.named_parameters() if parameter.grad is None]


@every_model
def test_masks_matter(name):
    model, given = stirred(name, steps_out=OUT), inputs(name, seed=2)
    given["images"] += 0.3  # an invalid pixel is not taken for one that is 0
    with torch.no_grad():
        other = model(**(given | {"images_valid": torch.ones_like(given["images_valid"])}))
        assert not torch.equal(model(**given), other)


@pytest.mark.parametrize("name", ANCHORED)
def test_dates_and_climatology_matter(name):
    model, given = stirred(name, steps_out=OUT), inputs(name, seed=2)
    nothing = {"climatology": None, "climatology_valid": None}
    with torch.no_grad():
        reference = model(**given)
        for change in ({"dates": given["dates"] + 0.5}, {"dates": None}, nothing):
            assert not torch.allclose(model(**(given | change)), reference, atol=1e-4)


@every_model
@pytest.mark.parametrize("training", [True, False])
def test_wholly_masked_images_give_a_finite_forecast(name, training):
    model, given = stirred(name, steps_out=OUT).train(training), inputs(name)
    given["images_valid"][:] = False
    given["images"][:] = float("nan")
    assert torch.isfinite(model(**given)).all()
    given["climatology_valid"][:] = False
    assert torch.isfinite(model(**given)).all()


@pytest.mark.parametrize("name", ANCHORED)
def test_untrained_it_is_climatology_or_else_persistence(name):
    model = make(name, steps_out=OUT, means=[0.2], deviations=[0.7])
    given = inputs(name, seed=3)
    stays = torch.full_like(given["images"][:, 0], 0.2)
    for step in range(4):
        valid = given["images_valid"][:, step].unsqueeze(1)
        stays = torch.where(valid, given["images"][:, step], stays)
    known = given["climatology_valid"][:, 4:].unsqueeze(2)
    expected = torch.where(known, given["climatology"][:, 4:], stays.unsqueeze(1))
    with torch.no_grad():
        torch.testing.assert_close(model(**given), expected)


@every_model
def test_sequences_of_a_batch_do_not_touch_each_other(name):
    model, given = stirred(name, steps_out=OUT), inputs(name, batch=3, seed=4)
    with torch.no_grad():
        together = model(**given)
        for number in range(3):
            alone = model(**{key: value[number : number + 1] for key, value in given.items()})
            torch.testing.assert_close(alone[0], together[number], atol=1e-5, rtol=1e-5)


@every_model
def test_weights_return(name):
    given = inputs(name)
    one, other = stirred(name, steps_out=OUT), make(name, seed=7, steps_out=OUT).eval()
    with torch.no_grad():
        assert not torch.equal(one(**given), other(**given))
        other.load_state_dict(one.state_dict())
        assert torch.equal(one(**given), other(**given))


@pytest.mark.parametrize("name", ANCHORED)
def test_forecasts_stay_in_range_outside_of_training(name):
    model, given = stirred(name, steps_out=OUT, value_range=(-0.5, 0.5)), inputs(name, seed=3)
    with torch.no_grad():
        assert model(**given).abs().max() <= 0.5
        assert model.train()(**given).abs().max() > 0.5


def teacher_for(given, *, steps_out=OUT, seed=9):
    generator = torch.Generator().manual_seed(seed)
    batch, _, *shape = given["images"].shape
    frames = torch.randn(batch, steps_out, *shape, generator=generator)
    valid = torch.rand(batch, steps_out, *shape[1:], generator=generator) > 0.3
    return torch.where(valid.unsqueeze(2), frames, float("nan")), valid


@pytest.mark.parametrize("name", TAUGHT)
def test_a_teacher_is_followed_from_where_it_is_used(name):
    model, given = stirred(name, steps_out=3), inputs(name, steps_out=3, seed=5)
    frames, valid = teacher_for(given, steps_out=3)
    assert model.taught
    with torch.no_grad():
        alone = model(**given)
        for use in ((False, False, False), (True, False, False)):
            taught = model(**given, teacher=(frames, valid, torch.tensor([use, use])))
            assert torch.equal(taught, alone)
        for lead in (1, 2):
            use = torch.zeros(2, 3, dtype=torch.bool)
            use[1, lead] = True
            taught = model(**given, teacher=(frames, valid, use))
            assert torch.isfinite(taught).all()
            assert torch.equal(taught[0], alone[0]), "the other sequence is not taught"
            assert torch.equal(taught[1, :lead], alone[1, :lead])
            assert not torch.equal(taught[1, lead], alone[1, lead])
        everywhere = torch.ones(2, 3, dtype=torch.bool)
        blind = model(**given, teacher=(frames, torch.zeros_like(valid), everywhere))
        assert torch.equal(blind, alone), "an invalid true pixel is none"


@pytest.mark.parametrize("name", [name for name in SMALL if name not in TAUGHT])
def test_others_are_not_taught(name):
    assert not getattr(make(name), "taught", False)


@every_model
def test_reduced_precision_and_memory_formats_keep_the_forecast(name):
    model, given = stirred(name, steps_out=OUT), inputs(name, seed=6)
    with torch.no_grad():
        reference = model(**given)
        spread = reference.std()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            reduced = model(**given).float()
        assert torch.isfinite(reduced).all()
        # bfloat16 has 8 bits: a few per cent after some layers and steps
        assert (reduced - reference).abs().mean() < 0.05 * spread
        model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(**given), reference, atol=1e-4, rtol=1e-4)


@every_model
def test_reduced_precision_trains(name):
    model, given = stirred(name, steps_out=OUT).train(), inputs(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        forecast = model(**given)
    forecast.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["unet", "simvp"])
def test_other_numbers_of_inputs_than_built_for_are_taken(name):
    model = stirred(name, steps_in=3, steps_out=OUT)
    long = inputs(name, steps=5)
    with torch.no_grad():
        cut = {key: value[:, 2:] for key, value in long.items()}
        cut["images_valid"] = long["images_valid"][:, 2:].clone()
        # what is older counts as a pixel's latest value and in the mean of the region, so that it is hidden here
        cut["images_valid"][:, 0] = long["images_valid"][:, 2] = True
        long["images_valid"][:, :2] = False
        torch.testing.assert_close(model(**long), model(**cut))
        short = model(**inputs(name, steps=2))
        assert short.shape == (2, OUT, 1, 13, 13) and torch.isfinite(short).all()


@pytest.mark.parametrize("name", ["simvp"])  # the others were tried by hand: each costs seconds
def test_compiling_keeps_the_forecast(name):
    model, given = stirred(name, steps_out=OUT), inputs(name)
    with torch.no_grad():
        reference = model(**given)
        torch.testing.assert_close(torch.compile(model, backend="eager")(**given), reference)


@pytest.mark.parametrize(
    ("name", "parameters", "says"),
    [
        ("lstm", {"dropout": 1.0}, "dropout=1.0"),
        ("lstm", {"patch": 0}, "patch=0"),
        ("attention_lstm", {"width": 10, "heads": 4}, "multiple of heads"),
        ("unet", {"levels": 0}, "levels=0"),
        ("simvp", {"kernel": 2}, "kernel=2"),
        ("paper_unet", {"size": 15}, "give 16 or more"),
        ("paper_lstm", {"size": 0}, "size=0"),
    ],
)
def test_impossible_parameters_are_refused(name, parameters, says):
    with pytest.raises(InputError, match=says):
        build_model(name, **parameters)


@pytest.mark.parametrize("name", SMALL)
def test_images_of_other_bands_are_refused(name):
    with pytest.raises(InputError, match="bands"):
        make(name, bands=2, steps_out=OUT)(**inputs(name, bands=1))


@pytest.mark.parametrize("name", sorted(FIXED_SIZE))
def test_images_of_another_size_are_refused(name):
    with pytest.raises(InputError, match="build it with their bands and size"):
        make(name)(**inputs(name, height=size_of(name) + 1))
