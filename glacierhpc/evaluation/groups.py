"""Scores by season of the target and by glacier; over all sequences together they are in `score`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from glacierhpc.errors import InputError
from glacierhpc.evaluation.bootstrap import Resampling
from glacierhpc.evaluation.entries import group_entries

SEASONS = ("DJF", "MAM", "JJA", "SON")
"""By the first letters of their months: winter is not at the same time everywhere."""

OTHER_GROUND = "other ground"
"""What a raster of glaciers calls 0."""


@dataclass(frozen=True, eq=False)
class Glaciers:
    """Which glacier each pixel of the area belongs to."""

    labels: np.ndarray
    """(Y, X) int: 0 is ground outside all."""
    names: Mapping[int, str]
    """Of the labels; one that is not named is called ``glacier 7``."""

    def name(self, label: int) -> str:
        """Return the name of a label."""
        return str(self.names.get(label, OTHER_GROUND if label == 0 else f"glacier {label}"))

    def patches(self, starts: np.ndarray, size: int) -> np.ndarray:
        """Return the labels under patches (n, 3: step, row, col) as (n, size, size) int."""
        rows, cols = (starts[:, axis, None] + np.arange(size) for axis in (1, 2))
        if len(starts) and (rows.max() >= self.labels.shape[0] or cols.max() >= self.labels.shape[1]):
            raise InputError(
                f"glaciers of {self.labels.shape!r} pixels do not cover patches that reach to row {rows.max()} and "
                f"col {cols.max()}: give a raster on the grid of the composites"
            )
        return self.labels[rows[:, :, None], cols[:, None, :]]


@dataclass(frozen=True, eq=False)
class Parts:
    """Error sums by glacier: a row for each sequence and each glacier under its patch."""

    sequences: np.ndarray
    """(m,) int64, number of the sequence in its scores."""
    glaciers: np.ndarray
    """(m,) str."""
    sums: dict[str, np.ndarray]
    """Forecaster -> (m, T', S)."""


def season_names(dates: np.ndarray) -> np.ndarray:
    """Return the meteorological season of dates (...) datetime64 as (...) str, see `SEASONS`."""
    months = np.asarray(dates).astype("datetime64[M]").astype(np.int64) % 12  # 0 is January
    return np.array(SEASONS)[(months + 1) % 12 // 3]


def by_season(
    sums: Mapping[str, np.ndarray],
    target_times: np.ndarray,
    resampling: Resampling,
    *,
    model: str,
    data_range: float,
) -> dict[str, Any]:
    """Return the scores of each season, by the date of the target.

    Parameters
    ----------
    sums : mapping
        Forecaster -> (n, T', S).
    target_times : (n, T') datetime64
    """
    seasons = season_names(target_times)
    found = {}
    for season in SEASONS:
        chosen = seasons == season
        rows = np.flatnonzero(chosen.any(axis=1))
        if len(rows) == 0:
            continue
        weight = chosen[rows, :, None]
        pooled = {name: (part[rows] * weight).sum(axis=1) for name, part in sums.items()}
        found[season] = _group(pooled, rows, resampling, model, data_range)
    return found


def by_glacier(
    sums: Mapping[str, np.ndarray],
    parts: Parts | None,
    resampling: Resampling,
    *,
    model: str,
    data_range: float,
) -> dict[str, Any]:
    """Return the scores of each glacier, pixel by pixel of its outline; without parts of one glacier, ``all``.

    Similarity (ssim) looks at windows of pixels: at the rim of a glacier only at what lies inside.
    """
    if parts is None:
        rows = np.arange(len(sums[model]))
        pooled = {name: part.sum(axis=1) for name, part in sums.items()}
        return {"all": _group(pooled, rows, resampling, model, data_range)}
    found = {}
    for glacier in sorted(set(parts.glaciers.tolist()), key=lambda name: (name == OTHER_GROUND, name)):
        chosen = parts.glaciers == glacier
        pooled = {name: part[chosen].sum(axis=1) for name, part in parts.sums.items()}
        found[glacier] = _group(pooled, parts.sequences[chosen], resampling, model, data_range)
    return found


def _group(
    pooled: Mapping[str, np.ndarray], rows: np.ndarray, resampling: Resampling, model: str, data_range: float
) -> dict[str, Any]:
    group = group_entries(pooled, resampling.of(rows), model=model, data_range=data_range)
    return {"sequences": int(len(np.unique(rows))), **group}
