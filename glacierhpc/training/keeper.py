"""The last and the best state of a run on all its ranks: on disk by rank 0, or in memory; files are `checkpoint`'s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.training.checkpoint import Checkpoints, Progress, Stateful
from glacierhpc.training.distributed import Backend
from glacierhpc.training.pulse import Pulse
from glacierhpc.training.seeds import random_state, restore_random_state, seed_rank


@dataclass
class Keeper:
    """Every method is called by all ranks."""

    model: nn.Module
    parts: Mapping[str, Stateful]
    """What else has a state: the optimiser, the scaler."""
    checkpoints: Checkpoints | None
    backend: Backend
    run: dict[str, Any]
    """Which run this is."""
    pulse: Pulse = field(default_factory=Pulse)
    _best: dict[str, torch.Tensor] = field(default_factory=dict)

    def resume(self, *, seed: int) -> Progress:
        """Return how far the run has come, with model and parts as they were then.

        A rank that was there draws on from where it was; one that was not, on a larger number of ranks, is seeded
        with its place and the position.

        Raises
        ------
        InputError
            If the ranks have read different checkpoints.
        """
        if self.checkpoints is None:
            return Progress()
        progress, random = self.checkpoints.resume(self.model, self.parts, run=self.run)
        self._check_alike(progress)
        rank = self.backend.rank
        if rank < len(random):
            restore_random_state(random[rank], self.backend.device)
        elif random:
            seed_rank(seed, rank, progress.epoch, progress.step)
        return progress

    def _check_alike(self, progress: Progress) -> None:
        place = [progress.epoch, progress.step, progress.total, progress.best_loss]
        places = self.backend.gather(torch.tensor(place, dtype=torch.float64))
        if all(torch.equal(each, places[0]) for each in places):
            return
        told = ", ".join(
            f"rank {rank} at epoch {each[0]:.0f}, step {each[1]:.0f}" for rank, each in enumerate(places)
        )
        raise InputError(
            f"the ranks have read different checkpoints in {self.checkpoints and self.checkpoints.folder} ({told}): "
            "keep the run directory on a file system that all nodes share, or delete its checkpoints on all of them"
        )

    def due(self, step: int) -> bool:
        """Return whether the last state is to be kept after this step of an epoch."""
        return self.checkpoints is not None and self.checkpoints.due(step)

    def save_last(self, progress: Progress) -> None:
        """Keep what the run can go on from."""
        if self.checkpoints is None:
            return
        self.pulse.at("checkpoint")
        random = self.backend.gather(random_state(self.backend.device))
        if self.backend.rank == 0:
            self.checkpoints.save_last(progress, self.model, self.parts, random=random, run=self.run)
        self.backend.barrier()

    def end_epoch(self, progress: Progress, *, better: bool) -> None:
        """Keep the best state first: killed between the two, the epoch is done again and gives the same."""
        self.pulse.at("checkpoint")
        if better and self.checkpoints is None:
            self._best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        elif better and self.checkpoints is not None and self.backend.rank == 0:
            self.checkpoints.save_best(progress, self.model)
        self.save_last(progress)

    def restore_best(self, progress: Progress) -> None:
        """Put the best weights back into the model.

        Raises
        ------
        GlacierError
            If no epoch was the best, because the loss of none was a number.
        """
        if progress.best_epoch < 0:
            raise GlacierError(
                f"none of {progress.epoch} epochs has a finite loss on the validation sequences, so that none is the "
                "best: lower train.learning_rate, or look for extreme values in the data"
            )
        if self.checkpoints is not None:
            self.checkpoints.load_best(self.model, epoch=progress.best_epoch)
        else:
            self.model.load_state_dict(self._best)
