"""Scores forecasters on common pixels of the same sequences; formulas are in `metrics`, intervals in `bootstrap`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from glacierhpc.errors import InputError, unknown_name
from glacierhpc.evaluation.bootstrap import FEW_WINDOWS, Resampling
from glacierhpc.evaluation.entries import lead_entry, metric_entries, on_other_ground, plain
from glacierhpc.evaluation.groups import Glaciers, Parts, by_glacier, by_season
from glacierhpc.evaluation.metrics import error_sums, skill_of
from glacierhpc.evaluation.paired import paired
from glacierhpc.evaluation.paper import paper

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
    """Name -> (n, T', 9), see `metrics.SUMS`."""
    data_range: float
    """Width of the range of possible values, which SSIM and PSNR need."""
    threshold: float
    """Above it a value counts as snow or ice; NaN where no value does (velocities): there is no iou then."""
    common_share: float
    """Share of the valid target pixel-times that every forecaster could forecast."""
    parts: Parts | None = None
    """The same by glacier, where outlines were given."""


def score(
    forecasters: Mapping[str, Forecaster],
    data: Sequences,
    *,
    data_range: float = 2.0,
    threshold: float = 0.4,
    batch_size: int = 64,
    glaciers: Glaciers | None = None,
    starts: np.ndarray | None = None,
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
        Of NDSI for snow (Hall et al. 1995, doi:10.1016/0034-4257(95)00137-P); NaN where nothing is to be covered.
    batch_size : int
        Sequences at once.
    glaciers : Glaciers, optional
        To keep the sums of each glacier apart.
    starts : (n, 3) int, optional
        First time step, row and col of the sequences; needed with `glaciers`.

    Raises
    ------
    InputError
        If there is nothing to score on, or no pixel that all forecasters and the targets have.
    """
    if len(data) == 0:
        raise InputError(
            "no sequences to evaluate: give a longer period, larger test_share or lower min_valid_share"
        )
    if glaciers is not None and (starts is None or len(starts) != len(data)):
        raise InputError(
            "glaciers without the place of every sequence cannot be told apart: give starts, (n, 3)"
        )
    kept: dict[str, list[np.ndarray]] = {name: [] for name in forecasters}
    apart: list[Parts] = []
    wanted = common = 0
    for first in range(0, len(data), batch_size):
        numbers = np.arange(first, min(first + batch_size, len(data)))
        batch = data.__getitems__([int(number) for number in numbers])
        target, target_valid = np.asarray(batch.targets), np.asarray(batch.targets_valid)
        forecasts = {name: forecast(batch) for name, forecast in forecasters.items()}
        valid = target_valid.copy()
        for values, values_valid in forecasts.values():
            valid &= values_valid & np.isfinite(values).all(axis=2)
        wanted, common = wanted + int(target_valid.sum()), common + int(valid.sum())
        judge = partial(_sums, forecasts, target, data_range=data_range, threshold=threshold)
        for name, found in judge(valid).items():
            kept[name].append(found)
        if glaciers is not None and starts is not None:
            labels = glaciers.patches(starts[numbers], target.shape[-1])
            apart += _apart(judge, valid, labels, numbers, glaciers)
    if common == 0:
        raise InputError(
            "no pixel of these sequences is valid in the targets and in every forecast: "
            "give a longer period before the test (same_season_last_year needs a year) or loosen the masks"
        )
    sums = {name: np.concatenate(parts) for name, parts in kept.items()}
    parts = _joined(apart) if glaciers is not None else None
    return Scores(sums, data_range, threshold, common / wanted, parts)


def _sums(
    forecasts: Mapping[str, tuple[np.ndarray, np.ndarray]],
    target: np.ndarray,
    valid: np.ndarray,
    rows: np.ndarray | None = None,
    *,
    data_range: float,
    threshold: float,
) -> dict[str, np.ndarray]:
    """Return the sums of each forecast of a batch, or of some rows of it, where it is valid."""
    rows = np.arange(len(target)) if rows is None else rows
    return {
        name: error_sums(
            np.asarray(values)[rows], target[rows], valid, data_range=data_range, threshold=threshold
        )
        for name, (values, _) in forecasts.items()
    }


def _apart(
    judge: Callable[..., dict[str, np.ndarray]],
    valid: np.ndarray,
    labels: np.ndarray,
    numbers: np.ndarray,
    glaciers: Glaciers,
) -> Iterator[Parts]:
    """Give the sums of a batch glacier by glacier; labels (B, H, W) are those of its patches."""
    for label in np.unique(labels):
        inside = labels == label
        rows = np.flatnonzero(inside.any(axis=(1, 2)))
        sums = judge(valid[rows] & inside[rows, None], rows)
        yield Parts(numbers[rows], np.full(len(rows), glaciers.name(int(label)), dtype=object), sums)


def _joined(apart: list[Parts]) -> Parts:
    return Parts(
        np.concatenate([part.sequences for part in apart]),
        np.concatenate([part.glaciers for part in apart]),
        {name: np.concatenate([part.sums[name] for part in apart]) for name in apart[0].sums},
    )


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
    target_times: np.ndarray | None = None,
    grounds: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return the content of ``metrics.json``: every metric and skill, overall and by lead, with intervals.

    Parameters
    ----------
    scores : Scores
    blocks : (n,) or (n, 2) int
        Of the sequences, see `bootstrap.sequence_blocks`.
    model : str
        Whose skill against every other forecaster is given.
    split : str
        Which part was scored; stated only.
    samples, confidence, seed
        Of the bootstrap; all comparisons are paired.
    windows : int, optional
        Windows of time among the blocks, counted in them by default: under `FEW_WINDOWS` it is said that there are
        few.
    audit : mapping, optional
        Of the split, as ``split.json`` has it.
    shows : str
        What the values mean.
    target_times : (n, T') datetime64, optional
        Dates of the targets, for the table by season.
    grounds : (n,) int, optional
        Squares of ground of the sequences, see `bootstrap.ground_blocks`. Each skill then has a ``ground_interval``
        beside its ``interval``, wider by what other ground of the kind would give.
    """
    if model not in scores.sums:
        raise unknown_name("forecaster", model, scores.sums)
    resampling = Resampling(np.asarray(blocks), samples, confidence, seed)
    own, sums = scores.sums[model], scores.sums
    of: dict[str, Any] = {"model": model, "data_range": scores.data_range}
    found: dict[str, Any] = {
        "shows": shows,
        "split": split,
        "model": model,
        "n_sequences": len(own),
        "leads": list(range(1, own.shape[1] + 1)),
        "data_range": scores.data_range,
        "threshold": plain(np.array(scores.threshold))[0],
        "common_share": scores.common_share,
        "models": {
            name: metric_entries(part, resampling, data_range=scores.data_range)
            for name, part in sums.items()
        },
        "skill": {
            name: lead_entry(skill_of, resampling, own, part) for name, part in sums.items() if name != model
        },
        "paired": paired(sums, resampling, model=model),
        "by_glacier": by_glacier(sums, scores.parts, resampling, **of),
        "paper": paper(sums, resampling),
        "bootstrap": _drawn(resampling, windows),
        "audit": dict(audit or {}),
    }
    if grounds is not None:
        _add_other_ground(found, sums, model, resampling, grounds)
    if target_times is not None:
        found["by_season"] = by_season(sums, target_times, resampling, **of)
    return found


def _add_other_ground(
    found: dict[str, Any],
    sums: Mapping[str, np.ndarray],
    model: str,
    resampling: Resampling,
    grounds: np.ndarray,
) -> None:
    """Give each skill a second interval, in which squares of ground are drawn beside windows of time."""
    wider = resampling.with_grounds(grounds)
    found["skill"] = {
        name: on_other_ground(entry, skill_of, wider, sums[model], sums[name])
        for name, entry in found["skill"].items()
    }
    found["bootstrap"]["grounds"] = int(len(np.unique(grounds)))


def _drawn(resampling: Resampling, windows: int | None) -> dict[str, Any]:
    """Return what is said about the resampling."""
    blocks = int(len(np.unique(resampling.blocks, axis=0)))
    windows = int(len(np.unique(resampling.windows))) if windows is None else windows
    said: dict[str, Any] = {
        "samples": resampling.samples,
        "confidence": resampling.confidence,
        "blocks": blocks,
        "windows": windows,
        "few_blocks": windows < FEW_WINDOWS,
    }
    if resampling.blocks.ndim == 2:
        said["grounds"] = int(len(np.unique(resampling.blocks[:, 1])))
    return said


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
