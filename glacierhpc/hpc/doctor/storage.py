"""Checks of file systems: what room there is for temporary files, at home, for runs; `folders` tries what they do."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from glacierhpc.hpc.doctor.finding import Finding, fail, ok, skip, unheard, unknown, warn
from glacierhpc.hpc.doctor.machine import Machine, words_of
from glacierhpc.hpc.quota import ANSWER_S, FORMS, Quota, about, command_words, holding, parse_quota
from glacierhpc.hpc.slurm.client import Answer

LITTLE_GB, LITTLE_FILES = 20.0, 20_000
"""What a run of some hundred scenes takes, with its stores of a few files each."""
HOME_GB = 1.0
GONE = "choose another folder, with: --set scratch=PATH for jobs, TMPDIR on this machine"


def temporary(m: Machine) -> Finding:
    """Look whether the folder for temporary files has room and may hold programs, by writing one and running it."""
    folder = _temporary_folder(m)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix="glacierhpc-") as place:
            program = Path(place) / "program"
            program.write_text("#!/bin/sh\nexit 0\n")
            program.chmod(0o700)
            ran = _ran(m, program)
        free_gb = _free_gb(folder)
    except OSError as err:
        return fail(f"{folder} cannot be written: {err.strerror}", GONE)
    if finding := unheard(ran):
        return finding
    if not ran.ok:
        return warn(
            f"programs may not run in {folder} (mounted noexec)",
            "images are unpacked and kernels compiled there: set TMPDIR to another folder, --set scratch=PATH for jobs",
        )
    if free_gb < 1:
        return fail(f"{folder} has {free_gb:.1f} GiB left", GONE)
    if free_gb < 10:
        return warn(f"{folder} has {free_gb:.1f} GiB left", f"Dask spills to it; {GONE}")
    return ok(f"{folder} has {free_gb:.0f} GiB, programs may run there")


def _ran(m: Machine, program: Path) -> Answer:
    """Run a program that was just written: another check that starts one keeps it open for a moment."""
    for _ in range(20):
        answer = m.ask(str(program), timeout_s=5)
        if "busy" not in answer.err:  # ETXTBSY of execve(2)
            break
        time.sleep(0.05)
    return answer


def _temporary_folder(m: Machine) -> str:
    if m.role == "compute" and m.site.scratch:
        return m.expanded(m.site.scratch)
    return m.environ.get("TMPDIR") or "/tmp"


def _free_gb(folder: str | Path) -> float:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize / 2**30


def home(m: Machine) -> Finding:
    """Look for room in the home folder, and for the quota where a command tells it."""
    if not m.home.is_dir():
        return warn(f"home folder {m.home} is not here", "keep runs and environments elsewhere")
    quota = _quota(m, m.home)
    if quota:
        return quota
    try:
        free_gb = _free_gb(m.home)
    except OSError as err:
        return warn(f"{m.home}: {err.strerror}", "keep runs and environments elsewhere")
    if free_gb < HOME_GB:
        return warn(f"{m.home} has {free_gb:.1f} GiB left", "remove caches: ~/.cache, ~/.apptainer/cache")
    return ok(f"{m.home} has {free_gb:.0f} GiB")


def work(m: Machine) -> Finding:
    """Look for room and for numbers of files where runs are."""
    folder = existing(m.folder)
    quota = _quota_of_site(m, folder) if m.site.quota_command else _quota(m, folder)
    if quota and quota.status != "ok":
        return quota
    try:
        found = os.statvfs(folder)
    except OSError as err:
        return fail(f"{folder}: {err.strerror}", "choose another folder: run_dir=PATH")
    if not os.access(folder, os.W_OK):
        return fail(f"{folder} may not be written", "choose another folder: run_dir=PATH")
    free_gb = found.f_bavail * found.f_frsize / 2**30
    # file systems without a number of their own say 0
    files = found.f_favail if found.f_files else None
    judged = room(str(folder), free_gb, files)
    return quota if quota and judged.status == "ok" else judged


def room(folder: str, free_gb: float, free_files: int | None) -> Finding:
    """Judge what is left for a run, bytes and files."""
    files = "" if free_files is None else f", room for {free_files:,} files"
    told = f"{folder} has {free_gb:,.1f} GiB{files}"
    if free_gb < 0.1 or free_files == 0:
        return fail(told, "remove old runs, or choose another folder: run_dir=PATH")
    if free_gb < LITTLE_GB or (free_files is not None and free_files < LITTLE_FILES):
        return warn(told, "enough for small runs; for others choose another folder: run_dir=PATH")
    return ok(told)


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there: a run's is made when it starts."""
    return next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), Path("/"))


