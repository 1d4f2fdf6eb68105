"""How fast one worker and one rank are, by a short run; how much work there is for each, and how long all takes, by it.

The figures of the benchmark itself come from longer runs, see `scaling_measure`.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import scaling_train
from scaling_plan import Plan
from scaling_train import LEAST, MOST
from scaling_watch import observe, team
from scaling_work import SEQUENCE_SCENES, WORKS, material

PIECES = 2
"""For each worker in the short run."""
WARM_UPS = 2
"""Runs of each point that are dropped: in one, not every worker meets every kind of task."""
REPEATS = 5
"""That the work is made small enough for; there are more where time is left."""
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Pieces for each worker; few to choose from, so that runs of one machine mostly have the same."""
TELL_S = 10.0
"""For all that follows the last measurement: laws, model, projection, page."""


@dataclass(frozen=True)
class Pace:
    """What a short run of the fewest workers took."""

    piece_s: dict[str, float]
    """By step: of one piece, or one step of training, on a worker with a core of its own."""
    cores: float
    """That all workers share."""
    team_s: float = 0.0
    """For one worker to come up."""
    ranks_s: float = 0.0
    """For one rank to come up, and for all that it does but training."""
    scene_s: float = 0.0
    """To write a scene."""

    def crowding(self, workers: int) -> float:
        """Return how many workers share a core, 1 at least."""
        return max(1.0, workers / self.cores)

    def starts_s(self, plan: Plan) -> float:
        """Return how long all workers and ranks take to come up: what starts them works for each, cores or not."""
        times = sum((1 + n / self.cores) / (1 + 1 / self.cores) for n in plan.counts)
        return times * (bool(plan.spread) * self.team_s + ("train" in plan.steps) * self.ranks_s)

    def turn_s(self, plan: Plan, step: str) -> float:
        """Return how long one run of every point of a step takes, with one piece for each worker."""
        return self.piece_s[step] * sum(
            plan.shares(mode, n) / n * self.crowding(n) * (2 if step == "train" and n > 1 else 1)
            for mode in plan.modes
            for n in plan.counts
        )


def pace_of(plan: Plan, folder: Path, *, device: str) -> Pace:
    """Run every step for a moment with the fewest workers."""
    fewest = min(plan.counts)
    # the tasks of a job have cores of their own
    cores = len(os.sched_getaffinity(0)) if plan.cluster == "local" else math.inf
    pace = Pace({}, cores)
    if plan.spread:
        pace = _of_workers(plan, folder, fewest, pace)
    if "train" in plan.steps:
        pace = _of_ranks(plan, folder / "ranks", fewest, pace, device)
    alone = {step: seconds / pace.crowding(fewest) for step, seconds in pace.piece_s.items()}
    return replace(pace, piece_s=alone)


def _of_workers(plan: Plan, folder: Path, workers: int, pace: Pace) -> Pace:
    pieces, seconds = PIECES * workers, {}
    delay_s = plan.delay_s if plan.cluster == "local" else None
    began = time.monotonic()
    with material(
        folder / "work", dict.fromkeys(plan.spread, [pieces]), size_px=plan.size_px, delay_s=delay_s
    ) as has:
        written, wrote_s = max(pieces, SEQUENCE_SCENES), time.monotonic() - began
        with team(plan.cluster, workers, jobs=plan.jobs, scratch=folder) as crew:
            for step in plan.spread:
                for run in range(WARM_UPS):
                    seen = observe(crew, lambda pool, s=step, r=run: WORKS[s].run(pool, has, pieces, r))
                seconds[step] = seen.seconds / PIECES
            start_s = crew.start_s
    return replace(pace, piece_s=seconds, team_s=start_s, scene_s=wrote_s / written)


def _of_ranks(plan: Plan, folder: Path, ranks: int, pace: Pace, device: str) -> Pace:
    work = scaling_train.Training(plan.batch * ranks, PIECES, plan.patch_px, repeats=LEAST)
    began = time.monotonic()
    told = scaling_train.train(
        ranks, [work], folder, backend=plan.backend, launcher=plan.launcher, device=device
    )
    took = time.monotonic() - began
    epoch_s = statistics.median(told.trained[0].seconds)
    trained_s = epoch_s * (1 + LEAST) * (1 if ranks == 1 else 2)
    return replace(
        pace,
        piece_s={**pace.piece_s, "train": epoch_s / PIECES},
        ranks_s=max(took - trained_s, told.start_s),
    )


def settled(plan: Plan, pace: Pace, *, spent_s: float) -> Plan:
    """Return the plan with as much work and as many repeats as the time that is left allows."""
    chosen = plan
    for _ in range(2):  # how many scenes are written follows from the sizes
        left = 60 * plan.minutes - spent_s - _besides_s(chosen, pace)
        point_s = max(left, 0.0) / len(plan.points())
        own = {step: plan.pieces.get(step) or _pieces(plan, pace, step, point_s) for step in plan.steps}
        chosen = replace(plan, pieces=own, point_s=point_s)
    return chosen


def _besides_s(plan: Plan, pace: Pace) -> float:
    """Return how long all takes but the measurements."""
    amounts = [
        max(plan.works(step)) for step in ("acquire", "align") if step in plan.steps and step in plan.pieces
    ]
    scenes = max(amounts, default=0) + SEQUENCE_SCENES * ("sequences" in plan.steps)
    return pace.starts_s(plan) + scenes * pace.scene_s + TELL_S


def _pieces(plan: Plan, pace: Pace, step: str, point_s: float) -> int:
    points = len(plan.modes) * len(plan.counts)
    repeats = plan.repeats or REPEATS
    most = point_s * points / (repeats + WARM_UPS) / pace.turn_s(plan, step)
    sizes = SIZES if step in WORKS else SIZES[1:]  # the first step of an epoch has no beginning
    return max((size for size in sizes if size <= most), default=sizes[0])


def estimate_s(plan: Plan, pace: Pace) -> float:
    """Return how long all that a settled plan has before it takes, seconds."""
    total = _besides_s(plan, pace)
    for step in plan.steps:
        turn_s = plan.pieces[step] * pace.turn_s(plan, step)
        total += turn_s * (WARM_UPS + _repeats(plan, turn_s))
    return total


def _repeats(plan: Plan, turn_s: float) -> float:
    if plan.repeats is not None:
        return plan.repeats
    budget_s = (plan.point_s or 0.0) * len(plan.modes) * len(plan.counts)
    return min(max(budget_s / turn_s - WARM_UPS, LEAST), MOST)
