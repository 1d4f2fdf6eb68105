"""Which samples make which batch, reproducibly from any position; reading them is the dataset's business."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from glacierhpc.training.seeds import mixed
from glacierhpc.training.stopping import ignore_stop_signals

PREFETCH = 4
"""Batches that each reading process keeps ready: steps of uneven length then still find one."""


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

    Every rank takes each `size`-th sample of every global batch; a last, shorter batch is kept, and may leave a
    rank an empty share.
    """
    order = list(range(count))
    if shuffle:
        generator = torch.Generator().manual_seed(mixed(seed, epoch))
        order = torch.randperm(count, generator=generator).tolist()
    return [order[first : first + batch_size][rank::size] for first in range(0, count, batch_size)]


def micro_batches(share: list[int], parts: int) -> list[list[int]]:
    """Return a rank's share of a batch in at most `parts` pieces that differ by one in length; at least one piece."""
    parts = max(min(parts, len(share)), 1)
    cuts = [len(share) * part // parts for part in range(parts + 1)]
    return [share[first:last] for first, last in zip(cuts, cuts[1:])]


class Feed:
    """Reads batches of one dataset, epoch after epoch, by processes that stay.

    Parameters
    ----------
    dataset : BatchedDataset
    workers : int
        Processes that read ahead; 0 reads here, when asked.
    pin : bool
        Put batches into page-locked memory, from where they reach a GPU while it computes.
    seed : int
        Of the random numbers of the processes.
    """

    def __init__(
        self, dataset: BatchedDataset, *, workers: int = 0, pin: bool = False, seed: int = 0
    ) -> None:
        self._length, self._plan = len(dataset), list[list[int]]()
        self._loader: DataLoader[Any] = DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_sampler=self._plan,
            num_workers=workers,
            collate_fn=_as_read,
            pin_memory=pin,
            prefetch_factor=PREFETCH if workers else None,
            persistent_workers=workers > 0,
            worker_init_fn=_start_worker,
            # of its own: else the loader draws from the global state at every epoch
            generator=torch.Generator().manual_seed(seed),
        )
        # at the latest when Python ends, which would wait for processes that leave its signal to the main one
        self._end = weakref.finalize(self, _end_readers, self._loader)

    def __len__(self) -> int:
        return self._length

    def close(self) -> None:
        """End the reading processes."""
        self._end()

    def read(self, batches: list[list[int]]) -> Iterator[Batch]:
        """Yield these batches in order.

        An empty one, the share of a rank that has none of a short batch, is read as the first sample of the
        dataset with no valid target: the model must run on every rank, or the others wait for its gradients.
        """
        self._plan[:] = [
            batch or [0] for batch in batches
        ]  # the sampler is this list: workers stay over epochs
        for wanted, batch in zip(batches, self._loader):
            yield batch if wanted else Blank(batch)


class Blank:
    """A batch from which nothing is to be learnt."""

    def __init__(self, batch: Batch) -> None:
        self.inputs, self.targets = batch.inputs, batch.targets
        self.targets_valid = torch.zeros_like(batch.targets_valid)
        self._batch = batch

    def to(self, device: torch.device | str) -> Blank:
        """Return the batch on a device."""
        return Blank(self._batch.to(device))


def _as_read(batch: Any) -> Any:
    return batch


def _end_readers(loader: Any) -> None:
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()


def _start_worker(number: int) -> None:
    ignore_stop_signals()
