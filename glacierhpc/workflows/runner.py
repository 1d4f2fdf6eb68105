"""Running steps in a run directory: their order, what is still to do, where they log; not what they do."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from glacierhpc.config import Config, config_hash, config_to_yaml
from glacierhpc.errors import InputError, unknown_name
from glacierhpc.hpc.slurm import job_surroundings
from glacierhpc.rundir import RunDirectory
from glacierhpc.training.trackers import check_trackers
from glacierhpc.workflows.tasks import TASKS, Summary, step_function

log = logging.getLogger(__name__)


def run_step(name: str, config: Config, *, dry_run: bool = False) -> Summary:
    """Run one step from its input files.

    Parameters
    ----------
    name : str
        A step of the configuration's task.
    dry_run : bool
        Only say what would be read and written (`acquire`); touches no file.

    Returns
    -------
    dict
        ``table``: (label, value) rows; the rest is what the step has to say to a program.

    Raises
    ------
    InputError
        If the step does not exist, its input is missing, or the run directory is of another configuration.
    """
    steps = TASKS[config.task]
    if name not in steps:
        raise unknown_name("step", name, steps)
    if dry_run:
        return _dry_run(name, config)
    _check_packages([name], config)
    with _claimed(config) as run:
        return _recorded(name, config, run)


def run_steps(
    config: Config,
    *,
    from_step: str | None = None,
    to_step: str | None = None,
) -> Summary:
    """Run the steps of the task that are still to do, in order.

    A step is to do if it never ended well, or if a step before it has run since. Started again after a kill, the
    work goes on where it stopped.

    Parameters
    ----------
    from_step : str, optional
        Run from this step on, done or not; from ``train``, the model is trained anew.
    to_step : str, optional
        Stop after this step.
    """
    steps = TASKS[config.task]
    for key, name in (("--from", from_step), ("--to", to_step)):
        if name is not None and name not in steps:
            raise unknown_name(f"{key} step", name, steps)
    names = list(steps)
    if from_step and to_step and names.index(from_step) > names.index(to_step):
        raise InputError(f"--from {from_step} comes after --to {to_step}; the order is {' > '.join(names)}")
    last = names.index(to_step) + 1 if to_step else len(names)
    with _claimed(config) as run:
        first = names.index(from_step) if from_step else _first_to_do(names, run)
        _check_packages(names[first:last], config)
        if from_step == "train":
            shutil.rmtree(run.checkpoints, ignore_errors=True)  # asked to train, not to go on
        summaries = {}
        for name in names[first:last]:
            summaries[name] = _recorded(name, config, run)
    rows = [[f"{name}: {label}", value] for name, told in summaries.items() for label, value in told["table"]]
    return {"table": rows or [["steps", "nothing to do"]], "steps": summaries, "run": str(run.path)}


def _check_packages(names: list[str], config: Config) -> None:
    """Look for optional packages before the first step, not hours later."""
    if "train" in names:
        check_trackers(config.train.trackers)


def _dry_run(name: str, config: Config) -> Summary:
    if name != "acquire":
        raise InputError(f"--dry-run of {name!r} has nothing to say; it is for 'acquire'")
    return step_function(config.task, name, "plan")(config, RunDirectory(config.run_path))


@contextmanager
def _claimed(config: Config) -> Iterator[RunDirectory]:
    with RunDirectory.open(config.run_path, config_to_yaml(config), config_hash(config)) as run:
        run.provenance(seeds={"train": config.train.seed}, **job_surroundings())
        yield run


def _recorded(name: str, config: Config, run: RunDirectory) -> Summary:
    step = step_function(config.task, name)
    log.info("%s", name)
    with _log_file(run.logs / f"{name}.log"), run.step(name) as record:
        summary = step(config, run)
        record["table"] = summary["table"]
    return summary


def _first_to_do(names: list[str], run: RunDirectory) -> int:
    before = ""
    for position, name in enumerate(names):
        started = run.step_record(name).get("started", "")
        if not run.done(name) or started < before:
            return position
        before = started
    return len(names)


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Append what the package logs to a file of the run."""
    logger = logging.getLogger("glacierhpc")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        with suppress(OSError):  # a full disk has already been said, by whom it stopped
            handler.close()
