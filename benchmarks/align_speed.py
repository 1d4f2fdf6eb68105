"""How fast alignments are: per iteration, to convergence, with masks, and for whole stacks.

Everything runs on one core, one thing after the other, except what measures two processes.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
from align_accuracy import FAILED_PX
from align_methods import METHODS, MOTIONS, OPENCV, OURS, Method
from harness import medians
from pairs import Pair, corner_rms, make, observe, random_matrix, stack_images, view
from world import World

from glacierhpc.coreg import align_pair
from glacierhpc.kernels.filters import temporal_median

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
    runs = {m.name: partial(_aligned, m, pair, motion) for m in METHODS if m.timed and motion in m.motions}
    first = {name: _timed(run) for name, run in runs.items()}
    errors = {name: corner_rms(found, pair.truth, pair.shape) for name, (_, found) in first.items()}
    runs = {name: run for name, run in runs.items() if errors[name] <= FAILED_PX}
    seconds = _in_turns(runs, first, repeats)
    return [Timing("convergence", n, motion, pair.shape[0], value, errors[n]) for n, value in seconds.items()]


def _aligned(method: Method, pair: Pair, motion: str) -> np.ndarray:
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
    first = {key: _timed(run) for key, run in runs.items()}
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
    several = {name: partial(_repeated, run, calls[name]) for name, run in runs.items()}
    seconds = medians(several, repeats=repeats, warm_up=False)
    return {name: value / calls[name] for name, value in seconds.items()}


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    value = run()
    return time.perf_counter() - started, value


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
    runs = {name: partial(_aligned, OURS, pair, motion) for name, pair in pairs.items()}
    return {
        "alignment": _in_turns(runs, {name: _timed(run) for name, run in runs.items()}, repeats),
        "pass": seconds_per_iteration({name: (OURS, pair) for name, pair in pairs.items()}, motion, repeats),
    }


def against_the_median(
    images: np.ndarray, valid: np.ndarray, motion: str, method: Method = OURS
) -> np.ndarray:
    """Align every scene to the median of all, one after the other; return (n, 3, 3), NaN where there is none."""
    reference = temporal_median(images, valid)
    return np.stack(
        [_aligned_to(reference, image, mask, motion, method) for image, mask in zip(images, valid)]
    )


def _aligned_to(
    reference: np.ndarray, image: np.ndarray, valid: np.ndarray, motion: str, method: Method
) -> np.ndarray:
    pair = Pair(np.nan_to_num(reference), image, np.eye(3), np.isfinite(reference), valid)
    return _aligned(method, pair, motion)


STACK_METHODS: dict[str, Callable[[np.ndarray, np.ndarray, str], np.ndarray]] = {
    "ours": against_the_median,
    OPENCV.name: lambda images, valid, motion: against_the_median(images, valid, motion, OPENCV),
}
"""(images, valid, motion) to matrices (n, 3, 3), common pixel to scene pixel."""


def stack_speed(*, scenes: int, size_px: int, motion: str, repeats: int) -> dict[str, dict[str, float]]:
    """Time the alignment of a stack in memory; return scenes per second and the error by method.

    The error is that of the corners between scenes: what all matrices have in common is no error.
    """
    images, valid, truth = stack_images(scenes, size_px, motion=motion)
    told = {}
    for name, align in STACK_METHODS.items():
        align(images[:2], valid[:2], motion)
        found: list[np.ndarray] = []
        runs = {name: lambda align=align, found=found: found.append(align(images, valid, motion))}
        seconds = medians(runs, repeats=repeats, warm_up=False)[name]
        told[name] = {"scenes_per_s": scenes / seconds, **error_between(found[-1], truth, (size_px, size_px))}
    return told


def error_between(found: np.ndarray, truth: np.ndarray, shape: tuple[int, int]) -> dict[str, float]:
    """Return the corner RMS of all matrices against the truth seen from the grid that fits them best."""
    ok = np.isfinite(found).all(axis=(1, 2))
    # scene <- found grid <- common grid: the mean of inv(found) truth takes the common grid to the one found
    between = (
        np.mean([np.linalg.inv(f) @ t for f, t in zip(found[ok], truth[ok])], axis=0)
        if ok.any()
        else np.eye(3)
    )
    errors = [corner_rms(f @ between, t, shape) for f, t in zip(found[ok], truth[ok])]
    rms = float(np.sqrt(np.mean(np.square(errors)))) if errors else float("nan")
    return {"corner_rms_px": rms, "failures": int((~ok).sum())}


def processes_against_one(*, scenes: int, size_px: int, motion: str, repeats: int) -> dict[str, float]:
    """Time pairs against one reference in one process and in two; return scenes per second of both."""
    images, valid, _ = stack_images(scenes, size_px, motion=motion)
    reference = temporal_median(images, valid)
    halves = [(reference, images[k::2], valid[k::2], motion) for k in range(2)]
    context = multiprocessing.get_context("spawn")
    both_there = context.Barrier(2)
    with ProcessPoolExecutor(
        2, mp_context=context, initializer=_prepare, initargs=(halves, both_there)
    ) as pool:
        _prepare(halves)
        list(pool.map(_align_half, [0, 1], [True, True]))
        runs: dict[str, Callable[[], Any]] = {
            "one": lambda: [_align_half(half) for half in (0, 1)],
            "two": lambda: list(pool.map(_align_half, [0, 1])),
        }
        seconds = medians(runs, repeats=repeats, warm_up=False)
    return {name: scenes / value for name, value in seconds.items()}


_halves: list[Any] = []


def _prepare(halves: list[Any], both_there: Any = None) -> None:
    """Keep the scenes in the process, as reading is not what is measured; load what is compiled; wait for the other."""
    cv2.setNumThreads(1)
    _halves[:] = halves
    _align_half(0, True)
    if both_there is not None:
        both_there.wait(timeout=120)


def _align_half(half: int, only_first: bool = False) -> int:
    reference, images, valid, motion = _halves[half]
    count = 1 if only_first else len(images)
    for image, mask in zip(images[:count], valid[:count]):
        align_pair(reference, image, moving_valid=mask, motion=motion)
    return count
