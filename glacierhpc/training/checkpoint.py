"""Atomic checkpoints of a training run, the last and the best; weights for use are written by `models.weights`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from glacierhpc.atomic import atomic_path, remove
from glacierhpc.errors import GlacierError, InputError

logger = logging.getLogger(__name__)

LAST, BEST = "last.pt", "best.pt"


@dataclass
class Progress:
    """How far a run has come: all that the loop knows besides weights and optimiser."""

    epoch: int = 0
    """The epoch at work, from 0."""
    step: int = 0
    """Global batches of it that are done: the position in the sampler, on any number of ranks."""
    total: float = 0.0
    """Sum of the training loss over this epoch's batches so far, of all ranks."""
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

    def end_epoch(self, row: dict[str, float]) -> bool:
        """Take in the row of the epoch at work, go to the next, and return whether this one is the best so far."""
        self.rows.append(row)
        better = row["valid_loss"] < self.best_loss
        if better:
            self.best_epoch, self.best_loss = self.epoch, row["valid_loss"]
        self.epoch, self.step, self.total, self.count = self.epoch + 1, 0, 0.0, 0
        return better


class Stateful(Protocol):
    """What has a state to save: an optimiser, a gradient scaler."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


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
        self,
        progress: Progress,
        model: nn.Module,
        parts: Mapping[str, Stateful],
        *,
        random: Sequence[Tensor],
        run: dict[str, Any],
    ) -> None:
        """Write all that an exact resume needs.

        Parameters
        ----------
        parts : mapping
            What else has a state, by name: the optimiser, the scaler.
        random : sequence of (n,) uint8
            `seeds.random_state` of every rank.
        run : dict
            Says which run this is; must match on resume.
        """
        state = {
            "run": run,
            "progress": asdict(progress),
            "model": model.state_dict(),
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "random": list(random),
        }
        _save(state, self.folder / LAST)

    def save_best(self, progress: Progress, model: nn.Module) -> None:
        """Write the weights of the best epoch so far."""
        _save({"epoch": progress.best_epoch, "model": model.state_dict()}, self.folder / BEST)

    def resume(
        self, model: nn.Module, parts: Mapping[str, Stateful], *, run: dict[str, Any]
    ) -> tuple[Progress, list[Tensor]]:
        """Load ``last.pt``, if there is one, into model and parts.

        Returns
        -------
        progress : Progress
            How far the run had come.
        random : list of (n,) uint8
            The random state of each rank that wrote it; empty without a checkpoint.

        Raises
        ------
        InputError
            If the checkpoint is of another run or version, cannot be read, or has lost its best weights.
        """
        path = self.folder / LAST
        if not path.is_file():
            return Progress(), []
        state = _load(path)
        _check_same(path, stored=state.get("run", {}), given=run)
        try:
            model.load_state_dict(state["model"])
            for name, part in parts.items():
                part.load_state_dict(state["parts"][name])
            progress = Progress(**state["progress"])
        except (RuntimeError, KeyError, TypeError, ValueError) as err:
            raise InputError(
                f"{path} holds another model or optimiser than the one to be trained ({_brief(err)}), as another "
                "version of the program writes: delete it to train from the start"
            ) from err
        if progress.best_epoch >= 0 and not (self.folder / BEST).is_file():
            raise InputError(
                f"{self.folder / BEST}, the weights of the best epoch so far ({progress.best_epoch + 1}), is missing "
                f"beside {LAST}: put it back, or delete {path} to train from the start"
            )
        logger.info("resumed from %s at epoch %d, step %d", path, progress.epoch, progress.step)
        return progress, state["random"]

    def forget_others(self, identity: Mapping[str, str]) -> None:
        """Remove the checkpoints of a run of another identity (see `loop.fit`), such as one on other data."""
        path = self.folder / LAST
        if path.is_file() and _load(path).get("run", {}).get("identity") != dict(identity):
            logger.info("%s is of other data or of another model: training starts anew", path)
            # the last first: a best one alone is written over, a last one alone would lose its best
            remove(path)
            remove(self.folder / BEST)

    def load_best(self, model: nn.Module, *, epoch: int) -> None:
        """Load the weights of the best epoch into a model.

        Raises
        ------
        GlacierError
            If the file is of another epoch, as one that a process of a lost node wrote late.
        """
        path = self.folder / BEST
        state = _load(path)
        if state.get("epoch") != epoch:
            raise GlacierError(
                f"{path} is of epoch {state.get('epoch')!r}, and the best one is {epoch}: delete {path} and "
                f"{self.folder / LAST} to train from the start"
            )
        model.load_state_dict(state["model"])


def _check_same(path: Path, *, stored: dict[str, Any], given: dict[str, Any]) -> None:
    changed = sorted(name for name in given | stored if given.get(name) != stored.get(name))
    if changed:
        now, then = ({name: run.get(name) for name in changed} for run in (given, stored))
        raise InputError(
            f"{path} was written by another training ({then!r}, now {now!r}): "
            "train with the same settings, or in a new run directory"
        )


def _save(state: dict[str, Any], path: Path) -> None:
    # for nobody else's eyes: runs lie on file systems that all users share
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _load(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or "model" not in state:
            raise ValueError("no weights in it")
        return state
    except Exception as err:  # damaged bytes make the reader fail in any way at all
        raise InputError(
            f"{path} cannot be read as a checkpoint ({_brief(err)}): delete it to train from the start"
        ) from err


def _brief(error: Exception) -> str:
    """Return what an error says, without the pages that torch may add."""
    return " ".join(str(error).split())[:200] or type(error).__name__
