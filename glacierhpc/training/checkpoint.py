"""Atomic checkpoints of a training run, the last and the best; weights for use are written by `models.weights`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from glacierhpc.errors import InputError
from glacierhpc.files import atomic_path

logger = logging.getLogger(__name__)

LAST, BEST = "last.pt", "best.pt"


@dataclass
class Progress:
    """How far a run has come: all that the loop knows besides weights and optimiser."""

    epoch: int = 0
    """The epoch at work, from 0."""
    step: int = 0
    """Batches of it that are done: the position in the sampler."""
    total: float = 0.0
    """Sum of the training loss over this epoch's batches so far."""
    count: int = 0
    """Valid values in them."""
    best_epoch: int = -1
    best_loss: float = float("inf")
    rows: list[dict[str, float]] = field(default_factory=list)
    """History, one row per finished epoch."""

    @property
    def stale_epochs(self) -> int:
        """Epochs since the best one."""
        return self.epoch - 1 - self.best_epoch


class Checkpoints:
    """The checkpoint files of one run.

    Both hold plain tensors and numbers and are read with ``weights_only=True``: a checkpoint cannot run code.

    Parameters
    ----------
    folder : Path
        For ``last.pt`` and ``best.pt``.
    every_steps : int, optional
        Write ``last.pt`` after so many steps too, not only at the end of an epoch.
    """

    def __init__(self, folder: Path, *, every_steps: int | None = None) -> None:
        if every_steps is not None and every_steps < 1:
            raise InputError(
                f"checkpoints cannot be written every {every_steps!r} steps: give 1 or more, or nothing"
            )
        self.folder, self._every_steps = folder, every_steps

    def due(self, step: int) -> bool:
        """Return whether ``last.pt`` is to be written after this step of an epoch."""
        return self._every_steps is not None and step % self._every_steps == 0

    def save_last(
        self, progress: Progress, model: nn.Module, optimizer: Optimizer, *, run: dict[str, Any]
    ) -> None:
        """Write all that an exact resume needs; `run` says which run this is and must match on resume."""
        state = {
            "run": run,
            "progress": asdict(progress),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": _random_state(),
        }
        _save(state, self.folder / LAST)

    def save_best(self, progress: Progress, model: nn.Module) -> None:
        """Write the weights of the best epoch so far."""
        _save({"epoch": progress.best_epoch, "model": model.state_dict()}, self.folder / BEST)

    def resume(self, model: nn.Module, optimizer: Optimizer, *, run: dict[str, Any]) -> Progress:
        """Load ``last.pt`` into model, optimiser and random state, if there is one, and return how far it had come.

        Raises
        ------
        InputError
            If the checkpoint is of another run, or cannot be read.
        """
        path = self.folder / LAST
        if not path.is_file():
            return Progress()
        state = _load(path)
        changed = {name for name in run | state["run"] if run.get(name) != state["run"].get(name)}
        if changed:
            given, stored = (
                {name: run_.get(name) for name in sorted(changed)} for run_ in (run, state["run"])
            )
            raise InputError(
                f"{path} was written by another training ({stored!r}, now {given!r}): "
                "train with the same settings, or in a new run directory"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        _set_random_state(state["random"])
        progress = Progress(**state["progress"])
        logger.info("resumed from %s at epoch %d, step %d", path, progress.epoch, progress.step)
        return progress

    def forget_others(self, identity: Mapping[str, str]) -> None:
        """Remove the checkpoints of a run of another identity (see `loop.fit`), such as one on other data."""
        path = self.folder / LAST
        if path.is_file() and _load(path)["run"].get("identity") != dict(identity):
            logger.info("%s is of other data or of another model: training starts anew", path)
            # the last first: a best one alone is written over, a last one alone would lose its best
            path.unlink()
            (self.folder / BEST).unlink(missing_ok=True)

    def load_best(self, model: nn.Module) -> None:
        """Load the weights of the best epoch, if there is one, into a model."""
        path = self.folder / BEST
        if path.is_file():
            model.load_state_dict(_load(path)["model"])


def _save(state: dict[str, Any], path: Path) -> None:
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _load(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # damaged bytes make the reader fail in any way at all
        raise InputError(
            f"checkpoint {path} cannot be read ({err}): delete it to train from the start"
        ) from err


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
