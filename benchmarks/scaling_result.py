"""What the points of the scaling benchmark say, as the result that is written; measures nothing."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import scaling_compare
import scaling_train
from harness import Result, Row
from scaling_assumed import Assumed
from scaling_laws import Fit, NoFit, fit_all
from scaling_measure import missing
from scaling_plan import Plan
from scaling_points import METHOD, MODES, Point, base_of, efficiency, median_interval, speed_up
from scaling_project import COUNTS, nothing_projected, project, trust, validate
from scaling_schema import Details
from scaling_train import LEAST, MOST
from scaling_work import WORKS

from glacierhpc.hpc.surroundings import job_surroundings
from glacierhpc.rundir import RunDirectory

BUSY = 0.3
"""Load per core before the start from which a machine is called busy."""
QUICK = "A quick run: it shows that everything works, and nothing of how the steps scale."


@dataclass(frozen=True)
class About:
    """What a result says beside its points."""

    environment: Mapping[str, Any]
    load_before: float
    assumed: Assumed
    quick: bool = False
    against: Mapping[str, Any] | None = None
    """An earlier result."""


def result_of(plan: Plan, points: Sequence[Point], about: About) -> Result:
    """Return everything that follows from what was measured; nothing is projected before all was."""
    cores = max(point.details["cores"] for point in points)
    own_cores = os.cpu_count() or 1  # of the machine whose load it is, others' jobs included
    fits = fit_all(points)
    validation = validate(points, cores=cores)
    images = {image for point in points for image in point.details["images"]}
    left = [f"{step}, {mode}, {workers} workers" for step, mode, workers in missing(plan, points)]
    details = {
        "cluster": plan.cluster,
        "backend": plan.backend,
        "launcher": plan.launcher,
        "cores": cores,
        "hosts": sorted({host for point in points for host in point.details["hosts"]}),
        "load_average": {"before": about.load_before, "after": os.getloadavg()[0], "cores": own_cores},
        "words": [
            *([f"The run was ended before all was measured: {'; '.join(left)} are missing."] if left else []),
            *([QUICK] if about.quick else []),
            *words_on(points, cores, about.load_before / own_cores),
        ],
        "intervals": METHOD,
        "environment": {**about.environment, "container_digest": ", ".join(sorted(images)) or None},
        "pieces": dict(plan.pieces),
        "point_s": plan.point_s,
        "missing": left,
        "points": [_told(point, base_of(points, point)) for point in points],
        "fits": [_fit(fit) for fit in fits if isinstance(fit, Fit)],
        "not_fitted": [asdict(fit) for fit in fits if isinstance(fit, NoFit)],
        "validation": validation,
        "projection": nothing_projected(left) if left else _projection(points, validation, about),
        "comparison": None,
    }
    result = Result(
        "scaling", conditions(plan), rows_of(points), Details.model_validate(details).model_dump()
    )
    if about.against:
        comparison = scaling_compare.compare(result.to_dict(), about.against)
        checked = Details.model_validate({**details, "comparison": comparison})
        result = replace(result, details=checked.model_dump())
    return result


def _projection(
    points: Sequence[Point], validation: Sequence[Mapping[str, Any]], about: About
) -> dict[str, Any]:
    few = {"counts": COUNTS[:3], "simulations": 1} if about.quick else {}
    told = project(points, about.assumed, **few)
    told["assumptions"][1:1] = trust(validation)
    return told


def words_on(points: Sequence[Point], cores: int, load_per_core: float) -> list[str]:
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
    if plan.spread:
        served = f"archive with {1e3 * plan.delay_s:.0f} ms delay" if plan.cluster == "local" else "files"
        pieces = ", ".join(_counted(step, plan.pieces[step]) for step in plan.spread)
        told.append(f"{pieces} of {plan.size_px} px per worker, {served}, {plan.cluster} workers")
    if "train" in plan.steps:
        told.append(
            f"{scaling_train.MODEL}, {plan.backend} by {plan.launcher}, {plan.batch} samples of {plan.patch_px} px per "
            f"rank and step, {plan.pieces['train']} steps"
        )
    repeats = plan.repeats or f"{LEAST} to {MOST}"
    return "; ".join([*told, f"{repeats} repeats after those that warm up"])


def _counted(step: str, count: int) -> str:
    unit = WORKS[step].unit
    return f"{step} {count} {unit.removesuffix('s') if count == 1 else unit}"


def environment(folder: Path) -> dict[str, Any]:
    """Return versions, commit, host and job, as the provenance of a run in some folder has them."""
    told = RunDirectory(folder).provenance(**job_surroundings())
    return {key: value for key, value in told.items() if key not in ("seeds", "input_ids")}


def points_of(details: Mapping[str, Any]) -> list[Point]:
    """Return the points of a result that was written."""
    names = [field.name for field in fields(Point)]
    return [
        Point(**{**{name: told[name] for name in names}, "seconds": tuple(told["seconds"])})
        for told in details["points"]
    ]


def rows_of(points: Sequence[Point]) -> list[Row]:
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
