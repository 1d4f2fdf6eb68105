"""How acquiring, aligning, cutting and training scale: the same work, and as much work for each, over more workers.

Run it on an idle machine, or in a job of several nodes::

    glacierhpc bench scaling --output scaling.json --plots figures
    glacierhpc bench scaling --what train --backend horovod --workers 1,2
    glacierhpc bench scaling --against scaling.json
    sbatch jobs/scaling.sbatch --repeats 7
    sbatch jobs/scaling.sbatch --what train --backend horovod --launcher pmix

Sizes and repeats are chosen so that all takes about `--minutes`. What has been measured is in `--output` at once: a run
that is ended leaves a result that says what is missing, and the same command goes on from it.

Workers are processes with one thread each, ranks have one core or one GPU. The first runs of each are dropped. Points
with more workers than cores are marked and take no part in the laws that are fitted; nothing is said beyond the numbers
measured but by the model, whose projection is marked as one everywhere. `--plots` also writes a page and a CSV file.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import scaling_compare
import torch
from harness import machine, report
from scaling_assumed import Assumed
from scaling_launch import in_job
from scaling_measure import measure, missing
from scaling_pace import estimate_s, pace_of, settled
from scaling_page import write_all
from scaling_plan import STEPS, Plan, asked_for, plan_of
from scaling_points import Point
from scaling_result import About, conditions, environment, points_of, result_of

from glacierhpc.atomic import write_text
from glacierhpc.errors import GlacierError, InputError

__all__ = ["STEPS", "asked_for", "main", "measure", "plan_of"]


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


def main() -> None:
    """Measure and report."""
    load_before, asked = os.getloadavg()[0], asked_for()
    try:
        plan, assumed = plan_of(asked), Assumed.given(asked.assume)
        _places(asked, plan)
        against = scaling_compare.read_details(asked.against) if asked.against else None
        with tempfile.TemporaryDirectory(
            prefix="scaling-", dir=plan.scratch, ignore_cleanup_errors=True
        ) as name:
            _ended_by_signals(Path(name), asked.output, at_once=plan.cluster == "local" and not in_job())
            about = About(environment(Path(name)), load_before, assumed, asked.quick, against)
            plan, points = _measured(plan, Path(name), asked.output, about)
        result = result_of(plan, points, about)
        report(result, asked)
        if asked.plots:
            write_all(result.to_dict(), asked.plots)
    except GlacierError as err:
        print(err, file=sys.stderr)
        raise SystemExit(err.exit_code) from None


def _measured(plan: Plan, folder: Path, output: Path | None, about: About) -> tuple[Plan, list[Point]]:
    """Measure what an earlier run has not; return it with the plan of all; what is measured is in the file at once."""
    device = "cuda" if "train" in plan.steps and torch.cuda.is_available() else "cpu"
    plan, points = _gone_on(_as_before(plan, about.against), output, about)
    if not plan.settled:
        plan = _settled(plan, folder / "pace", device)

    def add(more: list[Point]) -> None:
        order = plan.points()
        points.extend(more)
        points.sort(key=lambda point: order.index((point.step, point.mode, point.workers)))
        if output and missing(plan, points):
            write_text(output, json.dumps(result_of(plan, points, about).to_dict()) + "\n")

    measure(plan, folder, list(points), device=device, add=add)
    return plan, points


def _as_before(plan: Plan, earlier: Mapping[str, Any] | None) -> Plan:
    """Return a plan with the sizes of an earlier result where none are asked for: others could not be compared."""
    pieces = earlier["details"].get("pieces", {}) if earlier else {}
    return replace(
        plan, pieces={**{step: pieces[step] for step in plan.steps if step in pieces}, **plan.pieces}
    )


def _gone_on(plan: Plan, output: Path | None, about: About) -> tuple[Plan, list[Point]]:
    """Return the plan, and the points, of an earlier run into the same file that was ended, where all else is equal."""
    old: Mapping[str, Any] = {"details": {}}
    with suppress(InputError):
        old = scaling_compare.read_details(output) if output else old
    if not old["details"].get("missing"):
        return plan, []
    own = replace(_as_before(plan, old), point_s=old["details"]["point_s"])
    if not own.settled:
        return plan, []
    details = {"environment": about.environment}
    new = {"machine": machine(), "conditions": conditions(own), "details": details}
    if differences := scaling_compare.differences(new, old, also=("commit",)):
        print(f"{output} is measured anew: {'; '.join(differences)}", file=sys.stderr)
        return plan, []
    points = [p for p in points_of(old["details"]) if (p.step, p.mode, p.workers) in own.points()]
    total = len(own.points())
    print(f"goes on with {output}: {len(points)} of {total} points are measured", file=sys.stderr)
    return own, points


def _settled(plan: Plan, folder: Path, device: str) -> Plan:
    """Choose sizes and repeats by a short run, and say how long all will take."""
    began = psutil.Process().create_time()
    pace = pace_of(plan, folder, device=device)
    chosen = settled(plan, pace, spent_s=time.time() - began)
    minutes = (time.time() - began + estimate_s(chosen, pace)) / 60
    sizes = ", ".join(f"{step} {pieces}" for step, pieces in chosen.pieces.items())
    words = f"about {minutes:.1f} minutes in all for {len(chosen.points())} points; pieces for each worker: {sizes}"
    if minutes > 1.1 * plan.minutes:
        words += (
            f"; more than {plan.minutes:g}, as fewer repeats would tell nothing: measure less with --what, --mode or "
            "--workers"
        )
    print(words, file=sys.stderr, flush=True)
    return chosen


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


def _ended_by_signals(folder: Path, output: Path | None, *, at_once: bool) -> None:
    """Let signals end this process, and with it its workers, its ranks and the folder they work in.

    Parameters
    ----------
    at_once : bool
        Whether all of them are of this machine and may be killed. Others are ended by what started them.
    """

    def ended(number: int, _: Any) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        logging.disable()  # workers that go down would say so one by one
        name, kept = signal.Signals(number).name, "nothing is kept without --output"
        if output:
            kept = f"what was is in {str(output)!r}, and the same command goes on from there"
        print(f"ended by {name} before all was measured: {kept}", file=sys.stderr, flush=True)
        code = 128 + number
        if number == signal.SIGUSR2:  # a job's script reads 75 as saved, and so it would 140
            code = 75 if output else 1
        if not at_once:
            raise SystemExit(code)
        _kill_all()
        shutil.rmtree(folder, ignore_errors=True)
        _kill_all()  # workers that were started for those killed
        os._exit(code)

    # for the process that removes semaphores, which would tell of those of workers that were killed
    sys.warnoptions.append("ignore:resource_tracker")
    for number in SIGNALS:
        signal.signal(number, ended)


def _kill_all() -> None:
    """Kill the processes that this one has started, but for the one that removes their semaphores and then ends."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if not any("resource_tracker" in word for word in process.cmdline()):
                process.kill()


if __name__ == "__main__":
    main()
