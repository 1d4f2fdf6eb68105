"""The runs of the scaling benchmark: workers by turns, ranks one number after the other; each gives a point.

What is run is planned in `scaling_plan`; what the points say is told in `scaling_result`.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import scaling_train
from scaling_pace import WARM_UPS
from scaling_plan import Plan
from scaling_points import Point
from scaling_train import LEAST, MOST
from scaling_watch import Seen, Team, observe, team
from scaling_work import WORKS, Material, material

KEPT = 200
"""Measured tasks and steps that the JSON file keeps of each point, evenly drawn from all."""
Add = Callable[[list[Point]], None]


def missing(plan: Plan, points: Sequence[Point]) -> list[tuple[str, str, int]]:
    """Return step, mode and number of workers of what a plan has and some points have not."""
    known = {(p.step, p.mode, p.workers) for p in points}
    return [key for key in plan.points() if key not in known]


def measure(plan: Plan, folder: Path, known: Sequence[Point], *, device: str, add: Add) -> None:
    """Measure what is not known of a plan.

    Parameters
    ----------
    plan : Plan
        Settled.
    folder : path
        For what is needed meanwhile; all workers see it.
    known : sequence of Point
        What an earlier run has measured.
    add : callable
        Takes points as soon as they are measured.
    """
    left = missing(plan, known)
    spread = [step for step in plan.spread if step in {step for step, _, _ in left}]
    if spread:
        delay_s = plan.delay_s if plan.cluster == "local" else None
        works = {step: plan.works(step) for step in spread}
        with material(folder / "work", works, size_px=plan.size_px, delay_s=delay_s) as has:
            # on one machine all teams are up and take turns, so that its moods meet all alike
            for counts in [plan.counts] if plan.cluster == "local" else [(n,) for n in plan.counts]:
                steps = [step for step in spread if any(s == step and n in counts for s, _, n in left)]
                _by_turns(plan, folder, steps, has, counts, add)
    for ranks in [n for n in plan.counts if any(s == "train" and n == count for s, _, count in left)]:
        add(list(_trained(plan, folder / f"ranks-{ranks}", ranks, device)))


def _by_turns(
    plan: Plan, folder: Path, steps: list[str], has: Material, counts: Sequence[int], add: Add
) -> None:
    if not steps:
        return
    runs = itertools.count()
    with ExitStack() as stack:
        teams = [stack.enter_context(team(plan.cluster, n, jobs=plan.jobs, scratch=folder)) for n in counts]
        for step in steps:
            seen = _turns(plan, step, has, teams, runs)
            own = {crew.workers: crew for crew in teams}
            add([_point(plan, step, mode, own[n], found, has) for (mode, n), found in seen.items()])


def _turns(
    plan: Plan, step: str, has: Material, teams: list[Team], runs: Iterator[int]
) -> dict[tuple[str, int], list[Seen]]:
    """Return what was seen of a step by mode and number of workers, in as many turns as there is time for."""
    seen: dict[tuple[str, int], list[Seen]] = {
        (mode, crew.workers): [] for mode in plan.modes for crew in teams
    }
    until = time.monotonic() + (plan.point_s or 0.0) * len(seen)
    for turn in itertools.count(1):
        began = time.monotonic()
        for crew, mode in itertools.product(teams, plan.modes):
            pieces, run = plan.work(step, mode, crew.workers), next(runs)
            one = observe(crew, lambda pool, p=pieces, r=run: WORKS[step].run(pool, has, p, r))
            if turn > WARM_UPS:
                seen[mode, crew.workers].append(one)
        now, repeats = time.monotonic(), turn - WARM_UPS
        none_left = repeats >= MOST or now + (now - began) > until
        if repeats >= plan.repeats if plan.repeats is not None else repeats >= LEAST and none_left:
            break
    return seen


def _point(plan: Plan, step: str, mode: str, crew: Team, runs: list[Seen], has: Material) -> Point:
    work = plan.work(step, mode, crew.workers)
    splits = [run.split(crew.workers, crew.scheduler_s) for run in runs]
    typical = sorted(runs, key=lambda run: run.seconds)[(len(runs) - 1) // 2]
    read = has.scene_bytes * work if step == "acquire" else 0.0
    details = {
        "stages": [_stage(tasks, read / len(typical.tasks)) for tasks in typical.stages()],
        "serial_s": statistics.median(run.serial_s for run in runs),
        "scheduler_s": crew.scheduler_s,
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
        "compute_s": [task.cpu_s for task in kept],
        "wait_s": [max(task.seconds - task.cpu_s, 0.0) for task in kept],
        "bytes": read,
    }


def _some(values: Any) -> list[Any]:
    every = max(1, -(-len(values) // KEPT))
    return list(values)[::every]


def _trained(plan: Plan, folder: Path, ranks: int, device: str) -> Iterator[Point]:
    """Measure what some ranks do; they are started once and train every amount of work."""
    works = [plan.training(mode, ranks) for mode in plan.modes]
    told = scaling_train.train(
        ranks, works, folder, backend=plan.backend, launcher=plan.launcher, device=device
    )
    for mode, work, trained in zip(plan.modes, works, told.trained):
        yield _trained_point(mode, work, told, trained)


def _trained_point(
    mode: str, work: scaling_train.Training, told: scaling_train.Told, trained: scaling_train.Trained
) -> Point:
    details = {
        "batch": work.batch,
        "steps": work.steps,
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
