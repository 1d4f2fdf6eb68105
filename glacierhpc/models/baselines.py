"""What a learned forecast must beat: persistence, the same season last year, climatology; nothing is learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from glacierhpc.errors import InputError, unknown_name

_DAY = np.timedelta64(1, "D")
_YEAR_DAYS = 365.2425


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

    @property
    def tolerance_days(self) -> float:
        """Half the usual distance between composites: within it two dates are the same season."""
        return float(np.median(np.diff(self.times) / _DAY)) / 2 if len(self.times) > 1 else _YEAR_DAYS / 8


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


def climatology(
    record: Record, last_input: int, targets: np.ndarray, *, training_times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Forecast each pixel's mean of the target's season over the training times.

    Parameters
    ----------
    training_times : (k,) int
        Time steps that occur in training samples; of them only those up to the last input are used, so that a
        split by blocks sees no future either.
    """
    known = training_times[training_times <= last_input]
    frames = [
        _mean_of(record, known[_season_apart(record, known, t) <= record.tolerance_days]) for t in targets
    ]
    return np.stack([values for values, _ in frames]), np.stack([valid for _, valid in frames])


BASELINES: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "persistence": persistence,
    "same_season_last_year": same_season_last_year,
    "climatology": climatology,
}


def build_baseline(name: str, record: Record, *, training_times: np.ndarray) -> Baseline:
    """Return a baseline by name, bound to a record; `training_times` are the time steps climatology may use."""
    if name not in BASELINES:
        raise unknown_name("baseline", name, BASELINES)
    keywords = {"training_times": np.asarray(training_times)} if name == "climatology" else {}
    return partial(BASELINES[name], record, **keywords)


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
    days = (record.times[: last_input + 1] - record.times[target]) / _DAY
    years = np.round(-days / _YEAR_DAYS)
    distance = np.abs(days + years * _YEAR_DAYS)
    usable = np.flatnonzero((years >= 1) & (distance <= record.tolerance_days))
    return usable[np.lexsort((distance[usable], years[usable]))]


def _season_apart(record: Record, steps: np.ndarray, target: int) -> np.ndarray:
    """Return the distance in the year, days, between some steps and a target."""
    days = np.abs((record.times[steps] - record.times[target]) / _DAY) % _YEAR_DAYS
    return np.minimum(days, _YEAR_DAYS - days)


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


def _mean_of(record: Record, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of the valid values of some steps, and where there was one."""
    total = np.zeros(record.data.shape[1:])
    count = np.zeros(record.valid.shape[1:], dtype=np.int32)
    for step in steps:
        total += np.where(record.valid[step], record.data[step], 0)
        count += record.valid[step]
    return (total / np.maximum(count, 1)).astype(np.float32), count > 0


def _repeat(frame: tuple[np.ndarray, np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    values, valid = frame
    return np.repeat(values[None], count, axis=0), np.repeat(valid[None], count, axis=0)
