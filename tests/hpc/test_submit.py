"""A job is submitted once: with a scheduler that fails, hangs, or loses its answer (a real one is in tests/cluster)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.hpc import submission
from glacierhpc.hpc.chain import Link
from glacierhpc.hpc.journal import Entry, Journal, read_journal
from glacierhpc.hpc.slurm import JobSpec
from glacierhpc.hpc.slurm import submit as submitting
from glacierhpc.hpc.slurm.client import outside
from glacierhpc.hpc.slurm.submit import submit
from tests.hpc.scripts import program

TAKE = 'echo "$*" >>jobs; number=$(wc -l <jobs)'
QUEUE = """\
for word in "$@"; do case $word in --name=*) name=${word#--name=} ;; esac; done
[ -e jobs ] && grep -n -e "--job-name=${name:-.*} " jobs | cut -d : -f 1
true
"""


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a scheduler whose queue is a file; it works until a test says otherwise."""
    program(tmp_path, "sbatch", f'{TAKE}; echo "$number"')
    program(tmp_path, "squeue", QUEUE)
    program(tmp_path, "sacct", "exit 1")
    program(tmp_path, "scontrol", "exit 1")
    program(tmp_path, "scancel", 'echo "$*" >>cancelled')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submitting, "FIRST_WAIT_S", 0.01)
    return tmp_path


def jobs(folder: Path) -> list[str]:
    path = folder / "jobs"
    return path.read_text().splitlines() if path.exists() else []


ONCE = '[ -e tried ] && { {take}; echo "$number"; exit; }; touch tried; '

FAILING = {
    "the controller was away": 'echo "sbatch: error: Unable to contact slurm controller" >&2; exit 1',
    "the answer was lost": TAKE
    + '; echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1',
    "it hung before": "exec sleep 60",
    "it hung after": TAKE + "; exec sleep 60",
    "it said something else": TAKE + "; echo Welcome to the cluster",
    "it failed after the job was taken": TAKE + "; exit 1",
}


@pytest.mark.parametrize("how", FAILING)
def test_one_job_comes_of_one_submission(scheduler: Path, how: str) -> None:
    program(scheduler, "sbatch", ONCE.replace("{take}", TAKE) + FAILING[how])
    assert submit("x.sbatch", "run-1", timeout_s=1, settle_s=0.01) == "1"
    assert len(jobs(scheduler)) == 1


def test_a_banner_is_no_job_number(scheduler: Path) -> None:
    program(scheduler, "sbatch", f'{TAKE}; echo "You have used 42 of 100 hours"; echo "7;main"')
    assert submit("x.sbatch", "run-1", settle_s=0) == "7"


def test_a_refusal_is_told_and_not_tried_again(scheduler: Path) -> None:
    program(scheduler, "sbatch", 'echo x >>asked; echo "sbatch: error: Invalid account" >&2; exit 1')
    with pytest.raises(
        GlacierError, match=r"(?s)'run-1' could not be submitted.*ended with 1.*Invalid account"
    ):
        submit("x.sbatch", "run-1", settle_s=0)
    assert (scheduler / "asked").read_text() == "x\n"


def test_nothing_is_submitted_again_while_nobody_knows(scheduler: Path) -> None:
    program(scheduler, "sbatch", f"{TAKE}; exec sleep 60")
    program(
        scheduler, "squeue", 'echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1'
    )
    with pytest.raises(GlacierError, match="is not known; when it answers again, write: glacierhpc resume"):
        submit("x.sbatch", "run-1", timeout_s=1, settle_s=0)
    assert len(jobs(scheduler)) == 1


def test_a_job_that_is_over_already_is_found_in_the_accounting(scheduler: Path) -> None:
    program(scheduler, "squeue", "true")
    program(scheduler, "sacct", 'case "$*" in *--name=run-1*) echo 31;; esac')
    program(scheduler, "sbatch", "exit 1")
    assert submit("x.sbatch", "run-1", settle_s=0) == "31"


def test_what_a_surrounding_job_has_set_is_not_handed_on() -> None:
    given = {"SLURM_CONF": "c", "SLURM_JOB_ID": "1", "SBATCH_ACCOUNT": "a", "HOME": "/h"}
    assert outside(given).keys() & given.keys() == {"SLURM_CONF", "HOME"}


# --- chains


def link(name: str) -> Link:
    spec = JobSpec(name, "A test.", ("run",), label=f"r-{name}")
    return Link(spec, f"#!/bin/bash\n# {name}\n")


def test_jobs_wait_for_one_another_and_the_journal_knows_them(scheduler: Path) -> None:
    journal = submission.submit_chain(Journal(scheduler / "run"), [link("imagery"), link("train")])
    first, second = jobs(scheduler)
    assert "--dependency" not in first and "--dependency=afterok:1 --kill-on-invalid-dep=yes" in second
    assert [entry.id for entry in journal.entries] == ["1", "2"]
    assert read_journal(scheduler / "run") == journal
    assert (scheduler / "run/jobs/train.sbatch").read_text().endswith("# train\n")


def test_a_chain_of_which_one_job_is_refused_leaves_nothing_waiting(scheduler: Path) -> None:
    program(scheduler, "sbatch", f'case "$*" in *train*) echo no >&2; exit 1;; esac; {TAKE}; echo "$number"')
    with pytest.raises(GlacierError, match="r-train"):
        submission.submit_chain(Journal(scheduler / "run"), [link("imagery"), link("train")])
    assert (scheduler / "cancelled").read_text() == "1\n"


def test_a_submission_that_was_killed_is_found_again_by_its_name(scheduler: Path) -> None:
    """As after a SIGKILL between the journal's note and the answer of sbatch, with the job taken and without."""
    run = scheduler / "run"
    Journal(run).noted(Entry("train", "r-train-1", "x")).noted(Entry("results", "r-results-1", "x"))
    (scheduler / "jobs").write_text("--parsable --job-name=r-train-1 x\n")
    program(scheduler, "scontrol", 'echo "JobId=$5 JobState=RUNNING ExitCode=0:0 Reason=None"')
    program(scheduler, "squeue", f'case "$*" in *%T*) echo "1|RUNNING|None";; *) {QUEUE} ;; esac')
    found = submission.states(read_journal(run))
    assert found["train"][0].id == "1" and found["train"][1].verdict == "running"
    assert found["results"][0].id is None and found["results"][1].told == "NOT SUBMITTED"
    with pytest.raises(InputError, match=r"job 1 \(train\) .* is running; wait for it"):
        submission.submit_chain(read_journal(run), [link("train")])
    assert submission.cancel(read_journal(run)) == ["1"]


def test_two_commands_do_not_submit_at_once(tmp_path: Path) -> None:
    busy = pytest.raises(InputError, match="another command is submitting")
    with submission.alone(tmp_path), busy, submission.alone(tmp_path):
        raise AssertionError


def test_a_damaged_journal_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no jobs were submitted"):
        read_journal(tmp_path)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/chain.json").write_text(json.dumps({"entries": 1}))
    with pytest.raises(GlacierError, match="is damaged"):
        read_journal(tmp_path)
