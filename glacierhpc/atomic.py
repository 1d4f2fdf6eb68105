"""Writing a file or a folder so that it is whole or absent, with one set of words for a disk that will not have it.

Standard library only, so that whoever only submits a job does not wait for numpy; tables and JSON of arrays are in
`files`. Before something takes its place, `fence` is asked whether this process may still write there.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glacierhpc import fence
from glacierhpc.errors import GlacierError, InputError

logger = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)

_LEFTOVER = re.compile(r"\.(?P<kind>tmp|old)-(?:e(?P<epoch>\d+)-)?[0-9a-f]{8}-(?P<name>.+)")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place only if the block ends well.

    Works for files and for folders (a Zarr store); the temporary name keeps the suffix, by which writers choose a
    format. After a failure nothing is left behind and what was there before is untouched. In a folder that is held
    (see `lease`) the temporary name has the holder's number, and nothing takes its place once another holds it.

    Raises
    ------
    GlacierError
        If the disk or the quota is full, or another command has taken the folder over.
    InputError
        If the folder may not be written.
    """
    temporary = temporary_name(path)
    with writing_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            publish(temporary, path)
            _sync(path.parent)
        finally:
            _remove(temporary)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises
    ------
    GlacierError
        If it cannot be, for whatever reason; `InputError` where the place is what must change.
    """
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as err:
        raise GlacierError(f"{path} cannot be written: {err.strerror}") from err


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder inside `folder` for what is needed for a while; removed at the end."""
    scratch = temporary_name(folder / "scratch")
    with writing_errors(scratch):
        scratch.mkdir(parents=True)
        try:
            yield scratch
        finally:
            _remove(scratch)


@contextmanager
def writing_errors(path: Path) -> Iterator[None]:
    """Turn what a disk answers to a writer into one clear error; others pass.

    Raises
    ------
    GlacierError
        If the disk or the quota is full, or a file is larger than the limit.
    InputError
        If the place may not be written.
    """
    try:
        yield
    except OSError as err:
        if err.errno in FULL:
            raise GlacierError(
                f"the disk or quota is full while writing {path}; free some space and run again"
            ) from err
        if err.errno in FORBIDDEN:
            raise InputError(
                f"{path} cannot be written ({err.strerror}); give a folder that may be written, run_dir=..."
            ) from err
        raise


def temporary_name(path: Path, kind: str = "tmp") -> Path:
    """Return a name beside `path` that nobody else has, with the number of the holder of the folder in it."""
    holder = fence.fence_of(path)
    mark = f"e{holder.epoch}-" if holder else ""
    return path.with_name(f".{kind}-{mark}{secrets.token_hex(4)}-{path.name}")


def publish(new: Path, path: Path) -> None:
    """Rename, if this process may still write there; a folder in the way is moved aside first.

    A rename replaces files and empty folders only. A command killed between the two renames leaves no folder at
    `path`, and its copy under a name by which `remove_leftovers` brings it back.
    """
    aside = temporary_name(path, "old") if new.is_dir() and path.is_dir() else None
    fence.check(path)
    if aside is None:
        os.replace(new, path)
        return
    os.rename(path, aside)
    os.rename(new, path)
    shutil.rmtree(aside)


def remove(path: Path) -> None:
    """Remove a result, if this process may still write there; a folder vanishes at once, not file by file.

    Raises
    ------
    LeaseLost
        If another command has taken the folder over: what is there is its.
    """
    fence.check(path)
    with writing_errors(path):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
        aside = temporary_name(path)
        os.rename(path, aside)
        shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(folder: Path, *, of: str | None = None) -> None:
    """Remove what killed writers left in a folder, and bring back what one had just moved aside.

    Only for a folder that nobody else of this process writes to: what a running `atomic_path` writes looks the same.
    What an earlier holder may still be writing (see `lease`) is left to it.

    Parameters
    ----------
    of : str, optional
        Only what was to become the file of this name.
    """
    if not folder.is_dir():
        return
    holder = fence.fence_of(folder)
    alive = set(fence.epochs(holder.folder)) - {holder.epoch} if holder else set()
    found = [(match, path) for path in folder.iterdir() if (match := _LEFTOVER.fullmatch(path.name))]
    found = [(match, path) for match, path in found if of in (None, match["name"])]
    # of several copies the last one made is the one that stood there
    for match, path in sorted(found, key=lambda each: _changed_ns(each[1]), reverse=True):
        target = folder / match["name"]
        if match["kind"] == "old" and not target.exists():
            os.rename(path, target)
            logger.warning("%s was left moved aside by a killed command and is back", target)
        elif int(match["epoch"] or 0) not in alive:
            _remove(path)
            logger.info("removed %s, which a killed command had left", path)


def _changed_ns(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:  # its writer was alive, and has just removed it
        return 0


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
