"""`glacierhpc submit` on a real Slurm: chains that end well, fail, are cancelled, and are gone on with."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest

from glacierhpc.config import config_to_yaml
from glacierhpc.hpc.slurm.states import job_states
from glacierhpc.hpc.slurm.submit import find
from glacierhpc.rundir import RunDirectory
from tests.cluster.jobs import (
    SMALL_JOBS,
    alike,
    control,
    fields,
    glacier,
    log_of,
    prepared,
    reached,
    restarted,
    told,
    trained_alone,
    verdicts,
    waited_for,
    weights,
)
from tests.conftest import ROOT
from tests.hpc.scripts import program

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def epochs_of(run: Path) -> int:
    """Epochs on record; the file is written anew after each, whole."""
    return len((run / "history.csv").read_text().splitlines()) - 1


def long_training(folder: Path, epochs: int = 1_000_000) -> tuple[Path, Path]:
    """Return a configuration whose sequences are made, and its run."""
    config, path = prepared(folder, epochs=epochs)
    return path, config.run_path


def test_a_training_that_meets_its_walltime_goes_on_by_itself(tmp_path: Path) -> None:
    """Slurm looks at times every half minute: the signal comes 60 to 90 s before the end of two minutes."""
    path, run = long_training(tmp_path)
    jobs = glacier("submit", path, *SMALL_JOBS, "--set=jobs.train.hours=0.0334", "--set=warning_s=60")["jobs"]
    train = int(jobs["train"])
    restarted(train)
    # on a slow machine the first signal may come before there is anything to save: the second start begins anew
    reached(lambda: "resumed from" in log_of(train), 600)
    before = re.search(r"saved, queued again(?s:.*)resumed from .* at epoch (\d+)", log_of(train))
    assert before and "asked by SIGUSR2 to save and resume" in log_of(train)
    reached(lambda: epochs_of(run) > int(before[1]))
    assert verdicts(run)["train"] in ("waiting", "running")
    assert fields(int(jobs["results"]))["JobState"] == "PENDING"
    glacier("cancel", run)


def test_a_training_in_two_starts_of_a_job_is_that_of_one(tmp_path: Path) -> None:
    config, path = prepared(tmp_path, epochs=50)
    run = config.run_path
    jobs = glacier("submit", path, *SMALL_JOBS)["jobs"]
    reached((RunDirectory(run).checkpoints / "last.pt").exists)
    told("scancel", "--batch", "--signal=USR2", jobs["train"])
    restarted(jobs["train"])
    assert waited_for(int(jobs["train"])) == ("COMPLETED", 0), glacier("status", run)
    told("scancel", jobs["results"])
    assert alike(weights(run), trained_alone(config, tmp_path / "alone"))


def test_a_job_that_is_requeued_too_often_ends_the_chain(tmp_path: Path) -> None:
    path, run = long_training(tmp_path)
    jobs = glacier("submit", path, *SMALL_JOBS, "--set=attempts=1")["jobs"]
    reached((RunDirectory(run).checkpoints / "last.pt").exists)
    told("scancel", "--batch", "--signal=USR2", jobs["train"])
    assert waited_for(int(jobs["train"])) == ("FAILED", 75)
    reached(lambda: verdicts(run) == {"train": "stopped", "results": "cancelled"})
    assert "start 1 of at most 1" in next((run / "jobs").glob("train-*.log")).read_text()


def test_where_requeue_is_not_wanted_a_new_job_takes_the_place(tmp_path: Path) -> None:
    path, run = long_training(tmp_path)
    jobs = glacier("submit", path, *SMALL_JOBS, "--set=again=successor")["jobs"]
    reached((RunDirectory(run).checkpoints / "last.pt").exists)
    told("scancel", "--batch", "--signal=USR2", jobs["train"])
    assert waited_for(int(jobs["train"])) == ("FAILED", 75)
    after = str(int(jobs["results"]) + 1)
    reached(lambda: fields(int(after))["JobState"] == "RUNNING")
    assert f"afterok:{after}" in fields(int(jobs["results"]))["Dependency"]
    told("scancel", jobs["results"], after)


def test_in_a_folder_named_to_do_harm_a_failure_ends_the_chain_and_resume_goes_on(tmp_path: Path) -> None:
    """Named with all but a backslash, with which sbatch would look for the log elsewhere: that is refused."""
    path, run = long_training(tmp_path / "a\\b", epochs=1)
    assert "cannot write their logs" in glacier("submit", path, *SMALL_JOBS, code=2)["error"]
    folder = tmp_path / """a b; $(touch hacked)`touch hacked` 'q' "q" ü #x %j %A & | < """
    path, run = long_training(folder, epochs=2)
    (run / "sequences.parquet").rename(tmp_path / "aside")
    jobs = glacier("submit", path, *SMALL_JOBS)["jobs"]
    assert waited_for(int(jobs["train"]))[0] == "FAILED"
    reached(lambda: verdicts(run) == {"train": "failed", "results": "cancelled"})
    why = glacier("status", run)["logs"]
    assert list(why) == [str(run / "jobs" / f"train-{jobs['train']}.log")]
    assert any("sequences.parquet" in line for line in next(iter(why.values()))), why
    (tmp_path / "aside").rename(run / "sequences.parquet")
    again = glacier("resume", run)["jobs"]
    for job in again.values():
        assert waited_for(int(job)) == ("COMPLETED", 0), glacier("status", run)
    names = {f"{kind}-{job}.{end}" for kind, job in again.items() for end in ("log", "exit")}
    assert names < {path.name for path in (run / "jobs").iterdir()} and (run / "report.html").exists()
    assert not list(ROOT.glob("hacked")) and not list(tmp_path.rglob("hacked"))
    assert glacier("resume", run)["jobs"] == glacier("submit", run)["jobs"] == {}


