"""Folders that end with the process that made them: who that is stands in them, and what the dead have left is removed.

Standard library only: the doctor looks for such folders, too.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import time
from pathlib import Path

from glacierhpc.holder import runs, same_machine, this_process

log = logging.getLogger(__name__)

OWNER = "owner.json"
STALE_S = 3600.0
"""A folder of another machine that nobody has touched for so long is of a dead process; see `touch`."""
UNSAID_S = 60.0
"""The folder is made before the file in it, not within one second of it, but soon."""


def own(folder: Path) -> None:
    """Say in a new folder that it is this process's."""
    descriptor = os.open(folder / OWNER, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(this_process(job=os.environ.get("SLURM_JOB_ID"), restart=0), file)


def touch(folder: Path) -> None:
    """Say that the owner is alive; more often than every `STALE_S`, where other machines see the folder."""
    (folder / OWNER).touch()


def sweep(parent: Path, prefix: str, *, shared: bool = True) -> list[Path]:
    """Remove what dead processes have left below `parent` under names that begin so, and return it."""
    swept = []
    for folder in sorted(parent.glob(f"{prefix}*")):
        if not folder.is_symlink() and folder.is_dir() and is_dead(folder, shared=shared):
            shutil.rmtree(folder, ignore_errors=True)
            swept.append(folder)
            log.info("removed %s, which a dead run had left", folder)
    return swept


def is_dead(folder: Path, *, shared: bool = True) -> bool:
    """Return whether the process that made a folder is surely gone; never of another user's folder.

    Parameters
    ----------
    shared : bool
        Whether other machines see the folder: whoever is there shows life by `touch`. If not, only this machine's
        processes make folders there, those of before its last start included.
    """
    try:
        if folder.stat().st_uid != os.getuid():
            return False
        owner = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        untouched_s = _now_there(folder) - (folder / OWNER).stat().st_mtime
    except (OSError, ValueError):
        return _older_than(folder, UNSAID_S)
    owner = owner if isinstance(owner, dict) else {}
    here = this_process(job=None, restart=0)
    if same_machine(owner, here):
        return not runs(owner)
    if shared:
        return untouched_s > STALE_S
    return owner.get("host") == here["host"] and bool(owner.get("boot")) and owner["boot"] != here["boot"]


def _older_than(folder: Path, seconds: float) -> bool:
    try:
        return _now_there(folder.parent) - folder.stat().st_mtime > seconds
    except OSError:
        return False


def _now_there(folder: Path) -> float:
    """Return the time by the clock of the file system, which is not that of this machine."""
    probe = folder / f".now-{secrets.token_hex(4)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        probe.unlink(missing_ok=True)
