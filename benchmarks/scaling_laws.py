"""Laws of scaling fitted to measured times: Amdahl's, Gustafson's and Gunther's, each only as far as was measured.

A law is fitted to the logarithms of all repeats by least squares, so that a per cent counts alike at every number of
workers. Points with more workers than cores take no part: they measure the sharing of cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scaling_points import Interval, Point
from scipy.optimize import least_squares
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution

from glacierhpc.errors import InputError

LEVEL = 0.95
"""Coverage of the intervals of parameters."""


class BeyondData(InputError):
    """A fit was asked about a number of workers that was not measured."""


@dataclass(frozen=True)
class Law:
    """A form of the time of `n` workers, over that of one."""

    name: str
    mode: str
    parameters: dict[str, str]
    """Names, with what each one means."""
    shape: Callable[..., np.ndarray]
    """Of the workers and the parameters."""
    start: tuple[float, ...]


def _amdahl(n: np.ndarray, serial: float) -> np.ndarray:
    return serial + (1 - serial) / n


def _gustafson(n: np.ndarray, serial: float) -> np.ndarray:
    return n / (n - serial * (n - 1))


def _usl(n: np.ndarray, contention: float, coherence: float) -> np.ndarray:
    return (1 + contention * (n - 1) + coherence * n * (n - 1)) / n


LAWS = (
    # Amdahl (1967), doi:10.1145/1465482.1465560
    Law("Amdahl", "strong", {"serial": "share of the work that only one worker does"}, _amdahl, (0.1,)),
    # Gustafson (1988), doi:10.1145/42411.42415
    Law("Gustafson", "weak", {"serial": "share of the time in which one works alone, for any number"}, _gustafson,
        (0.1,)),
    # Gunther (2007), Guerrilla Capacity Planning, doi:10.1007/978-3-540-31010-5
    Law("USL", "strong", {"contention": "share that waits for others", "coherence": "share that grows with each pair"},
        _usl, (0.1, 0.0)),
)  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """A law as it fits the points of a step."""

    law: str
    step: str
    mode: str
    parameters: dict[str, Interval]
    one_worker_s: float
    workers: tuple[int, ...]
    """Counts that were fitted."""
    lack_of_fit: float | None
    """Probability of residuals as large as these if the law holds (F test against the repeats); None where as many
    parameters as counts leave nothing to test."""
    words: str
    _shape: Callable[..., np.ndarray] = field(repr=False, compare=False, default=_amdahl)

    def seconds(self, workers: float) -> float:
        """Return the time of a number of workers.

        Raises
        ------
        BeyondData
            If the number is outside of what was measured: a law fitted to a few workers says nothing of many.
        """
        low, high = self.workers[0], self.workers[-1]
        if not low <= workers <= high:
            raise BeyondData(
                f"{self.law}'s law was fitted to {low} to {high} workers and says nothing of {workers:g}: measure "
                f"there with --workers ...,{workers:g}, or read the projection, whose assumptions are listed"
            )
        values = [interval.value for interval in self.parameters.values()]
        return self.one_worker_s * float(self._shape(np.asarray(float(workers)), *values))


@dataclass(frozen=True)
class NoFit:
    """Why a law was not fitted."""

    law: str
    step: str
    mode: str
    reason: str


def fit_all(points: Sequence[Point]) -> list[Fit | NoFit]:
    """Fit every law to every step that was measured in its mode."""
    steps = dict.fromkeys(point.step for point in points)
    return [
        fit(law, [p for p in points if (p.step, p.mode) == (step, law.mode)])
        for step in steps
        for law in LAWS
        if any((p.step, p.mode) == (step, law.mode) for p in points)
    ]


def fit(law: Law, points: Sequence[Point]) -> Fit | NoFit:
    """Fit a law to the points of one step and mode that have no more workers than cores.

    Needs one count more than the law has parameters of its own, the time of one worker being fitted, too, and more
    repeats than counts. Parameters are not forced into their range: one that leaves it says that the law is not the
    case's.
    """
    usable = [point for point in points if not point.oversubscribed]
    counts = tuple(sorted({point.workers for point in usable}))
    n = np.concatenate([[float(p.workers)] * len(p.seconds) for p in usable]) if usable else np.zeros(0)
    told = (law.name, points[0].step, points[0].mode)
    free = len(law.parameters) + 1
    if len(counts) < free or len(n) <= free:
        left_out = len(points) - len(usable)
        reason = (
            f"{free} unknowns need {free} counts of workers within the cores, and more repeats than unknowns"
        )
        return NoFit(
            *told, f"{reason}; there are {len(counts)} ({left_out} beyond the cores) and {len(n)} repeats"
        )
    logs = np.log(np.concatenate([point.seconds for point in usable]))
    found = least_squares(
        lambda guess: guess[0] + np.log(np.maximum(law.shape(n, *guess[1:]), 1e-9)) - logs,
        (float(logs[n == n.min()].mean()), *law.start),
        x_scale="jac",
    )
    intervals = _intervals(found.x, found.jac, found.fun)
    parameters = dict(zip(law.parameters, intervals[1:]))
    lack = _lack_of_fit(found.fun, n, free)
    first = float(np.exp(found.x[0]))
    return Fit(*told, parameters, first, counts, lack, _words(parameters, counts, lack), law.shape)


def _intervals(values: np.ndarray, jacobian: np.ndarray, residuals: np.ndarray) -> list[Interval]:
    """Return each parameter with its interval, from the curvature of the squares and Student's t."""
    free = len(residuals) - len(values)
    spread = float(residuals @ residuals) / free
    deviations = np.sqrt(np.maximum(np.diag(np.linalg.pinv(jacobian.T @ jacobian)) * spread, 0))
    half = float(t_distribution.ppf(0.5 + LEVEL / 2, free)) * deviations
    return [Interval(float(v), float(v - h), float(v + h), LEVEL) for v, h in zip(values, half)]


def _lack_of_fit(residuals: np.ndarray, n: np.ndarray, parameters: int) -> float | None:
    counts = np.unique(n)
    lack, pure = len(counts) - parameters, len(n) - len(counts)
    if lack < 1 or pure < 1:
        return None
    within = sum(float(((residuals[n == c] - residuals[n == c].mean()) ** 2).sum()) for c in counts)
    between = max(float(residuals @ residuals) - within, 0.0)
    if within <= 1e-12 * len(
        n
    ):  # repeats that agree to a millionth are made up, and any law can be told from them
        return 1.0 if between <= 1e-12 * len(n) else 0.0
    return float(f_distribution.sf((between / lack) / (within / pure), lack, pure))


def _words(parameters: dict[str, Interval], counts: tuple[int, ...], lack: float | None) -> str:
    """Return what a reader must know of a fit."""
    words = [f"from {counts[0]} to {counts[-1]} workers, and no further"]
    if counts[0] > 1:
        words.append(
            "one worker was not measured: its time, of which shares are counted, is the law's own word"
        )
    for name, interval in parameters.items():
        if interval.high < 0 or interval.low > 1:
            words.append(f"the {name} share lies outside of 0 to 1: the law does not describe this step")
    if lack is None:
        words.append("as many unknowns as counts: whether the law holds is not tested")
    elif lack < 0.05:
        words.append(f"the law does not hold (F test, p = {lack:.2g})")
    else:
        words.append(f"nothing speaks against the law (F test, p = {lack:.2g})")
    return "; ".join(words)
