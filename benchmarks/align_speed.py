"""How fast pairs are aligned: per iteration, to convergence, with masks.

Everything runs on one core, one thing after the other. What counts is the processor's time, not the clock's: it is
the same on an idle machine, hardly more on a busy one, and a method that used two cores would pay for both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from align_accuracy import FAILED_PX
from align_methods import METHODS, MOTIONS, OURS, Method
from pairs import Pair, corner_rms, make, observe, random_matrix, view
from world import World

NOISE, REACH_PX = 0.03, 2.0  # of the pairs that are timed
FEW, MANY = 1, 4  # iterations whose difference is timed
LEAST_S, MOST_CALLS = 0.05, 20  # short runs are called until they take about this long, or so often
COMPILING_PX = 64  # pairs on which everything runs once before it is timed
LARGE_PX = 2048  # larger pairs take so long that once, after a first call, is enough
CLOUDS, SPECKS = 0.3, 0.01  # share of each image that its mask hides


@dataclass(frozen=True)
class Timing:
    """Seconds that one method took for one thing."""

    what: str
    """``iteration`` or ``convergence``."""
    method: str
    motion: str
    size_px: int
    seconds: float
    error_px: float = float("nan")
    """Corner error of what was timed."""


def timings(sizes: list[int], *, repeats: int) -> list[Timing]:
    """Time all methods on all motions and sizes, on the same pairs, in turns."""
    for motion, pair in pairs_of(COMPILING_PX):
        _convergence(pair, motion, 1)
        _iteration(pair, motion, 1)
    found: list[Timing] = []
    for size_px in sizes:
        turns = repeats if size_px <= LARGE_PX else 1
        for motion, pair in pairs_of(size_px):
            found += [*_convergence(pair, motion, turns), *_iteration(pair, motion, turns)]
    return found


def pairs_of(size_px: int) -> Iterator[tuple[str, Pair]]:
    """Yield each motion with its pair; all have one reference."""
    shape = (size_px, size_px)
    world = World((size_px + 64, size_px + 64), seed=size_px)
    reference, rng = view(world, shape), np.random.default_rng(size_px)
    for motion in MOTIONS:
        matrix = random_matrix(motion, shape, rng, reach_px=REACH_PX)
        yield motion, observe(reference, view(world, shape, matrix), matrix, noise=NOISE, seed=size_px)


def _convergence(pair: Pair, motion: str, repeats: int) -> list[Timing]:
    """Time from raw arrays to matrix; who fails on a pair has no time."""
    runs = {m.name: partial(aligned, m, pair, motion) for m in METHODS if m.timed and motion in m.motions}
    first = {name: timed(run) for name, run in runs.items()}
    errors = {name: corner_rms(found, pair.truth, pair.shape) for name, (_, found) in first.items()}
    runs = {name: run for name, run in runs.items() if errors[name] <= FAILED_PX}
    seconds = _in_turns(runs, first, repeats)
    return [Timing("convergence", n, motion, pair.shape[0], value, errors[n]) for n, value in seconds.items()]


def aligned(method: Method, pair: Pair, motion: str) -> np.ndarray:
    """Align; NaN where there is no answer."""
    try:
        return method.align(pair, motion)
    except Exception:  # noqa: BLE001 - what a peer raises counts as its failure
        return np.full((3, 3), np.nan)


def _iteration(pair: Pair, motion: str, repeats: int) -> list[Timing]:
    """Time an iteration at full size."""
    asked = {m.name: (m, pair) for m in METHODS if m.iterate is not None and m.timed and motion in m.motions}
    seconds = seconds_per_iteration(asked, motion, repeats)
    return [
        Timing("iteration", name, motion, pair.shape[0], value)
        for name, value in seconds.items()
        if value > 0
    ]


def seconds_per_iteration(
    asked: dict[str, tuple[Method, Pair]], motion: str, repeats: int
) -> dict[str, float]:
    """Return the difference of runs with `MANY` and `FEW` iterations, per iteration; NaN where they are as many."""
    runs = {
        (name, n): partial(method.iterate, pair, motion, n)
        for name, (method, pair) in asked.items()
        if method.iterate is not None
        for n in (FEW, MANY)
    }
    first = {key: timed(run) for key, run in runs.items()}
    seconds = _in_turns(runs, first, repeats)
    told = {}
    for name in asked:
        done = first[name, MANY][1] - first[name, FEW][1]
        told[name] = (seconds[name, MANY] - seconds[name, FEW]) / done if done > 0 else float("nan")
    return told


def _in_turns(
    runs: dict[Any, Callable[[], Any]], first: dict[Any, tuple[float, Any]], repeats: int
) -> dict[Any, float]:
    """Return median seconds; a run whose first call was short is called several times in each turn."""
    calls = {name: int(np.ceil(LEAST_S / max(first[name][0], LEAST_S / MOST_CALLS))) for name in runs}
    seconds: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(timed(partial(_repeated, run, calls[name]))[0] / calls[name])
    return {name: statistics.median(values) for name, values in seconds.items()}


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor's seconds that a run took, of all threads together, and what it returned."""
    started = time.process_time()
    value = run()
    return time.process_time() - started, value


def _repeated(run: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        run()


def cost_of_masks(size_px: int, *, motion: str, repeats: int) -> dict[str, dict[str, float]]:
    """Time ours without masks, under clouds, and with single pixels missing: one pass, and the whole alignment.

    Both images have masks of their own; what they hide is not as much less work as it is fewer pixels.
    """
    shape = (size_px, size_px)
    matrix = random_matrix(motion, shape, np.random.default_rng(7), reach_px=REACH_PX)
    clear = make(shape, matrix, noise=NOISE, seed=7)
    specks = [np.random.default_rng([7, k]).random(shape) >= SPECKS for k in range(2)]
    pairs = {
        "no mask": clear,
        "clouds": make(shape, matrix, noise=NOISE, clouds=CLOUDS, seed=7),
        "specks": replace(clear, reference_valid=specks[0], moving_valid=specks[1]),
    }
    runs = {name: partial(aligned, OURS, pair, motion) for name, pair in pairs.items()}
    return {
        "alignment": _in_turns(runs, {name: timed(run) for name, run in runs.items()}, repeats),
        "pass": seconds_per_iteration({name: (OURS, pair) for name, pair in pairs.items()}, motion, repeats),
    }
