"""What became of jobs, asked of four who may not answer; unknown is never failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from glacierhpc.hpc.slurm.states import VERDICTS, JobState, Verdict, combined, has_ended, job_states
from tests.hpc.scripts import program


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in which nobody knows anything."""
    program(tmp_path, "sacct", 'echo "Slurm accounting storage is disabled" >&2; exit 1')
    program(tmp_path, "squeue", "true")
    program(tmp_path, "scontrol", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


def state(job: str = "7", *files: Path) -> JobState:
    return job_states([job], exit_files=files)[job]


def test_nobody_knows(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state() == JobState("unknown", source="nobody")
    program(told, "sacct", "true")  # nothing, as while the accounting is behind
    assert state().verdict == "unknown"
    monkeypatch.setenv("PATH", "/nowhere")
    assert state().verdict == "unknown"


@pytest.mark.parametrize(
    ("line", "verdict", "code"),
    [
        ("7|COMPLETED|0:0", "done", 0),
        ("7|FAILED|3:0", "failed", 3),
        ("7|FAILED|75:0", "stopped", 75),
        ("7|FAILED|0:9", "failed", 137),
        ("7|CANCELLED by 1000|0:0", "cancelled", 0),
        ("7|TIMEOUT|0:0", "stopped", 0),
        ("7|OUT_OF_MEMORY|0:125", "failed", 253),
        ("7|NODE_FAIL|0:0", "stopped", 0),
        ("7|SOMETHING_NEW|0:0", "unknown", 0),
        ("77|COMPLETED|0:0", "unknown", None),
        ("7.batch|COMPLETED|0:0", "unknown", None),
    ],
)
def test_the_accounting(told: Path, line: str, verdict: str, code: int | None) -> None:
    program(told, "sacct", f"echo '{line}'")
    assert (state().verdict, state().exit_code) == (verdict, code)


def test_of_a_job_that_was_queued_again_the_last_start_counts(told: Path) -> None:
    program(
        told, "sacct", 'printf "%s\\n" "7|PREEMPTED|0:0" "7.0|FAILED|75:0" "7|REQUEUED|0:0" "7|COMPLETED|0:0"'
    )
    assert state().verdict == "done"


def test_the_queue_corrects_an_accounting_that_is_behind(told: Path) -> None:
    program(told, "sacct", "echo '7|PENDING|0:0'")
    program(told, "squeue", "echo '7|RUNNING|None'")
    assert (state().verdict, state().source) == ("running", "queue")
    program(told, "squeue", "echo '7|PENDING|DependencyNeverSatisfied'")
    assert state().reason == "DependencyNeverSatisfied" and state().active


def test_the_controller_tells_how_it_ended(told: Path) -> None:
    program(told, "squeue", "echo '7|FAILED|NonZeroExitCode'")
    program(
        told, "scontrol", "echo 'JobId=7 JobName=a b JobState=FAILED Reason=NonZeroExitCode ExitCode=2:0 X='"
    )
    assert (state().verdict, state().exit_code, state().source) == ("failed", 2, "controller")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("0 ended 0 1", "done"), ("3 ended 0 1", "failed"), ("75 ended 9 1", "stopped"), ("75 requeued 0 1", "waiting"),
        ("- began 0 1", "unknown"), ("", "unknown"), ("x", "unknown"),
    ],
)  # fmt: skip
def test_at_last_what_the_job_itself_wrote(told: Path, text: str, verdict: str) -> None:
    path = told / "train-7.exit"
    path.write_text(text)
    assert state("7", path).verdict == verdict
    assert state("8", path).verdict == "unknown"


TASKS = ("7_0", "7_1", "7_2", "7_3", "7_9", "8")


