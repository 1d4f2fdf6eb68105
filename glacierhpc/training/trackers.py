"""Where the history of a training run is written; what is in it the loop decides."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from glacierhpc.errors import InputError, missing_package, unknown_name
from glacierhpc.files import atomic_path, plain

logger = logging.getLogger(__name__)

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
        self._writer.add_text("configuration", f"```\n{json.dumps(plain(configuration), indent=1)}\n```")

    def log(self, row: Row) -> None:
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, int(row["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandbTracker:
    """Tells Weights & Biases, or keeps on disk what can be told it later.

    Each start is a run of its own, with the rows from before an interruption, in a group of the run directory's
    name: what was kept offline cannot be taken up again. A process of wandb's own writes the rows, shortly after they
    are told.

    Parameters
    ----------
    run : Path
        The run directory; its name is that of the run.
    mode : str
        ``"offline"`` needs no network, and logs at the end the command that sends the run; ``"online"`` sends each row
        at once; ``"disabled"`` does nothing.
    """

    def __init__(self, run: Path, *, mode: str = "offline") -> None:
        if mode not in ("offline", "online", "disabled"):
            raise InputError(f"WANDB_MODE cannot be {mode!r}: set it to offline, online or disabled")
        self._place, self._mode = run, mode
        self._run: Any = None

    def start(self, rows: Sequence[Row], configuration: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as err:
            raise missing_package("wandb", "track") from err
        name, folder = self._place.resolve().name, self._place / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(
                project="glacierhpc",
                name=name,
                group=name,
                dir=folder,
                mode=self._mode,  # type: ignore[arg-type]
                config=plain(configuration),
                # the log is the run directory's; what the machine does is not the science of the run
                settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
            )
        except wandb.Error as err:
            raise InputError(
                f"Weights & Biases cannot start in WANDB_MODE={self._mode!r} ({err}): set it to offline, "
                "or run 'wandb login' for online"
            ) from err
        for row in rows:
            self.log(row)

    def log(self, row: Row) -> None:
        values = {key: value for key, value in row.items() if key != "epoch"}
        self._try(lambda run: run.log(values, step=int(row["epoch"])))

    def close(self) -> None:
        folder = Path(self._run.settings.sync_dir) if self._run is not None else None
        self._try(lambda run: run.finish())
        if folder is not None and self._mode == "offline":
            logger.info(
                "Weights & Biases: send this run from a machine with network by: wandb sync %s", folder
            )
        self._run = None

    def _try(self, action: Callable[[Any], None]) -> None:
        """Do something with the run; a scheduler's signal may have ended its process, and training is to go on."""
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as err:  # noqa: BLE001 - whatever fails in it, its rows are in history.csv
            logger.warning("Weights & Biases takes no more rows (%s: %s)", type(err).__name__, err)
            self._run = None


TRACKERS: dict[str, Callable[[Path, str], Tracker]] = {
    "csv": lambda run, _: CSVTracker(run / "history.csv"),
    "tensorboard": lambda run, _: TensorBoardTracker(run / "logs" / "tensorboard"),
    "wandb": lambda run, mode: WandbTracker(run, mode=mode),
}
"""(run directory, mode of Weights & Biases) -> tracker."""

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}
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


def open_trackers(names: Sequence[str], run: Path, *, wandb_mode: str = "offline") -> list[Tracker]:
    """Return trackers by name, writing into a run directory; the mode is that of `WandbTracker`.

    Raises
    ------
    InputError
        If a name is not in `TRACKERS`.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown_name("train.trackers", name, TRACKERS)
    return [TRACKERS[name](run, wandb_mode) for name in names]
