"""How acquiring, aligning, cutting and training scale: the same work, and as much work for each, over more workers.

Run it on an idle machine, or in a job of several nodes::

    glacierhpc bench scaling --output scaling.json --plots figures
    glacierhpc bench scaling --what train --backend horovod --workers 1,2
    glacierhpc bench scaling --against scaling.json
    sbatch jobs/scaling.sbatch --repeats 7

Workers are processes with one thread each, ranks have one core or one GPU. The first runs of each are dropped. Points
with more workers than cores are marked and take no part in the laws that are fitted; nothing is said beyond the numbers
measured but by the model, whose projection is marked as one everywhere. `--plots` also writes a page and a CSV file.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import scaling_compare
import scaling_train
from harness import Result, Row, arguments, report
from scaling_laws import Fit, NoFit, fit_all
from scaling_page import write_all
from scaling_points import METHOD, MODES, Point, base_of, efficiency, median_interval, speed_up
from scaling_project import COUNTS, Assumed, project, validate
from scaling_schema import Details
from scaling_watch import Seen, Team, observe, team
from scaling_work import WORKS, Material, material

from glacierhpc.errors import GlacierError, InputError, unknown_name
from glacierhpc.hpc.cluster import WorkerJobs
from glacierhpc.hpc.sites import load_site
from glacierhpc.hpc.surroundings import job_surroundings
from glacierhpc.rundir import RunDirectory

STEPS = (*WORKS, "train")
KEPT = 200
"""Measured tasks and steps that the JSON file keeps of each point, evenly drawn from all."""
WARM_UPS = 2
"""Runs that are dropped: in one, not every worker meets every kind of task."""
BUSY = 0.3
"""Load per core before the start from which a machine is called busy."""


@dataclass(frozen=True)
class Plan:
    """What is to be measured."""

    steps: tuple[str, ...]
    modes: tuple[str, ...]
    counts: tuple[int, ...]
    repeats: int
    cluster: str
    backend: str
    jobs: WorkerJobs
    scratch: Path | None
    scenes: int
    """For each worker in weak scaling; as many times the most workers in strong scaling."""
    size_px: int
    delay_s: float
    batch: int
    steps_per_epoch: int
    patch_px: int

    def work(self, mode: str, workers: int) -> int:
        """Return how many pieces a number of workers does."""
        return self.scenes * (workers if mode == "weak" else max(self.counts))

    def works(self) -> list[int]:
        """Return all amounts of work."""
        return sorted({self.work(mode, n) for mode in self.modes for n in self.counts})

    def training(self, mode: str, ranks: int) -> scaling_train.Training:
        """Return what a number of ranks trains."""
        batch = self.batch * (ranks if mode == "weak" else max(self.counts))
        return scaling_train.Training(batch, self.steps_per_epoch, self.repeats, self.patch_px)


# ---- measuring ----


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
        {name: statistics.median(split[name] for split in splits) for name in splits[0]},
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

    launcher = scaling_train.launcher_for(plan.backend)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for ranks in plan.counts:
        works = [plan.training(mode, ranks) for mode in plan.modes]
        told = scaling_train.train(
            ranks,
            works,
            folder / str(ranks),
            backend=plan.backend,
            launcher=launcher,
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
        "cores": told.cores,
    }
    samples = float(work.batch * work.steps)
    beyond = told.ranks > told.cores
    return Point(
        "train", mode, told.ranks, samples, "samples", trained.seconds, beyond, trained.split(), told.start_s, details
    )  # fmt: skip


# ---- telling ----


def result_of(
    plan: Plan, points: list[Point], load: tuple[float, float], asked: argparse.Namespace
) -> Result:
    """Return everything that follows from what was measured."""
    cores = max(point.details["cores"] for point in points)
    fits = fit_all(points)
    assumed = Assumed.given(asked.assume)
    projection = project(
        points, assumed, counts=COUNTS[:3] if asked.quick else COUNTS, simulations=1 if asked.quick else 3
    )
    details = {
        "cluster": plan.cluster,
        "backend": plan.backend,
        "cores": cores,
        "hosts": sorted({host for point in points for host in point.details["hosts"]}),
        "load_average": {"before": load[0], "after": load[1]},
        "words": words_on(points, cores, load[0]),
        "intervals": METHOD,
        "environment": environment(plan.scratch),
        "points": [_told(point, base_of(points, point)) for point in points],
        "fits": [_fit(fit) for fit in fits if isinstance(fit, Fit)],
        "not_fitted": [asdict(fit) for fit in fits if isinstance(fit, NoFit)],
        "validation": validate(points, cores=cores),
        "projection": projection,
        "comparison": None,
    }
    result = Result(
        "scaling", conditions(plan), rows_of(points), Details.model_validate(details).model_dump()
    )
    if asked.against:
        new = result.to_dict()
        comparison = scaling_compare.compare(new, scaling_compare.read_details(asked.against))
        checked = Details.model_validate({**details, "comparison": comparison})
        result = replace(result, details=checked.model_dump())
    return result


def words_on(points: list[Point], cores: int, load: float) -> list[str]:
    """Return what a reader must know before looking at a figure, from what the machine has."""
    within = max((p.workers for p in points if not p.oversubscribed), default=0)
    words = [
        f"{cores} cores: up to {within} workers have one each. "
        + (
            "On so few this measures overhead – of handing out, of exchange, of starting – and not how the steps scale."
            if within < 8
            else f"What is measured holds up to {within} workers and on these machines."
        )
    ]
    beyond = sorted({p.workers for p in points if p.oversubscribed})
    if beyond:
        words.append(
            f"With {', '.join(map(str, beyond))} workers there are more than cores: these points measure how cores are "
            "shared, are drawn apart, and take no part in any law."
        )
    if load > BUSY * cores:
        words.append(
            f"The machine was busy before the start (load average {load:.1f} on {cores} cores): times are longer than "
            "on an idle one, and their intervals wider."
        )
    return words


def conditions(plan: Plan) -> str:
    """Return sizes and repeats in one sentence."""
    told = []
    if set(plan.steps) & set(WORKS):
        served = f"archive with {1e3 * plan.delay_s:.0f} ms delay" if plan.cluster == "local" else "files"
        told.append(f"{plan.scenes} scenes of {plan.size_px} px per worker, {served}, {plan.cluster} workers")
    if "train" in plan.steps:
        told.append(
            f"{scaling_train.MODEL}, {plan.backend}, {plan.batch} samples of {plan.patch_px} px per rank and step, "
            f"{plan.steps_per_epoch} steps"
        )
    return "; ".join([*told, f"{plan.repeats} repeats after those that warm up"])


def environment(folder: Path | None) -> dict[str, Any]:
    """Return versions, commit, host, job and image digest, as a run's provenance has them."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        told = RunDirectory(Path(name)).provenance(**job_surroundings())
    return {key: value for key, value in told.items() if key not in ("seeds", "input_ids")}


