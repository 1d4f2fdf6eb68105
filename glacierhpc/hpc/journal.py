"""What was submitted for a run, in ``jobs/chain.json`` of its folder: written before and after every submission."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from glacierhpc.atomic import write_text
from glacierhpc.errors import GlacierError, InputError

FOLDER = "jobs"
FILE = "chain.json"


@dataclass(frozen=True)
class Entry:
    """One job that was submitted, or was about to be."""

    job: str
    """Its part of the chain: imagery, train, results."""
    label: str
    """Its name in the queue, which no other job has."""
    script: str
    id: str | None = None
    """None while `sbatch` is under way: whether the scheduler has it must be asked by its name."""
    array: str = ""
    """Numbers of its tasks, where it is a job array: ``0-3,7``."""


@dataclass(frozen=True)
class Journal:
    """All that was submitted for a run, the latest last."""

    run: Path
    site: str = "generic"
    """Name of the site's profile."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """What that profile, the user's file and the command line said when the chain was submitted."""
    entries: tuple[Entry, ...] = ()

    @property
    def folder(self) -> Path:
        """Where scripts, logs and exit files are."""
        return self.run / FOLDER

    def exit_files(self) -> list[Path]:
        """Return what the jobs wrote about their own end."""
        return sorted(self.folder.glob("*.exit"))

    def latest(self) -> dict[str, Entry]:
        """Return the last entry of each part of the chain, in the order of submission."""
        found: dict[str, Entry] = {}
        for entry in self.entries:
            found.pop(entry.job, None)
            found[entry.job] = entry
        return found

    def noted(self, entry: Entry) -> Journal:
        """Return the journal with an entry more, or the one of the same label replaced; it is on disk then."""
        others = tuple(known for known in self.entries if known.label != entry.label)
        journal = replace(self, entries=(*others, entry))
        journal.write()
        return journal

    def write(self) -> None:
        """Write it so that it is whole after a crash at any moment."""
        self.folder.mkdir(parents=True, exist_ok=True)
        values = asdict(self) | {"run": str(self.run)}
        write_text(self.folder / FILE, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def read_journal(run: Path) -> Journal:
    """Return what was submitted for a run.

    Raises
    ------
    InputError
        If nothing was.
    GlacierError
        If the file is damaged.
    """
    path = run / FOLDER / FILE
    if not path.is_file():
        raise InputError(
            f"no jobs were submitted for {str(run)!r}; write: glacierhpc submit CONFIG --site SITE"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        entries = tuple(Entry(**entry) for entry in values["entries"])
        return Journal(run, values["site"], values["values"], entries)
    except (ValueError, KeyError, TypeError) as err:
        raise GlacierError(f"{path} is damaged ({err}); look at the queue with: squeue --me") from err
