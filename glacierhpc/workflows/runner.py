"""Running steps in a run directory: their order, what is still to do, where they log; not what they do.

Several processes (train.backend ddp or horovod) may run a training together: rank 0 claims the run and speaks, the
others open it without a claim, write nothing and warn only.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from glacierhpc import fence
from glacierhpc.atomic import remove
from glacierhpc.config import Config, run_config
from glacierhpc.errors import InputError
from glacierhpc.fence import LeaseLost
from glacierhpc.hpc import chain
from glacierhpc.hpc.slurm.states import has_ended
from glacierhpc.hpc.surroundings import job_attempt, job_surroundings
from glacierhpc.lease import InUse
from glacierhpc.run_config import refuse_another
from glacierhpc.rundir import RunDirectory
from glacierhpc.training.trackers import check_trackers
from glacierhpc.workflows.images import check_image
from glacierhpc.workflows.tasks import OF_SCENES, Step, Summary, check_step, step_function, steps_of

log = logging.getLogger(__name__)

LOOKS = ("evaluate", "report")
"""Steps that read all of a run and can write elsewhere."""


def run_step(name: str, config: Config, *, dry_run: bool = False, output: Path | None = None) -> Summary:
    """Run one step from its input files.

    Parameters
    ----------
    name : str
        A step of the configuration's task.
    dry_run : bool
        Only say what would be read and written (`acquire`); touches no file.
    output : path, optional
        Where `evaluate` (a folder) or `report` (a file) write; the run is only read, whoever has it.

    Returns
    -------
    dict
        ``table``: (label, value) rows; the rest is what the step has to say to a program. Empty on all ranks but 0.

    Raises
    ------
    InputError
        If the step does not exist, its input is missing, or the run directory is of another configuration.
    """
    check_step(config, name)
    if dry_run:
        return _dry_run(name, config)
    if output is not None:
        return looked(name, config, output)
    if name != "train":
        return _ranked(name, config)
    keep_on = step_function(config, name, "rejoining")
    return dict(keep_on(config.train.backend, partial(_ranked, name, config)))


def _ranked(name: str, config: Config) -> Summary:
    """Run a step as the rank that this process is by now."""
    rank, _ = _place([name], config)
    if rank > 0:
        with _quiet():
            step_function(config, name)(config, RunDirectory(config.run_path))
        return {}
    check_ahead([name], config)
    if name in LOOKS:
        _refuse_unwritable(name, config.run_path)
    try:
        with claimed(config, gives_way=name == "report") as run:
            return recorded(name, config, run)
    except (InUse, LeaseLost) as err:
        if name != "report":
            raise
        beside = config.run_path.with_name(f"{config.run_path.name}-report.html")
        log.warning("%s; what there is so far is told beside the run", str(err).partition(";")[0])
        return looked(name, config, beside)


def _refuse_unwritable(name: str, run: Path) -> None:
    """Say to who may only read a run what can be done all the same."""
    if run.is_dir() and not os.access(run, os.W_OK):
        raise InputError(
            f"run directory {str(run)!r} may not be written by this user; say where else the results of {name!r} go: "
            "--output PLACE"
        )


def looked(name: str, config: Config, output: Path) -> Summary:
    """Run a step that only reads, without a claim on the run: what it makes goes to a place outside of every run.

    Raises
    ------
    InputError
        If the run is of another configuration, or `output` lies in a run: one command at a time writes there.
    """
    place = output.resolve()
    for folder in (place, *place.parents):
        if folder == config.run_path.resolve() or (folder / fence.FOLDER).is_dir():
            raise InputError(
                f"{str(output)!r} is in the run directory {str(folder)!r}, where only who has the run writes; give "
                "--output a place outside, or leave it away"
            )
    refuse_another(config.run_path, run_config(config))
    summary: Summary = step_function(config, name)(config, RunDirectory(config.run_path), output=output)
    return summary


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
    for key, name in (("--from", from_step), ("--to", to_step)):
        if name is not None:
            check_step(config, name, what=f"{key} step")
    names = steps_of(config)
    if from_step and to_step and names.index(from_step) > names.index(to_step):
        raise InputError(f"--from {from_step} comes after --to {to_step}; the order is {' > '.join(names)}")
    last = names.index(to_step) + 1 if to_step else len(names)
    if _place(names[:last], config)[1] > 1:
        raise InputError(
            "several processes were started, and only training knows how to share its work: run the other steps in "
            "one process, and start this one alone in several: glacierhpc train CONFIG"
        )
    with claimed(config) as run:
        first = names.index(from_step) if from_step else first_to_do(names, run)
        check_ahead(names[first:last], config)
        if from_step == "train":
            remove(run.checkpoints)  # asked to train, not to go on
        summaries = {}
        for name in names[first:last]:
            summaries[name] = recorded(name, config, run)
    rows = [[f"{name}: {label}", value] for name, told in summaries.items() for label, value in told["table"]]
    rows = rows or [["steps", "nothing to do"]]
    if config.input.cube is not None:
        rows.insert(0, [", ".join(OF_SCENES), f"skipped: the images are those of {config.input.cube}"])
    return {"table": rows, "steps": summaries, "run": str(run.path)}


def _place(names: Sequence[str], config: Config) -> tuple[int, int]:
    """Return rank and size of this process among those that train together; (0, 1) where nothing is trained."""
    if "train" not in names:
        return 0, 1
    rank, size = step_function(config, "train", "surroundings")(config.train.backend)
    return int(rank), int(size)


def check_ahead(names: Sequence[str], config: Config) -> None:
    """Look for optional packages and for weights made elsewhere before the first step, not hours later."""
    if "train" in names:
        check_trackers(config.train.trackers)
        step_function(config, "train", "check_sources")(config)


def _dry_run(name: str, config: Config) -> Summary:
    if name != "acquire":
        raise InputError(f"--dry-run of {name!r} has nothing to say; it is for 'acquire'")
    return dict(step_function(config, name, "plan")(config, RunDirectory(config.run_path)))


@contextmanager
def claimed(config: Config, *, gives_way: bool = False) -> Iterator[RunDirectory]:
    """Open the run directory for writing, with where the results come from on record.

    With `gives_way` another command, such as the next job of a chain, is not kept waiting: it has the run at once, and
    the next write here raises `LeaseLost`.
    """
    job, restart = job_attempt()
    opened = RunDirectory.open(
        config.run_path,
        # allowed once, not for good
        run_config(config.model_copy(update={"allow_another_image": False})),
        job=job,
        restart=restart,
        on_lost=None if gives_way else _end_now,
        has_ended=has_ended,
        gives_way=gives_way,
    )
    with opened as run:
        surroundings = job_surroundings()
        check_image(run, surroundings["container_digest"], allowed=config.allow_another_image)
        run.provenance(seeds={"train": config.train.seed}, **surroundings)
        yield run


def _end_now(lost: LeaseLost) -> None:
    """End this process, which another has taken the run over from; exit code 1, by which no job is queued again.

    It may be in a collective call that never returns, or hours away from its next write. Nothing is lost by ending
    here: nothing that it could still write would be taken.
    """
    log.error("%s", lost)
    os._exit(lost.exit_code)


def recorded(name: str, config: Config, run: RunDirectory, *, step: Step | None = None) -> Summary:
    """Run a step, or what stands for it here, with its state and log kept in the run directory."""
    step = step or step_function(config, name)
    log.info("%s", name)
    with _log_file(run.logs / f"{name}.log"), run.step(name) as record:
        summary: Summary = step(config, run)
        record["table"] = summary["table"]
    return summary


def first_to_do(names: Sequence[str], run: RunDirectory) -> int:
    """Return the position of the first step that never ended well, or that one before it has run after."""
    return chain.first_to_do(names, {name: run.step_record(name) for name in names})


@contextmanager
def _quiet() -> Iterator[None]:
    """Let this process only warn: rank 0 tells the rest."""
    logger = logging.getLogger("glacierhpc")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Append what the package logs to a file of the run, without what only moves a bar."""
    logger = logging.getLogger("glacierhpc")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.addFilter(lambda record: not getattr(record, "bar_only", False))
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        with suppress(OSError):  # a full disk has already been said, by whom it stopped
            handler.close()
