"""Holding a folder against other commands, on file systems with locks and without, over machines that vanish.

A lock alone does not do: Lustre and NFS may have none, and on a node that the scheduler has given up, processes
live on while their job starts again elsewhere. So each holder has a number, higher than all before, and a sign of life:

- The next number is taken by creating its file, which one of several commands can do.
- It may be taken if the last holder has let go; if that was an earlier start of the same job, or a command that gives
  way; if its process is surely gone (its machine and boot are this one's, its lock is free where machines share locks,
  or the scheduler has ended its job); or if it has shown no sign of life for `MISSES` times `BEAT_S`, watched and
  counted here: clocks of two machines are never compared.
- Every writer asks right before it makes something visible whether a higher number exists, and stops then: `fence`.

What an overtaken holder had under way lies under names with its number, which nobody renames, and which are removed
only when it is gone.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from glacierhpc import fence
from glacierhpc.atomic import remove_leftovers, writing_errors
from glacierhpc.errors import GlacierError, InputError
from glacierhpc.fence import Fence, LeaseLost, describe, epoch_file, epochs, read_record
from glacierhpc.holder import FileLock, earlier_start, runs, same_machine, this_process

logger = logging.getLogger(__name__)

BEAT_S = 30.0
"""A sign of life so often: one change of a file's times, which needs no space and little of a metadata server."""
MISSES = 4
"""So many signs missing in a row, and the holder is taken for dead, by itself too."""
FORGOTTEN_S = 86_400.0
"""An overtaken holder without a sign of life for a day is gone: no two clocks differ by as much."""
LOCK = ".lock"

OnLost = Callable[[LeaseLost], None]
HasEnded = Callable[[str], bool]


def nobody_knows(job: str) -> bool:
    """Answer where there is no scheduler to ask for the end of a job."""
    return False


class InUse(InputError):
    """Another command has the folder."""


class Lease:
    """A folder that is this process's until `release`, or until another takes it over."""

    def __init__(self, own: Fence, lock: FileLock, *, beat_s: float) -> None:
        self.fence, self._lock, self._beat_s = own, lock, beat_s
        self._process = os.getpid()
        self._missed = 0
        self._ended = threading.Event()

    def check(self) -> None:
        """Return if the folder is still this process's.

        Raises
        ------
        LeaseLost
            If another has taken it over.
        GlacierError
            If `MISSES` signs of life in a row could not be given: another may take this command for dead any moment.
        """
        if self._missed >= MISSES:
            raise GlacierError(
                f"{self.fence.file} could not be touched for {self._missed * self._beat_s:.0f} s, by which others know "
                "that this command lives; nothing is written until that works: look at the file system, and run again"
            )
        self.fence.check()

    def keep(self, on_lost: OnLost | None) -> None:
        """Give signs of life from a thread of its own; `on_lost` is called there if the folder is taken over."""
        fence.hold(self.fence, self.check)
        threading.Thread(target=self._keep, args=(on_lost,), name="lease", daemon=True).start()

    def _keep(self, on_lost: OnLost | None) -> None:
        while not self._ended.wait(self._beat_s):
            try:
                self.fence.check()
                os.utime(self.fence.file)
                self._missed = 0
            except LeaseLost as err:
                if on_lost is not None and not self._ended.is_set():
                    on_lost(err)
                return
            except OSError as err:
                if self._ended.is_set():  # and the next holder has cleared up
                    return
                self._missed += 1
                logger.warning("%s: no sign of life could be given (%s)", self.fence.file, err)

    def release(self) -> None:
        """Let others have the folder; also what an overtaken holder says at its end: it writes nothing any more."""
        if os.getpid() != self._process:  # the end of a fork is not the end of its parent
            return
        self._ended.set()
        fence.let_go(self.fence)
        # a full disk keeps it from being said; the next one sees that the process is gone
        with suppress(OSError):
            record = read_record(self.fence.file)
            if record.get("token") == self.fence.token:
                _rewrite(self.fence.file, {**record, "released": True})
        self._lock.close()


