"""How acquiring, aligning, cutting and training scale: the same work, and as much work for each, over more workers.

Run it on an idle machine, or in a job of several nodes::

    glacierhpc bench scaling --output scaling.json --plots figures
    glacierhpc bench scaling --what train --backend horovod --workers 1,2
    glacierhpc bench scaling --against scaling.json
    sbatch jobs/scaling.sbatch --repeats 7
    sbatch jobs/scaling.sbatch --what train --backend horovod --launcher pmix

Workers are processes with one thread each, ranks have one core or one GPU. The first runs of each are dropped. Points
with more workers than cores are marked and take no part in the laws that are fitted; nothing is said beyond the numbers
measured but by the model, whose projection is marked as one everywhere. `--plots` also writes a page and a CSV file.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import scaling_compare
import scaling_train
from harness import Result, Row, report
from scaling_assumed import Assumed
from scaling_laws import Fit, NoFit, fit_all
from scaling_measure import measure
from scaling_page import write_all
from scaling_plan import STEPS, Plan, asked_for, plan_of
from scaling_points import METHOD, MODES, Point, base_of, efficiency, median_interval, speed_up
from scaling_project import COUNTS, project, trust, validate
from scaling_schema import Details
from scaling_work import WORKS

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.hpc.surroundings import job_surroundings
from glacierhpc.rundir import RunDirectory

__all__ = ["STEPS", "asked_for", "main", "measure", "plan_of", "result_of"]

BUSY = 0.3
"""Load per core before the start from which a machine is called busy."""
QUICK = "A quick run: it shows that everything works, and nothing of how the steps scale."


def result_of(
    plan: Plan, points: list[Point], load: tuple[float, float], asked: argparse.Namespace
) -> Result:
    """Return everything that follows from what was measured."""
    cores = max(point.details["cores"] for point in points)
    own_cores = os.cpu_count() or 1  # of the machine whose load it is, others' jobs included
    fits = fit_all(points)
    validation = validate(points, cores=cores)
    assumed = Assumed.given(asked.assume)
    projection = project(
        points, assumed, counts=COUNTS[:3] if asked.quick else COUNTS, simulations=1 if asked.quick else 3
    )
    projection["assumptions"][1:1] = trust(validation)
    details = {
        "cluster": plan.cluster,
        "backend": plan.backend,
        "launcher": plan.launcher,
        "cores": cores,
        "hosts": sorted({host for point in points for host in point.details["hosts"]}),
        "load_average": {"before": load[0], "after": load[1], "cores": own_cores},
        "words": [*([QUICK] if asked.quick else []), *words_on(points, cores, load[0] / own_cores)],
        "intervals": METHOD,
        "environment": environment(plan.scratch, points),
        "points": [_told(point, base_of(points, point)) for point in points],
        "fits": [_fit(fit) for fit in fits if isinstance(fit, Fit)],
        "not_fitted": [asdict(fit) for fit in fits if isinstance(fit, NoFit)],
        "validation": validation,
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


def words_on(points: list[Point], cores: int, load_per_core: float) -> list[str]:
    """Return what a reader must know before looking at a figure, from what the machine has."""
    within = max((p.workers for p in points if not p.oversubscribed), default=0)
    words = [
        f"{cores} cores: up to {within} workers have one each; what hands out their work runs beside them. "
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
    if load_per_core > BUSY:
        words.append(
            f"The machine was busy before the start (load average {load_per_core:.1f} per core): times are longer than "
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
            f"{scaling_train.MODEL}, {plan.backend} by {plan.launcher}, {plan.batch} samples of {plan.patch_px} px per "
            f"rank and step, {plan.steps_per_epoch} steps"
        )
    return "; ".join([*told, f"{plan.repeats} repeats after those that warm up"])


def environment(folder: Path | None, points: list[Point]) -> dict[str, Any]:
    """Return versions, commit, host, job and image digest, as a run's provenance has them; images are the workers'."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        told = RunDirectory(Path(name)).provenance(**job_surroundings())
    images = {image for point in points for image in point.details["images"]}
    told["container_digest"] = ", ".join(sorted(images)) or None
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


def main() -> None:
    """Measure and report."""
    asked = asked_for()
    for number in (signal.SIGTERM, signal.SIGUSR2):  # so that workers and scratch folders do not outlive it
        signal.signal(number, _ended)
    try:
        plan = plan_of(asked)
        Assumed.given(asked.assume)
        _places(asked, plan)
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


def _places(asked: argparse.Namespace, plan: Plan) -> None:
    """Make the folders of what will be written; that one cannot be is better known before anything is measured."""
    results = asked.output and asked.output.parent
    for option, folder in (("--scratch", plan.scratch), ("--output", results), ("--plots", asked.plots)):
        try:
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
        except OSError as err:
            raise InputError(
                f"{option}: nothing can be written to {str(folder)!r} ({err}): give another place"
            ) from err
    if asked.output and asked.output.is_dir():
        raise InputError(f"--output {str(asked.output)!r} is a folder: give the name of a file")


def _ended(number: int, _: Any) -> None:
    name = signal.Signals(number).name
    print(f"asked to end by {name} before all was measured: nothing is kept; give it more time, or measure less with "
          "--what, --workers or --repeats", file=sys.stderr)  # fmt: skip
    # after USR2 a job's script would read 140 as saved
    raise SystemExit(128 + number if number == signal.SIGTERM else 1)


if __name__ == "__main__":
    main()
