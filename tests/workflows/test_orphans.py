"""An acquisition given up with its node lives on, and its job reads the scenes again: one cube, no doubles."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from glacierhpc.config import load_config
from glacierhpc.fence import epochs
from glacierhpc.rundir import RunDirectory, read_table
from glacierhpc.scenes import archive
from glacierhpc.workflows import run_steps
from tests.conftest import ROOT
from tests.workflows.test_archive_runs import cube_files, receipts, write_config

pytestmark = pytest.mark.slow


def acquire(config: Path, *, restart: int) -> subprocess.Popen[str]:
    """Start a command as a job does, in a process group of its own with its workers."""
    job = {"SLURM_JOB_ID": "17", "SLURM_CLUSTER_NAME": "here", "SLURM_RESTART_COUNT": str(restart)}
    return subprocess.Popen(
        [sys.executable, "-m", "glacierhpc", "acquire", str(config)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **job}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["serial", "local"])
def test_the_scenes_of_a_job_that_starts_again_are_read_into_one_cube(
    archive_server: archive.ServedArchive, tmp_path: Path, kind: str
) -> None:
    """The job's number and count are given to the processes by hand: Slurm itself does it in tests/cluster."""
    cluster = {"kind": kind, "workers": 1}
    reading = {"bands": ["green", "nir08", "swir16"], "min_valid_share": 0, "read_threads": 2}
    alone = write_config(tmp_path / "alone", archive_server.stac_url, acquire=reading)
    run_steps(load_config(alone), to_step="acquire")
    config = write_config(tmp_path / "lost", archive_server.stac_url, acquire=reading, cluster=cluster)
    run_steps(load_config(config), to_step="search")
    run = RunDirectory(tmp_path / "lost" / "run")
    archive_server.set_faults(delay_s=0.15)
    orphan = acquire(config, restart=0)
    try:
        reached(lambda: len(receipts(run.path)) >= 6)
        os.killpg(orphan.pid, signal.SIGSTOP)  # as on a node whose network hangs
        before = len(receipts(run.path))
        second = acquire(config, restart=1)
        reached(lambda: len(receipts(run.path)) >= before + 6)
        os.killpg(orphan.pid, signal.SIGCONT)
        said = orphan.communicate(timeout=300)
        assert orphan.returncode == 1 and "was taken over by process" in "".join(said), said
        said = second.communicate(timeout=300)
        assert second.returncode == 0 and "an earlier start of this job" in "".join(said), said
    finally:
        archive_server.set_faults()
        if orphan.poll() is None:
            os.killpg(orphan.pid, signal.SIGKILL)
    assert cube_files(run) == cube_files(RunDirectory(tmp_path / "alone" / "run"))
    manifest = read_table(run.manifest)
    assert len(manifest) == 12 * 4 and not manifest.duplicated(["scene", "asset"]).any()
    assert set(manifest.state) == {"done"} and run.done("acquire") and len(epochs(run.path)) == 2


def reached(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
