"""A node is lost and its processes live on: its job starts again and has the run; the orphan ends, writing nothing."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from glacierhpc.config import run_config
from glacierhpc.fence import epoch_file, epochs, read_record
from glacierhpc.rundir import RunDirectory
from tests.cluster.jobs import (
    SMALL,
    alike,
    control,
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
from tests.cluster.test_scheduler import batch, ours
from tests.conftest import ROOT

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
        restarted(job)
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
    # what the orphan had half written lies under its number until the next command of the run
    number = f".tmp-e{max(epochs(run.path)) - 1}-"
    assert all(left.name.startswith(number) for left in run.path.rglob(".tmp-*"))
    RunDirectory.open(run.path, run_config(config)).close()
    assert not [left for left in run.path.rglob(".tmp-*")]
    reached(lambda: told("sinfo", "--noheader", f"--nodes={node}", "--format=%t").split()[0] == "idle")


HOLD = """
import errno, fcntl, logging, sys, time
from pathlib import Path
from glacierhpc import lease
from glacierhpc.errors import InputError
from glacierhpc.hpc.slurm.states import has_ended
from glacierhpc.hpc.surroundings import job_attempt

def refuse(*_):
    raise OSError(errno.ENOLCK, "No locks available")

logging.basicConfig()
fcntl.flock = refuse
lease._silent = lambda *_: sys.exit("it would have waited")
job, restart = job_attempt()
lease.take(Path(sys.argv[1]), job=job, restart=restart, has_ended=has_ended)
print("has it", flush=True)
if len(sys.argv) > 2:
    time.sleep(600)
"""


@ours
def test_after_a_hard_kill_another_node_asks_whether_the_job_has_ended(tmp_path: Path) -> None:
    """That the file system has no locks is pretended: all nodes are one machine here."""
    program = tmp_path / "hold.py"
    program.write_text(HOLD)
    run = tmp_path / "run"
    run.mkdir()

    def hold(node: str, *more: str) -> int:
        command = shlex.join([sys.executable, str(program), str(run), *more])
        options = (f"--nodelist={node}", f"--chdir={ROOT}", f"--export=ALL,PYTHONPATH={ROOT}", *SMALL)
        return batch(tmp_path / f"{node}{len(more)}.sh", f"exec {command}\n", *options)

    def said(node: str, *more: str) -> str:
        log = tmp_path / f"{node}{len(more)}.sh.log"
        return log.read_text() if log.exists() else ""  # a node writes it when it has seen the job

    first = hold("r1", "for long")
    try:
        reached(lambda: "has it" in said("r1", "for long"))
        assert waited_for(hold("r2"))[0] == "FAILED" and "it would have waited" in said("r2")
    finally:
        told("scancel", "--signal=KILL", "--full", str(first))
    waited_for(first)
    assert waited_for(hold("r2"))[0] == "COMPLETED", said("r2")
    assert f"of job {first}@" in said("r2") and "its job has ended" in said("r2")


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
