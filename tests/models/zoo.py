"""Every model, small, with inputs to try it on: a new model is one line here."""

import torch

from glacierhpc.models import build_model

SMALL = {
    "convlstm": {"hidden": (6,), "attention": 3, "head": 6},
    "lstm": {"width": 8, "layers": 2, "head": 6},
    "attention_lstm": {"width": 8, "heads": 2, "head": 6},
    "unet": {"base": 4, "levels": 2, "head": 5},
    "unet_autoregressive": {"base": 4, "levels": 2, "head": 5, "autoregressive": True},
    "simvp": {"width": 4, "hidden": 8, "blocks": 2, "levels": 2, "kernel": 9, "head": 5},
    "paper_lstm": {"size": 8},
    "paper_attention_lstm": {"size": 8},
    "paper_convlstm": {},
    "paper_unet": {"size": 16},
}
"""Parameters by name; what follows a model's name tells variants apart."""
ANCHORED = [name for name in SMALL if not name.startswith("paper")]
TAUGHT = ["lstm", "unet_autoregressive", "paper_lstm", "paper_attention_lstm", "paper_unet"]


def named(name):
    return name.removesuffix("_autoregressive")


def size_of(name):
    """An edge length that a small model takes."""
    return SMALL[name].get("size", 13)


def make(name, *, seed=0, **parameters):
    return build_model(named(name), seed=seed, **(SMALL[name] | parameters))


def stirred(name, **parameters):
    """A model in use whose every weight acts, as after training."""
    model = make(name, **parameters).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def inputs(name, *, batch=2, steps=4, steps_out=2, bands=1, height=None, width=None, seed=0):
    """Keywords for a model: images with gaps, dates, and a climatology with gaps."""
    height = height or size_of(name)
    width = width or height
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return 0.5 * torch.randn(*shape, height, width, generator=generator)

    def gaps(*shape):
        return torch.rand(*shape, height, width, generator=generator) > 0.3

    return {
        "images": draw(batch, steps, bands),
        "images_valid": gaps(batch, steps),
        "dates": (torch.arange(steps + steps_out) * 0.25 + 10.1).expand(batch, -1),
        "climatology": draw(batch, steps + steps_out, bands),
        "climatology_valid": gaps(batch, steps + steps_out),
    }
