"""How fast and how exact whole stacks of scenes are aligned, in memory, and how much faster two workers are.

Reading and writing are left out. One worker is measured in the processor's time, two by the clock.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from align_methods import OPENCV, OURS, Method
from align_speed import aligned, timed
from harness import medians
from pairs import Pair, corner_rms, stack_images

from glacierhpc.coreg import align_pair, align_stack
from glacierhpc.kernels.filters import temporal_median

EVERY_DAYS = 16  # between scenes
PAIRS, LINKS, PEER_PAIRS = "ours, each to the median", "ours, by links", f"{OPENCV.name}, each to the median"


def each_to_the_median(
    images: np.ndarray, valid: np.ndarray, motion: str, *, method: Method = OURS
) -> np.ndarray:
    """Align every scene to the median of all, one after the other; return (n, 3, 3), NaN where there is none."""
    reference = temporal_median(images, valid)
    seen = np.isfinite(reference)
    clean = np.where(seen, reference, np.float32(0))
    pairs = (Pair(clean, image, np.eye(3), seen, mask) for image, mask in zip(images, valid))
    return np.stack([aligned(method, pair, motion) for pair in pairs])


def by_links(
    images: np.ndarray, valid: np.ndarray, motion: str, *, executor: Executor | None = None
) -> np.ndarray:
    """Place the stack with `align_stack`: references by season, links, one adjustment; return (n, 3, 3)."""
    times = np.datetime64("2020-01-01", "ns") + np.arange(len(images)) * np.timedelta64(EVERY_DAYS, "D")
    table = align_stack(images, valid, times, motion=motion, executor=executor).table
    return table[[f"m{i}{j}" for i in range(3) for j in range(3)]].to_numpy(float).reshape(-1, 3, 3)


STACK_METHODS: dict[str, Callable[[np.ndarray, np.ndarray, str], np.ndarray]] = {
    PAIRS: each_to_the_median,
    LINKS: by_links,
    PEER_PAIRS: lambda images, valid, motion: each_to_the_median(images, valid, motion, method=OPENCV),
}
"""(images, valid, motion) to matrices (n, 3, 3), common pixel to scene pixel."""


def stack_speed(*, scenes: int, size_px: int, motion: str, repeats: int) -> dict[str, dict[str, float]]:
    """Time the alignment of a stack by every method; return scenes per second of one core, and the error.

    The error is that of the corners between scenes: what all matrices have in common is no error.
    """
    images, valid, truth = stack_images(scenes, size_px, motion=motion)
    told = {}
    for name, align in STACK_METHODS.items():
        align(images[:3, :128, :128].copy(), valid[:3, :128, :128].copy(), motion)  # compiles
        runs = [timed(lambda align=align: align(images, valid, motion)) for _ in range(repeats)]
        seconds, found = float(np.median([run[0] for run in runs])), runs[-1][1]
        told[name] = {"scenes_per_s": scenes / seconds, **error_between(found, truth, (size_px, size_px))}
    return told


def error_between(found: np.ndarray, truth: np.ndarray, shape: tuple[int, int]) -> dict[str, float]:
    """Return the corner RMS of all matrices against the truth, seen from the grid that fits them best."""
    ok = np.isfinite(found).all(axis=(1, 2))
    if not ok.any():
        return {"corner_rms_px": float("nan"), "failures": len(found)}
    # scene <- found grid <- common grid: inv(found) truth takes the common grid to the one found
    between = np.mean([np.linalg.inv(f) @ t for f, t in zip(found[ok], truth[ok])], axis=0)
    errors = [corner_rms(f @ between, t, shape) for f, t in zip(found[ok], truth[ok])]
    return {"corner_rms_px": float(np.sqrt(np.mean(np.square(errors)))), "failures": int((~ok).sum())}


def two_workers(*, scenes: int, size_px: int, motion: str, repeats: int) -> dict[str, dict[str, float]]:
    """Time one worker and two, by the clock; return scenes per second of ``one`` and ``two``.

    Pairs run in processes, which have their scenes; a stack placed by links runs in threads, which share them.
    """
    images, valid, _ = stack_images(scenes, size_px, motion=motion)
    with ThreadPoolExecutor(1) as single, ThreadPoolExecutor(2) as double:
        by_workers: dict[str, Callable[[], Any]] = {
            "one": lambda: by_links(images, valid, motion, executor=single),
            "two": lambda: by_links(images, valid, motion, executor=double),
        }
        links = medians(by_workers, repeats=repeats)
    seconds = {PAIRS: _pairs_by_processes(images, valid, motion, repeats), LINKS: links}
    return {name: {which: scenes / value for which, value in both.items()} for name, both in seconds.items()}


def _pairs_by_processes(images: np.ndarray, valid: np.ndarray, motion: str, repeats: int) -> dict[str, float]:
    reference = temporal_median(images, valid)
    halves = [(reference, images[k::2], valid[k::2], motion) for k in range(2)]
    context = multiprocessing.get_context("spawn")
    ready = (_prepare, (halves, context.Barrier(2)))
    with ProcessPoolExecutor(2, mp_context=context, initializer=ready[0], initargs=ready[1]) as pool:
        _prepare(halves)
        list(pool.map(_align_half, [0, 1], [True, True]))
        runs: dict[str, Callable[[], Any]] = {
            "one": lambda: [_align_half(half) for half in (0, 1)],
            "two": lambda: list(pool.map(_align_half, [0, 1])),
        }
        return medians(runs, repeats=repeats, warm_up=False)


_halves: list[Any] = []


def _prepare(halves: list[Any], both_there: Any = None) -> None:
    """Keep the scenes in the process, load what is compiled, and wait for the other process."""
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
