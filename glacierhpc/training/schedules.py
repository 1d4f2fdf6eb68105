"""Learning rates by name, as pure functions of the position in the run and of the losses so far.

Nothing is counted up, so that a resumed run has the rates of one that was not interrupted, and the same at any
number of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from glacierhpc.errors import unknown_name

PLATEAU_FACTOR = 0.5
"""What a plateau multiplies the rate by."""
PLATEAU_PATIENCE = 3
"""Epochs without a better validation loss that make a plateau: less than half of the usual patience of 8 for early
stopping, so that a lower rate is tried before the run gives up."""
COSINE_FLOOR = 0.01
"""Share of the rate that the cosine ends at."""

Schedule = Callable[[float, float, Sequence[float]], float]
"""(epochs gone, epochs in all, validation losses so far) -> share of the learning rate."""


def constant(gone: float, epochs: float, losses: Sequence[float]) -> float:
    """Return 1."""
    return 1.0


def cosine(gone: float, epochs: float, losses: Sequence[float]) -> float:
    """Return half a cosine from 1 down to `COSINE_FLOOR`.

    References
    ----------
    Loshchilov & Hutter (2017), SGDR, ICLR, arXiv:1608.03983 (without restarts)
    """
    share = min(max(gone / epochs, 0.0), 1.0)
    return COSINE_FLOOR + (1 - COSINE_FLOOR) * 0.5 * (1 + math.cos(math.pi * share))


def plateau(gone: float, epochs: float, losses: Sequence[float]) -> float:
    """Return `PLATEAU_FACTOR` once for every `PLATEAU_PATIENCE` epochs in a row without a better loss."""
    best, stale, factor = math.inf, 0, 1.0
    for loss in losses:
        best, stale = (loss, 0) if loss < best else (best, stale + 1)
        if stale == PLATEAU_PATIENCE:
            stale, factor = 0, factor * PLATEAU_FACTOR
    return factor


SCHEDULES: dict[str, Schedule] = {"constant": constant, "cosine": cosine, "plateau": plateau}


def rate_share(
    name: str, *, gone: float, epochs: int, warmup_epochs: float = 0.0, losses: Sequence[float] = ()
) -> float:
    """Return the share of the learning rate at a position of the run.

    Parameters
    ----------
    name : str
        A key of `SCHEDULES`.
    gone : float
        Epochs done, with the part done of the one at work.
    epochs : int
        Of the whole run.
    warmup_epochs : float
        The rate first rises linearly over so many epochs; the schedule begins behind them.
    losses : sequence of float
        Validation losses of the epochs so far.

    Raises
    ------
    InputError
        If the name is not known.
    """
    if name not in SCHEDULES:
        raise unknown_name("train.schedule", name, SCHEDULES)
    if gone < warmup_epochs:
        return gone / warmup_epochs
    return SCHEDULES[name](gone - warmup_epochs, max(epochs - warmup_epochs, 1e-9), losses)
