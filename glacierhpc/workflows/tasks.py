"""Which steps a task has, in their order, and which module tells each of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glacierhpc.config import Config
from glacierhpc.errors import InputError, missing_package
from glacierhpc.rundir import RunDirectory

Summary = dict[str, Any]
"""What a step reports: ``table``, a list of (label, value) rows, and whatever else a program should know."""

Step = Callable[[Config, RunDirectory], Summary]

TASKS: dict[str, dict[str, str]] = {
    "forecast": {
        **dict.fromkeys(("search", "acquire", "clean", "align", "composite"), "imagery"),
        **dict.fromkeys(("sequences", "train", "evaluate", "predict"), "forecast"),
        **dict.fromkeys(("flow", "report"), "results"),
    }
}
"""The steps of each task in their order, each with the module of this package that tells it.

Modules are imported when a step runs: images and reports can be made where no torch is installed.
"""

EXTRAS = {
    "imagery": "imagery,mapping",
    "forecast": "imagery,learning,mapping",
    "results": "imagery,mapping",
}


def step_function(task: str, step: str, name: str | None = None) -> Step:
    """Return the function of a step, or another one of its module by name.

    Raises
    ------
    InputError
        If a package that the module needs is not installed; names the extras that bring it.
    """
    module = TASKS[task][step]
    try:
        function: Step = getattr(importlib.import_module(f"glacierhpc.workflows.{module}"), name or step)
    except ModuleNotFoundError as err:
        raise missing_package(err.name or str(err), EXTRAS[module]) from err
    return function


def need(path: Path, step: str) -> Path:
    """Return an input file of a step.

    Raises
    ------
    InputError
        If it is missing or a cube that has lost files; names the step that writes it.
    """
    if not path.exists():
        raise InputError(
            f"{path} does not exist; run the step that writes it first: glacierhpc {step} CONFIG"
        )
    from glacierhpc.cube import missing_pieces  # an installation without the imagery extra has its own words

    if path.suffix == ".zarr" and (lost := missing_pieces(path)):
        pieces = ", ".join(f"{count} of {name!r}" for name, count in lost.items())
        raise InputError(f"{path} has lost files ({pieces}); write it anew: glacierhpc {step} CONFIG")
    return path
