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


def test_a_job_is_found_by_a_user_who_looks_at_one_partition_only(
    scheduler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEUE_PARTITION", "gpu")
    program(scheduler, "squeue", f'[ -z "${{SQUEUE_PARTITION:-}}" ] || exit 0\n{QUEUE}')
    program(scheduler, "sbatch", TAKE + "; exit 1")
    assert submit("x.sbatch", "run-1", settle_s=0) == "1"


# --- chains


def link(name: str, *, array: tuple[int, ...] = (), **waits: tuple[str, ...]) -> Link:
    spec = JobSpec(name, "A test.", ("run",), label=f"r-{name}", array=array)
    return Link(spec, f"#!/bin/bash\n# {name}\n", **waits)


def test_jobs_wait_for_one_another_and_the_journal_knows_them(scheduler: Path) -> None:
    links = [link("imagery"), link("train", after=("imagery",))]
    journal = submission.submit_chain(Journal(scheduler / "run"), links)
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


def test_an_array_is_waited_for_and_known_by_its_tasks(scheduler: Path) -> None:
    waits = {"after": ("imagery",), "ended": ("trials",)}
    links = [link("imagery"), link("trials", array=(0, 1, 4), after=("imagery",)), link("gather", **waits)]
    submission.submit_chain(Journal(scheduler / "run"), links)
    assert "--dependency=afterok:1,afterany:2 --kill-on-invalid-dep=yes" in jobs(scheduler)[2]
    journal = read_journal(scheduler / "run")
    assert [entry.array for entry in journal.entries] == ["", "0-1,4", ""]
    queue = (
        "'1|COMPLETED|None' '2_0|COMPLETED|None' '2_1|RUNNING|None' '2_4|PENDING|None' '3|PENDING|Dependency'"
    )
    program(scheduler, "squeue", f'printf "%s\\n" {queue}')
    entry, state = submission.states(journal)["trials"]
    assert entry.id == "2" and state.verdict == "running" and state.told == "1 done, 1 waiting, 1 running"
    assert {job: task.verdict for job, task in state.tasks.items()} == {
        "2_0": "done", "2_1": "running", "2_4": "waiting"
    }  # fmt: skip
    with pytest.raises(InputError, match=r"job 2 \(trials\)"):
        submission.submit_chain(journal, links)
    assert submission.cancel(journal) == ["2", "3"]


def test_an_array_whose_answer_was_lost_is_found_by_its_name(scheduler: Path) -> None:
    """Its tasks are jobs of numbers of their own; the array's is the one that others wait for."""
    program(scheduler, "sbatch", "exit 1")
    program(
        scheduler,
        "squeue",
        'case "$*" in *--format=%F*) printf "%s\\n" 7 7 7;; *) printf "%s\\n" 9 8 7;; esac',
    )
    assert submit("x.sbatch", "run-1", settle_s=0) == "7"
    program(scheduler, "squeue", "true")
    program(scheduler, "sacct", 'case "$*" in *--format=JobID\\ *) printf "%s\\n" 7_1 7_0;; esac')
    assert submit("x.sbatch", "run-2", settle_s=0) == "7"


def test_a_job_that_a_new_one_goes_on_for_is_the_new_one(scheduler: Path) -> None:
    run = scheduler / "run"
    journal = (
        Journal(run).noted(Entry("train", "r-train-1", "x", "1")).noted(Entry("t", "r-t-1", "x", "2", "0-1"))
    )
    (run / "jobs/train-1.exit").write_text("75 succeeded 0 1 8\n")
    (run / "jobs/train-8.exit").write_text("75 succeeded 1 2 9\n")
    (run / "jobs/t-2_1.exit").write_text("75 succeeded 0 1 10\n")
    program(scheduler, "squeue", 'printf "%s\\n" "9|RUNNING|None" "2_0|COMPLETED|None" "10_1|PENDING|None"')
    program(scheduler, "sacct", 'printf "%s\\n" "1|FAILED|75:0" "8|FAILED|75:0" "2_1|FAILED|75:0"')
    found = submission.states(journal)
    assert found["train"][0].id == "9" and found["train"][1].verdict == "running"
    assert list(found["t"][1].tasks) == ["2_0", "10_1"] and found["t"][1].verdict == "waiting"
    with pytest.raises(InputError, match="job 9"):
        submission.submit_chain(journal, [link("train")])
    assert submission.cancel(journal) == ["9", "10"]


def test_a_job_that_said_that_it_waits_does_not_stand_in_the_way_for_ever(scheduler: Path) -> None:
    """Queued again, then cancelled, then forgotten by a scheduler without accounting: only its own word is left."""
    journal = Journal(scheduler / "run").noted(Entry("train", "r-train-1", "x", "1"))
    (scheduler / "run/jobs/train-1.exit").write_text("75 requeued 0 1\n")
    program(scheduler, "squeue", "exit 1")
    with pytest.raises(InputError, match="job 1"):
        submission.submit_chain(journal, [link("train")])
    program(scheduler, "squeue", QUEUE)
    assert submission.submit_chain(journal, [link("train")]).entries[-1].id == "1"


def test_of_a_scheduler_that_does_not_answer_it_is_not_said_that_nothing_runs(scheduler: Path) -> None:
    journal = Journal(scheduler / "run").noted(Entry("train", "r-train-1", "x", "1"))
    program(scheduler, "squeue", "exit 1")
    with pytest.raises(GlacierError, match="nothing was cancelled: the scheduler does not answer"):
        submission.cancel(journal)
    program(scheduler, "squeue", "true")  # it has forgotten the job
    assert submission.cancel(journal) == []


def test_why_a_job_failed_is_read_from_its_own_log(scheduler: Path) -> None:
    run = scheduler / "run"
    journal = (
        Journal(run).noted(Entry("train", "r-train-1", "x", "1")).noted(Entry("t", "r-t-1", "x", "2", "0-1"))
    )
    (run / "jobs/train-1.log").write_text("".join(f"line {number}\n" for number in range(9)) + "a://u:pw@h\n")
    (run / "jobs/t-2_0.log").write_text("fine\n")
    (run / "jobs/t-2_1.log").write_text("broken\n")
    program(scheduler, "sacct", 'printf "%s\\n" "1|FAILED|3:0" "2_0|COMPLETED|0:0" "2_1|FAILED|1:0"')
    found = submission.states(journal)
    told = submission.last_words(journal, found, lines=3)
    assert {path.name: lines for path, lines in told.items()} == {
        "train-1.log": ["line 7", "line 8", "a://...@h"], "t-2_1.log": ["broken"]
    }  # fmt: skip


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
