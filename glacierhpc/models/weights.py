"""Weights with the description of what they expect, as safetensors and JSON; training checkpoints are not kept here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from glacierhpc.errors import InputError
from glacierhpc.files import atomic_path
from glacierhpc.models import build_model

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


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
    path = folder / WEIGHTS
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise InputError(
            f"{path} is missing or is not the file that {DESCRIPTION} describes: copy both, or train again"
        )
    model = build_model(description.architecture, **description.parameters)
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as err:
        raise InputError(f"{path} does not hold a {description.architecture!r} as described: {err}") from err
    return model.eval(), description


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
