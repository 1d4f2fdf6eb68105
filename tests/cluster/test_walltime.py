"""Training that is told to end: it saves, says so by its exit code, and goes on when submitted again.

The scheduler's own signal near the end of the time is waited for in test_submit.py.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

from glacierhpc.rundir import RunDirectory, read_json
from tests.cluster.jobs import (
    alike,
    log_of,
    prepared,
    reached,
    restarted,
    submit,
    told,
    trained_alone,
    waited_for,
    weights,
)
from tests.cluster.test_scheduler import warned

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

REQUEUE = ("FAILED", 75)


def test_a_training_in_two_jobs_is_that_of_one(tmp_path: Path) -> None:
    config, path = prepared(tmp_path, epochs=50)
    run = RunDirectory(config.run_path)
    first = submit("training", path)
    reached((run.checkpoints / "last.pt").exists)
    told("scancel", "--batch", "--signal=TERM", str(first))
    assert waited_for(first) == REQUEUE, log_of(first)
    assert "asked by SIGTERM to save and end" in log_of(first)
    assert read_json(run.steps / "train.json")["state"] == "interrupted" and not run.model.exists()
    before = len(pd.read_csv(run.history))
    second = submit("training", path)
    assert waited_for(second) == ("COMPLETED", 0), log_of(second)
    assert f"resumed from {run.checkpoints / 'last.pt'} at epoch {before}" in log_of(second)
    assert alike(weights(run.path), trained_alone(config, tmp_path / "alone"))


@pytest.mark.parametrize("script", ["train-ddp", "train-horovod"])
def test_a_preempted_training_of_two_ranks_is_that_of_one_process(script: str, tmp_path: Path) -> None:
    """A job of a higher partition takes the nodes; the training is queued again by itself, and goes on.

    On the test cluster without accounting the ranks get TERM, and the job's script nothing: it is all the same.
    The nodes are asked for in the second epoch and taken at once: the others leave time for it, on any machine.
    """
    if script == "train-horovod" and importlib.util.find_spec("horovod") is None:
        pytest.skip("Horovod is not installed; build it with: make horovod")
    config, path = prepared(tmp_path, epochs=16, batch_size=8)
    run = RunDirectory(config.run_path)
    two = ("--nodes=2", "--ntasks-per-node=1", "--exclusive", "--mem=0")
    job = submit(script, path, options=("--partition=preemptible", *two))
    reached((run.checkpoints / "last.pt").exists, 240)
    told("srun", "--partition=normal", "--nodes=3", "--exclusive", "--mem=0", "true")
    restarted(job)
    assert not run.model.exists()
    assert waited_for(job) == ("COMPLETED", 0), log_of(job)
    log = log_of(job)
    assert ("asked by SIGUSR2 to save and resume" in log) == warned() and "resumed from" in log
    assert "2 ranks on 2 hosts" in log
    assert alike(weights(run.path), trained_alone(config, tmp_path / "alone"), atol=1e-5)
    losses, wanted = (pd.read_csv(RunDirectory(each).history) for each in (run.path, tmp_path / "alone"))
    names = ["epoch", "train_loss", "valid_loss"]
    pd.testing.assert_frame_equal(losses[names], wanted[names], rtol=1e-3)
