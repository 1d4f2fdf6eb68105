"""A private folder in which the workers of one acquisition tell each other things; what they tell is not known here.

Works over a file system that all nodes see. Where that has no locks, each process goes by what it knows itself.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import random
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glacierhpc.scenes.remote.policy import log

FOLDER = ".access"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


def make_private(folder: Path) -> Path | None:
    """Make the folder anew, for this user only; None where the file system cannot keep others out."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    folder.chmod(0o700)
    if is_private(folder):
        return folder
    log.warning("%s cannot be kept from others: every worker asks for access by itself", folder)
    folder.rmdir()
    return None


@contextmanager
def private_folder(folder: Path) -> Iterator[Path | None]:
    """Have such a folder while the block lasts; what a killed run left there is removed first."""
    try:
        yield make_private(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def joined_folder(folder: Path) -> Iterator[None]:
    """Have such a folder together with other jobs, which come and go: whoever is first makes it, nobody removes it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private(folder):
        log.warning("%s cannot be kept from others: every worker asks for access by itself", folder)
    yield


def is_private(path: Path) -> bool:
    """Say whether a file or folder is this user's, and nobody else can look at it; not through a link."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return (
        not stat.S_ISLNK(found.st_mode)
        and found.st_uid == os.geteuid()
        and not stat.S_IMODE(found.st_mode) & 0o077
    )


def name_for(kind: str, *words: str) -> str:
    """Return the file name for what is shared about something: names of hosts and accounts are no file names."""
    return f"{kind}-{hashlib.sha256('/'.join(words).encode()).hexdigest()[:24]}"


def read(folder: Path | None, name: str) -> dict[str, Any]:
    """Return what was told last; empty where nothing was, or it is not to be trusted."""
    if folder is None or not is_private(folder):
        return {}
    path = folder / name
    try:
        if not is_private(path):
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write(folder: Path | None, name: str, content: dict[str, Any]) -> None:
    """Tell the others, in one step; a folder that is gone, or full, hinders nobody."""
    if folder is None or not is_private(folder):
        return
    temporary = folder / f"{name}.{secrets.token_hex(6)}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.replace(temporary, folder / name)
    except OSError as err:
        log.debug("nothing could be told in %s: %s", folder, err)
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path | None, name: str, *, wait_s: float) -> Iterator[bool]:
    """Hold a lock that ends with the process; yields whether it is held.

    Parameters
    ----------
    wait_s : float
        How long to wait for it; 0 does not. Who does not get it goes on alone: a lock is for sparing servers,
        nothing breaks without.
    """
    descriptor = _open_lock(folder, name)
    if descriptor is None:
        yield folder is None
        return
    try:
        yield _lock(descriptor, time.monotonic() + wait_s)
    finally:
        os.close(descriptor)


def take_slot(folder: Path, name: str, count: int) -> int | None:
    """Take one of `count` places that all processes share; the descriptor to close at the end.

    None where all are taken, -1 where there can be no places (a full disk, a folder that is gone).
    """
    for number in random.sample(range(count), count):
        descriptor = _open_lock(folder, f"{name}.{number}")
        if descriptor is None:
            return -1
        if _lock(descriptor, 0.0):
            return descriptor
        os.close(descriptor)
    return None


def _open_lock(folder: Path | None, name: str) -> int | None:
    if folder is None or not is_private(folder):
        return None
    try:
        return os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return None


def _lock(descriptor: int, ends: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= ends:
                return False
            time.sleep(random.uniform(0.005, 0.05))
        except OSError as err:
            if err.errno in _NO_LOCKS:
                return True  # a file system without locks: everybody holds it
            raise
