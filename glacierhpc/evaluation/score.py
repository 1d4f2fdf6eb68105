"""Scores forecasters on common pixels of the same sequences; formulas are in `metrics`, intervals in `bootstrap`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from glacierhpc.errors import InputError, unknown_name
from glacierhpc.evaluation.bootstrap import FEW_WINDOWS, block_bootstrap
from glacierhpc.evaluation.metrics import METRICS, error_sums, metrics_of, skill_of

SHOWS = "snow and ice cover (index values), not ice motion"

Forecaster = Callable[[Any], tuple[np.ndarray, np.ndarray]]
"""A batch of sequences -> forecast (B, T', C, H, W) and its validity (B, T', H, W)."""


class Sequences(Protocol):
    """A dataset that reads a batch with ``targets`` and ``targets_valid`` at once."""

    def __len__(self) -> int: ...

    def __getitems__(self, items: Sequence[int]) -> Any: ...


@dataclass(frozen=True, eq=False)
class Scores:
    """The error sums of every forecaster on the pixels that all of them and the targets have."""

    sums: dict[str, np.ndarray]
    """Name -> (n, T', 7), see `metrics.SUMS`."""
    data_range: float
    """Width of the range of possible values, which SSIM and PSNR need."""
    threshold: float
    """Above it a value counts as snow or ice."""
    common_share: float
    """Share of the valid target pixel-times that every forecaster could forecast."""


def score(
    forecasters: Mapping[str, Forecaster],
    data: Sequences,
    *,
    data_range: float = 2.0,
    threshold: float = 0.4,
    batch_size: int = 64,
) -> Scores:
    """Run every forecaster over all sequences and keep their error sums; one pass, one batch in memory.

    Parameters
    ----------
    forecasters : mapping
        Name -> function of a batch.
    data : Sequences
        The sequences to score on, in plan order (baselines then compute each scene once).
    data_range : float, default 2
        Of a normalised difference in [-1, 1].
    threshold : float, default 0.4
        Of NDSI for snow (Hall et al. 1995, doi:10.1016/0034-4257(95)00137-P).

    Raises
    ------
    InputError
        If there is nothing to score on, or no pixel that all forecasters and the targets have.
    """
    if len(data) == 0:
        raise InputError(
            "no sequences to evaluate: give a longer period, larger test_share or lower min_valid_share"
        )
    kept: dict[str, list[np.ndarray]] = {name: [] for name in forecasters}
    wanted = common = 0
    for first in range(0, len(data), batch_size):
        batch = data.__getitems__(range(first, min(first + batch_size, len(data))))
        target, target_valid = np.asarray(batch.targets), np.asarray(batch.targets_valid)
        forecasts = {name: forecast(batch) for name, forecast in forecasters.items()}
        valid = target_valid.copy()
        for values, values_valid in forecasts.values():
            valid &= values_valid & np.isfinite(values).all(axis=2)
        wanted, common = wanted + int(target_valid.sum()), common + int(valid.sum())
        for name, (values, _) in forecasts.items():
            kept[name].append(error_sums(values, target, valid, data_range=data_range, threshold=threshold))
    if common == 0:
        raise InputError(
            "no pixel of these sequences is valid in the targets and in every forecast: "
            "give a longer period before the test (same_season_last_year needs a year) or loosen the masks"
        )
    sums = {name: np.concatenate(parts) for name, parts in kept.items()}
    return Scores(sums, data_range, threshold, common / wanted)


def summarise(
    scores: Scores,
    blocks: np.ndarray,
    *,
    model: str,
    split: str = "test",
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    windows: int | None = None,
    audit: Mapping[str, Any] | None = None,
    shows: str = SHOWS,
) -> dict[str, Any]:
    """Return the content of ``metrics.json``: every metric and skill, overall and by lead, with intervals.

    Parameters
    ----------
    scores : Scores
    blocks : (n,) int
        Of the sequences, see `bootstrap.sequence_blocks`.
    model : str
        Whose skill against every other forecaster is given.
    split : str
        Which part was scored; stated only.
    samples, confidence, seed
        Of the bootstrap; all comparisons are paired.
    windows : int, optional
        Windows of time among the blocks, as many as blocks by default: under `FEW_WINDOWS` it is said that there are
        few.
    audit : mapping, optional
        Of the split, as ``split.json`` has it.
    """
    if model not in scores.sums:
        raise unknown_name("forecaster", model, scores.sums)
    draws: dict[str, Any] = {"samples": samples, "confidence": confidence, "seed": seed}
    count = int(len(np.unique(blocks)))
    windows = count if windows is None else windows
    own = scores.sums[model]
    others = {name: sums for name, sums in scores.sums.items() if name != model}
    return {
        "shows": shows,
        "split": split,
        "model": model,
        "n_sequences": len(own),
        "leads": list(range(1, own.shape[1] + 1)),
        "data_range": scores.data_range,
        "threshold": scores.threshold,
        "common_share": scores.common_share,
        "models": {
            name: {
                metric: _metric_entry(metric, sums, blocks, scores.data_range, draws) for metric in METRICS
            }
            for name, sums in scores.sums.items()
        },
        "skill": {name: _entry(skill_of, blocks, draws, own, sums) for name, sums in others.items()},
        "bootstrap": {
            "samples": samples,
            "confidence": confidence,
            "blocks": count,
            "windows": windows,
            "few_blocks": windows < FEW_WINDOWS,
        },
        "audit": dict(audit or {}),
    }


def _metric_entry(
    metric: str, sums: np.ndarray, blocks: np.ndarray, data_range: float, draws: dict[str, Any]
) -> dict[str, Any]:
    return _entry(lambda pooled: metrics_of(pooled, data_range=data_range)[metric], blocks, draws, sums)


def _entry(
    measure: Callable[..., np.ndarray], blocks: np.ndarray, draws: dict[str, Any], *sums: np.ndarray
) -> dict[str, Any]:
    """Return a measure over all leads together and by lead, with intervals."""
    stacked = [np.concatenate([part.sum(axis=1, keepdims=True), part], axis=1) for part in sums]
    values = _plain(measure(*(part.sum(axis=0) for part in stacked)))
    low, high = block_bootstrap(measure, blocks, *stacked, **draws)
    intervals = [list(pair) for pair in zip(_plain(low), _plain(high))]
    return {
        "all": values[0],
        "interval": intervals[0],
        "by_lead": values[1:],
        "by_lead_interval": intervals[1:],
    }


def _plain(values: np.ndarray) -> list[float | None]:
    """Return numbers for JSON, which has neither NaN nor infinity."""
    return [float(value) if np.isfinite(value) else None for value in np.atleast_1d(values)]


def evaluate(
    forecasters: Mapping[str, Forecaster],
    data: Sequences,
    blocks: np.ndarray,
    *,
    model: str,
    data_range: float = 2.0,
    threshold: float = 0.4,
    batch_size: int = 64,
    **report: Any,
) -> dict[str, Any]:
    """Return the content of ``metrics.json``: `score`, then `summarise`, whose keywords it takes."""
    scores = score(forecasters, data, data_range=data_range, threshold=threshold, batch_size=batch_size)
    return summarise(scores, blocks, model=model, **report)
