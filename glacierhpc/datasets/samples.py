"""Sequences as batches of tensors, from a cube in memory or shards on disk; `sequences` says what one is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import zarr
from torch import Tensor
from torch.utils.data import Dataset

from glacierhpc.datasets.climatology import Climatology, UsualFrames
from glacierhpc.datasets.composites import ArrayComposites
from glacierhpc.datasets.sequences import SequencePlan
from glacierhpc.errors import InputError
from glacierhpc.files import atomic_path
from glacierhpc.kernels.patches import GatherPlan, gather

_ARRAYS = ("images", "images_valid", "targets", "targets_valid")


class SequenceBatch(NamedTuple):
    """Some sequences, or one of them without its first axis."""

    images: Tensor
    """(B, T, C, H, W) float32, 0 where invalid."""
    images_valid: Tensor
    """(B, T, H, W) bool."""
    targets: Tensor
    """(B, T', C, H, W) float32, 0 where invalid."""
    targets_valid: Tensor
    """(B, T', H, W) bool."""
    dates: Tensor
    """(B, T + T') float32, years since 2000, of inputs and targets."""
    numbers: Tensor
    """(B,) int64, number of the sequence in its plan."""
    climatology: Tensor | None = None
    """(B, T + T', C, H, W) float32, what is usual at each step, 0 where not known; None where it is not asked for."""
    climatology_valid: Tensor | None = None
    """(B, T + T', H, W) bool."""

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What a sequence model is called with."""
        inputs = {"images": self.images, "images_valid": self.images_valid, "dates": self.dates}
        if self.climatology is not None and self.climatology_valid is not None:
            inputs |= {"climatology": self.climatology, "climatology_valid": self.climatology_valid}
        return inputs

    def to(self, device: torch.device | str) -> SequenceBatch:
        """Return the batch on a device."""
        return self._each(lambda part: part.to(device, non_blocking=True))

    def first(self) -> SequenceBatch:
        """Return the first sequence, without its first axis."""
        return self._each(lambda part: part[0])

    def _each(self, change: Callable[[Tensor], Tensor]) -> SequenceBatch:
        present = {name: part for name, part in self._asdict().items() if part is not None}
        return SequenceBatch(**{name: change(part) for name, part in present.items()})


class Reader(Protocol):
    """Where the pixels of sequences come from."""

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return images, images_valid, targets, targets_valid of some sequences, shaped as in `SequenceBatch`."""
        ...


class CubeReader:
    """Gathers patches from a cube in memory."""

    def __init__(self, data: np.ndarray, valid: np.ndarray, plan: SequencePlan) -> None:
        if data.ndim != 4 or (data.shape[0], *data.shape[2:]) != plan.shape or valid.shape != plan.shape:
            raise InputError(
                f"data of shape {data.shape!r} and valid of shape {valid.shape!r} do not belong to a plan for "
                f"{plan.shape!r}: give data as (time, band, y, x) and valid as (time, y, x)"
            )
        self._data = _marked(data, ArrayComposites.build(data, valid).usable)
        self._plan = plan

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        plan, starts = self._plan, self._plan.starts[indices]
        inputs = gather(self._data, GatherPlan(starts, plan.steps_in, plan.size))
        later = GatherPlan(starts + [plan.steps_in, 0, 0], plan.steps_out, plan.size)
        return *inputs, *gather(self._data, later)


def _marked(data: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Return C-contiguous float32 with NaN exactly where pixels are not usable; the same array where it is so.

    Validity that travels with the pixels spares reading a mask beside them: a third of the time of a batch.
    """
    same = data.dtype == np.float32 and data.flags.c_contiguous
    if same and all((np.isnan(image) == ~mask).all() for image, mask in zip(data, usable)):
        return data
    marked = np.empty(data.shape, np.float32)
    for image, mask, target in zip(data, usable, marked):
        # one infinity under a mask that calls it valid would poison a whole batch
        target[:] = np.where(mask, image, np.nan)
    return marked


class ShardReader:
    """Reads sequences that `materialise` wrote."""

    def __init__(self, path: Path, plan: SequencePlan) -> None:
        group = zarr.open_group(path, mode="r")
        self._arrays: list[Any] = [group[name] for name in _ARRAYS]
        if group.attrs.get("plan") != plan.digest():
            raise InputError(
                f"{path} holds sequences of another plan (images {self._arrays[0].shape!r}) than the one given "
                f"({len(plan)} of {plan.steps_in} steps and {plan.size} px): write the shards again"
            )

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        images, images_valid, targets, targets_valid = (array.oindex[indices] for array in self._arrays)
        return images, images_valid, targets, targets_valid


class SequenceDataset(Dataset[SequenceBatch]):
    """Some sequences of a plan; a whole batch is read at once (``__getitems__``), one by one works too.

    Views of a cube (`from_cube`) and shards on disk (`from_shards`) give identical samples.
    """

    def __init__(
        self,
        reader: Reader,
        plan: SequencePlan,
        indices: np.ndarray | None = None,
        climatology: Climatology | None = None,
    ) -> None:
        self.plan = plan
        self.indices = np.arange(len(plan)) if indices is None else np.asarray(indices, dtype=np.int64)
        self.climatology = climatology
        self._reader = reader
        self._usual = None if climatology is None else UsualFrames(climatology, plan, self.indices)

    @classmethod
    def from_cube(
        cls,
        data: np.ndarray,
        valid: np.ndarray,
        plan: SequencePlan,
        indices: np.ndarray | None = None,
        *,
        climatology: Climatology | None = None,
    ) -> SequenceDataset:
        """Return the dataset of a cube in memory.

        Parameters
        ----------
        data : (time, band, y, x) float
            Index values; NaN is invalid.
        valid : (time, y, x) bool
        indices : (n,) int, optional
            Sequences of the plan to take; all by default.
        climatology : Climatology, optional
            Given along with every batch.
        """
        return cls(CubeReader(data, valid, plan), plan, indices, climatology)

    @classmethod
    def from_shards(
        cls,
        path: Path,
        plan: SequencePlan,
        indices: np.ndarray | None = None,
        *,
        climatology: Climatology | None = None,
    ) -> SequenceDataset:
        """Return the dataset of a ``sequences.zarr`` that `materialise` wrote for the same plan."""
        return cls(ShardReader(path, plan), plan, indices, climatology)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> SequenceBatch:
        return self.__getitems__([item]).first()

    def __getitems__(self, items: Sequence[int]) -> SequenceBatch:
        indices = self.indices[np.asarray(items, dtype=np.int64)]
        arrays = self._reader.read(indices)
        usual = () if self._usual is None else self._usual.read(indices)
        return SequenceBatch(*map(torch.from_numpy, (*arrays, self.plan.years(indices), indices, *usual)))


def materialise(
    path: Path, data: np.ndarray, valid: np.ndarray, plan: SequencePlan, *, shard_sequences: int = 512
) -> None:
    """Write every sequence of a plan to a Zarr v3 group, for clusters whose nodes cannot hold the cube.

    One file per array and shard, never one per sequence: 161,728 sequences of 50 px make 1,264 files at 512
    to a shard. Written under a temporary name and renamed when complete.

    Parameters
    ----------
    path : Path
        ``sequences.zarr``; replaced if it exists.
    data, valid
        As for `SequenceDataset.from_cube`.
    shard_sequences : int
        Sequences to a shard; one sequence is one chunk within it.
    """
    reader = CubeReader(data, valid, plan)
    with atomic_path(path) as temporary:
        group = zarr.create_group(temporary, zarr_format=3, attributes={"plan": plan.digest()})
        arrays = [_create(group, name, plan, data.shape[1], shard_sequences) for name in _ARRAYS]
        for first in range(0, len(plan), shard_sequences):
            indices = np.arange(first, min(first + shard_sequences, len(plan)))
            for array, part in zip(arrays, reader.read(indices)):
                array[first : first + len(indices)] = part


def _create(group: zarr.Group, name: str, plan: SequencePlan, bands: int, shard_sequences: int) -> zarr.Array:
    steps = plan.steps_in if name.startswith("images") else plan.steps_out
    mask = name.endswith("valid")
    sample = (steps, plan.size, plan.size) if mask else (steps, bands, plan.size, plan.size)
    return group.create_array(
        name,
        shape=(len(plan), *sample),
        chunks=(1, *sample),
        shards=(shard_sequences, *sample),
        dtype="bool" if mask else "float32",
    )
