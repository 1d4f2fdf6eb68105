"""The sequences of a run with the composites they are cut from: what training, judging and forecasts read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from glacierhpc.config import Config
from glacierhpc.cube import open_cube
from glacierhpc.datasets.climatology import Climatology
from glacierhpc.datasets.samples import SequenceDataset
from glacierhpc.datasets.sequences import SequencePlan
from glacierhpc.datasets.splits import sample_pixels, sample_steps, target_steps
from glacierhpc.errors import InputError
from glacierhpc.grid import Grid
from glacierhpc.rundir import RunDirectory, read_json, read_table
from glacierhpc.workflows.index_facts import IndexFacts, image_facts
from glacierhpc.workflows.tasks import need


@dataclass(frozen=True, eq=False)
class Material:
    """The sequences of a run and the composites they are cut from; these are read when they are asked for, once."""

    name: str
    """Of the run's folder."""
    table: pd.DataFrame
    plan: SequencePlan
    composite: xr.Dataset
    """Not loaded."""
    bands: tuple[str, ...]
    grid: Grid
    facts: IndexFacts
    split: dict[str, Any]
    """What ``split.json`` holds."""
    shards: Path | None
    """Patches on disk, where they are materialised."""

    @classmethod
    def read(cls, config: Config, run: RunDirectory) -> Material:
        """Return the material of a run.

        Raises
        ------
        InputError
            If a step that writes it has not been run.
        """
        table = read_table(need(run.sequences, "sequences"))
        cube = open_cube(need(run.composite, "composite"))
        return cls(
            run.path.name,
            table,
            SequencePlan.from_table(table),
            cube,
            bands=tuple(str(band) for band in cube.band.values),
            grid=Grid.from_dataset(cube),
            facts=image_facts(config, cube),
            split=dict(read_json(need(run.split, "sequences"))),
            shards=run.sequence_shards if config.sequences.materialise else None,
        )

    @property
    def times(self) -> np.ndarray:
        """(T,) datetime64."""
        return np.asarray(self.composite.time.values)

    @cached_property
    def data(self) -> np.ndarray:
        """(T, C, Y, X) float32: the memory of the whole series."""
        return np.asarray(self.composite.data.values)

    @cached_property
    def valid(self) -> np.ndarray:
        """(T, Y, X) bool."""
        return np.asarray(self.composite.valid.values)

    def part(self, name: str) -> np.ndarray:
        """Return the numbers of the sequences of a part."""
        return np.flatnonzero(self.table.split == name)

    def dataset(self, name: str) -> SequenceDataset:
        """Return the sequences of a part, with the climatology that they may know."""
        indices, learning = self.part(name), name == "train"
        known = sample_steps(self.plan, indices) if learning else np.arange(len(self.times))
        usual = Climatology.build(self.data, self.valid, self.times, known, causal=not learning)
        if self.shards is not None:
            return SequenceDataset.from_shards(self.shards, self.plan, indices, climatology=usual)
        return SequenceDataset.from_cube(self.data, self.valid, self.plan, indices, climatology=usual)

    def digest(self) -> str:
        """Return the SHA-256 of all valid pixels."""
        text = hashlib.sha256(np.ascontiguousarray(self.valid).data)
        text.update(np.ascontiguousarray(np.where(self.valid[:, None], self.data, 0)).data)
        return text.hexdigest()

    def seen(self) -> np.ndarray:
        """Return which pixels training sees, (time, y, x) bool: the valid ones of its samples."""
        return self.valid & sample_pixels(self.plan, self.part("train"))

    def ground(self) -> dict[str, Any]:
        """Return where and when training samples lie, which weights carry along: box in degrees and two dates."""
        steps = sample_steps(self.plan, self.part("train"))
        first, last = (str(self.times[step])[:10] for step in (steps[0], steps[-1]))
        return {"bounds_lonlat": list(self.grid.bounds_lonlat()), "first": first, "last": last}

    def evaluated_from(self, *parts: str) -> str:
        """Return the first date of the targets of parts, such as ``test``."""
        return min(str(self.times[target_steps(self.plan, self.part(part))[0]])[:10] for part in parts)


def scaling_of(materials: list[Material]) -> dict[str, dict[str, float]]:
    """Return mean and deviation of each band over the pixels that training sees, in all runs together."""
    scaling, seen = {}, [material.seen() for material in materials]
    for layer, band in enumerate(materials[0].bands):
        values = np.concatenate(
            [material.data[:, layer][mask] for material, mask in zip(materials, seen, strict=True)]
        )
        scaling[band] = {"mean": float(values.mean()), "deviation": float(values.std()) or 1.0}
    return scaling


def check_alike(own: Material, other: Material) -> None:
    """Refuse to learn from sequences of another kind.

    Raises
    ------
    InputError
        If bands, units, steps or size differ, or the resolution by over one per cent; names what does.
    """
    shapes = [
        {
            "bands": list(material.bands),
            "units": material.facts.units,
            "sequences.steps_in": material.plan.steps_in,
            "sequences.steps_out": material.plan.steps_out,
            "sequences.size_px": material.plan.size,
        }
        for material in (own, other)
    ]
    if abs(other.grid.resolution_m / own.grid.resolution_m - 1) > 0.01:
        for shape, material in zip(shapes, (own, other), strict=True):
            shape["resolution_m"] = material.grid.resolution_m
    mine, theirs = shapes
    different = [f"{key} {theirs[key]!r}, here {mine[key]!r}" for key in mine if mine[key] != theirs[key]]
    if different:
        raise InputError(
            f"train.also: run {other.name!r} has {'; '.join(different)}: make its sequences with the same values, or "
            "leave it out"
        )


def check_apart(own: Material, grounds: list[dict[str, Any]], *, parts: tuple[str, ...], what: str) -> None:
    """Refuse training samples that have seen what is to be judged: the same ground on the same dates.

    Parameters
    ----------
    grounds : list of dict
        Of the training samples, see `Material.ground`.
    parts : tuple of str
        Which of this run's parts must be unseen.
    what : str
        Where the samples come from, for the error.

    Raises
    ------
    InputError
        If a box overlaps this run's and its samples reach the first target; in a split of ground, if a box overlaps.
    """
    begin = own.evaluated_from(*parts)
    for ground in grounds:
        if not _overlap(own.grid.bounds_lonlat(), ground["bounds_lonlat"]):
            continue
        if own.split.get("method") == "block" or ground["last"] >= begin:
            raise InputError(
                f"{what} was trained on this ground up to {ground['last']}, and the forecasts judged here begin at "
                f"{begin} (split.method {own.split.get('method')}): its skill would be memory. Take weights or runs of "
                "another place, or a later test (period.end, split.test_share)"
            )


def _overlap(first: Any, second: Any) -> bool:
    return bool(
        first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
    )
