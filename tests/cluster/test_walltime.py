"""Training that meets its walltime: it saves, says so by its exit code, and goes on when submitted again."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from glacierhpc.rundir import RunDirectory, read_json
from tests.cluster.jobs import (
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

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

REQUEUE = ("FAILED", 75)


def epochs_of(run: RunDirectory) -> int:
    return len(pd.read_csv(run.history)) if run.history.exists() else 0


def test_a_job_that_meets_its_walltime_saves_and_goes_on(tmp_path: Path) -> None:
    config, path = prepared(tmp_path, epochs=1_000_000)
    run = RunDirectory(config.run_path)
    # Slurm looks at times every half minute: the signal comes 60 to 90 s before the end
    first = submit("training", path, options=("--time=2", "--signal=B:TERM@60"))
    assert waited_for(first) == REQUEUE, log_of(first)
    assert re.search("SIG(TERM|USR2)", log_of(first))  # the script may hand it on as another
    assert read_json(run.steps / "train.json")["state"] == "interrupted"
    before = epochs_of(run)
    second = submit("training", path)
    reached(lambda: epochs_of(run) > before > 0)
    told("scancel", "--batch", "--signal=TERM", str(second))
    assert waited_for(second) == REQUEUE, log_of(second)
    assert f"resumed from {run.checkpoints / 'last.pt'} at epoch {before}" in log_of(second)


def test_a_training_in_two_jobs_is_that_of_one(tmp_path: Path) -> None:
    config, path = prepared(tmp_path, epochs=60)
    run = RunDirectory(config.run_path)
    first = submit("training", path)
    reached((run.checkpoints / "last.pt").exists)
    told("scancel", "--batch", "--signal=USR1", str(first))
    assert waited_for(first) == REQUEUE, log_of(first)
    assert not run.model.exists()
    second = submit("training", path)
    assert waited_for(second) == ("COMPLETED", 0), log_of(second)
    alone = trained_alone(config, tmp_path / "alone")
    assert all(torch.equal(alone[name], value) for name, value in weights(run.path).items())


@pytest.mark.parametrize("script", ["train-ddp", "train-horovod"])
def test_a_preempted_training_of_two_ranks_is_that_of_one_process(script: str, tmp_path: Path) -> None:
    """A job of a higher partition takes the nodes; the training is queued again by itself, and goes on."""
    if script == "train-horovod" and importlib.util.find_spec("horovod") is None:
        pytest.skip("Horovod is not installed; build it with: make horovod")
    config, path = prepared(tmp_path, epochs=50, batch_size=8)
    run = RunDirectory(config.run_path)
    two = ("--nodes=2", "--ntasks-per-node=1", "--exclusive", "--mem=0")
    job = submit(script, path, options=("--partition=preemptible", *two))
    reached((run.checkpoints / "last.pt").exists, 240)
    told("srun", "--partition=normal", "--nodes=3", "--exclusive", "--mem=0", "true")
    reached(lambda: fields(job)["Restarts"] == "1", 240)
    assert not run.model.exists()
    assert waited_for(job) == ("COMPLETED", 0), log_of(job)
    log = log_of(job)
    assert "asked by SIGUSR2 to save and resume" in log and "resumed from" in log
    alone = trained_alone(config, tmp_path / "alone")
    trained = weights(run.path)
    assert all(torch.allclose(alone[name], value, atol=1e-5) for name, value in trained.items())
