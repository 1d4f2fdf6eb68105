"""What a learned forecast must beat, by name; every one is called with a batch, as the evaluation calls a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from glacierhpc.errors import InputError
from glacierhpc.models.blend import Blend
from glacierhpc.models.scene_baselines import (
    Record,
    SequenceBaseline,
    build_baseline,
    persistence,
    same_season_last_year,
)

__all__ = [
    "BASELINES",
    "Blend",
    "Occasion",
    "Record",
    "SequenceBaseline",
    "build_baseline",
    "build_baselines",
    "climatology",
    "persistence",
    "same_season_last_year",
]

Forecaster = Callable[[Any], tuple[np.ndarray, np.ndarray]]
"""batch -> forecasts (B, T', C, H, W) and where they are valid (B, T', H, W) bool."""


@dataclass(frozen=True, eq=False)
class Occasion:
    """All that a baseline may be made from."""

    record: Record
    """Of the place that is forecast."""
    starts: np.ndarray
    """(n, 3) int64, first time step, row and col of every sequence of the plan; batches' ``numbers`` point into it."""
    steps_in: int
    steps_out: int
    size: int
    """Edge length of a patch, pixels."""
    training: Iterable[Any]
    """Batches of the training sequences, read once."""


def climatology(batch: Any) -> tuple[np.ndarray, np.ndarray]:
    """Forecast what is usual at each target's season, (B, T', C, H, W), and where it is known, (B, T', H, W).

    It is the batch's own climatology, the same that a model is given with its inputs: a model cannot beat it by
    having seen more years.
    """
    if batch.climatology is None or batch.climatology_valid is None:
        raise InputError("these batches carry no climatology: give one to the dataset")
    steps_in = batch.images.shape[1]
    return np.asarray(batch.climatology[:, steps_in:]), np.asarray(batch.climatology_valid[:, steps_in:])


def _of_scene(name: str) -> Callable[[Occasion], Forecaster]:
    def make(occasion: Occasion) -> Forecaster:
        return SequenceBaseline(
            build_baseline(name, occasion.record),
            occasion.starts,
            steps_in=occasion.steps_in,
            steps_out=occasion.steps_out,
            size=occasion.size,
        )

    return make


BASELINES: dict[str, Callable[[Occasion], Forecaster]] = {
    "persistence": _of_scene("persistence"),
    "same_season_last_year": _of_scene("same_season_last_year"),
    "climatology": lambda occasion: climatology,
    "blend": lambda occasion: Blend().fit(occasion.training),
}
"""Every baseline; adding one is one line here."""


def build_baselines(
    record: Record,
    *,
    starts: np.ndarray,
    steps_in: int,
    steps_out: int,
    size: int,
    training: Iterable[Any],
) -> dict[str, Forecaster]:
    """Return every baseline by name, ready to be scored beside a model.

    Parameters
    ----------
    record : Record
        All composites of the place; none is looked at before its day.
    starts, steps_in, steps_out, size
        Of the plan, see `Occasion`.
    training : iterable of batches
        Of the training sequences, read once; `Blend` learns its few numbers from them.

    Raises
    ------
    InputError
        If no training target has a valid pixel.
    """
    occasion = Occasion(record, starts, steps_in, steps_out, size, training)
    return {name: make(occasion) for name, make in BASELINES.items()}
