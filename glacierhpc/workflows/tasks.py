"""Which steps a task has, in their order, and which module tells each of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glacierhpc.config import Config
from glacierhpc.errors import InputError, missing_package, unknown_name
from glacierhpc.rundir import RunDirectory

Summary = dict[str, Any]
"""What a step reports: ``table``, a list of (label, value) rows, and whatever else a program should know."""

Step = Callable[[Config, RunDirectory], Summary]

TASKS: dict[str, dict[str, str]] = {
    "forecast": {
        **dict.fromkeys(("search", "acquire", "clean", "align", "composite"), "imagery"),
        **dict.fromkeys(("sequences",), "forecast"),
        **dict.fromkeys(("train",), "learning"),
        **dict.fromkeys(("evaluate",), "judging"),
        **dict.fromkeys(("predict",), "forecast"),
        **dict.fromkeys(("flow", "report"), "results"),
    }
}
"""The steps of each task in their order, each with the module of this package that tells it.

Modules are imported when a step runs: images and reports can be made where no torch is installed.
"""

EXTRAS = {
    "imagery": "imagery,mapping",
    "given": "imagery,mapping",
    "forecast": "imagery,learning,mapping",
    "learning": "imagery,learning,mapping",
    "judging": "imagery,learning,mapping",
    "results": "imagery,mapping",
}


OF_SCENES = ("search", "acquire", "clean", "align")
"""Steps that a run with images made elsewhere (``input.cube``) does not have."""


def steps_of(config: Config) -> list[str]:
    """Return the steps of a configuration's task, in their order."""
    given = config.input.cube is not None
    return [step for step in TASKS[config.task] if not (given and step in OF_SCENES)]


def check_step(config: Config, name: str, *, what: str = "step") -> None:
    """Refuse a step that does not exist, or that this run does not have.

    Parameters
    ----------
    what : str
        How the name was given, for the error.
    """
    if name not in TASKS[config.task]:
        raise unknown_name(what, name, TASKS[config.task])
    if name not in steps_of(config):
        raise InputError(
            f"{what} {name!r} has nothing to do: this run takes its images from input.cube {str(config.input.cube)!r}; "
            "begin with: glacierhpc composite CONFIG"
        )


def step_function(config: Config, step: str, name: str | None = None) -> Any:
    """Return the function of a step, or another one of its module by name.

    Raises
    ------
    InputError
        If a package that the module needs is not installed; names the extras that bring it.
    """
    module = TASKS[config.task][step]
    if step == "composite" and config.input.cube is not None:
        module = "given"
    try:
        function = getattr(importlib.import_module(f"glacierhpc.workflows.{module}"), name or step)
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