def rows_of(points: list[Point]) -> list[Row]:
    """Return every point beside the one with the fewest workers; the README shows the largest within the cores."""
    rows = []
    for point in points:
        base = base_of(points, point)
        if base is point:
            continue
        shown = max(
            (
                p.workers
                for p in points
                if (p.step, p.mode) == (point.step, point.mode) and not p.oversubscribed
            ),
            default=0,
        )
        rates = [p.work / statistics.median(p.seconds) for p in (point, base)]
        told = ", more workers than cores" if point.oversubscribed else ""
        rows.append(
            Row(
                f"{point.step}, {MODES[point.mode]}, {point.workers} workers{told}",
                rates[0],
                f"{base.workers} worker" + "s" * (base.workers > 1),
                rates[1],
                f"{point.unit}/s",
                more_is_better=True,
                in_readme=point.workers == shown,
            )
        )
    return rows


def _told(point: Point, base: Point) -> dict[str, Any]:
    return {
        **asdict(point),
        "seconds": list(point.seconds),
        "median_s": asdict(median_interval(point.seconds)),
        "speed_up": asdict(speed_up(base, point)),
        "efficiency": asdict(efficiency(base, point)),
    }


def _fit(fit: Fit) -> dict[str, Any]:
    told = {
        name: getattr(fit, name) for name in ("law", "step", "mode", "one_worker_s", "lack_of_fit", "words")
    }
    parameters = {name: asdict(interval) for name, interval in fit.parameters.items()}
    return {**told, "parameters": parameters, "workers": list(fit.workers)}


# ---- what was asked for ----


