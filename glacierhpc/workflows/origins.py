"""What a training builds on that was made elsewhere: weights, other runs; refused where it has seen the test."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from torch import nn

from glacierhpc.config import Config, load_config
from glacierhpc.errors import InputError
from glacierhpc.models.weights import DESCRIPTION, ModelDescription, load_model, load_weights
from glacierhpc.rundir import RunDirectory
from glacierhpc.workflows.material import Material, check_alike, check_apart
from glacierhpc.workflows.tasks import Summary, need

log = logging.getLogger(__name__)


def check_sources(config: Config) -> None:
    """Look for weights and runs made elsewhere, before work is done that would need them.

    Raises
    ------
    InputError
        If one is not there; says which key names it.
    """
    for key, folder in (
        ("model.weights", config.model.weights),
        ("train.start_from", config.train.start_from),
    ):
        if folder is not None and not (folder / DESCRIPTION).is_file():
            inner = folder / "model"
            hint = f"; did you mean {inner}?" if (inner / DESCRIPTION).is_file() else ""
            raise InputError(
                f"{key}: {str(folder)!r} holds no {DESCRIPTION}: give the folder 'model' of a trained run{hint}"
            )
    for folder in config.train.also:
        if not (folder / "config.yaml").is_file():
            raise InputError(
                f"train.also: {str(folder)!r} is no run: give the folder of one, such as runs/other"
            )


def trained_model(
    config: Config, run: RunDirectory, material: Material
) -> tuple[nn.Module, ModelDescription]:
    """Return the model to judge and use: this run's, or the one made elsewhere that ``model.weights`` names."""
    folder = config.model.weights or need(run.model, "train")
    return load_model(
        folder,
        architecture=config.model.name,
        bands=material.bands,
        units=material.facts.units,
        resolution_m=material.grid.resolution_m,
    )


def check_borrowed(config: Config, material: Material) -> Summary:
    """Check weights that are used as they are; nothing is trained and nothing is written."""
    check_sources(config)
    folder = config.model.weights
    _, description = trained_model(config, RunDirectory(config.run_path), material)
    theirs = (description.steps_in, description.steps_out)
    if theirs != (material.plan.steps_in, material.plan.steps_out):
        raise InputError(
            f"model.weights: {str(folder)!r} was trained with {theirs[0]} windows in and {theirs[1]} out: set "
            "sequences.steps_in and steps_out to the same"
        )
    _check_unseen(material, description, parts=("test",), what=f"model.weights {str(folder)!r}")
    return {
        "table": [
            ["training", "skipped: the weights are used as they are"],
            ["weights", str(folder)],
            [
                "trained until",
                str(grounds_of(description)[0]["last"]) if grounds_of(description) else "unknown",
            ],
        ]
    }


def start_from(config: Config, material: Material, model: nn.Module) -> ModelDescription | None:
    """Put the weights to start from into the model, if there are any, and return what is said of them."""
    folder = config.train.start_from
    if folder is None:
        return None
    check_sources(config)
    description = load_weights(model, folder, bands=material.bands, units=material.facts.units)
    _check_unseen(
        material, description, parts=("validation", "test"), what=f"train.start_from {str(folder)!r}"
    )
    log.info("training starts from the weights in %s", folder)
    return description


def other_materials(config: Config, own: Material) -> list[Material]:
    """Read the other runs to learn from, each refused where it has seen what is judged here."""
    found = []
    for folder in config.train.also:
        check_sources(config)
        other = Material.read(
            load_config(folder / "config.yaml", [f"run_dir={folder}"]), RunDirectory(folder)
        )
        check_alike(own, other)
        check_apart(own, [other.ground()], parts=("validation", "test"), what=f"train.also {str(folder)!r}")
        found.append(other)
    return found


def _check_unseen(
    material: Material, description: ModelDescription, *, parts: tuple[str, ...], what: str
) -> None:
    if description.split_hash == material.split["hash"]:
        return  # trained on the training part of this very split
    grounds = grounds_of(description)
    if not grounds:
        log.warning("%s does not say where it was trained: whether it has seen this test is not known", what)
    check_apart(material, grounds, parts=parts, what=what)


def grounds_of(description: ModelDescription) -> list[dict[str, Any]]:
    """Return where and when the samples lay that weights were trained on, see `Material.ground`."""
    return list(description.training.get("grounds", []))


def weights_digest(folder: Path | None) -> str:
    """Return the SHA-256 of the weights in a folder, as their description states it."""
    return str(json.loads((Path(folder or ".") / DESCRIPTION).read_text())["weights_sha256"])
