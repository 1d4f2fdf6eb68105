"""The doctor's checks of what a process may use; limits and umask of the test are also set for real."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glacierhpc.hpc.doctor import process
from tests.hpc.machines import in_namespace, made

LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max processes             {processes}                96365                processes
Max open files            {files}                {most}                files
Max locked memory         {locked}              unlimited              bytes
"""


def limits(
    *, files: str = "65536", most: str = "65536", processes: str = "9999", locked: str = "unlimited"
) -> dict[str, str]:
    text = LIMITS.format(files=files, most=most, processes=processes, locked=locked)
    return {"proc/self/limits": text}


BAND = {"sys/class/infiniband/mlx5_0": ""}


@pytest.mark.parametrize(
    ("check", "files", "status", "words"),
    [
        (process.open_files, limits(), "ok", "65536"),
        (process.open_files, limits(files="1024"), "warn", "ulimit -n 65536"),
        (process.open_files, limits(files="1024", most="2048"), "warn", "ask the site"),
        (process.open_files, {}, "unknown", ""),
        (process.processes, limits(), "ok", "9999"),
        (process.processes, limits(processes="unlimited"), "ok", "no limit"),
        (process.processes, limits(processes="100"), "warn", "ulimit -u"),
        (process.locked_memory, limits(), "skip", "no InfiniBand"),
        (process.locked_memory, limits() | BAND, "ok", "no limit"),
        (process.locked_memory, limits(locked="65536") | BAND, "warn", "ulimit -l"),
    ],
)
def test_limits(check: Any, files: dict[str, str], status: str, words: str, tmp_path: Path) -> None:
    found = check(made(tmp_path, files=files))
    assert found.status == status and words in f"{found.told} {found.fix}", found


def test_a_real_limit_is_seen() -> None:
    code = "from glacierhpc.hpc.doctor import Machine, process; print(process.open_files(Machine()).fix)"
    done = subprocess.run(
        ["bash", "-c", 'ulimit -Sn 512 && exec "$0" -c "$1"', sys.executable, code], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "ulimit -n" in done.stdout or "ask the site" in done.stdout


ALLOWED = {"proc/self/status": "Cpus_allowed_list:\t0-3,8\n"}
HALF = {"proc/self/cgroup": "0::/job_1\n", "sys/fs/cgroup/job_1/cpu.max": "50000 100000\n"}


@pytest.mark.parametrize(
    ("environ", "files", "role", "status", "words"),
    [
        ({}, ALLOWED, "login", "ok", "5 of"),
        ({"SLURM_CPUS_PER_TASK": "4"}, ALLOWED, "compute", "ok", "4 of"),
        ({"SLURM_CPUS_PER_TASK": "8"}, ALLOWED, "compute", "warn", "may use 5"),
        ({"SLURM_CPUS_PER_TASK": "4"}, ALLOWED | HALF, "compute", "warn", "may use 0.5"),
        ({"SLURM_CPUS_PER_TASK": "8"}, ALLOWED, "login", "ok", "5 of"),
        ({}, {}, "login", "unknown", ""),
    ],
)
def test_cores(
    environ: dict[str, str], files: dict[str, str], role: Any, status: str, words: str, tmp_path: Path
) -> None:
    found = process.cores(made(tmp_path, files=files, environ=environ, role=role))
    assert found.status == status and words in found.told, found


@pytest.mark.parametrize(
    ("threads", "status"),
    [("", "ok"), ("4", "ok"), ("4,2", "ok"), ("64", "warn"), ("many", "warn"), ("0", "warn")],
)
def test_threads(threads: str, status: str, tmp_path: Path) -> None:
    found = process.threads(made(tmp_path, files=ALLOWED, environ={"OMP_NUM_THREADS": threads}))
    assert found.status == status, found


def test_shared_memory(tmp_path: Path) -> None:
    (tmp_path / "dev" / "shm").mkdir(parents=True)
    code = f"""
from pathlib import Path
from glacierhpc.hpc.doctor import Machine, process
print(process.shared_memory(Machine(root=Path('{tmp_path}'))).status)
"""
    mount = f"mount -t tmpfs -o size={{}} none '{tmp_path}/dev/shm'"
    assert in_namespace(mount.format("4g"), code) == "ok\n"
    assert in_namespace(mount.format("64m"), code) == "warn\n"
    assert process.shared_memory(made(tmp_path)).status == "warn"


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        ({}, "ok"), ({"LANG": "C.UTF-8"}, "ok"), ({"LC_ALL": "C"}, "ok"), ({"LANG": "de_DE.ISO-8859-1"}, "warn"),
        ({"LANG": "C.UTF-8", "LC_ALL": "en_US"}, "warn"), ({"LANG": "en_US", "PYTHONUTF8": "1"}, "ok"),
    ],
)  # fmt: skip
def test_letters(environ: dict[str, str], status: str, tmp_path: Path) -> None:
    assert process.letters(made(tmp_path, environ=environ)).status == status
