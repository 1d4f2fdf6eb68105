"""How fast and how exact pairs and stacks are aligned, beside OpenCV, scikit-image and AROSICS on the same images.

Run it on an idle machine::

    glacierhpc bench align --output align.json --plots figures
    glacierhpc bench align --trials 20 --sizes 512 1024

Pairs are views of one random landscape through a known matrix, exact to a millionth of a pixel, each with noise of
its own (`pairs`). Peers start at the identity, at most 3 px away from the truth; ours finds its start itself, within
its time. Times are the processor's, of one core; trials for accuracy use all cores.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
from align_accuracy import FAILED_PX, Summary, accuracy, captures, cores
from align_methods import METHODS, OPENCV, OURS, absent
from align_speed import Timing, cost_of_masks, timings
from align_stacks import LINKS, PAIRS, PEER_PAIRS, stack_speed, two_workers
from harness import Result, Row, arguments, report, run_single_threaded
from world import World

SIZES = [512, 800, 1024, 2048, 4096]
STACK_MOTIONS = ("translation", "euclidean")
STACKS = {PAIRS: "align a stack to its median", LINKS: "place a stack by its links"}
BOUND = "Cramer-Rao bound"
UNMASKED = "ours without masks"
NOISY = "3 % noise"  # the condition of the figures below

IN_README = {
    *((f"an ECC iteration, {m}, 2048 px", OPENCV.name) for m in ("translation", "affine")),
    *((f"align a pair, {m}, 800 px", OPENCV.name) for m in ("translation", "affine")),
    *((f"align a pair, {m}, 2048 px", OPENCV.name) for m in ("translation", "affine")),
    *((f"corner error, {m}, {NOISY}", OPENCV.name) for m in ("translation", "affine", "homography")),
    (f"corner error, affine, {NOISY}", BOUND),
    ("an ECC iteration, clouds masked in both, 2048 px", UNMASKED),
    (f"{STACKS[LINKS]}, translation", PEER_PAIRS),
}
"""The rows of the README, by what they tell and the peer."""


def row(
    what: str, ours: float, peer: str, value: float, unit: str, *, more_is_better: bool = False
) -> Iterator[Row]:
    """Yield the row, or nothing where one of the two has no figure."""
    if math.isfinite(ours) and math.isfinite(value) and ours > 0 and value > 0:
        yield Row(what, ours, peer, value, unit, more_is_better, (what, peer) in IN_README)


def rows_of_times(found: list[Timing]) -> Iterator[Row]:
    """Yield ours beside each peer that was timed at the same thing."""
    names = {"iteration": "an ECC iteration", "convergence": "align a pair"}
    by_case = {(t.what, t.motion, t.size_px, t.method): t for t in found}
    for (what, motion, size_px, method), theirs in by_case.items():
        ours = by_case.get((what, motion, size_px, OURS.name))
        if ours is not None and method != OURS.name:
            title = f"{names[what]}, {motion}, {size_px} px"
            yield from row(title, ours.seconds, method, theirs.seconds, "s")


def rows_of_errors(summaries: list[Summary], bounds: list[dict[str, Any]]) -> Iterator[Row]:
    """Yield the corner error of ours beside each peer and beside the bound; the scale bias of affine motions."""
    by_case = {(s.motion, s.case, s.method): s for s in summaries}
    bound_of = {(b["motion"], b["case"]): b["unknown_signal_px"] for b in bounds}
    for (motion, case, method), theirs in by_case.items():
        ours = by_case[motion, case, OURS.name]
        title = f"corner error, {motion}, {case}"
        if method == OURS.name:
            if (motion, case) in bound_of:
                yield from row(title, ours.corner_rms_px, BOUND, bound_of[motion, case], "px")
            continue
        yield from row(title, ours.corner_rms_px, method, theirs.corner_rms_px, "px")
        if motion == "affine":
            biases = (abs(ours.scale_bias), abs(theirs.scale_bias))
            yield from row(f"scale bias, {motion}, {case}", biases[0], method, biases[1], "1")


def rows_of_masks(seconds: dict[str, dict[str, float]], size_px: int) -> Iterator[Row]:
    """Yield ours with masks on both images beside ours without."""
    names = {"pass": "an ECC iteration", "alignment": "align a pair"}
    for what, by_mask in seconds.items():
        for mask in ("clouds", "specks"):
            title = f"{names[what]}, {mask} masked in both, {size_px} px"
            yield from row(title, by_mask[mask], UNMASKED, by_mask["no mask"], "s")


def rows_of_stacks(stacks: dict[str, Any], workers: dict[str, Any]) -> Iterator[Row]:
    """Yield scenes per second and errors of stacks, and two workers beside one."""
    for motion, by_method in stacks.items():
        theirs = by_method[PEER_PAIRS]
        for method in (PAIRS, LINKS):
            ours, title = by_method[method], f"{STACKS[method]}, {motion}"
            speeds = (ours["scenes_per_s"], theirs["scenes_per_s"])
            yield from row(title, speeds[0], PEER_PAIRS, speeds[1], "scenes/s", more_is_better=True)
            errors = (ours["corner_rms_px"], theirs["corner_rms_px"])
            yield from row(f"{title}: corner error", errors[0], PEER_PAIRS, errors[1], "px")
    for motion, by_method in workers.items():
        for method, speed in by_method.items():
            title = f"{STACKS[method]}, {motion}, two workers"
            yield from row(title, speed["two"], "one worker", speed["one"], "scenes/s", more_is_better=True)


def measure(asked: argparse.Namespace) -> Result:
    """Measure everything."""
    started = time.perf_counter()
    motion, mask_px = "affine", asked.sizes[-1] if asked.quick else 2048
    stack = {"scenes": asked.scenes, "size_px": asked.size_px, "repeats": asked.repeats}
    times = timings(asked.sizes, repeats=asked.repeats)
    masks = cost_of_masks(mask_px, motion=motion, repeats=asked.repeats)
    stacks = {m: stack_speed(motion=m, **stack) for m in STACK_MOTIONS}
    workers = {m: two_workers(motion=m, **stack) for m in STACK_MOTIONS[1:]}
    errors, bounds = accuracy(trials=asked.trials, size_px=asked.size_px, processes=asked.processes)
    reached = captures(trials=asked.captures, size_px=asked.size_px, processes=asked.processes)
    rows = [
        *rows_of_times(times),
        *rows_of_masks(masks, mask_px),
        *rows_of_errors(errors, bounds),
        *rows_of_stacks(stacks, workers),
    ]
    details = {
        "methods": [method.name for method in METHODS],
        "absent": absent(),
        "opencv": cv2.__version__,
        "pairs": f"exact to {World((300, 300)).sampling_error_px():.1g} px",
        "failure": f"no matrix, or a corner error over {FAILED_PX:g} px",
        "times": [asdict(timing) for timing in times],
        "accuracy": [asdict(summary) for summary in errors],
        "bounds": bounds,
        "captures": [asdict(summary) for summary in reached],
        "masks": masks,
        "stacks": stacks,
        "workers": workers,
        "seconds": time.perf_counter() - started,
    }
    return Result("align", _conditions(asked), rows, _without_nan(details))


def _conditions(asked: argparse.Namespace) -> str:
    missing = "; ".join(absent()) or "none"
    side = f"{asked.size_px}^2 px"
    return (
        f"processor time of one core, two workers by the clock; errors over {asked.trials} pairs of {side}, noise "
        f"as a share of the range, bound for a landscape of which the spectrum is known; stacks of {asked.scenes} "
        f"scenes of {side} under 20 % cloud; OpenCV {cv2.__version__}; absent peers: {missing}"
    )


def _without_nan(value: Any) -> Any:
    """Return what JSON can hold: NaN becomes null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    """Measure, report and draw."""
    parser = arguments(__doc__)
    parser.set_defaults(repeats=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="of the pairs that are timed, px")
    parser.add_argument("--size-px", type=int, default=800, help="of trials and stacks")
    parser.add_argument("--trials", type=int, default=100, help="pairs per motion and condition")
    parser.add_argument("--captures", type=int, default=20, help="pairs per start from far away")
    parser.add_argument("--scenes", type=int, default=32, help="of a stack")
    parser.add_argument("--processes", type=int, default=cores(), help="for the trials, which are not timed")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="also draw figures")
    asked = parser.parse_args()
    if asked.quick:
        asked.sizes, asked.size_px, asked.trials, asked.captures = [96, 128], 128, 1, 1
        asked.scenes, asked.processes, asked.repeats = 4, 1, 1
    run_single_threaded()
    cv2.setNumThreads(1)
    result = measure(asked)
    if asked.plots:
        from align_plots import draw_all

        draw_all(result.details, asked.plots)
    report(result, asked)


if __name__ == "__main__":
    main()
