"""Where the history of a training run is written; what is in it the loop decides."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from glacierhpc.errors import missing_package, unknown_name
from glacierhpc.files import atomic_path

Row = Mapping[str, float]


class Tracker(Protocol):
    """Something that keeps a row per epoch."""

    def start(self, rows: Sequence[Row], configuration: Mapping[str, Any]) -> None:
        """Begin, or begin again after these rows: later ones of an interrupted run are to be forgotten.

        `configuration` says how the run is trained.
        """
        ...

    def log(self, row: Row) -> None:
        """Keep the row of an epoch, durable when this returns."""
        ...

    def close(self) -> None:
        """Write what is pending."""
        ...


class CSVTracker:
    """Writes ``history.csv``, whole and atomically at every row: a reader never sees half a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[Row] = []

    def start(self, rows: Sequence[Row], configuration: Mapping[str, Any]) -> None:
        self._rows = list(rows)
        if self._rows:
            self._write()

    def log(self, row: Row) -> None:
        self._rows.append(row)
        self._write()

    def close(self) -> None:
        return None

    def _write(self) -> None:
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        with atomic_path(self._path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self._rows)


class TensorBoardTracker:
    """Writes scalars for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def start(self, rows: Sequence[Row], configuration: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as err:
            raise missing_package("tensorboard", "track") from err
        self._writer = SummaryWriter(str(self._folder), purge_step=len(rows))

    def log(self, row: Row) -> None:
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, int(row["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


TRACKERS: dict[str, Callable[[Path], Tracker]] = {
    "csv": lambda run: CSVTracker(run / "history.csv"),
    "tensorboard": lambda run: TensorBoardTracker(run / "logs" / "tensorboard"),
}


PACKAGES = {"tensorboard": "tensorboard"}
"""The optional package of a tracker, of the extra ``track``."""


def check_trackers(names: Sequence[str]) -> None:
    """Look for the packages of trackers, before work is done that could not be tracked.

    Raises
    ------
    InputError
        If one is not installed; names the extra that brings it.
    """
    for name in names:
        package = PACKAGES.get(name)
        if package is not None and find_spec(package) is None:
            raise missing_package(package, "track")


def open_trackers(names: Sequence[str], run: Path) -> list[Tracker]:
    """Return trackers by name, writing into a run directory.

    Raises
    ------
    InputError
        If a name is not in `TRACKERS`.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown_name("train.trackers", name, TRACKERS)
    return [TRACKERS[name](run) for name in names]
