"""A node is lost and its processes live on: its job starts again and has the run; the orphan ends, writing nothing."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from glacierhpc.fence import epoch_file, epochs, read_record
from glacierhpc.rundir import RunDirectory
from tests.cluster.jobs import (
    alike,
    control,
    fields,
    log_of,
    prepared,
    reached,
    submit,
    told,
    trained_alone,
    waited_for,
    weights,
)
from tests.cluster.test_scheduler import ours

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def runs(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@ours
def test_the_orphan_of_a_lost_node_is_fenced_and_the_results_are_those_of_one_run(tmp_path: Path) -> None:
    """The orphan stands still from the loss until the job runs again, so that it surely meets its successor."""
    config, path = prepared(tmp_path, epochs=20, checkpoint_steps=1)
    run = RunDirectory(config.run_path)
    job = submit("training", path, options=("--requeue",))
    reached((run.checkpoints / "last.pt").exists, 300)
    first = read_record(epoch_file(run.path, max(epochs(run.path))))
    orphan = int(first["pid"])
    os.kill(orphan, signal.SIGSTOP)  # before all else: on a quiet machine it trains for seconds only
    node = fields(job)["NodeList"]
    control(f"kill {node}")
    try:
        reached(lambda: fields(job)["Restarts"] == "1", 300)
        assert runs(orphan), "Slurm was to forget its processes"
        reached(lambda: read_record(epoch_file(run.path, max(epochs(run.path))))["restart"] == 1, 300)
        second = read_record(epoch_file(run.path, max(epochs(run.path))))
        assert second["job"] == first["job"] and second["host"] != first["host"] == node
        os.kill(orphan, signal.SIGCONT)
        reached(lambda: not runs(orphan), 120)
        assert waited_for(job) == ("COMPLETED", 0), log_of(job)
    finally:
        with suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)
        control(f"start {node}")
        told("scancel", str(job))
    log = log_of(job)
    assert "taken over from process" in log and "it is an earlier start of this job" in log, log
    assert (
        f"was taken over by process {second['pid']} on {second['host']}" in log and "believed dead" in log
    ), log
    assert run.done("train")
    whole = config.model_copy(update={"train": config.train.model_copy(update={"checkpoint_steps": None})})
    assert alike(weights(run.path), trained_alone(whole, tmp_path / "alone"))
    assert not [left for left in run.path.rglob(".tmp-*")]
    reached(lambda: told("sinfo", "--noheader", f"--nodes={node}", "--format=%t").split()[0] == "idle")


def test_of_two_jobs_of_one_run_the_second_is_refused(tmp_path: Path) -> None:
    config, path = prepared(tmp_path, epochs=1_000_000)
    run = RunDirectory(config.run_path)
    first = submit("training", path)
    reached((run.checkpoints / "last.pt").exists, 300)
    second = submit("training", path)
    assert waited_for(second) == ("FAILED", 2), log_of(second)
    assert f"of job {first}@" in log_of(second) and "is in use by process" in log_of(second)
    told("scancel", "--batch", "--signal=USR1", str(first))
    assert waited_for(first) == ("FAILED", 75), log_of(first)
