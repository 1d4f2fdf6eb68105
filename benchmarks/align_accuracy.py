"""How exact alignments are: trials of many pairs with known matrices, and starts from far away.

Trials run in several processes, each on one core; nothing here is timed.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
from align_bound import exact_gradients, known_signal, unknown_signal
from align_methods import FROM_FAR, METHODS, MOTIONS, Method
from pairs import Pair, corner_rms, homography, observe, random_matrix, rotation, view
from world import World

FAILED_PX = 1.0  # a corner error beyond it is a failure
REACH_PX = 3.0  # of the furthest corner: OpenCV's search starts at the identity
CAPTURE_NOISE = 0.03
MARGIN_PX = 96  # around the views, over the largest shift


@dataclass(frozen=True)
class Condition:
    """What the images of a trial suffer from."""

    noise: float
    """Deviation of the noise of each image, share of the range."""
    clouds: float = 0.0
    """Share of each image under clouds of its own; both masks are given."""


CONDITIONS = {
    "no noise": Condition(0.0),
    "3 % noise": Condition(0.03),
    "10 % noise": Condition(0.1),
    "3 % noise, 30 % clouds": Condition(0.03, 0.3),
}


@dataclass(frozen=True)
class Capture:
    """A start from far away: a shift in a random direction, a turn and a zoom of random signs."""

    motion: str
    shift_px: float = 0.0
    degrees: float = 0.0
    zoom: float = 0.0

    def matrix(self, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Return the (3, 3) matrix of one trial."""
        direction = rng.uniform(0, 2 * np.pi)
        shift = (self.shift_px * np.cos(direction), self.shift_px * np.sin(direction))
        turn, zoom = rng.choice([-1, 1], 2) * (self.degrees, self.zoom)
        return homography(rotation(float(turn), shift, shape, zoom=1 + float(zoom)))


CAPTURES = {
    **{f"{px} px": Capture("translation", shift_px=px) for px in (4, 8, 16, 32, 64)},
    **{f"{degrees:g}°": Capture("euclidean", degrees=degrees) for degrees in (0.5, 1, 2)},
    "0.5 % zoom": Capture("affine", zoom=0.005),
    "32 px, 2°": Capture("euclidean", shift_px=32, degrees=2),
    "64 px, 2°, 0.5 % zoom": Capture("affine", shift_px=64, degrees=2, zoom=0.005),
}


@dataclass(frozen=True)
class Summary:
    """One method in one case, over all its trials."""

    method: str
    motion: str
    case: str
    trials: int
    failures: int
    """No answer, an exception, or a corner error over `FAILED_PX`."""
    corner_rms_px: float
    """Of the trials that did not fail."""
    scale_bias: float
    """Mean of the root of the linear part's determinant over that of the truth, less 1."""
    scale_bias_error: float
    """Standard error of that mean."""
    reasons: tuple[str, ...] = ()
    """Of failures, each once."""


Record = dict[str, Any]


def accuracy(*, trials: int, size_px: int, processes: int) -> tuple[list[Summary], list[dict[str, Any]]]:
    """Run all methods on the same pairs; return their summaries and the bounds of every case."""
    records = [r for some in _over_trials(partial(_trial, size_px, trials), trials, processes) for r in some]
    cases = [(motion, case) for motion in MOTIONS for case in CONDITIONS]
    bounds = [_bound(records, motion, case) for motion, case in cases if CONDITIONS[case].noise]
    return list(_summaries(records, cases)), bounds


def captures(*, trials: int, size_px: int, processes: int) -> list[Summary]:
    """Run the methods that find a start of their own on pairs that are far apart."""
    records = [r for some in _over_trials(partial(_capture, size_px), trials, processes) for r in some]
    return list(_summaries(records, [(capture.motion, case) for case, capture in CAPTURES.items()]))


