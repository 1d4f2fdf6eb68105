"""Figures with their intervals as ``metrics.json`` holds them: overall and by lead; nothing is scored here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from glacierhpc.evaluation.bootstrap import Measure, Resampling
from glacierhpc.evaluation.metrics import METRICS, metrics_of, skill_of

Entry = dict[str, Any]


def lead_entry(measure: Measure, resampling: Resampling, *sums: np.ndarray) -> Entry:
    """Return a measure of sums (n, T', S) over all leads together and by lead, with intervals."""
    return _split(measure, resampling, *sums, names=("",))[""]


def metric_entries(sums: np.ndarray, resampling: Resampling, *, data_range: float) -> dict[str, Entry]:
    """Return every metric of sums (n, T', S), overall and by lead; all from the same draws."""
    return _split(_all_metrics(data_range), resampling, sums, names=METRICS)


def group_entries(
    sums: Mapping[str, np.ndarray], resampling: Resampling, *, model: str, data_range: float
) -> dict[str, Any]:
    """Return metrics of every forecaster and the model's skill for rows (m, S), without leads.

    Returns
    -------
    dict
        ``pixels`` (valid pixel-times), ``windows`` (of time), ``models``: name -> metric -> all and interval,
        ``skill``: other -> all and interval.
    """
    everything = _all_metrics(data_range)
    others = {name: part for name, part in sums.items() if name != model}
    return {
        "pixels": int(sums[model][:, 0].sum()),
        "windows": int(len(np.unique(resampling.windows))),
        "models": {
            name: dict(zip(METRICS, _pairs(everything, resampling, part), strict=True))
            for name, part in sums.items()
        },
        "skill": {name: _pairs(skill_of, resampling, sums[model], part)[0] for name, part in others.items()},
    }


def plain(values: np.ndarray) -> list[float | None]:
    """Return numbers for JSON, which has neither NaN nor infinity."""
    return [float(value) if np.isfinite(value) else None for value in np.atleast_1d(values)]


def _all_metrics(data_range: float) -> Measure:
    def measure(pooled: np.ndarray) -> np.ndarray:
        found = metrics_of(pooled, data_range=data_range)
        return np.stack([found[name] for name in METRICS], axis=-1)

    return measure


def _split(
    measure: Measure, resampling: Resampling, *sums: np.ndarray, names: tuple[str, ...]
) -> dict[str, Entry]:
    """Return an entry for each of the measure's last axis, or one for a measure without such an axis."""
    stacked = [np.concatenate([part.sum(axis=1, keepdims=True), part], axis=1) for part in sums]
    shape = (stacked[0].shape[1], len(names))
    values = np.reshape(measure(*(part.sum(axis=0) for part in stacked)), shape)
    low, high = (np.reshape(end, shape) for end in resampling.interval(measure, *stacked))
    entries = {}
    for place, name in enumerate(names):
        middle = plain(values[:, place])
        ends = [list(pair) for pair in zip(plain(low[:, place]), plain(high[:, place]), strict=True)]
        entries[name] = {
            "all": middle[0],
            "interval": ends[0],
            "by_lead": middle[1:],
            "by_lead_interval": ends[1:],
        }
    return entries


def _pairs(measure: Measure, resampling: Resampling, *sums: np.ndarray) -> list[Entry]:
    """Return all and interval of every value that a measure gives for rows (m, S)."""
    values = plain(measure(*(part.sum(axis=0) for part in sums)))
    low, high = (plain(end) for end in resampling.interval(measure, *sums))
    return [{"all": value, "interval": [*ends]} for value, *ends in zip(values, low, high, strict=True)]


def on_other_ground(entry: Entry, measure: Measure, wider: Resampling, *sums: np.ndarray) -> Entry:
    """Return an entry of `lead_entry` with a second interval, ``ground_interval``, from a wider resampling."""
    return {**entry, "ground_interval": lead_entry(measure, wider, *sums)["interval"]}
