"""Teacher forcing and scheduled sampling: at which steps an autoregressive model is shown the truth.

What is drawn is a pure function of seed, epoch, step and place in the global batch: the same on any number of
ranks, and after a resume.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from glacierhpc.errors import unknown_name
from glacierhpc.training.seeds import mixed

SIGMOID_SLOPE = 12.0
"""Of the sigmoid decay over a whole run: it falls from 0.998 to 0.002."""
_STREAM = 7
"""Keeps these draws apart from those of the order of samples, which are mixed of seed and epoch too."""

DECAYS: dict[str, Callable[[float], float]] = {
    "none": lambda gone: 1.0,
    "linear": lambda gone: 1.0 - gone,
    "sigmoid": lambda gone: 1.0 / (1.0 + math.exp(SIGMOID_SLOPE * (gone - 0.5))),
}
"""Share of the first teacher forcing that is left, by the share of the run that is done.

Bengio et al. (2015), Scheduled sampling, NeurIPS 28, arXiv:1506.03099: linear, and the inverse sigmoid
``k / (k + exp(i / k))``, which is the logistic function of the step `i`.
"""


def teacher_share(start: float, decay: str, *, gone: float, epochs: int) -> float:
    """Return the probability that a forecast step starts from the true frame.

    Parameters
    ----------
    start : float
        At the start of the run, in [0, 1].
    decay : str
        A key of `DECAYS`.
    gone : float
        Epochs done, with the part done of the one at work.
    epochs : int
        Of the whole run.

    Raises
    ------
    InputError
        If the decay is not known.
    """
    if decay not in DECAYS:
        raise unknown_name("train.teacher_decay", decay, DECAYS)
    return start * DECAYS[decay](min(max(gone / epochs, 0.0), 1.0))


def draw(share: float, *, samples: int, steps: int, seed: int, epoch: int, step: int) -> Tensor:
    """Return where the truth is shown, (samples, steps) bool, for a whole global batch.

    Parameters
    ----------
    share : float
        Probability of True.
    samples, steps : int
        Length of the global batch; steps of a forecast.
    seed, epoch, step : int
        Of the run; number of the global batch in its epoch.
    """
    generator = torch.Generator().manual_seed(mixed(seed, epoch, step, _STREAM))
    return torch.rand(samples, steps, generator=generator) < share
