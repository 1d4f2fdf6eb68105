"""Which samples make which batch, reproducibly from any position; reading them is the dataset's business."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader


class Batch(Protocol):
    """What the loop needs to know of a batch."""

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Keywords for the model."""
        ...

    @property
    def targets(self) -> Tensor: ...

    @property
    def targets_valid(self) -> Tensor: ...

    def to(self, device: torch.device | str) -> Any:
        """Return the batch on a device."""
        ...


class BatchedDataset(Protocol):
    """A dataset that reads a whole batch at once."""

    def __len__(self) -> int: ...

    def __getitems__(self, items: Sequence[int]) -> Any:
        """Return a `Batch` of these items."""
        ...


def epoch_batches(
    count: int, *, batch_size: int, seed: int, epoch: int, shuffle: bool = True, rank: int = 0, size: int = 1
) -> list[list[int]]:
    """Return the batches of one epoch: a pure function of its arguments, so that a position in it can be returned to.

    Every rank takes each `size`-th sample of every global batch; a last, shorter batch is kept.
    """
    order = list(range(count))
    if shuffle:
        generator = torch.Generator().manual_seed(_mixed(seed, epoch))
        order = torch.randperm(count, generator=generator).tolist()
    return [order[first : first + batch_size][rank::size] for first in range(0, count, batch_size)]


def load(
    dataset: BatchedDataset, batches: list[list[int]], *, workers: int = 0, pin: bool = False
) -> Iterator[Batch]:
    """Yield the batches of a dataset, read in `workers` processes besides (0: here)."""
    loader: DataLoader[Any] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_as_read,
        pin_memory=pin,
        generator=torch.Generator().manual_seed(
            0
        ),  # else the loader draws from the global state at every epoch
    )
    return iter(loader)


def _as_read(batch: Any) -> Any:
    return batch


def _mixed(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**63
