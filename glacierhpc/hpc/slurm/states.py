"""What became of jobs: asked of the accounting, the queue, the controller, and of what the jobs wrote themselves.

A task of a job array is asked for by its own name, ``ID_NUMBER``; `combined` says what became of the array. A job of
which nobody knows anything is unknown, which is not the same as failed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from glacierhpc.hpc.slurm.arrays import keys, numbers_of
from glacierhpc.hpc.slurm.client import call

Verdict = Literal["waiting", "running", "done", "stopped", "failed", "cancelled", "unknown"]

VERDICTS: dict[str, Verdict] = {
    **dict.fromkeys(
        ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD", "CONFIGURING"),
        "waiting",
    ),
    **dict.fromkeys(("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"), "running"),
    "COMPLETED": "done",
    **dict.fromkeys(("TIMEOUT", "PREEMPTED", "NODE_FAIL", "DEADLINE", "REVOKED"), "stopped"),
    **dict.fromkeys(("FAILED", "OUT_OF_MEMORY", "BOOT_FAIL", "LAUNCH_FAILED"), "failed"),
    "CANCELLED": "cancelled",
}  # fmt: skip
"""Slurm's job states (squeue(1), sacct(1)) by what they mean for a chain. ``stopped``: by no fault of the work."""

ACTIVE = ("waiting", "running")
NEVER_STARTS = "DependencyNeverSatisfied"
FORGOTTEN = "invalid job id specified"
"""What the controller says of a job that has been over for a while, or never was."""


@dataclass(frozen=True)
class JobState:
    """What is known of a job."""

    verdict: Verdict
    told: str = ""
    """In the words of who told it."""
    exit_code: int | None = None
    reason: str = ""
    """Why it waits."""
    source: str = ""
    """Who told it."""
    tasks: Mapping[str, JobState] = field(default_factory=dict)
    """Of an array: what is known of each of its tasks."""

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.verdict in ACTIVE


UNKNOWN = JobState("unknown", source="nobody")


def job_states(
    ids: Sequence[str], *, exit_files: Iterable[Path] = (), timeout_s: float = 60.0
) -> dict[str, JobState]:
    """Return what is known of each job.

    The accounting is asked first, then the queue, the controller, and the exit files that the jobs leave. What runs or
    waits is asked of the queue in any case: the accounting may be behind.

    Parameters
    ----------
    ids : sequence of str
        Ids of jobs, ``ID_NUMBER`` for the tasks of arrays.
    exit_files : iterable of path
        Files ``NAME-ID.exit`` of job scripts.
    """
    known: dict[str, JobState] = {}
    for ask in (_accounting, _queue, _controller):
        # ids are looked up for every line of an answer, and arrays may have thousands of tasks
        open_ids = dict.fromkeys(job for job in ids if job not in known or known[job].active).keys()
        if open_ids:
            known |= ask(open_ids, timeout_s)
    own = {path.stem.rpartition("-")[2]: path for path in exit_files}
    for job in ids:
        if job not in known and job in own:
            known[job] = _exit_file(own[job])
    return {job: known.get(job, UNKNOWN) for job in ids}


def has_ended(job: str, *, timeout_s: float = 20.0) -> bool:
    """Return whether the controller knows a job to be over, and its processes with it; False where it does not tell.

    Of a job whose node was lost nobody knows what its processes do.

    Parameters
    ----------
    job : str
        ``ID@CLUSTER``, see `surroundings.job_attempt`.
    """
    number, _, cluster = job.partition("@")
    told = call(["scontrol", "show", "config"], timeout_s=timeout_s)
    if not re.search(rf"^ClusterName\s*=\s*{re.escape(cluster)}\s*$", told.out, re.MULTILINE | re.IGNORECASE):
        return False  # numbers of another cluster mean other jobs
    answer = call(["scontrol", "show", "job", "--oneliner", number], timeout_s=timeout_s)
    if not answer.ok:
        return FORGOTTEN in answer.err.lower()
    # by the number of its last task Slurm tells all tasks of an array
    states = [_state(told, "", "controller") for told in re.findall(r"\bJobState=(\S+)", answer.out)]
    over = [not state.active and state.verdict != "unknown" and state.told != "NODE_FAIL" for state in states]
    return bool(over) and all(over)


