"""Confidence intervals by resampling blocks of dependent sequences; what is measured comes as a function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from glacierhpc.errors import InputError

FEW_WINDOWS = 5
"""Under so many windows of time an interval is a hint and not more: so few draws hold hardly any spread."""


def time_windows(starts: np.ndarray, *, block_steps: int) -> np.ndarray:
    """Return the window of time of each sequence, (n,) int64 from 0.

    The span of first steps is shared out into windows of about `block_steps`, equally long to a step: a short rest
    would count as much as a whole window.
    """
    if block_steps < 1:
        raise InputError(f"windows of {block_steps!r} steps cannot be: give 1 or more")
    first = starts[:, 0] - starts[:, 0].min()
    span = int(first.max()) + 1
    return first * max(1, round(span / block_steps)) // span


def sequence_blocks(
    starts: np.ndarray, *, block_steps: int, size: int = 1, block_px: int | None = None
) -> np.ndarray:
    """Return the block of each sequence, (n,) int64 from 0: its window of time, over the whole area.

    Sequences of the same dates share weather and light, so that their errors are alike wherever their patches
    lie; those whose steps overlap share composites. Neither are independent witnesses, so all of a window go into
    one block. Sequences on both sides of a border between windows still share composites: intervals are somewhat
    narrow. Blocks of ground (`block_px`) treat squares of one window as independent, which they are only if no
    error is common to the area; otherwise the intervals are far too narrow.

    Parameters
    ----------
    starts : (n, 3) int
        First time step, row and col.
    block_steps : int
        Time steps of a window; those of a sequence, inputs and targets together, or more are sensible.
    size : int
        Edge length of a patch, pixels; with `block_px`, whose square holds the middle of a patch.
    block_px : int, optional
        Edge length of a block of ground; the whole area by default.
    """
    windows = time_windows(starts, block_steps=block_steps)
    if block_px is None:
        return windows
    if block_px < 1:
        raise InputError(
            f"blocks of {block_px!r} px cannot be: give 1 or more, or nothing for the whole area"
        )
    row, col = ((starts[:, axis] + size // 2) // block_px for axis in (1, 2))
    return np.unique(np.stack([windows, row, col], axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def block_bootstrap(
    metric: Callable[..., np.ndarray],
    blocks: np.ndarray,
    *sums: np.ndarray,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile interval of a metric when whole blocks are drawn with replacement.

    Several arrays of sums (a model's and a reference's) are resampled together: their comparison is paired.

    Parameters
    ----------
    metric : callable
        Gives the metric, elementwise over leading axes, of sums pooled over sequences.
    blocks : (n,) int
        Block of each sequence; its own number for each sequence gives the usual (i.i.d.) bootstrap.
    *sums : (n, ...) float
        Additive sums of each sequence.
    samples : int
        Draws.
    confidence : float
        Share of the draws inside the interval.
    seed : int
        Of the draws; equal seeds and blocks give equal draws.

    Returns
    -------
    low, high
        Arrays as `metric` gives them; NaN if there are fewer than two blocks, which tell nothing about spread.

    References
    ----------
    Künsch (1989), Ann. Statist. 17(3), doi:10.1214/aos/1176347265
    """
    if not 0 < confidence < 1 or samples < 2:
        raise InputError(
            f"a bootstrap of {samples!r} samples at {confidence!r} cannot be: give >= 2 and 0 < confidence < 1"
        )
    names, members = np.unique(blocks, return_inverse=True)
    count = len(names)
    if count < 2:
        nothing = np.full(np.shape(metric(*(part.sum(axis=0) for part in sums))), np.nan)
        return nothing, nothing
    draws = (
        np.random.default_rng(seed)
        .multinomial(count, np.full(count, 1 / count), size=samples)
        .astype(np.float64)
    )
    pooled = [_resampled(part, members.reshape(-1), count, draws) for part in sums]
    values = metric(*pooled)
    return tuple(_quantile(values, share) for share in ((1 - confidence) / 2, (1 + confidence) / 2))  # type: ignore[return-value]


def _resampled(sums: np.ndarray, members: np.ndarray, count: int, draws: np.ndarray) -> np.ndarray:
    """Return (samples, ...): the sums of the drawn blocks."""
    flat = sums.reshape(len(sums), -1).astype(np.float64)
    per_block = np.zeros((count, flat.shape[1]))
    np.add.at(per_block, members, flat)
    return (draws @ per_block).reshape(len(draws), *sums.shape[1:])


def _quantile(values: np.ndarray, share: float) -> np.ndarray:
    """Return the quantile over the draws whose metric is a number (a draw may hold no valid pixel); NaN if none is."""
    finite = np.where(np.isfinite(values), values, np.nan)
    known = np.isfinite(finite).any(axis=0)
    filled = np.where(known, finite, 0.0)
    return np.where(known, np.nanquantile(filled, share, axis=0), np.nan)