SHIMS = {
    "the answer is lost": '"$REAL" "$@" >/dev/null; echo "sbatch: error: Socket timed out" >&2; exit 1',
    "the first try does not arrive": '[ -e "$0.tried" ] && exec "$REAL" "$@"; touch "$0.tried"\n'
    'echo "sbatch: error: Unable to contact slurm controller (connect failure)" >&2; exit 1',
    "it says more than it should": 'echo "Welcome 12"; "$REAL" "$@"; echo',
}


@pytest.mark.parametrize("how", SHIMS)
def test_one_job_of_a_name_whatever_happens_to_sbatch(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glacierhpc.hpc.slurm.submit import submit

    real = told("which", "sbatch").strip()
    program(tmp_path, "sbatch", f"REAL={real}\n{SHIMS[how]}")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    script, name = tmp_path / "job.sh", f"once-{os.getpid()}-{len(how)}"
    script.write_text("#!/bin/bash\n#SBATCH --output=/dev/null\n#SBATCH --mem=10M\ntrue\n")
    job = submit(str(script), name, settle_s=1)
    assert waited_for(int(job))[0] == "COMPLETED"
    assert told("squeue", "--noheader", "--states=all", f"--name={name}", "--format=%A").split() == [job]
    assert find(name) == job and find(f"{name}-not") is None
    assert job_states([job])[job].verdict == "done"


@pytest.mark.skipif(
    "GLACIERHPC_TESTCLUSTER" not in os.environ, reason="needs a controller that may be stopped"
)
def test_one_job_though_the_controller_hangs_and_does_later_what_it_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped slurmctld takes the request of a killed `sbatch` from its queue of connections when it goes on."""
    from glacierhpc.hpc.slurm import submit as submitting

    monkeypatch.setattr(submitting, "FIRST_WAIT_S", 1)
    script, name = tmp_path / "job.sh", f"hung-{os.getpid()}"
    script.write_text("#!/bin/bash\n#SBATCH --output=/dev/null\n#SBATCH --mem=10M\ntrue\n")
    control("stop controller")
    goes_on = threading.Timer(8, control, ["go-on controller"])
    goes_on.start()
    try:
        job = submitting.submit(str(script), name, timeout_s=3, settle_s=2)
    finally:
        goes_on.join()
    assert waited_for(int(job))[0] == "COMPLETED"
    assert told("squeue", "--noheader", "--states=all", f"--name={name}", "--format=%A").split() == [job]


def test_states_are_known_by_whoever_still_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other the real commands are made to know nothing, as an accounting that is off, late or empty."""
    from glacierhpc.hpc.slurm import JobSpec, render
    from glacierhpc.hpc.slurm.submit import submit

    spec = JobSpec("told", "A test.", ("--version",), takes_config=False, cpus=1, memory_gb=1, hours=0.1,
                   goes_on=False, folder=str(tmp_path), array=(0, 2))  # fmt: skip
    script = tmp_path / "told.sbatch"
    script.write_text(render(spec))
    job = submit(str(script), f"told-{os.getpid()}")
    tasks = [f"{job}_0", f"{job}_2"]
    reached(lambda: {state.verdict for state in job_states(tasks).values()} == {"done"})
    files = list(tmp_path.glob("*.exit"))
    assert {path.name for path in files} == {f"told-{task}.exit" for task in tasks}
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for command, shim, source in (
        ("sacct", "true", "queue"),  # late or empty
        ("sacct", "exit 1", "queue"),  # off
        ("squeue", "true", "controller"),  # forgotten
        ("scontrol", "exit 1", "exit file"),
    ):
        program(tmp_path, command, shim)
        found = job_states(tasks, exit_files=files)
        assert {(state.verdict, state.source) for state in found.values()} == {("done", source)}
    assert {state.verdict for state in job_states(tasks).values()} == {"unknown"}


def test_the_limits_of_a_quality_of_service_are_seen(tmp_path: Path) -> None:
    if "short|01:00:00|4" not in told(
        "sacctmgr", "--noheader", "--parsable2", "show", "qos", "format=Name,MaxWall,MaxSubmitJobsPerUser"
    ):
        pytest.skip("there is no QOS 'short' here; the test cluster with accounting has one")
    _, path = prepared(tmp_path, epochs=1)
    qos = ("--set=directives.all.qos=short", "--dry-run")
    said = glacier("submit", path, *SMALL_JOBS, "--set=jobs.train.hours=2", *qos, code=2)["error"]
    assert "asks for 2 hours, and QOS 'short' gives 1" in said
    said = glacier("submit", path, *SMALL_JOBS, *qos, "sweep.seeds=[1,2,3,4]", code=2)["error"]
    assert "the chain is 5 jobs" in said and "lets a user have 4" in said
    assert list(glacier("submit", path, *SMALL_JOBS, *qos)["scripts"]) == ["train.sbatch", "results.sbatch"]


def test_the_partition_s_limit_is_seen_though_the_scheduler_s_own_test_passes(tmp_path: Path) -> None:
    config, path = prepared(tmp_path, epochs=1)
    path.write_text(config_to_yaml(config))
    told_ = glacier("submit", path, *SMALL_JOBS, "--set=jobs.train.hours=25", "--dry-run", code=2)
    assert "asks for 25 hours" in told_["error"] and "jobs.train.hours=24" in told_["error"]
    told_ = glacier("submit", path, *SMALL_JOBS, "--set=use.cpu=nowhere", code=2)
    assert "partition 'nowhere' does not exist here" in told_["error"] and "preemptible" in told_["error"]


def test_hostile_options_reach_the_scheduler_as_they_are(tmp_path: Path) -> None:
    """What sbatch makes of the quotes in a script, which no test without it can know."""
    from glacierhpc.hpc.slurm import JobSpec, render

    for number, text in enumerate(
        ["a b", "x#y", "$(touch hacked)`id`", 'q"q', "it's", "50 %j", "ü ; | & <", r"back\slash \" \\"]
    ):
        spec = JobSpec(
            "hostile", "A test.", ("--version",), takes_config=False, cpus=1, memory_gb=1, hours=0.1,
            goes_on=False, directives={"comment": text, "chdir": str(tmp_path)},
        )  # fmt: skip
        script = tmp_path / f"{number}.sbatch"
        script.write_text(render(spec))
        job = told("sbatch", "--parsable", "--hold", f"--output={tmp_path}/%j.log", script).strip()
        said = told("scontrol", "show", "job", job)
        told("scancel", job)
        assert f"Comment={text} \n" in said or f"Comment={text}\n" in said, (text, said)
    assert not (ROOT / "hacked").exists()
