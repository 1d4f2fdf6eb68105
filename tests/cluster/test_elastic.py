"""A training whose ranks come and go, on two nodes: one rank is killed, another comes by a second job."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch

from glacierhpc.config import Config
from glacierhpc.rundir import RunDirectory
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

TWO = ("--nodes=2", "--ntasks-per-node=1")
ONE = ("--nodes=1", "--ntasks-per-node=1")


@pytest.fixture(autouse=True)
def horovod() -> None:
    if importlib.util.find_spec("horovod") is None:
        pytest.skip("Horovod is not installed; build it with: make horovod")


def process_of(job: int, node: str) -> int:
    """The number of the process that trains on a node of a job."""
    mark = f"SLURM_JOB_ID={job}\0".encode(), f"SLURMD_NODENAME={node}\0".encode(), b"SLURM_STEP_ID=0\0"
    for folder in Path("/proc").iterdir():
        try:
            known = (folder / "environ").read_bytes()
            line = (folder / "cmdline").read_bytes()
        except OSError:  # another's, or gone
            continue
        if all(each in known for each in mark) and b"\0train\0" in line and b"python" in line.split(b"\0")[0]:
            return int(folder.name)
    raise AssertionError(f"nothing of job {job} trains on {node}")


def same_as_alone(config: Config, folder: Path) -> None:
    whole = config.model_copy(update={"train": config.train.model_copy(update={"checkpoint_steps": None})})
    alone = trained_alone(whole, folder)
    run = RunDirectory(config.run_path)
    trained = weights(run.path)
    assert all(torch.allclose(alone[name], value, atol=1e-5) for name, value in trained.items())
    losses, wanted = (pd.read_csv(RunDirectory(each).history) for each in (run.path, folder))
    names = ["epoch", "train_loss", "valid_loss"]
    pd.testing.assert_frame_equal(losses[names], wanted[names], rtol=1e-3)


def test_a_training_goes_on_without_the_rank_of_a_node(tmp_path: Path) -> None:
    """It is rank 0 that is lost, which has the run and writes the checkpoints; the other one takes both over."""
    config, path = prepared(tmp_path, epochs=20, batch_size=8, checkpoint_steps=1)
    run = RunDirectory(config.run_path)
    job = submit("train-elastic", path, options=TWO)
    reached((run.checkpoints / "last.pt").exists)
    node = told("scontrol", "show", "hostnames", fields(job)["NodeList"]).split()[0]
    os.kill(process_of(job, node), signal.SIGKILL)
    assert waited_for(job) == ("COMPLETED", 0), log_of(job)
    log = log_of(job)
    assert "2 ranks on 2 hosts" in log
    assert f"rank 0 on {node}" in log and "ended without a word" in log, log
    assert "the training goes on with 1 ranks, after 2" in log and "resumed from" in log, log
    assert run.done("train")
    same_as_alone(config, tmp_path / "alone")


def test_a_second_job_adds_its_node_to_a_training(tmp_path: Path) -> None:
    config, path = prepared(tmp_path, epochs=10, batch_size=8, checkpoint_steps=1)
    run = RunDirectory(config.run_path)
    first = submit("train-elastic", path, options=ONE)
    reached((run.checkpoints / "last.pt").exists)
    node = fields(first)["NodeList"]
    at_work = process_of(first, node)
    os.kill(
        at_work, signal.SIGSTOP
    )  # until the other one is there: on a quiet machine it trains for seconds only
    try:
        second = submit("train-elastic", path, options=(*ONE, f"--exclude={node}"))
        reached(lambda: f".{second} has come" in log_of(first))
    finally:
        os.kill(at_work, signal.SIGCONT)
    assert waited_for(first) == ("COMPLETED", 0), log_of(first)
    assert waited_for(second) == ("COMPLETED", 0), log_of(second)
    log = log_of(first)
    assert "the training goes on with 2 ranks, after 1" in log and "2 ranks on 2 hosts" in log, log
    assert run.done("train")
    same_as_alone(config, tmp_path / "alone")


def test_a_training_that_is_to_make_room_saves_and_goes_on(tmp_path: Path) -> None:
    """By the signal that the scheduler sends near the end of the time."""
    config, path = prepared(tmp_path, epochs=10, batch_size=8)
    run = RunDirectory(config.run_path)
    job = submit("train-elastic", path, options=TWO)
    reached((run.checkpoints / "last.pt").exists)
    told("scancel", "--batch", "--signal=USR2", str(job))
    reached(lambda: fields(job)["Restarts"] == "1")
    assert waited_for(job) == ("COMPLETED", 0), log_of(job)
    log = log_of(job)
    assert "asked by SIGUSR2 to save and resume" in log and "saved, queued again" in log, log
    assert "resumed from" in log and run.done("train"), log
    same_as_alone(config, tmp_path / "alone")