def take(
    folder: Path,
    *,
    job: str | None = None,
    restart: int = 0,
    beat_s: float = BEAT_S,
    on_lost: OnLost | None = None,
    has_ended: HasEnded = nobody_knows,
    gives_way: bool = False,
) -> Lease:
    """Take a folder, or refuse: one command has it at a time.

    Parameters
    ----------
    folder : path
        Must exist.
    job, restart : str, int
        The job this process runs in, by a name that no other job has, and how often the scheduler has started it again.
    beat_s : float
        Time between signs of life.
    on_lost : callable, optional
        Called from another thread, at the next sign of life, if the folder is taken over; writers are refused at once.
    has_ended : callable
        Says whether a job is over and all its processes with it; called where nothing else tells that before a wait.
    gives_way : bool
        Whether any command that does not give way itself may take the folder over at once.

    Raises
    ------
    InUse
        If another command has it, named.
    InputError
        If the folder cannot be written.
    GlacierError
        If the disk is full.
    """
    with writing_errors(folder):
        (folder / fence.FOLDER).mkdir(exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            me = this_process(job=job, restart=restart) | {"gives_way": gives_way}
            lease = _take(folder, lock, me, beat_s, has_ended)
        except BaseException:
            lock.close()
            raise
    lease.keep(on_lost)
    return lease


def _take(folder: Path, lock: FileLock, me: dict[str, Any], beat_s: float, has_ended: HasEnded) -> Lease:
    me |= {"place": _place(folder), "locked": lock.everywhere, "beat_s": beat_s}
    while True:
        last = max(epochs(folder), default=0)
        before = read_record(epoch_file(folder, last))
        reason = _reason(folder, last, before, me, lock, has_ended)
        if reason is None or not _create(epoch_file(folder, last + 1), me):
            continue  # it has changed meanwhile: look again
        if reason:
            logger.warning("%s: taken over from %s: %s", folder, describe(before), reason)
        # absolute: the working folder of a worker may be another one
        own = Fence(Path(os.path.abspath(folder)), last + 1, me["token"])
        _tidy(own, me)
        return Lease(own, lock, beat_s=beat_s)


def _reason(
    folder: Path, last: int, before: dict[str, Any], me: dict[str, Any], lock: FileLock, has_ended: HasEnded
) -> str | None:
    """Return why the folder may be taken from its last holder, empty if there is none; None to look again.

    Raises
    ------
    InUse
        If it may not.
    """
    if not last and not lock.busy or before.get("released"):
        return ""
    if earlier_start(before, me):
        return "it is an earlier start of this job"
    if before.get("gives_way") and not me["gives_way"]:
        return "it gives way"
    if same_machine(before, me) and not runs(before):
        return "its process is gone"
    # a number of a folder alone does not show a copy: some file systems give another one at every look
    copied = _of_another(before, me)
    if lock.busy or (same_machine(before, me) and not copied):
        raise _in_use(folder, before)
    if before.get("locked") and lock.everywhere:
        return "" if copied else "it has lost its lock"
    if before.get("job") and has_ended(before["job"]):
        return "its job has ended"
    return _silent(folder, last, before, float(before.get("beat_s", BEAT_S)) * MISSES)


def _has_ended(record: dict[str, Any], me: dict[str, Any]) -> bool:
    """Return whether a holder has let go, or never had this folder."""
    return bool(record.get("released")) or _of_another(record, me)


def _of_another(record: dict[str, Any], me: dict[str, Any]) -> bool:
    """Return whether what is said here is about the folder that this one was copied from."""
    return bool(record) and record.get("place") != me["place"]


def _in_use(folder: Path, before: dict[str, Any]) -> InUse:
    return InUse(
        f"run directory {str(folder)!r} is in use by {describe(before)}; wait for it, or give another name=..."
    )


def _silent(folder: Path, last: int, before: dict[str, Any], patience_s: float) -> str | None:
    """Wait for a sign of life: None if the file has changed to something else, the reason if there is none."""
    logger.warning(
        "%s was last held by %s, which has not let go: it may be dead; waiting up to %.0f s for a sign of life",
        folder, describe(before), patience_s,
    )  # fmt: skip
    path = epoch_file(folder, last)
    seen, end = _sign(path), time.monotonic() + patience_s
    while time.monotonic() < end:
        time.sleep(min(1.0, patience_s / 20))
        if _sign(path) != seen:
            if read_record(path) != before:
                return None
            raise _in_use(folder, before)
    return f"it has shown no sign of life for {patience_s:.0f} s"


def _sign(path: Path) -> tuple[int, int]:
    """Return what changes with every sign of life; opened, so that an NFS client asks the server."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
    except FileNotFoundError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino


def _tidy(own: Fence, me: dict[str, Any]) -> None:
    """Tell those before that they are overtaken, and forget those that are gone: who is on record may be alive."""
    now_ns = own.file.stat().st_mtime_ns
    for epoch in sorted(epochs(own.folder)):
        path = epoch_file(own.folder, epoch)
        if epoch >= own.epoch:
            continue
        record = read_record(path)
        if not _has_ended(record, me) and not record.get("taken_by"):
            silent_s = 0.0
            _rewrite(path, {**record, "taken_by": own.epoch})
        else:
            silent_s = (now_ns - _sign(path)[0]) / 1e9
        gone = _has_ended(record, me) or (same_machine(record, me) and not runs(record))
        gone = gone or bool(me["locked"] and record.get("locked"))  # the lock is here now, so it has let go
        if gone or silent_s > FORGOTTEN_S:
            path.unlink(missing_ok=True)
    remove_leftovers(own.folder / fence.FOLDER)


def _place(folder: Path) -> int:
    """Return what tells a folder from its copy, on all machines that see it."""
    return (folder / fence.FOLDER).stat().st_ino


def _create(path: Path, record: dict[str, Any]) -> bool:
    """Write a new file, whole at once; False if somebody else was first."""
    part = _part(path, record)
    try:
        os.link(part, path)
    except FileExistsError:
        return part.stat().st_nlink == 2  # NFS may say so of what it has just done, if its answer got lost
    except OSError:
        return _create_without_links(path, record)
    finally:
        part.unlink()
    return True


def _create_without_links(path: Path, record: dict[str, Any]) -> bool:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(record))
    except FileExistsError:
        return False
    return True


def _rewrite(path: Path, record: dict[str, Any]) -> None:
    os.replace(_part(path, record), path)


def _part(path: Path, record: dict[str, Any]) -> Path:
    part = path.with_name(f".tmp-{secrets.token_hex(4)}-{path.name}")
    part.write_text(json.dumps(record), encoding="utf-8")
    return part
