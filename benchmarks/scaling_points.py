"""What repeats of one measurement say: a median with its interval, and the ratio of two of them with its own.

Both intervals are free of distributions and exact for the few repeats that a benchmark has; each carries the
probability that it really covers, which three repeats do not raise to 95 %. Nothing is measured here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from glacierhpc.errors import InputError

METHOD = "order statistics (medians); exact rank-sum distribution (ratios)"
MODES = {"strong": "the same work for all", "weak": "the same work for each"}
PARTS = ("compute", "communication", "data_wait", "idle")
"""Where the time of a worker goes; shares of the wall clock time."""


@dataclass(frozen=True)
class Interval:
    """A figure and between what it lies."""

    value: float
    low: float
    high: float
    coverage: float
    """Probability that an interval found in this way holds the true value."""

    def holds(self, value: float) -> bool:
        """Return whether a value lies in the interval."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Point:
    """What was measured of one step with one number of workers."""

    step: str
    mode: str
    """A key of `MODES`."""
    workers: int
    """Worker processes, or ranks."""
    work: float
    """Pieces of work done: scenes, shards, samples."""
    unit: str
    seconds: tuple[float, ...]
    """Wall clock time of each repeat; the warm-up is not among them."""
    oversubscribed: bool
    """Whether the workers are more than the cores they have."""
    split: dict[str, float] = field(default_factory=dict)
    """Share of each of `PARTS`; together 1."""
    start_s: float = 0.0
    """How long the workers took to come up."""
    details: dict[str, Any] = field(default_factory=dict)


def median_interval(values: Sequence[float], *, wanted: float = 0.95) -> Interval:
    """Return the median of some values and the narrowest interval of order statistics that covers it.

    With `n` values the median lies between the k-th smallest and the k-th largest with the probability
    ``1 - 2 P(Binomial(n, 1/2) < k)``; where even the smallest and the largest fall short of `wanted`, they are
    given with the probability they reach: 75 % for 3 values, 94 % for 5.

    References
    ----------
    David & Nagaraja (2003), Order Statistics, section 7.1, doi:10.1002/0471722162
    """
    ordered, n = sorted(values), len(values)
    if n == 0:
        raise InputError("no repeat was measured, so there is no median: give --repeats 1 or more")
    tails = np.cumsum([math.comb(n, k) for k in range(n)]) / 2.0**n  # P(Binomial < k + 1)
    cut = max((k for k in range(n // 2) if 1 - 2 * tails[k] >= wanted), default=0)
    coverage = 1 - 2 * tails[cut] if n > 1 else 0.0
    return Interval(float(np.median(ordered)), ordered[cut], ordered[n - 1 - cut], float(coverage))


def ratio_interval(above: Sequence[float], below: Sequence[float], *, wanted: float = 0.95) -> Interval:
    """Return by what factor values differ between two sets of repeats, with its interval.

    The factor is the Hodges-Lehmann estimate, the median of all ratios between a value of one set and one of the
    other; its interval is cut from these ratios by the exact distribution of the rank sum. Four repeats against
    four reach 97 %, three against three no more than 90 %.

    References
    ----------
    Hodges & Lehmann (1963), doi:10.1214/aoms/1177704172; Hollander, Wolfe & Chicken (2014), section 4.3
    """
    if not len(above) or not len(below) or min(*above, *below) <= 0:
        raise InputError(
            "a ratio needs repeats above 0 on both sides: measure both, with --repeats 1 or more"
        )
    ratios = np.sort(np.divide.outer(np.asarray(above), np.asarray(below)).ravel())
    tails = np.cumsum(_rank_sums(len(above), len(below)))
    cut = max((k for k in range(len(ratios) // 2) if 1 - 2 * tails[k] >= wanted), default=0)
    coverage = max(0.0, 1 - 2 * tails[cut])
    return Interval(float(np.median(ratios)), float(ratios[cut]), float(ratios[-1 - cut]), float(coverage))


def _rank_sums(first: int, second: int) -> np.ndarray:
    """Return the probabilities of the Mann-Whitney statistic 0, 1, ..., first * second where nothing differs."""
    # ways[j][u]: choices of j of the first values whose statistic is u (Mann & Whitney 1947, recursion (1))
    size = first * second + 1
    ways = np.zeros((first + 1, size))
    ways[0, 0] = 1
    for other in range(first + second):
        for chosen in range(min(first, other + 1), 0, -1):
            shift = other - chosen + 1  # values of the second set that lie below this one
            if shift <= second:
                ways[chosen, shift:] += ways[chosen - 1, : size - shift]
    return ways[first] / math.comb(first + second, first)


def base_of(points: Sequence[Point], point: Point) -> Point:
    """Return the point with the fewest workers of the same step and mode: what speed-up is counted from."""
    return min((p for p in points if (p.step, p.mode) == (point.step, point.mode)), key=lambda p: p.workers)


def speed_up(base: Point, point: Point) -> Interval:
    """Return how many times faster a piece of work is done than with the base's workers.

    With more work for more workers (weak scaling) this is the scaled speed-up: the rate of work over that of the base.
    """
    if point is base:
        return Interval(1.0, 1.0, 1.0, 1.0)
    ratio = ratio_interval(base.seconds, point.seconds)
    more = point.work / base.work if point.mode == "weak" else 1.0
    return Interval(ratio.value * more, ratio.low * more, ratio.high * more, ratio.coverage)


def efficiency(base: Point, point: Point) -> Interval:
    """Return the speed-up over what as many times the workers promise; 1 is ideal."""
    gain, more = speed_up(base, point), point.workers / base.workers
    return Interval(gain.value / more, gain.low / more, gain.high / more, gain.coverage)