def asked_for() -> argparse.Namespace:
    """Return the arguments."""
    parser = arguments(__doc__)
    parser.set_defaults(repeats=7)  # from 6 on the interval of a median reaches 95 %
    parser.add_argument("--what", default=",".join(STEPS), help="steps, with commas")
    parser.add_argument("--mode", default=",".join(MODES), help="strong, weak, or both")
    parser.add_argument(
        "--workers", help="with commas; powers of two up to the tasks of the job, or twice the cores"
    )
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="write figures, a page and a CSV file there"
    )
    parser.add_argument("--against", type=Path, metavar="OLD.json", help="compare with an earlier --output")
    parser.add_argument(
        "--cluster", choices=("local", "allocation", "jobqueue"), help="allocation inside a job"
    )
    parser.add_argument("--site", help="profile whose partition and account worker jobs use")
    parser.add_argument("--image", help="image that worker jobs run in")
    parser.add_argument("--backend", choices=("ddp", "horovod"), default="ddp", help="that joins the ranks")
    parser.add_argument("--scratch", type=Path, help="folder to work in; all workers must see it")
    parser.add_argument("--scenes", type=int, default=6, help="scenes, or pieces, for each worker")
    parser.add_argument("--size-px", type=int, default=512, help="edge of a scene")
    parser.add_argument("--delay-s", type=float, default=0.02, help="of the archive before each answer")
    parser.add_argument("--batch", type=int, default=8, help="samples for each rank and step")
    parser.add_argument("--steps", type=int, default=12, help="of an epoch; each epoch is a repeat")
    parser.add_argument("--patch-px", type=int, default=50, help="edge of a training sample")
    parser.add_argument(
        "--assume",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="for the projection, such as queue_s=600; may be given again; its results list all names",
    )
    return parser.parse_args()


def plan_of(asked: argparse.Namespace) -> Plan:
    """Return what is to be measured, checked.

    Raises
    ------
    InputError
        If a name is not known or a number cannot be.
    """
    in_job = "SLURM_JOB_ID" in os.environ and shutil.which("srun") is not None
    cluster = asked.cluster or ("allocation" if in_job else "local")
    if asked.repeats < 3 and not asked.quick:
        raise InputError(
            f"--repeats {asked.repeats} tells nothing of the spread: give 3 or more, for comparisons 7"
        )
    quick = {"scenes": 3, "size_px": 128, "steps": 3, "patch_px": 16, "batch": 2} if asked.quick else {}
    own = {
        name: quick.get(name, getattr(asked, name))
        for name in ("scenes", "size_px", "steps", "patch_px", "batch")
    }
    for name, value in own.items():
        if value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: give 1 or more")
    site = load_site(asked.site).site if asked.site else None
    scratch = asked.scratch or (None if cluster == "local" else Path.cwd())
    return Plan(
        steps=_names("--what", asked.what, STEPS),
        modes=_names("--mode", asked.mode, tuple(MODES)),
        counts=_counts(asked.workers, quick=asked.quick),
        repeats=min(asked.repeats, 2) if asked.quick else asked.repeats,
        cluster=cluster,
        backend=asked.backend,
        jobs=WorkerJobs(**({"site": site} if site else {}), image=asked.image, folder=scratch),
        scratch=scratch,
        scenes=own["scenes"],
        size_px=own["size_px"],
        delay_s=asked.delay_s,
        batch=own["batch"],
        steps_per_epoch=own["steps"],
        patch_px=own["patch_px"],
    )


def _names(option: str, given: str, valid: tuple[str, ...]) -> tuple[str, ...]:
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in valid:
            raise unknown_name(option, name, valid)
    if not names:
        raise InputError(f"{option} names nothing: give some of {', '.join(valid)}")
    return tuple(name for name in valid if name in names)


def _counts(given: str | None, *, quick: bool) -> tuple[int, ...]:
    if given is None:
        most = int(os.environ.get("SLURM_NTASKS", 0)) or 2 * len(os.sched_getaffinity(0))
        powers = [2**k for k in range(14) if 2**k <= most]
        return tuple(powers[:2] if quick else powers)
    try:
        counts = sorted({int(word) for word in given.split(",")})
    except ValueError:
        raise InputError(f"--workers {given!r} is no list of numbers: write --workers 1,2,4") from None
    if counts[0] < 1:
        raise InputError(f"--workers {given!r}: give 1 or more")
    return tuple(counts)


def main() -> None:
    """Measure and report."""
    asked = asked_for()
    try:
        plan = plan_of(asked)
        Assumed.given(asked.assume)
        if asked.against:
            scaling_compare.read_details(asked.against)
        before = os.getloadavg()[0]
        points = measure(plan)
        result = result_of(plan, points, (before, os.getloadavg()[0]), asked)
        report(result, asked)
        if asked.plots:
            write_all(result.to_dict(), asked.plots)
    except GlacierError as err:
        print(err, file=sys.stderr)
        raise SystemExit(err.exit_code) from None


if __name__ == "__main__":
    main()
