"""Checks of what a process may use here: open files, processes, locked memory, cores, threads, letters."""

from __future__ import annotations

import os
import re

from glacierhpc.hpc.doctor.finding import Finding, ok, skip, unknown, warn
from glacierhpc.hpc.doctor.machine import Machine

OPEN_FILES = 4096
"""A Dask scheduler keeps some per worker, a store some per chunk that is read."""
PROCESSES = 1024
LOCKED_BYTES = 2**30
"""What InfiniBand's libraries want to pin of a process that exchanges gradients."""
SHARED_GB = 1.0
"""The loader of training data and NCCL exchange arrays there."""


def _limit(m: Machine, name: str) -> tuple[float, float] | None:
    """Return a limit of this process, soft and hard; infinity for none."""
    found = re.search(rf"^{re.escape(name)}\s+(\w+)\s+(\w+)", m.text("proc/self/limits"), re.M)
    if not found:
        return None
    soft, hard = (float("inf") if text == "unlimited" else float(text) for text in found.groups())
    return soft, hard


def open_files(m: Machine) -> Finding:
    """Look how many files a process may have open."""
    known = _limit(m, "Max open files")
    if known is None:
        return unknown("not told")
    soft, hard = known
    if soft >= OPEN_FILES:
        return ok(f"{soft:.0f}")
    if hard >= OPEN_FILES:
        return warn(
            f"{soft:.0f}, may be {hard:.0f}", f"write into ~/.bashrc: ulimit -n {min(hard, 65536):.0f}"
        )
    return warn(
        f"{soft:.0f} at most", "ask the site for more (limits.conf: nofile); use fewer workers until then"
    )


def processes(m: Machine) -> Finding:
    """Look how many processes and threads the user may have."""
    known = _limit(m, "Max processes")
    if known is None:
        return unknown("not told")
    told = "no limit" if known[0] == float("inf") else f"{known[0]:.0f}"
    if known[0] < PROCESSES:
        return warn(
            told, "every worker is several threads: ask the site for more (ulimit -u), or use fewer workers"
        )
    return ok(told)


def locked_memory(m: Machine) -> Finding:
    """Look whether InfiniBand may pin memory; without it training over several nodes is slow or ends."""
    known = _limit(m, "Max locked memory")
    if not any(m.path("sys/class/infiniband").glob("*")):
        return skip("no InfiniBand here")
    if known is None:
        return unknown("not told")
    if known[0] < LOCKED_BYTES:
        return warn(
            f"{known[0] / 2**20:.0f} MiB, too little for InfiniBand",
            "write ulimit -l unlimited; if that is refused, ask the site (slurm.conf: PropagateResourceLimits)",
        )
    return ok("no limit" if known[0] == float("inf") else f"{known[0] / 2**30:.0f} GiB")


def cores(m: Machine) -> Finding:
    """Compare the cores that the job was given with those that the kernel lets it use."""
    allowed = _allowed(m)
    if allowed is None:
        return unknown("not told")
    quota = _quota_cores(m)
    usable = allowed if quota is None else min(allowed, quota)
    asked = _asked(m)
    if asked is None:
        return ok(f"{usable:g} of {os.cpu_count()}")
    if usable < asked:
        return warn(
            f"the job was given {asked} cores, and may use {usable:g}",
            "the launcher binds them: --set 'srun=[--cpu-bind=cores]', or ask for fewer",
        )
    return ok(
        f"{asked} of {os.cpu_count()}" + ("" if usable == asked else f"; {usable:g} are not kept from it")
    )


def _asked(m: Machine) -> int | None:
    text = m.environ.get("SLURM_CPUS_PER_TASK") or m.environ.get("SLURM_CPUS_ON_NODE") or ""
    return int(text) if text.isdigit() and m.role == "compute" else None


def _allowed(m: Machine) -> int | None:
    """Count the cores of ``0-3,8``."""
    found = re.search(r"^Cpus_allowed_list:\s*([\d,-]+)", m.text("proc/self/status"), re.M)
    if not found:
        return None
    spans = [part.split("-") for part in found[1].split(",") if part]
    return sum(int(span[-1]) - int(span[0]) + 1 for span in spans)


def _quota_cores(m: Machine) -> float | None:
    """Return the cores' worth of time that the control group gives, None for no limit."""
    own = re.search(r"^0::(/.*)$", m.text("proc/self/cgroup"), re.M)
    text = m.text(f"sys/fs/cgroup{own[1]}/cpu.max" if own else "sys/fs/cgroup/cpu.max").split()
    if len(text) != 2 or not text[0].isdigit() or not text[1].isdigit():
        return None
    return int(text[0]) / int(text[1])


def threads(m: Machine) -> Finding:
    """Compare the number of threads that libraries start with the cores that there are."""
    text, allowed = m.environ.get("OMP_NUM_THREADS", ""), _asked(m) or _allowed(m)
    if not text:
        return ok("OMP_NUM_THREADS is not set; jobs set it")
    first = text.split(",")[0]
    if not first.isdigit() or int(first) < 1:
        return warn(f"OMP_NUM_THREADS={text!r} is no number", "unset OMP_NUM_THREADS")
    if allowed is not None and int(first) > allowed:
        return warn(
            f"OMP_NUM_THREADS={text}, and {allowed} cores: threads wait for each other",
            f"write: export OMP_NUM_THREADS={allowed}",
        )
    return ok(f"OMP_NUM_THREADS={text}")


def shared_memory(m: Machine) -> Finding:
    """Look for room in /dev/shm, by which processes of one node exchange arrays."""
    folder = m.path("dev/shm")
    try:
        found = os.statvfs(folder)
    except OSError as err:
        return warn(f"/dev/shm: {err.strerror}", "ask the site for /dev/shm")
    free_gb = found.f_bavail * found.f_frsize / 2**30
    if free_gb < SHARED_GB:
        return warn(
            f"{free_gb:.1f} GiB free in /dev/shm", "remove your files there; several ranks need some GiB"
        )
    return ok(f"{free_gb:.0f} GiB free in /dev/shm")


def letters(m: Machine) -> Finding:
    """Look whether names and texts are read as UTF-8."""
    name = next((m.environ[key] for key in ("LC_ALL", "LC_CTYPE", "LANG") if m.environ.get(key)), "")
    if m.environ.get("PYTHONUTF8") == "1" or not name or name in ("C", "POSIX"):
        return ok("UTF-8, as Python reads a machine that names none")
    if re.search(r"utf-?8", name, re.I):
        return ok(name)
    return warn(
        f"{name} is not UTF-8: names with other letters are read wrongly", "write: export LC_ALL=C.UTF-8"
    )
