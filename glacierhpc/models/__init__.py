"""The models by name; each family lives in its own file, baselines and weights in theirs."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from glacierhpc.errors import InputError, unknown_name
from glacierhpc.models.attention_lstm import AttentionLSTM
from glacierhpc.models.convlstm import ConvLSTM
from glacierhpc.models.lstm import LSTM
from glacierhpc.models.paper import PaperAttentionLSTM, PaperConvLSTM, PaperLSTM, PaperUNet
from glacierhpc.models.simvp import SimVP
from glacierhpc.models.unet import UNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "convlstm": ConvLSTM,
    "lstm": LSTM,
    "attention_lstm": AttentionLSTM,
    "unet": UNet,
    "simvp": SimVP,
    "paper_lstm": PaperLSTM,
    "paper_attention_lstm": PaperAttentionLSTM,
    "paper_convlstm": PaperConvLSTM,
    "paper_unet": PaperUNet,
}
"""Adding a model is one file and one line here."""


def build_model(name: str, *, seed: int = 0, **parameters: Any) -> nn.Module:
    """Build a model by name, its weights drawn from a seed of its own.

    Sequence models map ``(images, images_valid, *, dates, climatology, climatology_valid)`` to
    ``(B, T', C, H, W)``; one of your own may take what it does not need as ``**_``. Those with the attribute
    ``taught`` true take ``teacher``, too (see `teaching`).

    Parameters
    ----------
    name : str
        A key of `MODELS`, or a dotted path ``package.module.Class`` to one's own.
    seed : int
        Of the initial weights; the global random state is left as it was.
    **parameters
        Of the model's constructor.

    Raises
    ------
    InputError
        If the name or a parameter is not known, or a dotted path does not name an ``nn.Module``.
    """
    make, known = _find(name), accepted(name)
    for parameter in parameters:
        if parameter not in known:
            raise unknown_name(f"parameter of model {name!r}", parameter, known)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(**parameters)


def accepted(name: str) -> frozenset[str]:
    """Return the names of the parameters that a model's constructor takes.

    Raises
    ------
    InputError
        If no model has this name.
    """
    return frozenset(
        parameter for parameter in inspect.signature(_find(name)).parameters if parameter != "self"
    )


def _find(name: str) -> Callable[..., nn.Module]:
    if name in MODELS:
        return MODELS[name]
    module, _, attribute = name.rpartition(".")
    if not module:
        raise unknown_name("model", name, MODELS)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as err:
        raise InputError(
            f"model {name!r} cannot be imported ({err}): give one of {', '.join(sorted(MODELS))}, "
            "or a dotted path to a class that is installed here"
        ) from err
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(
            f"{name!r} is no model: give one of {', '.join(sorted(MODELS))}, or a dotted path to a subclass of "
            "torch.nn.Module"
        )
    return found
