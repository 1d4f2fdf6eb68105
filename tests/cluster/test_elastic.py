"""A training whose ranks come and go, on two nodes: one rank is killed, another comes by a second job."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from glacierhpc.rundir import RunDirectory
from tests.cluster.jobs import (
    alike,
    fields,
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

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ON_EACH_NODE = "--ntasks-per-node=1"
TRAIN: dict[str, Any] = {"epochs": 8, "batch_size": 8, "checkpoint_steps": 1}
"""Long enough that a signal at the first checkpoint comes long before the last one, on a fast machine, too."""


@pytest.fixture(autouse=True)
def horovod() -> None:
    if importlib.util.find_spec("horovod") is None:
        pytest.skip("Horovod is not installed; build it with: make horovod")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The same training by one process that nothing happens to."""
    folder = tmp_path_factory.mktemp("alone")
    config, _ = prepared(folder, **{**TRAIN, "checkpoint_steps": None})
    trained_alone(config, config.run_path)
    return RunDirectory(config.run_path)


class Begun(NamedTuple):
    """A training at its first checkpoint, and the process on the first of its nodes."""

    run: RunDirectory
    config: Path
    job: int
    node: str
    process: int


def begun(folder: Path, *, nodes: int) -> Begun:
    """Begin a training, one rank on each node; on a quiet machine it takes seconds from here on."""
    config, path = prepared(folder, **TRAIN)
    run = RunDirectory(config.run_path)
    job = submit("train-elastic", path, options=(f"--nodes={nodes}", ON_EACH_NODE))
    node, process = at_work(job)
    reached((run.checkpoints / "last.pt").exists)
    return Begun(run, path, job, node, process)


def process_of(job: int, node: str) -> int:
    """The number of the process that trains on a node of a job; 0 while there is none."""
    mark = f"SLURM_JOB_ID={job}\0".encode(), f"SLURMD_NODENAME={node}\0".encode(), b"SLURM_STEP_ID=0\0"
    for folder in Path("/proc").iterdir():
        try:
            known = (folder / "environ").read_bytes()
            line = (folder / "cmdline").read_bytes()
        except OSError:  # another's, or gone
            continue
        if all(each in known for each in mark) and b"\0train\0" in line and b"python" in line.split(b"\0")[0]:
            return int(folder.name)
    return 0


def at_work(job: int) -> tuple[str, int]:
    """The first node of a job and the process that trains there, as soon as there is one."""
    reached(lambda: fields(job)["JobState"] == "RUNNING")
    node = told("scontrol", "show", "hostnames", fields(job)["NodeList"]).split()[0]
    reached(lambda: process_of(job, node) > 0)
    return node, process_of(job, node)


def is_that_of_one_process(run: RunDirectory, alone: RunDirectory) -> None:
    assert run.done("train")
    assert alike(weights(run.path), weights(alone.path), atol=1e-5)
    losses, wanted = (pd.read_csv(each.history) for each in (run, alone))
    names = ["epoch", "train_loss", "valid_loss"]
    pd.testing.assert_frame_equal(losses[names], wanted[names], rtol=1e-3)


def test_a_training_goes_on_without_the_rank_of_a_node(tmp_path: Path, alone: RunDirectory) -> None:
    """It is rank 0 that is lost, which has the run and writes the checkpoints; the other one takes both over."""
    training = begun(tmp_path, nodes=2)
    os.kill(training.process, signal.SIGKILL)
    assert waited_for(training.job) == ("COMPLETED", 0), log_of(training.job)
    log = log_of(training.job)
    assert "2 ranks on 2 hosts" in log
    assert f"rank 0 on {training.node}" in log and "ended without a word" in log, log
    assert "the training goes on with 1 ranks, after 2" in log and "resumed from" in log, log
    is_that_of_one_process(training.run, alone)


def test_a_second_job_adds_its_node_to_a_training(tmp_path: Path, alone: RunDirectory) -> None:
    """The first one stands still until the other is there."""
    first = begun(tmp_path, nodes=1)
    os.kill(first.process, signal.SIGSTOP)
    try:
        elsewhere = ("--nodes=1", ON_EACH_NODE, f"--exclude={first.node}")
        second = submit("train-elastic", first.config, options=elsewhere)
        reached(lambda: f".{second} has come" in log_of(first.job))
    finally:
        os.kill(first.process, signal.SIGCONT)
    assert waited_for(first.job) == ("COMPLETED", 0), log_of(first.job)
    assert waited_for(second) == ("COMPLETED", 0), log_of(second)
    log = log_of(first.job)
    assert "the training goes on with 2 ranks, after 1" in log and "2 ranks on 2 hosts" in log, log
    is_that_of_one_process(first.run, alone)


def test_a_training_that_is_to_make_room_saves_and_goes_on(tmp_path: Path, alone: RunDirectory) -> None:
    """By the signal that the scheduler sends near the end of the time."""
    training = begun(tmp_path, nodes=2)
    told("scancel", "--batch", "--signal=USR2", str(training.job))
    restarted(training.job)
    assert waited_for(training.job) == ("COMPLETED", 0), log_of(training.job)
    log = log_of(training.job)
    assert "asked by SIGUSR2 to save and resume" in log and "saved, queued again" in log, log
    assert "resumed from" in log, log
    is_that_of_one_process(training.run, alone)
