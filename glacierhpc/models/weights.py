"""Weights with the description of what they expect, as safetensors and JSON; training checkpoints are not kept here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from glacierhpc.errors import InputError, nearest_name
from glacierhpc.files import atomic_path
from glacierhpc.models import MODELS, accepted, build_model

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
_OF_THE_DATA = {"means", "deviations", "value_range"}


@dataclass(frozen=True)
class ModelDescription:
    """What a file of weights is and what it may be used on."""

    architecture: str
    """Name in ``MODELS``."""
    parameters: dict[str, Any]
    """Of the architecture's constructor."""
    bands: tuple[str, ...]
    """Names of the bands, in order."""
    units: str
    """Of the values: ``"1"`` for an index or reflectance."""
    scaling: dict[str, dict[str, float]]
    """Mean and deviation of each band over the training data."""
    resolution_m: float
    steps_in: int
    steps_out: int
    split_hash: str
    """Of the split it was trained on."""
    training: dict[str, Any] = field(default_factory=dict)
    """Epochs, losses, seed: whatever the reader should know."""


def save_model(folder: Path, model: nn.Module, description: ModelDescription) -> None:
    """Write ``model.safetensors`` and ``model.json`` into a folder, each atomically.

    The description holds the weights' SHA-256, so that a file of one run is not read with the description of another.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    with atomic_path(folder / DESCRIPTION) as temporary:
        temporary.write_text(json.dumps(asdict(description) | {"weights_sha256": digest}, indent=2) + "\n")


def load_model(
    folder: Path, *, architecture: str, bands: Sequence[str], units: str, resolution_m: float | None = None
) -> tuple[nn.Module, ModelDescription]:
    """Return a saved model in evaluation mode, and its description, for data of these bands and units.

    Parameters
    ----------
    folder : Path
        Holds ``model.safetensors`` and ``model.json``.
    architecture : str
        The one expected; a file that names another is refused before anything of that name is imported.
    bands, units
        Of the data it will be used on; order counts.
    resolution_m : float, optional
        Of the data; checked to one per cent when given.

    Raises
    ------
    InputError
        If the files are missing or damaged, or hold another architecture, or a model of other bands, units or
        resolution.
    """
    description, digest = _read_description(folder)
    if description.architecture != architecture:
        raise InputError(
            f"{folder / DESCRIPTION} holds a {description.architecture!r}, but model.name is {architecture!r}: "
            "train this model, or give the name of the one that is there if you trust it"
        )
    _check_fit(description, tuple(bands), units, resolution_m)
    tensors = _read_weights(folder / WEIGHTS, digest)
    unknown = sorted(description.parameters.keys() - accepted(architecture))
    if unknown:
        raise InputError(
            f"{folder / DESCRIPTION} gives {unknown!r}, which a {architecture!r} of this version does not take: "
            "train again, or use the version that wrote it"
        )
    model = build_model(architecture, **description.parameters)
    _check_shapes(model, tensors, description)
    model.load_state_dict(tensors)
    return model.eval(), description


def load_weights(model: nn.Module, folder: Path, *, bands: Sequence[str], units: str) -> ModelDescription:
    """Put the weights of another run into a model that is about to be trained, and return their description.

    The scaling of the inputs comes along and replaces the model's own: the weights were learnt with it, and a
    model whose inputs are suddenly scaled otherwise starts from nonsense. Save the result with the
    returned ``scaling``. Another resolution, split or number of leads is accepted where the weights do not depend
    on it.

    Parameters
    ----------
    model : nn.Module
        As `build_model` gives it; changed in place.
    folder : Path
        Holds ``model.safetensors`` and ``model.json``.
    bands, units
        Of the data it will be trained on; order counts.

    Raises
    ------
    InputError
        If the files are missing or damaged, or hold another architecture, other parameters, bands or units.
    """
    description, digest = _read_description(folder)
    names = _names_of(model)
    if description.architecture not in names:
        raise InputError(
            f"{folder} holds weights of a {description.architecture!r}, but the model is a {names[0]!r}: set "
            f"model.name to {description.architecture!r}, or start from weights of a {names[0]!r}"
        )
    _check_fit(description, tuple(bands), units, None)
    tensors = _read_weights(folder / WEIGHTS, digest)
    _check_shapes(model, tensors, description)
    model.load_state_dict(tensors)
    return description


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Keep parameters from being trained, and return their names.

    Batch norms all of whose parameters are frozen keep their running statistics, too: the training sees to that.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    patterns : sequence of str
        Of parameter names, with ``*``, ``?`` and ``[...]`` as in file names: ``encoder.*``.

    Raises
    ------
    InputError
        If a pattern matches no parameter, or nothing would be left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = nearest_name(pattern, names)
            raise InputError(
                f"{pattern!r} matches no parameter of this model"
                + (f"; did you mean {near!r}?" if near else "")
                + f" Its parameters begin with {', '.join(sorted({name.split('.')[0] for name in names}))}"
            )
    frozen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if names and len(frozen) == len(names):
        raise InputError(
            f"{list(patterns)!r} freezes all {len(names)} parameters, which leaves nothing to train: leave some out, "
            "or evaluate the weights as they are"
        )
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return frozen


def _names_of(model: nn.Module) -> list[str]:
    """Return the names by which `build_model` knows a model's class."""
    kind = type(model)
    return [name for name, make in MODELS.items() if make is kind] + [
        f"{kind.__module__}.{kind.__qualname__}"
    ]


