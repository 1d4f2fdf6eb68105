"""What a user may still write on a Lustre file system, as `lfs` tells it; knows nothing of what will be written."""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ANSWER_S = 20.0  # a metadata server under load takes seconds


@dataclass(frozen=True)
class QuotaLeft:
    """What is left of a quota; None where there is no limit."""

    bytes: int | None
    files: int | None


def quota_left(folder: Path, *, command: str = "lfs") -> QuotaLeft | None:
    """Return what the user and the folder's project may still write; None where nothing limits them or tells.

    Parameters
    ----------
    folder : path
        It, or the nearest folder above that exists.
    """
    if shutil.which(command) is None:
        return None
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    asked = [("-u", getpass.getuser())]
    project = re.match(r"\s*(\d+)\s", _told(command, "project", "-d", str(place)))
    if project and project[1] != "0":
        asked.append(("-p", project[1]))
    found = [parse_quota(_told(command, "quota", "-q", *who, str(place))) for who in asked]
    told = [left for left in found if left is not None]
    sizes = [left.bytes for left in told if left.bytes is not None]
    counts = [left.files for left in told if left.files is not None]
    if not sizes and not counts:
        return None
    return QuotaLeft(min(sizes, default=None), min(counts, default=None))


def parse_quota(text: str) -> QuotaLeft | None:
    """Return what a line of ``lfs quota -q`` leaves: KiB used, soft and hard limit, grace, and the same of files.

    References
    ----------
    lfs-quota(1); a star behind a number says that it is over, 0 that there is no limit.
    """
    numbers = [int(word.rstrip("*")) for word in text.split() if re.fullmatch(r"\d+\*?", word)]
    if len(numbers) < 6:
        return None
    kib, files = _left(*numbers[:3]), _left(*numbers[3:6])
    return QuotaLeft(None if kib is None else 1024 * kib, files)


def _left(used: int, soft: int, hard: int) -> int | None:
    limit = hard or soft
    return max(0, limit - used) if limit else None


def _told(*line: str) -> str:
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, check=False, timeout=ANSWER_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
