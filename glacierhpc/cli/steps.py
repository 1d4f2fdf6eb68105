"""The commands that run the task: all its steps, one of them, the demo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glacierhpc.cli import looks
from glacierhpc.cli.arguments import ConfigFile, DryRun, Json, Overrides, load, running
from glacierhpc.console import logging_shown, show
from glacierhpc.errors import InputError

if TYPE_CHECKING:
    from glacierhpc.config import Config

STEPS = {
    "search": "Find the scenes of the area and period in the catalogue.",
    "acquire": "Read the scenes into one cube; started again, it reads only what is missing.",
    "clean": "Mask clouds, shadows and saturation; fill small holes and mark them.",
    "align": "Co-register every scene to one reference.",
    "composite": "Make one image of an index per window of months.",
    "sequences": "Plan the training sequences and a split without leakage.",
    "train": "Train the forecast model.",
    "evaluate": "Measure skill on the test sequences against the simple forecasts.",
    "predict": "Forecast the whole area.",
    "flow": "Compare the apparent motion of targets and forecasts.",
    "report": "Write one self-contained HTML file about the run.",
}
"""The steps of the forecast task with their help lines."""


def run(
    config: ConfigFile,
    overrides: Overrides = None,
    from_step: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="run again from this step on")
    ] = None,
    to_step: Annotated[str | None, typer.Option("--to", metavar="STEP", help="stop after this step")] = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Run all steps that are still to do."""
    loaded = load(config, overrides)
    from glacierhpc import workflows

    with logging_shown():
        if dry_run:
            summary = workflows.run_step("acquire", loaded, dry_run=True)
        else:
            summary = workflows.run_steps(loaded, from_step=from_step, to_step=to_step)
    show(summary, as_json=as_json)


def _run_step(
    name: str, config: Path, overrides: list[str] | None, *, as_json: bool, dry_run: bool = False
) -> None:
    loaded = load(config, overrides)
    from glacierhpc import workflows

    with logging_shown():
        summary = workflows.run_step(name, loaded, dry_run=dry_run)
    if summary:  # of several processes one speaks
        show({"step": name, **summary}, as_json=as_json)


def _step_command(name: str) -> Callable[..., None]:
    def command(config: ConfigFile, overrides: Overrides = None, as_json: Json = False) -> None:
        _run_step(name, config, overrides, as_json=as_json)

    return command


def _acquire(
    config: ConfigFile,
    overrides: Overrides = None,
    group: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="only this group of the scenes, counted from 0, and no cube yet"),
    ] = None,
    groups: Annotated[
        int | None,
        typer.Option(metavar="N", help="how many groups there are: tasks of a job array, one each"),
    ] = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    if group is None and groups is None:
        _run_step("acquire", config, overrides, as_json=as_json, dry_run=dry_run)
    elif group is None or groups is None or dry_run:
        raise InputError(
            "--group, which one to read, and --groups, how many there are, are given together, without --dry-run; in a "
            "job array the number of the task is the first: sbatch --array=0-7 jobs/acquire.sbatch CONFIG --groups 8"
        )
    else:
        _read_group(load(config, overrides), group, groups, as_json=as_json)


def _read_group(config: Config, number: int, of: int, *, as_json: bool) -> None:
    from glacierhpc.workflows.groups import read_group

    with logging_shown():
        summary = read_group(config, number, of)
    show({"step": "acquire", **summary}, as_json=as_json)


_OWN_COMMANDS: dict[str, Callable[..., None]] = {
    "acquire": _acquire,
    "evaluate": looks.evaluate,
    "report": looks.report,
}


def demo(
    folder: Annotated[Path, typer.Argument(help="where the demo is written")] = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """Run the whole forecast, small and offline, on synthetic scenes; ends with the report's path.

    Given again, it removes the folder of the earlier demo and starts again.
    """
    running.again = "the same command starts again"
    running.log = folder / "logs" / "unexpected.log"
    from glacierhpc import workflows

    with logging_shown():
        summary = workflows.demo(folder)
    show(summary, as_json=as_json)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(run)
    for name, text in STEPS.items():
        app.command(name, help=text)(_OWN_COMMANDS.get(name) or _step_command(name))
    app.command()(demo)
