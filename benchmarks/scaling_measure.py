"""The runs of the scaling benchmark: workers by turns, ranks one number after the other; each gives a point.

What is run is planned in `scaling_plan`; what the points say is told in `scaling`.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import scaling_train
from scaling_plan import Plan
from scaling_points import Point
from scaling_watch import Seen, Team, observe, team
from scaling_work import WORKS, Material, material

KEPT = 200
"""Measured tasks and steps that the JSON file keeps of each point, evenly drawn from all."""
WARM_UPS = 2
"""Runs that are dropped: in one, not every worker meets every kind of task."""


def measure(plan: Plan) -> list[Point]:
    """Measure every step of the plan."""
    points: list[Point] = []
    with tempfile.TemporaryDirectory(prefix="scaling-", dir=plan.scratch, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        spread = [step for step in plan.steps if step in WORKS]
        if spread:
            delay_s = plan.delay_s if plan.cluster == "local" else None
            with material(
                folder / "work", plan.works(), size_px=plan.size_px, delay_s=delay_s, steps=spread
            ) as has:
                points += _spread(plan, spread, has)
        if "train" in plan.steps:
            points += _trained(plan, folder / "train")
    order = {step: k for k, step in enumerate(plan.steps)}
    return sorted(points, key=lambda p: (order[p.step], p.mode, p.workers))


def _spread(plan: Plan, steps: list[str], has: Material) -> list[Point]:
    """Measure what workers do. On one machine all teams are up and take turns, so that its moods meet all alike."""
    counts = [[*plan.counts]] if plan.cluster == "local" else [[n] for n in plan.counts]
    return [point for together in counts for point in _by_turns(plan, steps, has, together)]


def _by_turns(plan: Plan, steps: list[str], has: Material, counts: list[int]) -> list[Point]:
    seen: dict[tuple[str, str, int], list[Seen]] = {}
    with ExitStack() as stack:
        teams = [
            stack.enter_context(team(plan.cluster, n, jobs=plan.jobs, scratch=plan.scratch)) for n in counts
        ]
        run = 0
        for step in steps:
            for turn in range(plan.repeats + WARM_UPS):
                for crew in teams:
                    for mode in plan.modes:
                        run, pieces = run + 1, plan.work(mode, crew.workers)
                        one = observe(
                            crew, lambda pool, s=step, p=pieces, r=run: WORKS[s].run(pool, has, p, r)
                        )
                        if turn >= WARM_UPS:
                            seen.setdefault((step, mode, crew.workers), []).append(one)
        by_count = {crew.workers: crew for crew in teams}
    return [
        _point(step, mode, by_count[n], runs, plan.work(mode, n), has)
        for (step, mode, n), runs in seen.items()
    ]


def _point(step: str, mode: str, crew: Team, runs: list[Seen], work: int, has: Material) -> Point:
    splits = [run.split(crew.workers, crew.scheduler_s) for run in runs]
    typical = sorted(runs, key=lambda run: run.seconds)[(len(runs) - 1) // 2]
    read = has.scene_bytes * work if step == "acquire" else 0.0
    details = {
        "stages": [_stage(tasks, read / len(typical.tasks)) for tasks in typical.stages()],
        "serial_s": statistics.median(run.serial_s for run in runs),
        "driver_cpu_s": statistics.median(run.driver_cpu_s for run in runs),
        "tasks": len(typical.tasks),
        "scheduler_s": crew.scheduler_s,
        "round_trip_s": crew.round_trip_s,
        "hosts": list(crew.hosts),
        "images": list(crew.images),
        "cores": crew.cores,
    }
    return Point(
        step,
        mode,
        crew.workers,
        float(work),
        WORKS[step].unit,
        tuple(run.seconds for run in runs),
        crew.workers > crew.cores,
        {name: statistics.fmean(split[name] for split in splits) for name in splits[0]},
        crew.start_s,
        details,
    )


def _stage(tasks: list[Any], read: float) -> dict[str, Any]:
    kept = _some(tasks)
    return {
        "tasks": len(tasks),
        "function": tasks[0].function,
        "compute_s": [task.cpu_s for task in kept],
        "wait_s": [max(task.seconds - task.cpu_s, 0.0) for task in kept],
        "bytes": read,
    }


def _some(values: Any) -> list[Any]:
    every = max(1, -(-len(values) // KEPT))
    return list(values)[::every]


def _trained(plan: Plan, folder: Path) -> Iterator[Point]:
    """Measure what ranks do; each number of them is started once and trains every amount of work."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    for ranks in plan.counts:
        works = [plan.training(mode, ranks) for mode in plan.modes]
        told = scaling_train.train(
            ranks,
            works,
            folder / str(ranks),
            backend=plan.backend,
            launcher=plan.launcher,
            device=device,
        )
        for mode, work, trained in zip(plan.modes, works, told.trained):
            yield _trained_point(mode, work, told, trained)


def _trained_point(
    mode: str, work: scaling_train.Training, told: scaling_train.Told, trained: scaling_train.Trained
) -> Point:
    details = {
        "batch": work.batch,
        "steps": work.steps,
        "backend": told.backend,
        "step_s": _some(trained.step_s),
        "exchanges": [list(pair) for pair in told.exchanges],
        "gradient_bytes": told.gradient_bytes,
        "hosts": list(told.hosts),
        "images": list(told.images),
        "cores": told.cores,
    }
    samples = float(work.batch * work.steps)
    beyond = told.ranks > told.cores
    return Point(
        "train", mode, told.ranks, samples, "samples", trained.seconds, beyond, trained.split(), told.start_s, details
    )  # fmt: skip
