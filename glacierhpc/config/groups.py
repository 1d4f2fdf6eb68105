"""Groups of scenes, which the tasks of a job array read side by side: the configuration and the folder of each."""

from __future__ import annotations

from pathlib import Path

from glacierhpc.config.schema import Config
from glacierhpc.errors import InputError

FOLDER = ".parts/groups"
"""In the folder of the run, below what holds the pieces of a cube until it is whole."""


def group_config(config: Config, number: int, of: int) -> Config:
    """Return the configuration of one group: that of the run, in a folder of its own.

    Parameters
    ----------
    number, of : int
        Which group, counted from 0, and how many there are.

    Raises
    ------
    InputError
        If there is no such group.
    """
    if not 0 <= number < of:
        raise InputError(f"group {number} does not exist; there are {of}, counted from 0")
    return config.model_copy(update={"run_dir": group_path(config.run_path, number, of)})


def group_path(run: Path, number: int, of: int) -> Path:
    """Return the folder of one group."""
    return run / FOLDER / f"{number}-of-{of}"


def group_paths(run: Path) -> list[Path]:
    """Return the folders of all groups that were ever begun, in whatever number of them."""
    return sorted(path for path in (run / FOLDER).glob("*-of-*") if path.is_dir())
