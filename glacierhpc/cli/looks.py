"""The two steps that only look at a run, and can do so while a job has it: the evaluation and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glacierhpc.cli.arguments import ConfigFile, Json, Overrides, load
from glacierhpc.console import logging_shown, show

ONLY_READ = "the run is only read: for one that a job has at the moment, or that is another's"


def evaluate(
    config: ConfigFile,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help=f"write metrics and scores there; {ONLY_READ}")
    ] = None,
    as_json: Json = False,
) -> None:
    """Judge the model against the baselines."""
    loaded = load(config, overrides)
    from glacierhpc import workflows

    with logging_shown():
        summary = workflows.run_step("evaluate", loaded, output=output)
    show({"step": "evaluate", **summary}, as_json=as_json)


def report(
    config: ConfigFile,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(metavar="HTML", help=f"write the page there; {ONLY_READ}")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="PNG", help="also write one picture of the run, for a slide")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the page; while a job has the run, beside the run."""
    loaded = load(config, overrides)
    from glacierhpc import workflows

    with logging_shown():
        summary = workflows.run_step("report", loaded, output=output)
    show({"step": "report", **summary}, as_json=as_json)
    if picture is not None:
        from glacierhpc.report import write_picture

        write_picture(loaded.run_path, picture)