def _check_shapes(model: nn.Module, tensors: dict[str, Tensor], description: ModelDescription) -> None:
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    odd = sorted(name for name in own.keys() | theirs.keys() if own.get(name) != theirs.get(name))
    if not odd:
        return
    told = {name: value for name, value in description.parameters.items() if name not in _OF_THE_DATA}
    if _shapes_as_described(description) == theirs:
        advice = f"They were trained with model.parameters {told!r}: give the same"
    else:
        advice = (
            f"Another version wrote them, whose {description.architecture!r} is built otherwise: train again"
        )
    raise InputError(
        f"these weights do not fit the model: {len(odd)} tensors differ, first {odd[0]!r} of shape "
        f"{theirs.get(odd[0])!r} there and {own.get(odd[0])!r} here (None: missing). {advice}"
    )


def _shapes_as_described(description: ModelDescription) -> dict[str, tuple[int, ...]] | None:
    """Return the shapes of the tensors that this version would save, None where it cannot build the model."""
    try:
        with torch.device("meta"):  # shapes only: a large model is not held twice
            model = build_model(description.architecture, **description.parameters)
    except InputError:
        return None
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _read_weights(path: Path, digest: str) -> dict[str, Tensor]:
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise InputError(
            f"{path} is missing or is not the file that {DESCRIPTION} describes: copy both, or train again"
        )
    try:
        return load_file(path)
    except SafetensorError as err:
        raise InputError(f"{path} is no file of weights: {err}") from err


def _read_description(folder: Path) -> tuple[ModelDescription, str]:
    path = folder / DESCRIPTION
    try:
        fields = json.loads(path.read_text())
        digest = fields.pop("weights_sha256")
        return ModelDescription(**{**fields, "bands": tuple(fields["bands"])}), digest
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise InputError(
            f"{path} does not describe a model ({err}): give a folder that 'train' wrote"
        ) from err


def _check_fit(
    description: ModelDescription, bands: tuple[str, ...], units: str, resolution_m: float | None
) -> None:
    if bands != description.bands or units != description.units:
        raise InputError(
            f"these weights expect bands {list(description.bands)!r} in units {description.units!r}, but the data have "
            f"{list(bands)!r} in {units!r}: choose the same index and the same order of bands, "
            "or train a model for these data"
        )
    if resolution_m is not None and abs(resolution_m / description.resolution_m - 1) > 0.01:
        raise InputError(
            f"these weights were trained at {description.resolution_m!r} m, but the data have {resolution_m!r} m: "
            f"set area.resolution_m to {description.resolution_m!r}, or train a model for these data"
        )