def test_tasks_of_an_array_are_told_apart(told: Path) -> None:
    """Slurm tells those that wait in one line."""
    accounting = "'7_0|COMPLETED|0:0' '7_0.batch|FAILED|1:0' '7_1|FAILED|3:0' '7_[2-3%2]|PENDING|0:0' '8|COMPLETED|0:0'"
    program(told, "sacct", f'echo "$*" >{told}/asked; printf "%s\\n" {accounting}')
    program(
        told, "squeue", f'echo "$*" >>{told}/asked; printf "%s\\n" "7_3|RUNNING|None" "77_9|RUNNING|None"'
    )
    found = job_states(TASKS)
    verdicts = {job: state.verdict for job, state in found.items()}
    assert verdicts == {
        "7_0": "done", "7_1": "failed", "7_2": "waiting", "7_3": "running", "7_9": "unknown", "8": "done"
    }  # fmt: skip
    assert found["7_1"].exit_code == 3
    asked = (told / "asked").read_text()
    assert "--jobs=7,8\n" in asked and "--array" in asked


def test_the_controller_and_the_tasks_themselves_tell_of_an_array(told: Path) -> None:
    first = "JobId=9 ArrayJobId=7 ArrayTaskId=1 JobState=FAILED ExitCode=2:0"
    rest = "JobId=7 ArrayJobId=7 ArrayTaskId=2-3%1 JobState=PENDING"
    program(told, "scontrol", f'[ "$4" != 7 ] || printf "%s\\n" "{first}" "{rest}"')
    (told / "trials-7_9.exit").write_text("0 ended 0 1")
    found = job_states(TASKS, exit_files=[told / "trials-7_9.exit"])
    verdicts = [found[job].verdict for job in ("7_0", "7_1", "7_2", "7_3", "7_9")]
    assert verdicts == ["unknown", "failed", "waiting", "waiting", "done"] and found["7_1"].exit_code == 2


@pytest.mark.parametrize(
    ("verdicts", "of_all"),
    [
        (("done", "done"), "done"), (("done", "failed", "running"), "running"), (("done", "failed"), "failed"),
        (("waiting", "failed"), "waiting"), (("done", "unknown"), "unknown"), (("done", "cancelled"), "cancelled"),
        (("stopped", "cancelled", "done"), "stopped"),
    ],
)  # fmt: skip
def test_an_array_is_what_its_tasks_are(verdicts: tuple[Verdict, ...], of_all: str) -> None:
    state = combined({f"7_{number}": JobState(verdict) for number, verdict in enumerate(verdicts)})
    assert state.verdict == of_all and all(
        f"1 {verdict}" in state.told for verdict in set(verdicts) - {"done"}
    )


def test_every_state_of_slurm_has_a_meaning() -> None:
    """Those of squeue(1), JOB STATE CODES."""
    states = """BOOT_FAIL CANCELLED COMPLETED CONFIGURING COMPLETING DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PENDING
        PREEMPTED RUNNING RESV_DEL_HOLD REQUEUE_FED REQUEUE_HOLD REQUEUED RESIZING REVOKED SIGNALING SPECIAL_EXIT
        STAGE_OUT STOPPED SUSPENDED TIMEOUT"""
    assert set(states.split()) <= set(VERDICTS)


@pytest.mark.parametrize(
    ("said", "ended"),
    [
        ("echo JobId=7 JobState=COMPLETED Restarts=0", True),
        ("echo JobId=7 JobState=TIMEOUT", True),
        ("echo JobId=7 JobState=COMPLETING", False),
        ("echo JobId=7 JobState=RUNNING", False),
        ("echo JobId=7 JobState=REQUEUED", False),
        ("echo JobId=7 JobState=NODE_FAIL", False),
        ("echo JobId=7 JobState=SOMETHING_NEW", False),
        ("echo JobId=7 JobState=FAILED; echo JobId=6 ArrayJobId=7 JobState=RUNNING", False),
        ("true", False),
        ('echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1', True),
        ('echo "Unable to contact slurm controller (connect failure)" >&2; exit 1', False),
    ],
)
def test_only_the_controller_says_that_a_job_has_ended(told: Path, said: str, ended: bool) -> None:
    program(
        told, "scontrol", f'[ "$2" = config ] && {{ echo "ClusterName             = Here"; exit; }}; {said}'
    )
    assert has_ended("7@here") is ended
    assert not has_ended("7@elsewhere") and not has_ended("7")
