"""What the commands share: their arguments, the configuration they load, and what an error must know of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glacierhpc.errors import InputError

if TYPE_CHECKING:
    from glacierhpc.config import Config

GOES_ON = "nothing is lost, the same command goes on where it stopped"

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, or the folder of a run")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="values that replace those of the file"),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object as the last line")]
SiteName = Annotated[str, typer.Option("--site", help="profile of the computing centre, or a YAML file")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="value of the site, such as jobs.train.nodes=2")
]  # fmt: skip
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="say what would be read and written, and write nothing")
]


@dataclass
class Running:
    """What an error message needs to know about the command that was running."""

    as_json: bool = False
    log: Path | None = None
    again: str = GOES_ON
    """What the same command does after an interruption."""
    asked: bool = False
    """Whether a job script asked for the interruption, because its time is up."""


running = Running()


def load(path: Path, overrides: list[str] | None) -> Config:
    """Load a configuration, or that of a run directory, given as the folder or as the ``config.yaml`` in it.

    A run that was copied or moved works where it is now, not where it was made.
    """
    from glacierhpc.config import load_config

    given = list(overrides or [])
    if path.is_dir():
        if not (path / "config.yaml").is_file():
            raise InputError(
                f"folder {str(path)!r} has no config.yaml; give a YAML file or the folder of a run"
            )
        given.append(f"run_dir={_quoted(path.resolve())}")
        path = path / "config.yaml"
    elif _is_of_a_run(path) and not any(value.startswith("run_dir=") for value in given):
        given.append(f"run_dir={_quoted(path.resolve().parent)}")
    config = load_config(path, given)
    running.log = config.run_path / "logs" / "unexpected.log"
    return config


def _is_of_a_run(path: Path) -> bool:
    """Return whether this is the configuration that a run keeps: a copy of a run names the first one's folder in it."""
    return path.name == "config.yaml" and (path.parent / "provenance.json").is_file()


def _quoted(path: Path) -> str:
    import yaml

    return yaml.safe_dump(str(path), default_style='"', width=10**6).strip()
