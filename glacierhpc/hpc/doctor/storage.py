"""Checks of file systems: room, locks, renames, clocks, and what dead runs have left."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glacierhpc.fence import describe, epoch_file, epochs, read_record
from glacierhpc.hpc.doctor.finding import Finding, fail, ok, skip, unknown, warn
from glacierhpc.hpc.doctor.machine import Machine, listed, words_of
from glacierhpc.lease import BEAT_S, MISSES

LITTLE_GB, LITTLE_FILES = 20.0, 20_000
"""What a run of some hundred scenes takes, with its stores of a few files each."""
HOME_GB = 1.0
SKEW_S = 2.0
"""File times that differ more than this from the clock make what is newer look older."""
KEYS = (".tls-*", ".glacierhpc/.tls-*", "runs/*/.tls-*")
"""Folders with keys of Dask's workers, in a run and beside runs."""
OLD_S = 86_400.0
GONE = "choose another folder, with: --set scratch=PATH for jobs, TMPDIR on this machine"


def temporary(m: Machine) -> Finding:
    """Look whether the folder for temporary files has room and may hold programs, by writing one and running it."""
    folder = _temporary_folder(m)
    try:
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix="glacierhpc-", delete=False) as file:
            file.write("#!/bin/sh\nexit 0\n")
        os.chmod(file.name, 0o700)
        ran = m.ask(file.name, timeout_s=5)
        os.unlink(file.name)
        free_gb = _free_gb(folder)
    except OSError as err:
        return fail(f"{folder} cannot be written: {err.strerror}", GONE)
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
    quota = _quota(m, folder)
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
        return quota_told(answer.out) if answer.ok else None
    if m.which("quota"):
        answer = m.ask("quota", "--no-wrap", "--show-mntpoint", "--raw-grace", "-u", m.user)
        mine = [line for line in answer.out.splitlines() if str(folder).startswith(_mount_in(line))]
        return quota_told("\n".join(mine)) if mine else None
    return None


def _mount_in(line: str) -> str:
    words = line.split()
    return next((word for word in words[:2] if word.startswith("/") and len(word) > 1), "\0")


def quota_told(text: str) -> Finding | None:
    """Judge a line of quota: KiB used, soft and hard limit, and the same of files; None where none is set.

    References
    ----------
    quota(1), lfs-quota(1): both tell these columns, a star behind a number that is over.
    """
    numbers = [word.rstrip("*") for word in text.split()]
    found = [int(word) for word in numbers if word.isdigit()]
    if len(found) < 6:
        return None
    kib, soft_kib, hard_kib = found[:3]
    files, soft_files, hard_files = found[-3:] if len(found) == 6 else found[4:7]
    limit_kib, limit_files = soft_kib or hard_kib, soft_files or hard_files
    if not (limit_kib or limit_files):
        return None
    shares = [kib / limit_kib] if limit_kib else []
    shares += [files / limit_files] if limit_files else []
    told = f"quota: {kib / 2**20:.1f} of {limit_kib / 2**20:.1f} GiB" if limit_kib else "quota:"
    told += f" {files:,} of {limit_files:,} files" if limit_files else ""
    fix = "remove old runs and caches, or choose another folder: run_dir=PATH"
    if max(shares) >= 1:
        return fail(told, fix)
    return warn(told, fix) if max(shares) > 0.9 else ok(told)


def _kind(m: Machine, folder: Path) -> str:
    """Return the kind of file system a folder is on."""
    best, kind = "", ""
    for line in m.text("proc/self/mounts").splitlines():
        _, place, what, *_ = (*line.split(), "", "", "")
        inside = str(folder.absolute()).startswith(place.rstrip("/") + "/") or str(folder) == place
        if inside and len(place) >= len(best):
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
        from glacierhpc.hpc.cluster.tls import is_dead

        old += [path for path in keys if is_dead(path)]
    if old:
        return warn(
            f"left by runs that were killed: {listed(sorted({str(path.relative_to(folder)) for path in old}))}",
            f"they may hold keys; the next start of such a run removes them, or: cd {folder} and rm -r",
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
    group = "the group may read it" if not mask & 0o040 else "nobody else may read it"
    fix = "" if not mask & 0o040 else "; for a project's runs write: umask 027"
    return ok(f"umask {mask:04o}: {group}{fix}")
