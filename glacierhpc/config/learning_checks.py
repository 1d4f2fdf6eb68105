"""Rules that join several fields of what is learnt: split, model, training, tiles, sweeps; listed at the end.

Nothing here needs torch: what a model or a device can do is found out where it is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from glacierhpc.config.fault import Fault
from glacierhpc.config.learning import MODELS, Model, Predict, Sequences, Split, Sweep, Train
from glacierhpc.errors import nearest_name, unknown_name

VARIED: dict[str, type[Model] | type[Train]] = {"model": Model, "train": Train}
"""Sections that a sweep may vary: what comes before them is shared by all its runs."""


def check_split(split: Split) -> Iterator[Fault]:
    """Check that something is left to train on."""
    together = split.validation_share + split.test_share
    if together >= 1:
        yield Fault(
            ("split", "test_share"),
            f"validation_share {split.validation_share:g} and test_share {split.test_share:g} leave nothing to train "
            "on; write shares that add up to less than 1",
        )


def check_split_gap(split: Split) -> Iterator[Fault]:
    """Refuse a gap in time where the split is one of ground."""
    if split.method == "block" and split.gap_steps is not None:
        yield Fault(
            ("split", "gap_steps"),
            f"{split.gap_steps} has no meaning with split.method block, whose parts lie side by side in the same "
            "windows; write null, or method: time",
        )


def check_model(model: Model) -> Iterator[Fault]:
    """Check that the model exists, or looks like a dotted path."""
    if model.name not in MODELS and "." not in model.name:
        yield Fault(("model", "name"), str(unknown_name("model", model.name, MODELS)) + " Or a dotted path.")


def check_weights(model: Model, train: Train) -> Iterator[Fault]:
    """Check that what steers a training is not given where weights are used as they are, or drawn."""
    for key in ("start_from", "freeze", "also"):
        if model.weights is not None and getattr(train, key):
            yield Fault(
                ("train", key),
                "has no meaning with model.weights, which are used without training; "
                "write model.weights: null and train.start_from to train on from them",
            )
            return
    if train.freeze and train.start_from is None:
        yield Fault(
            ("train", "freeze"),
            f"{list(train.freeze)} would keep random numbers; write train.start_from, a folder with weights, or []",
        )


def check_backend_options(train: Train) -> Iterator[Fault]:
    """Refuse what only Horovod can do with another backend."""
    defaults = Train()
    for key in ("compression", "backward_passes_per_step", "adasum"):
        if train.backend != "horovod" and getattr(train, key) != getattr(defaults, key):
            yield Fault(
                ("train", key),
                f"{getattr(train, key)!r} needs train.backend: horovod, not {train.backend!r}; leave it out",
            )
    if train.backend == "horovod" and train.channels_last:
        yield Fault(
            ("train", "channels_last"),
            "true lays weights out in a way that Horovod does not exchange; write false, or train.backend: ddp",
        )
    if train.backend == "horovod" and train.backward_passes_per_step > train.accumulate:
        yield Fault(
            ("train", "backward_passes_per_step"),
            f"{train.backward_passes_per_step} is more than the {train.accumulate} parts of a step; write "
            f"train.accumulate: {train.backward_passes_per_step}, too",
        )


def check_training_steps(train: Train) -> Iterator[Fault]:
    """Check counts against each other."""
    if train.warmup_epochs >= train.epochs:
        yield Fault(
            ("train", "warmup_epochs"),
            f"{train.warmup_epochs:g} is not less than train.epochs {train.epochs}: the learning rate would never "
            "be reached; write fewer",
        )
    if train.accumulate > train.batch_size:
        yield Fault(
            ("train", "accumulate"),
            f"{train.accumulate} parts of a batch of {train.batch_size} leave some empty; write at most "
            "train.batch_size",
        )


def check_sweep(sweep: Sweep, model: Model, train: Train) -> Iterator[Fault]:
    """Check that each variation changes the model or its training to something that can be."""
    for position, variation in enumerate(sweep.variations):
        path = ("sweep", "variations", position)
        for key, value in variation.items():
            if key == "train.seed":
                yield Fault(path, "train.seed is varied by its own list; write sweep.seeds")
                continue
            section, _, name = str(key).partition(".")
            if section not in VARIED or name not in VARIED[section].model_fields:
                yield Fault(path, _not_varied(str(key)))
                continue
            whole: Model | Train = model if section == "model" else train
            try:
                type(whole).model_validate({**whole.model_dump(), name: value})
            except ValidationError as err:
                yield Fault(path, f"{key}: {value!r} cannot be used, {err.errors()[0]['msg'].lower()}")
    if len(set(sweep.seeds)) < len(sweep.seeds):
        yield Fault(("sweep", "seeds"), f"{list(sweep.seeds)} holds a seed twice; list each once")


def _not_varied(key: str) -> str:
    valid = [f"{section}.{name}" for section, kind in VARIED.items() for name in kind.model_fields]
    nearest = nearest_name(key, valid)
    hint = f"; did you mean {nearest!r}?" if nearest else ""
    return (
        f"{key!r} is no key that a sweep can vary{hint}; those are the keys of model and train, as all its runs share "
        "the same sequences (for others, make runs of their own and compare them: glacierhpc compare)"
    )


def check_overlap(sequences: Sequences, predict: Predict) -> Iterator[Fault]:
    """Check that tiles advance."""
    if predict.overlap_px is not None and predict.overlap_px >= sequences.size_px:
        yield Fault(
            ("predict", "overlap_px"),
            f"{predict.overlap_px} px is not less than a tile (sequences.size_px {sequences.size_px}); "
            f"write at most {sequences.size_px - 1}, or null",
        )


LEARNING_RULES: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("split",), check_split),
    (("split",), check_split_gap),
    (("model",), check_model),
    (("model", "train"), check_weights),
    (("train",), check_backend_options),
    (("train",), check_training_steps),
    (("sweep", "model", "train"), check_sweep),
    (("sequences", "predict"), check_overlap),
)
"""Each rule with the sections it is a function of."""