def _over_trials(run: Any, trials: int, processes: int) -> Iterable[list[Record]]:
    if processes <= 1:
        return map(run, range(trials))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        return list(pool.map(run, range(trials)))


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _trial(size_px: int, trials: int, number: int) -> list[Record]:
    """Run one trial: one landscape, a random matrix per motion, the same pair for every method."""
    shape = (size_px, size_px)
    world = World((size_px + 2 * MARGIN_PX, size_px + 2 * MARGIN_PX), seed=number)
    reference, gradients = view(world, shape), exact_gradients(world, shape)
    rng = np.random.default_rng([number, 2])
    records = []
    for motion in MOTIONS:
        matrix = random_matrix(motion, shape, rng, reach_px=rng.uniform(REACH_PX / 3, REACH_PX))
        moving = view(world, shape, matrix)
        for case, condition in CONDITIONS.items():
            pair = observe(
                reference, moving, matrix, noise=condition.noise, clouds=condition.clouds, seed=[number, 3]
            )
            about = {"motion": motion, "case": case}
            if condition.noise:
                known = known_signal(pair, motion, gradients, condition.noise)
                unknown = unknown_signal(pair, motion, condition.noise)
                records.append({**about, "known_signal_px": known, "unknown_signal_px": unknown})
            for method in METHODS:
                if motion in method.motions and number < np.ceil(method.trials_share * trials):
                    records.append({**about, **_outcome(method, pair, motion)})
    return records


def _capture(size_px: int, number: int) -> list[Record]:
    """Run one trial of every start from far away."""
    shape = (size_px, size_px)
    world = World((size_px + 2 * MARGIN_PX, size_px + 2 * MARGIN_PX), seed=[number, 4])
    reference, rng = view(world, shape), np.random.default_rng([number, 5])
    records = []
    for case, capture in CAPTURES.items():
        matrix = capture.matrix(shape, rng)
        pair = observe(reference, view(world, shape, matrix), matrix, noise=CAPTURE_NOISE, seed=[number, 6])
        records += [
            {"motion": capture.motion, "case": case, **_outcome(method, pair, capture.motion)}
            for method in FROM_FAR
            if capture.motion in method.motions
        ]
    return records


def _outcome(method: Method, pair: Pair, motion: str) -> Record:
    """Align once; a failure is an outcome with a reason."""
    try:
        found = method.align(pair, motion)
    except Exception as err:  # noqa: BLE001 - what a peer raises counts as its failure
        return {"method": method.name, "error_px": float("nan"), "scale": float("nan"), "reason": _short(err)}
    error = corner_rms(found, pair.truth, pair.shape)
    areas = (np.linalg.det(matrix[:2, :2]) for matrix in (found, pair.truth))
    ratio = next(areas) / next(areas)
    failed = not error <= FAILED_PX
    reason = f"a corner error over {FAILED_PX:g} px" if failed else ""
    return {
        "method": method.name,
        "error_px": float("nan") if failed else error,
        "scale": float("nan") if failed else float(np.sqrt(ratio) - 1),
        "reason": reason,
    }


def _short(err: Exception) -> str:
    lines = str(err).strip().splitlines()
    return (lines[-1] if lines else type(err).__name__)[:120]


def _bound(records: list[Record], motion: str, case: str) -> dict[str, Any]:
    """Return the root mean square of the bounds of all trials of a case."""
    of_case = [r for r in records if (r["motion"], r["case"]) == (motion, case) and "known_signal_px" in r]
    means = {
        key: float(np.sqrt(np.mean([r[key] ** 2 for r in of_case])))
        for key in ("known_signal_px", "unknown_signal_px")
    }
    return {"motion": motion, "case": case, **means}


def _summaries(records: list[Record], cases: list[tuple[str, str]]) -> Iterator[Summary]:
    for motion, case in cases:
        for method in METHODS:
            wanted = (method.name, motion, case)
            mine = [r for r in records if (r.get("method"), r["motion"], r["case"]) == wanted]
            if mine:
                yield _summary(wanted, mine)


def _summary(wanted: tuple[str, str, str], mine: list[Record]) -> Summary:
    errors = np.array([r["error_px"] for r in mine])
    scales = np.array([r["scale"] for r in mine])
    good = np.isfinite(errors)
    count = int(good.sum())
    return Summary(
        *wanted,
        trials=len(mine),
        failures=len(mine) - count,
        corner_rms_px=float(np.sqrt((errors[good] ** 2).mean())) if count else float("nan"),
        scale_bias=float(scales[good].mean()) if count else float("nan"),
        scale_bias_error=float(scales[good].std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan"),
        reasons=tuple(sorted({r["reason"] for r in mine if r["reason"]})),
    )
