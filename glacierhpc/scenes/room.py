"""Whether what an acquisition will write has room: on the file system, and in the user's quota where it is known.

How a centre is asked for its quotas is not known here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from glacierhpc.errors import InputError


@dataclass(frozen=True)
class Room:
    """How much may still be written; None where nobody says."""

    bytes: int | None = None
    files: int | None = None
    where: str = "the file system"
    """Who says so."""


def free_room(folder: Path) -> Room:
    """Return what the file system of a folder (or of the nearest one that exists) has free for this user."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    found = os.statvfs(place)
    # file systems without a fixed number of inodes (btrfs, some Lustre) state 0 of 0
    return Room(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)


def check_room(folder: Path, *, needed_bytes: int, needed_files: int, rooms: list[Room]) -> None:
    """Refuse before the start what would end with a full disk.

    Parameters
    ----------
    needed_bytes, needed_files : int
        Still to be written, as estimated; folders count as files, as quotas count them.

    Raises
    ------
    InputError
        If one of the rooms is too small.
    """
    for room in rooms:
        lacking = []
        if room.bytes is not None and needed_bytes > room.bytes:
            lacking.append(f"{_size(needed_bytes)}, and {_size(room.bytes)} are free")
        if room.files is not None and needed_files > room.files:
            lacking.append(f"{needed_files:,} files and folders, and {room.files:,} are free")
        if lacking:
            raise InputError(
                f"{room.where} has no room for the cube in {str(folder)!r}: it takes about {'; '.join(lacking)}. "
                "Free some, give another folder with run_dir=..., take fewer acquire.bands, or a smaller area or period"
            )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