def _quota(m: Machine, folder: Path) -> Finding | None:
    """Ask the file system's command for the user's quota; None where there is none."""
    if _kind(m, folder) == "lustre" and m.which("lfs"):
        answer = m.ask("lfs", "quota", "-q", "-u", m.user, str(folder))
        return _worst(parse_quota(answer.out) or []) if answer.ok else None
    if m.which("quota"):
        answer = m.ask("quota", "--no-wrap", "--show-mntpoint", "--raw-grace", "-u", m.user)
        return _worst(holding(parse_quota(answer.out) or [], folder))
    return None


def _quota_of_site(m: Machine, folder: Path) -> Finding | None:
    """Ask the command that the site names; the worst of what it tells about the folder counts."""
    command = m.site.quota_command or ""
    answer = m.ask(*command_words(command, m.environ), timeout_s=ANSWER_S)
    if finding := unheard(answer):
        return finding
    found = parse_quota(answer.out)
    if found is None:
        return warn(
            f"quota_command {command!r}: {words_of(answer)}",
            f"give one whose answer looks like that of one of these: {FORMS}",
        )
    return _worst(about(found, folder))


def _worst(quotas: Sequence[Quota]) -> Finding | None:
    judged = [finding for quota in quotas if (finding := _judged(quota))]
    return max(judged, key=lambda each: ("ok", "warn", "fail").index(each.status), default=None)


def _judged(quota: Quota) -> Finding | None:
    """Judge one quota by its hard limits, and warn from nine tenths of the soft ones on; None where there are none."""
    limited = []
    told = "quota:"
    if quota.bytes_limit:
        limited.append((quota.bytes_used, quota.bytes_limit, quota.bytes_soft))
        told += f" {quota.bytes_used / 2**30:.1f} of {quota.bytes_limit / 2**30:.1f} GiB"
    if quota.files_limit:
        limited.append((quota.files_used, quota.files_limit, quota.files_soft))
        told += f" {quota.files_used:,} of {quota.files_limit:,} files"
    if not limited:
        return None
    fix = "remove old runs and caches, or choose another folder: run_dir=PATH"
    if any(used >= limit for used, limit, _ in limited):
        return fail(told, fix)
    if any(soft is not None and used > soft for used, _, soft in limited):
        return warn(f"{told}, over the soft limit: nothing can be written once its grace ends", fix)
    near = any(used > 0.9 * (soft or limit) for used, limit, soft in limited)
    return warn(told, fix) if near else ok(told)


def _kind(m: Machine, folder: Path) -> str:
    """Return the kind of file system a folder is on."""
    best, kind = "", ""
    for line in m.text("proc/self/mounts").splitlines():
        _, place, what, *_ = (*line.split(), "", "", "")
        if place and folder.absolute().is_relative_to(place) and len(place) >= len(best):
            best, kind = place, what
    return kind


def lustre(m: Machine) -> Finding:
    """Look how files are spread over Lustre's servers: small ones belong on one."""
    folder = existing(m.folder)
    kind = _kind(m, folder)
    if kind != "lustre":
        return skip(f"{folder} is on {kind or 'an unknown file system'}")
    if m.which("lfs") is None:
        return skip("on Lustre, and no lfs here to ask about it")
    answer = m.ask("lfs", "getstripe", "-d", "-c", str(folder))
    count = answer.out.strip()
    if not answer.ok or not re.fullmatch(r"-?\d+", count):
        return unknown(f"not told: {words_of(answer)}")
    if count not in ("0", "1"):
        return warn(
            f"files are spread over {'all' if count == '-1' else count} servers",
            f"stores are many files of some MB: lfs setstripe -c 1 {folder}, before the first run",
        )
    return ok("on Lustre, each file on one server")
