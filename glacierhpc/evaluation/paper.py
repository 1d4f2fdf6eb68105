"""What the published scripts print, under their own assumptions, beside what those assumptions hide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from glacierhpc.errors import InputError
from glacierhpc.evaluation.bootstrap import Resampling
from glacierhpc.evaluation.entries import lead_entry
from glacierhpc.evaluation.metrics import SUMS, metrics_of

BATCH = 100
"""Sequences to a batch in the published tests."""
DRAWS = 2000
"""Of the published bootstrap."""

_ERRORS = {"mse": SUMS.index("squared"), "mae": SUMS.index("absolute")}


def paper(
    sums: Mapping[str, np.ndarray], resampling: Resampling, *, batch: int = BATCH, draws: int = DRAWS
) -> dict[str, Any]:
    """Return MSE and MAE as mean over batches, with the published interval and ours.

    The published interval draws sequences one by one, as if they were independent; they overlap by 80 per cent in
    space and by all but one step in time. It is repeated here only so that results can be set beside those printed
    elsewhere: ``iid_width`` against ``block_width`` is by how much it is too sure.

    Parameters
    ----------
    sums : mapping
        Forecaster -> (n, T', S), in plan order.
    resampling : Resampling
        Of our interval; its confidence is that of both, its seed that of the draws.
    batch : int
        Sequences to a batch; the last one may be smaller and counts as much, as published.
    draws : int
        Of the published bootstrap.

    Returns
    -------
    dict
        ``batch``, ``draws``, ``confidence``, ``models``: forecaster -> ``mse``, ``mae`` -> ``value``,
        ``iid_interval``, ``iid_width``, ``block_interval``, ``block_width``, ``ratio`` (of the widths).

    References
    ----------
    Mueller et al. (2023), Tackling Climate Change with Machine Learning workshop, NeurIPS 2023
    """
    if batch < 1 or draws < 2:
        raise InputError(f"batches of {batch!r} and {draws!r} draws cannot be: give 1 or more, and 2 or more")
    values, low, high = _published(sums, resampling, batch, draws)
    models = {
        name: {
            metric: _widths(values[i, k], [low[i, k], high[i, k]], metric, part, resampling)
            for k, metric in enumerate(_ERRORS)
        }
        for i, (name, part) in enumerate(sums.items())
    }
    return {"batch": batch, "draws": draws, "confidence": resampling.confidence, "models": models}


def _published(
    sums: Mapping[str, np.ndarray], resampling: Resampling, batch: int, draws: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the means over batches and the ends of their intervals, (forecasters, errors) each.

    All forecasters are judged on the same pixels, and share the draws: one pass over the sequences for each.
    """
    pooled = [part.sum(axis=1) for part in sums.values()]
    errors = np.concatenate([part[:, list(_ERRORS.values())] for part in pooled], axis=1)
    count = pooled[0][:, SUMS.index("count")]
    errors, count = errors[count > 0], count[count > 0]
    values = batch_means(errors, count, batch)
    random = np.random.default_rng(resampling.seed)
    drawn = np.empty((draws, errors.shape[1]))
    for draw in range(draws):
        chosen = random.integers(len(count), size=len(count))
        drawn[draw] = batch_means(errors[chosen], count[chosen], batch)
    tail = (1 - resampling.confidence) / 2
    ends = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return tuple(part.reshape(len(sums), len(_ERRORS)) for part in (values, *ends))  # type: ignore[return-value]


def batch_means(errors: np.ndarray, count: np.ndarray, batch: int) -> np.ndarray:
    """Return the mean over batches of each batch's mean error, of sums (n, k) over (n,) pixels: (k,)."""
    starts = np.arange(0, len(count), batch)
    return (np.add.reduceat(errors, starts) / np.add.reduceat(count, starts)[:, None]).mean(axis=0)


def _widths(
    value: float, ends: list[float], metric: str, sums: np.ndarray, resampling: Resampling
) -> dict[str, Any]:
    published = [float(end) for end in ends]
    entry = lead_entry(lambda s: metrics_of(s, data_range=1.0)[metric], resampling, sums)
    ours, width = entry["interval"], published[1] - published[0]
    own = None if ours[0] is None or ours[1] is None else ours[1] - ours[0]
    return {
        "value": float(value),
        "iid_interval": published,
        "iid_width": width,
        "block_interval": ours,
        "block_width": own,
        "ratio": own / width if own is not None and width > 0 else None,
    }
