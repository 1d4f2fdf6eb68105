"""Who a process is, so that another can tell whether it still runs: machine, boot, number, job; and a lock on a file.

What follows from it, who may take a folder from whom, is in `lease`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ONE_MACHINE = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay"}
"""File systems that no other machine sees."""
SHARED_LOCKS = {"lustre", "nfs", "nfs4", "ceph"}
"""File systems whose locks are seen by all machines, but for `LOCAL_LOCKS`.

Others may keep flock(2) to one machine, as BeeGFS and FUSE do unless told: there a free lock says nothing.
"""
LOCAL_LOCKS = {"localflock", "nolock", "local_lock=all", "local_lock=flock"}
"""Options of Lustre and NFS mounts whose locks are seen by this machine only (mount.lustre(8), nfs(5))."""


def this_process(*, job: str | None, restart: int) -> dict[str, Any]:
    """Return what tells this process from all others on all machines."""
    return {
        "token": secrets.token_hex(8),
        "job": job,
        "restart": restart,
        "host": platform.node(),
        "boot": _boot(),
        "pids": _process_namespace(),
        "pid": os.getpid(),
        "began": _began(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def same_machine(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether process numbers of both mean the same: one host, one boot of it, one space of numbers."""
    keys = ("host", "boot", "pids")
    return bool(one.get("boot")) and all(one.get(key) == other.get(key) for key in keys)


def runs(record: dict[str, Any]) -> bool:
    """Return whether a process of this machine runs, not only another one under its number."""
    pid = int(record.get("pid") or 0)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    began = _began(pid)
    return began is None or began == record.get("began")


def earlier_start(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether `before` is of the same job as `now`, from before the scheduler started it again."""
    return (
        now["job"] is not None
        and before.get("job") == now["job"]
        and int(before.get("restart", 0)) < int(now["restart"])
    )


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""  # not Linux: locks and signs of life decide


def _process_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _began(pid: int) -> int | None:
    """Return when a process began, in ticks since boot; -1 if it is dead and not yet buried, None if it is not told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # proc(5): after the name come the state, field 3, and others up to starttime, field 22
    return -1 if fields[0] in "ZX" else int(fields[19])


class FileLock:
    """A lock on a file, for as long as this object is not closed, where the file system has locks."""

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self.held = self.busy = False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.held = True
        except OSError as err:
            self.busy = err.errno in (errno.EAGAIN, errno.EACCES)  # else: a file system without locks
            self.close()
        self.everywhere = self.held and _locks_are_shared(path)

    def close(self) -> None:
        """Let go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _locks_are_shared(path: Path) -> bool:
    """Return whether all machines that see a file are known to see its locks."""
    kind, options = _mount(os.path.realpath(path))
    return kind in ONE_MACHINE or (kind in SHARED_LOCKS and not LOCAL_LOCKS & options)


def _mount(place: str) -> tuple[str, set[str]]:
    """Return the kind of the file system that a path is on, and its options; nothing where it is not told."""
    best, kind, options = "", "", set[str]()
    try:
        lines = os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).splitlines()
    except OSError:
        return kind, options
    for (
        line
    ) in lines:  # proc(5): fields before " - " with the mount point fifth, the kind and options after it
        before, _, after = line.partition(" - ")
        fields, told = before.split(), after.split()
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        if (place == point or place.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind, options = point, told[0], set(f"{fields[5]},{told[-1]}".split(","))
    return kind, options
