"""Baselines that forecast a whole scene from a record: persistence, the same season last year; nothing is learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from glacierhpc.errors import InputError, unknown_name
from glacierhpc.seasons import DAY, YEAR_DAYS, tolerance_days


@dataclass(frozen=True, eq=False)
class Record:
    """All composites of a place, from which a baseline may use those up to the day of its forecast."""

    data: np.ndarray
    """(T, C, Y, X) float32."""
    valid: np.ndarray
    """(T, Y, X) bool."""
    times: np.ndarray
    """(T,) datetime64."""

    def __post_init__(self) -> None:
        times, _, rows, cols = self.data.shape
        if self.valid.shape != (times, rows, cols) or self.times.shape != (times,):
            raise InputError(
                f"data {self.data.shape!r}, valid {self.valid.shape!r} and times {self.times.shape!r} do not belong "
                "together: give (T, C, Y, X), (T, Y, X) and (T,)"
            )


Baseline = Callable[[int, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(last_input, target_steps) -> forecast (L, C, Y, X) float32 and its validity (L, Y, X) bool, of the whole scene."""


def persistence(record: Record, last_input: int, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Forecast that nothing changes: each pixel's latest valid value up to the last input, for every lead."""
    latest = _latest_of(record, np.arange(last_input, -1, -1))
    return _repeat(latest, len(targets))


def same_season_last_year(
    record: Record, last_input: int, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Forecast each pixel's value at the target's date a year before.

    Where that is missing or not yet observed at the last input (leads beyond a year), two years before, and so
    on; invalid where no earlier year has it. Composites count as the same date within half their usual distance.
    """
    frames = [
        _latest_of(record, _same_date_in_earlier_years(record, last_input, target)) for target in targets
    ]
    return np.stack([values for values, _ in frames]), np.stack([valid for _, valid in frames])


SCENE_BASELINES: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "persistence": persistence,
    "same_season_last_year": same_season_last_year,
}


def build_baseline(name: str, record: Record) -> Baseline:
    """Return a baseline of whole scenes by name, bound to a record."""
    if name not in SCENE_BASELINES:
        raise unknown_name("baseline", name, SCENE_BASELINES)
    return partial(SCENE_BASELINES[name], record)


class SequenceBaseline:
    """A baseline cut into the patches of sequences: called with a batch, as the evaluation calls a model.

    Parameters
    ----------
    baseline : Baseline
    starts : (n, 3) int64
        First time step, row and col of every sequence of the plan; a batch's ``numbers`` point into it.
    steps_in, steps_out, size : int
        Of the plan.
    """

    def __init__(
        self, baseline: Baseline, starts: np.ndarray, *, steps_in: int, steps_out: int, size: int
    ) -> None:
        self._baseline, self._starts, self._size = baseline, starts, size
        self._steps_in, self._leads = steps_in, np.arange(steps_out)
        self._scene: tuple[int, np.ndarray, np.ndarray] | None = None

    def __call__(self, batch: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return forecasts (B, T', C, H, W) float32 and validity (B, T', H, W) bool of the batch's sequences."""
        starts = self._starts[np.asarray(batch.numbers)]
        values, valid = [], []
        for first, row, col in starts:
            frames, frames_valid = self._frames(int(first))
            patch = (..., slice(row, row + self._size), slice(col, col + self._size))
            values.append(frames[patch])
            valid.append(frames_valid[patch])
        return np.stack(values), np.stack(valid)

    def _frames(self, first: int) -> tuple[np.ndarray, np.ndarray]:
        # sequences come ordered by time: one scene at a time is enough to keep
        if self._scene is None or self._scene[0] != first:
            last_input = first + self._steps_in - 1
            self._scene = (first, *self._baseline(last_input, last_input + 1 + self._leads))
        return self._scene[1:]


def _same_date_in_earlier_years(record: Record, last_input: int, target: int) -> np.ndarray:
    """Return the time steps at the target's date in earlier years, the latest year first, nearest date first."""
    days = (record.times[: last_input + 1] - record.times[target]) / DAY
    years = np.round(-days / YEAR_DAYS)
    distance = np.abs(days + years * YEAR_DAYS)
    usable = np.flatnonzero((years >= 1) & (distance <= tolerance_days(record.times)))
    return usable[np.lexsort((distance[usable], years[usable]))]


def _latest_of(record: Record, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each pixel, the first valid value in the order of `steps`, and where there was one."""
    values = np.zeros(record.data.shape[1:], dtype=np.float32)
    found = np.zeros(record.valid.shape[1:], dtype=bool)
    for step in steps:
        new = record.valid[step] & ~found
        if new.any():
            values = np.where(new, record.data[step], values)
            found |= new
        if found.all():
            break
    return values, found


def _repeat(frame: tuple[np.ndarray, np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    values, valid = frame
    return np.repeat(values[None], count, axis=0), np.repeat(valid[None], count, axis=0)
