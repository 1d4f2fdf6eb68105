"""`glacierhpc workers`: shows the script of a worker, or tries the workers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from glacierhpc.errors import InputError
from glacierhpc.hpc.cluster import WorkerJobs, make_cluster
from glacierhpc.hpc.cluster.allocation import srun_command
from glacierhpc.hpc.cluster.wish import Worker
from glacierhpc.hpc.site import Site
from tests.conftest import ROOT


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "glacierhpc", "workers", str(ROOT / "configs" / "demo.yaml"), *words]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def test_a_dry_run_prints_the_script_and_writes_nothing(tmp_path: Path) -> None:
    done = command("cluster.kind=jobqueue", "--scheduler", "pbs", "--dry-run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.startswith("#!/usr/bin/env bash") and "#PBS -l select=1:ncpus=1:mem=2048mb" in done.stdout
    )
    assert "--tls-key" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dry-run",), "cluster.kind='local' needs no job scripts"),
        (("cluster.kind=jobqueue", "cluster.site=lumy", "--dry-run"), "did you mean 'lumi'"),
        (("cluster.kind=jobqueue", "--scheduler", "slrm", "--dry-run"), "slurm"),
        (("cluster.kind=allocation",), "this process is in none"),
    ],
)
def test_what_cannot_be_is_said(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = command(*words, folder=tmp_path)
    assert done.returncode == 2 and said in done.stderr, done.stderr


def test_workers_say_where_they_run(tmp_path: Path) -> None:
    done = command("cluster.workers=2", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sum(json.loads(done.stdout.splitlines()[-1])["workers"].values()) == 2


def test_an_allocation_needs_a_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(InputError, match="jobqueue"), make_cluster("allocation", workers=1):
        pass
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="srun, which is not here"), make_cluster("allocation", workers=1):
        pass


@pytest.mark.parametrize(
    ("scheduler", "program"),
    [("slurm", "sbatch"), ("pbs", "qsub"), ("lsf", "bsub"), ("sge", "qsub"), ("htcondor", "condor_submit")],
)
def test_jobs_need_a_program_that_submits_them(
    scheduler: str, program: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    jobs = WorkerJobs(scheduler=scheduler, folder=tmp_path / "run")
    with (
        pytest.raises(InputError, match=f"{program}, which is not here"),
        make_cluster("jobqueue", workers=1, jobs=jobs),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_step_of_a_job_is_asked_for_by_size() -> None:
    worker = Worker(4, 2500, WorkerJobs(cpus=2, site=Site(srun=("--cpu-bind=none",))))
    assert srun_command(worker, "12", inside_step=False) == [
        "srun", "--jobid=12", "--nodes=1", "--ntasks=1", "--cpus-per-task=2", "--mem=2500M", "--exact", "--mpi=none",
        "--immediate=120", "--export=ALL", "--job-name=glacierhpc-worker", "--cpu-bind=none",
    ]  # fmt: skip
    assert "--overlap" in srun_command(worker, "12", inside_step=True)
