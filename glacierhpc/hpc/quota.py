"""What a user may still write: asked of the command that a site names, else of `lfs` on Lustre; what for is not known.

Inside an image there is no such command: a job script asks it and hands in what was told, in ``GLACIERHPC_QUOTA``.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

log = logging.getLogger(__name__)

ANSWER_S = 20.0  # a metadata server under load takes seconds
TOLD = "GLACIERHPC_QUOTA"
FORMS = "lfs quota, quota, quota -s, mmlsquota -Y"
"""What `parse_quota` reads."""


@dataclass(frozen=True)
class Quota:
    """What is used, and the most there may be; None where there is no limit.

    The limit is the hard one, where there is one: up to it files can be written. Over the soft one that ends, too, some
    days later, so a run is not refused for it, and the doctor warns.
    """

    bytes_used: int
    bytes_limit: int | None
    files_used: int
    files_limit: int | None
    place: str = ""
    """The file system, where a path says which."""
    bytes_soft: int | None = None
    files_soft: int | None = None


@dataclass(frozen=True)
class QuotaLeft:
    """What is left of a quota; None where there is no limit."""

    bytes: int | None
    files: int | None


def quota_left(
    folder: Path, *, command: str | None = None, lfs: str = "lfs", environ: Mapping[str, str] = os.environ
) -> QuotaLeft | None:
    """Return what may still be written; None where nothing limits it, or nobody tells.

    Parameters
    ----------
    folder : path
        It, or the nearest folder above that exists.
    command : str, optional
        The site's own, with its variables; what a job script was told by it goes before. An answer in no known form is
        logged, and none is made up.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    text = told_by_job(environ)
    if text is None and command:
        text = told(*command_words(command, environ))
    if text is not None:
        return least(about(_understood(text), place))
    if shutil.which(lfs) is None:
        return None
    asked = [("-u", getpass.getuser())]
    project = re.match(r"\s*(\d+)\s", told(lfs, "project", "-d", str(place)))
    if project and project[1] != "0":
        asked.append(("-p", project[1]))
    lines = [told(lfs, "quota", "-q", *who, str(place)) for who in asked]
    return least([found for line in lines for found in parse_quota(line) or ()])


def told_by_job(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return what a job script was told by the command of its site; None outside of such a job."""
    return environ.get(TOLD)


def command_words(command: str, environ: Mapping[str, str]) -> list[str]:
    """Return the words of a site's command, its variables as they are here; unknown ones stay."""
    return [Template(word).safe_substitute(environ) for word in shlex.split(command)]


def _understood(text: str) -> Sequence[Quota]:
    found = parse_quota(text)
    if found is None:
        said = text.strip().splitlines()[:1] or ["nothing"]
        log.warning(
            "what is left of the quota is not known: quota_command told %r, which is none of %s",
            said[0],
            FORMS,
        )
    return found or ()


def told(*line: str) -> str:
    """Return what a command says, whatever its exit code: quota(1) fails where one is used up; empty if it hangs."""
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, check=False, timeout=ANSWER_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def least(quotas: Sequence[Quota]) -> QuotaLeft | None:
    """Return what is left of the tightest of several quotas."""
    sizes = [
        max(0, quota.bytes_limit - quota.bytes_used) for quota in quotas if quota.bytes_limit is not None
    ]
    counts = [
        max(0, quota.files_limit - quota.files_used) for quota in quotas if quota.files_limit is not None
    ]
    if not sizes and not counts:
        return None
    return QuotaLeft(min(sizes, default=None), min(counts, default=None))


def about(quotas: Sequence[Quota], folder: Path) -> list[Quota]:
    """Return the quotas of the file system that holds a folder; all of them where none is known to."""
    return holding(quotas, folder) or list(quotas)


def holding(quotas: Sequence[Quota], folder: Path) -> list[Quota]:
    """Return the quotas of the innermost file system named that holds a folder."""
    found = [quota for quota in quotas if quota.place and folder.absolute().is_relative_to(quota.place)]
    longest = max((len(quota.place) for quota in found), default=0)
    return [quota for quota in found if len(quota.place) == longest]


def parse_quota(text: str) -> list[Quota] | None:
    """Return the quotas that a command tells of, none where it says that there is none; None if it is not understood.

    References
    ----------
    lfs-quota(1), quota(1): KiB used, soft and hard limit, grace, and the same of files; a star behind a number says
    that it is over, 0 that there is no limit, letters that it is scaled. mmlsquota(1), option -Y.
    """
    if "mmlsquota:" in text:
        return _of_gpfs(text)
    # a long name stands on a line of its own
    joined = re.sub(r"^(\s*/\S+)[ \t]*\n\s+(?=\d)", r"\1 ", text, flags=re.MULTILINE)
    found = [quota for line in joined.splitlines() if (quota := _of_line(line))]
    return found if found or re.search(r"^Disk quotas .*: none$", text, re.MULTILINE) else None


NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kmgtpKMGTP]?)\*?")


def _of_line(line: str) -> Quota | None:
    words = line.split()
    numbers = [word for word in words if NUMBER.fullmatch(word)]
    if len(numbers) not in (6, 8):  # eight where graces are numbers, too
        return None
    size, files = numbers[:3], numbers[3:6] if len(numbers) == 6 else numbers[4:7]
    # the mount point stands behind the device
    place = next((word for word in reversed(words[:2]) if word.startswith("/")), "")
    return _made(
        [_scaled(word, plain=1024, step=1024) for word in size],
        [_scaled(word, plain=1, step=1000) for word in files],
        place,
    )


def _made(size: Sequence[int], files: Sequence[int], place: str = "") -> Quota:
    """Return a quota of bytes and of files, each as used, soft and hard limit, 0 for none."""
    used, soft, hard = size
    held, few, most = files
    return Quota(used, hard or soft or None, held, most or few or None, place, soft or None, few or None)


def _scaled(word: str, *, plain: int, step: int) -> int:
    """Return a number with its unit; `plain` is that of one without letter."""
    match = NUMBER.fullmatch(word)
    assert match, word
    unit = step ** (1 + "KMGTP".index(match[2].upper())) if match[2] else plain
    return round(float(match[1]) * unit)


def _of_gpfs(text: str) -> list[Quota] | None:
    rows = [line.split(":") for line in text.splitlines() if line.startswith("mmlsquota:")]
    headers = [row for row in rows if "HEADER" in row]
    found = []
    for row in rows:
        if row in headers or not headers:
            continue
        fields = dict(zip(headers[0], row, strict=False))
        names = ("blockUsage", "blockQuota", "blockLimit", "filesUsage", "filesQuota", "filesLimit")
        numbers = [int(fields[name]) for name in names if fields.get(name, "").isdigit()]
        if len(numbers) != len(names):
            return None
        found.append(_made([1024 * number for number in numbers[:3]], numbers[3:]))
    return found if headers else None
