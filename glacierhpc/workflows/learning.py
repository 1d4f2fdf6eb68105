"""The step that trains: on one's own sequences, from weights made elsewhere, on several places, or not at all.

All ranks of a training come through here; only rank 0 writes. The loop itself is `training.loop.fit`.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import Any

import torch
from torch import nn

from glacierhpc.config import Config
from glacierhpc.config.loader import result_fields
from glacierhpc.datasets.mixed import MixedDataset
from glacierhpc.datasets.samples import SequenceDataset
from glacierhpc.models import accepted, build_model
from glacierhpc.models.weights import ModelDescription, freeze, save_model
from glacierhpc.rundir import RunDirectory
from glacierhpc.training.checkpoint import Checkpoints
from glacierhpc.training.distributed import Backend, open_backend, rejoining, surroundings, wandb_mode
from glacierhpc.training.loop import History, fit
from glacierhpc.training.losses import Loss, ssim_mse
from glacierhpc.training.meters import ProgressLog, progress_text
from glacierhpc.training.trackers import open_trackers
from glacierhpc.workflows.material import Material, scaling_of
from glacierhpc.workflows.origins import (
    check_borrowed,
    check_sources,
    grounds_of,
    other_materials,
    start_from,
    trained_model,
    weights_digest,
)
from glacierhpc.workflows.tasks import Summary

__all__ = ["check_sources", "device", "rejoining", "surroundings", "train", "trained_model"]

log = logging.getLogger(__name__)

OF_FIT = (
    "loss", "optimizer", "epochs", "batch_size", "learning_rate", "weight_decay", "gradient_clip", "patience", "seed",
    "precision", "channels_last", "compile", "accumulate", "schedule", "warmup_epochs", "teacher_forcing",
    "teacher_decay", "deterministic", "workers", "on_nonfinite", "watchdog_s",
)  # fmt: skip
"""Keys of ``train:`` that `fit` takes under the same name."""


def train(config: Config, run: RunDirectory) -> Summary:
    """Train the model on the training sequences; goes on from the last checkpoint of the same data and model."""
    material = Material.read(config, run)
    if config.model.weights is not None:
        return check_borrowed(config, material)
    materials = [material, *other_materials(config, material)]
    scaling = scaling_of(materials)
    parameters = model_parameters(config, material, scaling)
    model = build_model(config.model.name, seed=config.train.seed, **parameters)
    origin = start_from(config, material, model)
    frozen = freeze(model, config.train.freeze) if config.train.freeze else []

    backend = open_backend(config.train.backend, **_backend_options(config))
    try:
        history = _fit(config, run, model, materials, backend, parameters=parameters, origin=origin)
        if backend.rank == 0:
            description = ModelDescription(
                architecture=config.model.name,
                parameters=parameters,
                bands=material.bands,
                units=material.facts.units,
                scaling=origin.scaling if origin else scaling,
                resolution_m=material.grid.resolution_m,
                steps_in=material.plan.steps_in,
                steps_out=material.plan.steps_out,
                split_hash=material.split["hash"],
                training=_story(config, history, materials, origin, frozen),
            )
            save_model(run.model, model, description)
        backend.barrier()
    finally:
        backend.close()
    learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "table": [
            ["sequences", _counted(materials)],
            ["parameters", f"{sum(p.numel() for p in model.parameters()):,}, {learnt:,} of them trained"],
            *([["started from", str(config.train.start_from)]] if origin else []),
            ["epochs", f"{len(history.rows)}, best {history.best_epoch + 1}"],
            ["validation loss", f"{history.best_loss:.5g}"],
        ],
        "best_loss": history.best_loss,
        "best_epoch": history.best_epoch,
        "epochs": len(history.rows),
    }


def _fit(
    config: Config,
    run: RunDirectory,
    model: nn.Module,
    materials: list[Material],
    backend: Backend,
    *,
    parameters: dict[str, Any],
    origin: ModelDescription | None,
) -> History:
    """Train, or go on with a training of the same data, model and origin."""
    wanted = config.train
    identity = {
        "data": " ".join(material.digest() for material in materials),
        "split": " ".join(material.split["hash"] for material in materials),
        "model": json.dumps([config.model.name, parameters], sort_keys=True),
    }
    if origin is not None:
        identity["origin"] = f"{weights_digest(wanted.start_from)} frozen {list(wanted.freeze)}"
    checkpoints = Checkpoints(run.checkpoints, every_steps=wanted.checkpoint_steps)
    if backend.rank == 0:
        checkpoints.forget_others(identity)
    backend.barrier()  # nobody reads a checkpoint that rank 0 is about to remove
    leads, own = backend.rank == 0, materials[0]
    trackers = open_trackers(wanted.trackers, run.path, wandb_mode=wandb_mode()) if leads else []
    return fit(
        model,
        _joined([material.dataset("train") for material in materials]),
        own.dataset("validation"),
        backend=backend,
        trackers=trackers,
        checkpoints=checkpoints,
        identity=identity,
        configuration=result_fields(config),
        progress=ProgressBar(),
        **{key: getattr(wanted, key) for key in OF_FIT} | {"loss": _loss(wanted.loss, own)},
    )


def _loss(name: str, material: Material) -> str | Loss:
    """Return the loss; one with constants that are shares of the range of values is told that range."""
    return partial(ssim_mse, data_range=material.facts.data_range) if name == "ssim_mse" else name


class ProgressBar:
    """Moves the bar of a terminal with every step; in a job a line now and then."""

    def __init__(self) -> None:
        self._line = ProgressLog()

    def update(self, step: int, steps: int, row: dict[str, float]) -> None:
        """Take in that `step` of `steps` batches of an epoch are done."""
        log.info("%s", progress_text(row), extra={"done": step, "total": steps, "bar_only": True})
        self._line.update(step, steps, row)


def _backend_options(config: Config) -> dict[str, Any]:
    """Return what only Horovod can do, where it is used."""
    if config.train.backend != "horovod":
        return {}
    names = ("compression", "backward_passes_per_step", "adasum", "watchdog_s")
    return {key: getattr(config.train, key) for key in names}


def device() -> str:
    """Return where one process judges and forecasts: CUDA where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def model_parameters(
    config: Config, material: Material, scaling: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """Return what the model is built with: of what the data say, all that its constructor takes; then the user's."""
    of_data: dict[str, Any] = {
        "bands": len(scaling),
        "steps_in": material.plan.steps_in,
        "steps_out": material.plan.steps_out,
        "size": material.plan.size,
        "means": [band["mean"] for band in scaling.values()],
        "deviations": [band["deviation"] for band in scaling.values()],
        "value_range": list(material.facts.value_range),
    }
    known = accepted(config.model.name)
    return {key: value for key, value in of_data.items() if key in known} | config.model.parameters


def _joined(datasets: list[SequenceDataset]) -> SequenceDataset | MixedDataset:
    return datasets[0] if len(datasets) == 1 else MixedDataset(datasets)


def _story(
    config: Config,
    history: History,
    materials: list[Material],
    origin: ModelDescription | None,
    frozen: list[str],
) -> dict[str, Any]:
    """Return what the weights' reader should know about how they were made."""
    before = grounds_of(origin) if origin else []
    told: dict[str, Any] = {
        "epochs": len(history.rows),
        "best_epoch": history.best_epoch,
        "seed": config.train.seed,
        "climatology": "each pixel's mean of the season over other years; in use, those up to the last input",
        "grounds": [*before, *({"run": each.name, **each.ground()} for each in materials)],
    }
    if origin is not None:
        told |= {"started_from": weights_digest(config.train.start_from), "frozen": frozen}
    return told


def _counted(materials: list[Material]) -> str:
    train, validation = len(materials[0].part("train")), len(materials[0].part("validation"))
    more = "".join(f" + {len(other.part('train')):,} of {other.name}" for other in materials[1:])
    return f"{train:,}{more} to train, {validation:,} to validate"
