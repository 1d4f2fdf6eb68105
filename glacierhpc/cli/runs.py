"""The commands over several runs: variations of one, and the comparison of any."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glacierhpc.cli.arguments import ConfigFile, Json, Overrides, load
from glacierhpc.console import logging_shown, show
from glacierhpc.errors import InputError


def sweep(
    config: ConfigFile,
    overrides: Overrides = None,
    trial: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="only this one, counted from 0: a task of a job array"),
    ] = None,
    gather: Annotated[
        bool, typer.Option("--gather", help="train nothing, write down what the trials gave")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train and score every variation and seed listed under sweep:, each in a run of its own."""
    if gather and trial is not None:
        raise InputError("--gather is for all trials and --trial for one; give one of the two")
    loaded = load(config, overrides)
    from glacierhpc.workflows import sweep as sweeping

    with logging_shown():
        if trial is not None:
            summary = sweeping.run_trial(loaded, trial)
        else:
            summary = sweeping.gather(loaded) if gather else sweeping.sweep(loaded)
    show(summary, as_json=as_json)


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="folders of evaluated runs, or LABEL=FOLDER; the first is the reference"
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="also write a page with a table and a figure there")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare runs that were judged on the same targets."""
    from glacierhpc.workflows.comparison import compare_runs

    with logging_shown():
        summary = compare_runs(runs, output)
    show(summary, as_json=as_json)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(sweep)
    app.command()(compare)
