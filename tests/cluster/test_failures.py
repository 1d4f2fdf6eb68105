"""A job of which one rank is killed or stopped: it ends soon, names the rank and its host, and is not queued again."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import time
from pathlib import Path

import pytest

from glacierhpc.rundir import RunDirectory
from tests.cluster.jobs import log_of, prepared, reached, submit, waited_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ours = pytest.mark.skipif(
    "GLACIERHPC_TESTCLUSTER" not in os.environ, reason="of the test cluster only; as root: make test-cluster"
)
TWO = ("--nodes=2", "--ntasks-per-node=1")


def begun(tmp_path: Path, script: str, *values: str) -> int:
    """Return a job of two ranks that has begun to train, and would for ever."""
    if "horovod" in script and importlib.util.find_spec("horovod") is None:
        pytest.skip("Horovod is not installed; build it with: make horovod")
    config, path = prepared(tmp_path, epochs=1_000_000)
    job = submit(script, path, *values, options=TWO)
    reached((RunDirectory(config.run_path).checkpoints / "last.pt").exists, 240)
    return job


def hit(job: int, number: signal.Signals) -> None:
    """Signal the process of rank 1; the nodes of the test cluster are one machine, and all its processes are seen."""
    wanted = {f"SLURM_JOB_ID={job}".encode(), b"SLURM_PROCID=1"}
    hits = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another's, or gone
            if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                os.kill(int(folder.name), number)
                hits += 1
    assert hits, "rank 1 runs on another machine"


@ours
@pytest.mark.parametrize("script", ["train-ddp", "train-horovod", "train-horovod-mpi"])
def test_a_killed_rank_ends_the_job_and_is_named(script: str, tmp_path: Path) -> None:
    job = begun(tmp_path, script)
    began = time.monotonic()
    hit(job, signal.SIGKILL)
    state, code = waited_for(job, timeout_s=120)
    log = log_of(job)
    assert state == "FAILED" and code not in (0, 75), log
    assert time.monotonic() - began < 60, log  # generous; srun alone would wait two minutes
    assert "rank 1 on r" in log and "ended without a word" in log, log


@ours
def test_a_stopped_rank_is_named_and_ends_with_the_job(tmp_path: Path) -> None:
    """The others end with code 70; srun would kill the stopped one after two minutes, and is not waited for here."""
    job = begun(tmp_path, "train-ddp", "train.watchdog_s=10")
    hit(job, signal.SIGSTOP)
    reached(lambda: "nothing has moved for 10 s" in log_of(job))
    log = log_of(job)
    assert "rank 1 on r" in log and "silent: stopped" in log and "in fit" in log, log
    reached(lambda: "task 0: Exited with exit code 70" in log_of(job))
    hit(job, signal.SIGKILL)
    state, code = waited_for(job)
    assert state == "FAILED" and code not in (0, 75), log_of(job)
    assert "queued again" not in log_of(job)
