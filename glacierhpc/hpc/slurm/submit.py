"""Submitting a script once, also when `sbatch` hangs, loses its answer, or fails after the scheduler took the job."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from glacierhpc.errors import GlacierError
from glacierhpc.hpc.slurm.client import Answer, call

TRIES = 5
FIRST_WAIT_S = 2.0
"""Before the second try; doubled each time."""
SETTLE_S = 5.0
"""How long a request that was under way when `sbatch` was ended may take to arrive."""


def submit(
    script: str,
    name: str,
    *,
    after: Sequence[str] = (),
    ended: Sequence[str] = (),
    timeout_s: float = 60.0,
    settle_s: float = SETTLE_S,
) -> str:
    """Submit a script and return the id of its job, of which there is one whatever happens on the way.

    Nothing is submitted a second time before the scheduler, asked for the name, has answered that it has no such job.

    Parameters
    ----------
    script : path
        The job script.
    name : str
        Name of the job in the queue, which no other job of this user ever has.
    after : sequence of str
        Ids of jobs that must end well before this one starts; if one does not, this one is cancelled. Of an array
        all tasks must.
    ended : sequence of str
        Ids of jobs that must have ended before this one starts, well or not.
    timeout_s : float
        Longest wait for one answer, seconds.
    settle_s : float
        Wait before the second look for a job whose `sbatch` did not answer, seconds.

    Raises
    ------
    GlacierError
        If the scheduler refuses the job, or does not say whether it has it.
    """
    command = sbatch(script, name, after=after, ended=ended)
    answer = Answer(tuple(command), None)
    for attempt in range(TRIES):
        if attempt:
            time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
        answer = call(command, timeout_s=timeout_s)
        if answer.ok and (found := _id(answer.out)):
            return found
        # a clear refusal has left nothing behind, anything else may have
        known = find(name, timeout_s=timeout_s)
        if known is None and not answer.missing and (answer.ok or answer.transient):
            time.sleep(settle_s)
            known = find(name, timeout_s=timeout_s)
        if known is not None:
            return known
        if not (answer.ok or answer.transient):
            break
    raise answer.error(f"the job {name!r} could not be submitted")


def sbatch(script: str, name: str, *, after: Sequence[str] = (), ended: Sequence[str] = ()) -> list[str]:
    """Return the command that submits a script; its arguments are those of `submit`."""
    waits = [":".join([how, *ids]) for how, ids in (("afterok", after), ("afterany", ended)) if ids]
    waiting = [f"--dependency={','.join(waits)}", "--kill-on-invalid-dep=yes"] if waits else []
    return ["sbatch", "--parsable", f"--job-name={name}", *waiting, script]


def find(name: str, *, timeout_s: float = 60.0, tries: int = TRIES) -> str | None:
    """Return the id of this user's job of a name, waiting or running or ended, or None if there is none.

    Raises
    ------
    GlacierError
        If the scheduler does not answer: then nobody knows.
    """
    answer = Answer((), None)
    for attempt in range(tries):
        if attempt:
            time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
        answer = call(
            ["squeue", "--me", "--noheader", "--states=all", f"--name={name}", "--format=%F"],
            timeout_s=timeout_s,
        )
        if answer.ok:
            return _first(answer.out) or _kept(name, timeout_s)
        if not answer.transient:
            break
    raise GlacierError(
        f"whether the scheduler has the job {name!r} is not known; when it answers again, write: glacierhpc resume RUN"
    ) from answer.error("the queue could not be read")


def _kept(name: str, timeout_s: float) -> str | None:
    """Ask the accounting, where there is one: the queue forgets a job some minutes after its end."""
    command = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID", f"--name={name}"]
    answer = call([*command, "--starttime=now-7days"], timeout_s=timeout_s)
    return _first(answer.out) if answer.ok else None


def _first(text: str) -> str | None:
    ids = {line.strip().partition("_")[0] for line in text.splitlines()}  # an array's tasks are ID_NUMBER
    return min((job for job in ids if job.isdigit()), key=int, default=None)


def _id(text: str) -> str | None:
    """Return the id that `sbatch --parsable` told: ``ID`` or ``ID;CLUSTER``, among what a site lets it say besides."""
    found = re.findall(r"^(\d+)(?:;\S*)?$", text, re.MULTILINE)
    return found[-1] if len(found) == 1 else None
