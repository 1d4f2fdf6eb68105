"""Checks of what a folder of runs does: locks, renames, clocks, who may read it, and what dead runs have left in it."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glacierhpc.fence import describe, epoch_file, epochs, read_record
from glacierhpc.hpc.doctor.finding import Finding, fail, ok, skip, unknown, warn
from glacierhpc.hpc.doctor.machine import Machine, listed, words_of
from glacierhpc.hpc.doctor.storage import existing
from glacierhpc.lease import BEAT_S, MISSES

SKEW_S = 2.0
"""File times that differ more than this from the clock make what is newer look older."""
KEYS = (".tls-*", ".glacierhpc/.tls-*", "runs/*/.tls-*")
"""Folders with keys of Dask's workers, in a run and beside runs."""
OLD_S = 86_400.0
FULL_OR_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""Errors that tell nothing of locks."""


@contextmanager
def _trial_folder(m: Machine) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=existing(m.folder), prefix=".glacierhpc-trial-") as folder:
        yield Path(folder)


def locks(m: Machine) -> Finding:
    """Try whether a lock that one process has keeps another off, where runs are."""
    try:
        with _trial_folder(m) as folder:
            path = folder / "lock"
            with path.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                code = "import fcntl,sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
                second = m.ask(m.python, "-c", code, str(path), timeout_s=9)
    except OSError as err:
        if err.errno in FULL_OR_CLOSED:
            return unknown(f"nothing can be written: {err.strerror}")
        return warn(
            f"files cannot be locked: {err.strerror}", "do not start two commands on one run at a time"
        )
    if second.ok:
        return warn("a lock does not keep others off", "do not start two commands on one run at a time")
    if "BlockingIOError" not in second.err:
        return unknown(f"not tried: {words_of(second)}")
    return ok("a locked file is locked for others")


def renames(m: Machine) -> Finding:
    """Try whether a file can take the place of another at once, as everything here is written."""
    try:
        with _trial_folder(m) as folder:
            (folder / "old").write_text("old")
            (folder / "new").write_text("new")
            os.replace(folder / "new", folder / "old")
            right = (folder / "old").read_text() == "new" and not (folder / "new").exists()
    except OSError as err:
        return fail(f"a file cannot replace another: {err.strerror}", "choose another folder: run_dir=PATH")
    return ok("a file replaces another at once") if right else fail(
        "after a rename the old file is still read", "choose another folder: run_dir=PATH"
    )  # fmt: skip


def file_times(m: Machine) -> Finding:
    """Compare the times that the file server writes with the clock of this machine."""
    try:
        with _trial_folder(m) as folder:
            before = time.time()
            (folder / "now").write_text("now")
            written, after = (folder / "now").stat().st_mtime, time.time()
    except OSError as err:
        return unknown(f"nothing can be written: {err.strerror}")
    return skewed(max(before - written, written - after, 0.0), "the file server's clock")


def skewed(seconds: float, whose: str) -> Finding:
    """Judge how far a clock is from this machine's."""
    if seconds > SKEW_S:
        return warn(
            f"{whose} differs by {seconds:.0f} s",
            "what is newer may look older; ask the site to set its clocks (NTP)",
        )
    return ok(f"{whose} agrees with this machine's")


def leftovers(m: Machine) -> Finding:
    """Look for folders with keys that runs remove at their end, and that killed ones have left."""
    folder, now = existing(m.folder), time.time()
    old = [path for path in folder.glob(".glacierhpc-doctor-*") if now - path.lstat().st_mtime > OLD_S]
    keys = [path for pattern in KEYS for path in folder.glob(pattern)]
    if keys:
        # brings distributed, half a second that is spent only where there is something to judge
        from glacierhpc.hpc.cluster.owned import is_dead

        old += [path for path in keys if is_dead(path)]
    if old:
        names = sorted({str(path.relative_to(folder)) for path in old})
        return warn(
            f"left by runs that were killed: {listed(names)}",
            f"they may hold keys; remove them: cd {shlex.quote(str(folder))} && rm -r {shlex.join(names)}",
        )
    return ok("no keys left by runs that were killed")


def holder(m: Machine) -> Finding:
    """Look whether a command that has the run is alive, as far as a look without waiting tells."""
    numbers = epochs(m.folder)
    if not numbers:
        return skip("no run is here")
    path = epoch_file(m.folder, max(numbers))
    record = read_record(path)
    if record.get("released"):
        return ok("no command has the run")
    try:
        silent_s = time.time() - path.stat().st_mtime
    except OSError as err:
        return unknown(f"{path}: {err.strerror}")
    if silent_s > BEAT_S * MISSES:
        return warn(
            f"{describe(record)} has the run, without a sign of life for {silent_s / 60:.0f} minutes",
            "start the run again when none of your jobs is at it: the next command waits two minutes for a sign, "
            "then takes it over",
        )
    return ok(f"{describe(record)} is at it")


def file_mode(m: Machine) -> Finding:
    """Look who may read and write what a run writes."""
    found = re.search(r"^Umask:\s*(\d+)", m.text("proc/self/status"), re.M)
    if not found:
        return unknown("the umask is not told")
    mask = int(found[1], 8)
    if not mask & 0o002:
        return warn(
            f"umask {mask:04o}: everybody may change what you write", "write umask 027 into ~/.bashrc"
        )
    if not mask & 0o004:
        return ok(f"umask {mask:04o}: everybody may read it")
    if not mask & 0o040:
        return ok(f"umask {mask:04o}: your group may read it")
    return ok(f"umask {mask:04o}: nobody else may read it; for a project's runs write: umask 027")