def combined(tasks: Mapping[str, JobState]) -> JobState:
    """Return what became of an array: it runs while one of its tasks does, and is done when all of them are."""
    verdicts = [state.verdict for state in tasks.values()]
    verdict = next(found for found in WEIGHT if found in verdicts)
    of_it = next(state for state in tasks.values() if state.verdict == verdict)
    counts = ", ".join(f"{verdicts.count(found)} {found}" for found in reversed(WEIGHT) if found in verdicts)
    return JobState(verdict, counts, of_it.exit_code, of_it.reason, of_it.source, dict(tasks))


WEIGHT: tuple[Verdict, ...] = ("running", "waiting", "failed", "unknown", "stopped", "cancelled", "done")


def _accounting(ids: Collection[str], timeout_s: float) -> dict[str, JobState]:
    command = ["sacct", "--duplicates", "--noheader", "--parsable2", "--format=JobID,State,ExitCode"]
    answer = call([*command, f"--jobs={','.join(_whole(ids))}"], timeout_s=timeout_s)
    known: dict[str, JobState] = {}
    for line in answer.out.splitlines() if answer.ok else ():
        job, state, code = (*line.split("|"), "", "")[:3]
        # steps are ID.0; of a job that was queued again the last line is of its last start
        known |= dict.fromkeys(_meant(job, ids), _state(state, code, "accounting"))
    return known


def _queue(ids: Collection[str], timeout_s: float) -> dict[str, JobState]:
    # one id that the queue has forgotten would spoil the answer for all the others: --me asks for none by id
    command = ["squeue", "--me", "--array", "--noheader", "--states=all", "--format=%i|%T|%r"]
    answer = call(command, timeout_s=timeout_s)
    known: dict[str, JobState] = {}
    for line in answer.out.splitlines() if answer.ok else ():
        job, state, reason = (*line.split("|"), "", "")[:3]
        found = _state(state, "", "queue", reason)
        if found.verdict in (*ACTIVE, "done"):  # how others ended is told better by the next to be asked
            known |= dict.fromkeys(_meant(job, ids), found)
    return known


def _controller(ids: Collection[str], timeout_s: float) -> dict[str, JobState]:
    known: dict[str, JobState] = {}
    for job in _whole(ids):
        answer = call(["scontrol", "show", "job", "--oneliner", job], timeout_s=timeout_s)
        for line in answer.out.splitlines() if answer.ok else ():
            fields = dict(re.findall(r"(\w+)=(\S*)", line))
            own, task = fields.get("JobId", ""), fields.get("ArrayTaskId", "")
            name = f"{fields.get('ArrayJobId', own)}_[{task}]" if task else own
            reason = fields.get("Reason", "")
            found = _state(fields.get("JobState", ""), fields.get("ExitCode", ""), "controller", reason)
            known |= dict.fromkeys(_meant(name, ids), found)
    return known


def _whole(ids: Collection[str]) -> list[str]:
    """Return ids with those of whole arrays for those of their tasks, each once."""
    return list(dict.fromkeys(job.partition("_")[0] for job in ids))


def _meant(name: str, ids: Collection[str]) -> list[str]:
    """Return which of the ids a name of Slurm means: ``7``, ``7_3``, ``7_[4-9%2]``."""
    job, array, numbers = name.partition("_")
    return [key for key in (keys(job, numbers_of(numbers)) if array else [job]) if key in ids]


def _state(state: str, code: str, source: str, reason: str = "") -> JobState:
    told = state.split()[0].rstrip("+") if state.strip() else ""  # "CANCELLED by 1000"
    status, _, signal = code.partition(":")
    exit_code = int(status) if status.isdigit() else None
    if exit_code == 0 and signal.isdigit() and int(signal):
        exit_code = 128 + int(signal)
    verdict = VERDICTS.get(told, "unknown")
    if verdict == "failed" and exit_code == 75:
        verdict = "stopped"  # saved its work, and is not queued again
    return JobState(verdict, told, exit_code, "" if reason == "None" else reason, source)


def _exit_file(path: Path) -> JobState:
    """Read ``CODE WORD ATTEMPT TIME SUCCESSOR NODES``; who only began may run or have been killed."""
    try:
        code, word, *_ = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return UNKNOWN
    if word in ("requeued", "succeeded"):
        return JobState("waiting", word, 75, source="exit file")
    if not code.isdigit():
        return JobState("unknown", word, source="exit file")
    verdict: Verdict = {"0": "done", "75": "stopped"}.get(code, "failed")  # type: ignore[assignment]
    return JobState(verdict, word, int(code), source="exit file")


def successor(path: Path) -> str | None:
    """Return the id of the job that goes on for one that has left this exit file, or None."""
    try:
        _, word, _, _, after, *_ = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return after if word == "succeeded" else None
