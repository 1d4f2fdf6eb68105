"""Sequences of several places as one dataset, for mixed training; each keeps its own climatology."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from glacierhpc.datasets.samples import SequenceBatch, SequenceDataset
from glacierhpc.errors import InputError


class MixedDataset(Dataset[SequenceBatch]):
    """Datasets one after another, read by batches as each of them is.

    ``numbers`` of a batch are those in the plan of the dataset that a sequence comes from: here they name nothing.

    Parameters
    ----------
    members : sequence of SequenceDataset
        Of the same steps, size and bands; with a climatology in all or in none.
    """

    def __init__(self, members: Sequence[SequenceDataset]) -> None:
        shapes = {(each.plan.steps_in, each.plan.steps_out, each.plan.size) for each in members}
        if len(shapes) != 1 or len({each.climatology is None for each in members}) != 1:
            raise InputError(
                f"sequences of {sorted(shapes)} (steps in, steps out, px) do not mix: give datasets of one kind, all "
                "with a climatology or all without"
            )
        self.members = tuple(members)
        self._ends = np.cumsum([len(member) for member in self.members])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, item: int) -> SequenceBatch:
        return self.__getitems__([item]).first()

    def __getitems__(self, items: Sequence[int]) -> SequenceBatch:
        wanted = np.asarray(items, dtype=np.int64)
        owners = np.searchsorted(self._ends, wanted, side="right")
        parts, places = [], []
        for number in np.unique(owners):
            mine = np.flatnonzero(owners == number)
            before = int(self._ends[number - 1]) if number else 0
            parts.append(self.members[number].__getitems__((wanted[mine] - before).tolist()))
            places.append(mine)
        order = torch.from_numpy(np.argsort(np.concatenate(places)))
        present = [
            name for name, part in zip(SequenceBatch._fields, parts[0], strict=True) if part is not None
        ]
        return SequenceBatch(
            **{name: torch.cat([getattr(part, name) for part in parts])[order] for name in present}
        )
