"""Submitting a chain, looking at it, ending it: what the scheduler is asked to do for a run, kept in its journal."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from glacierhpc.atomic import write_text
from glacierhpc.errors import GlacierError, InputError
from glacierhpc.hpc.chain import Link
from glacierhpc.hpc.journal import Entry, Journal
from glacierhpc.hpc.slurm.client import call
from glacierhpc.hpc.slurm.states import NEVER_STARTS, UNKNOWN, JobState, job_states
from glacierhpc.hpc.slurm.submit import find, submit


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Let one command at a time submit or cancel jobs of a run.

    Raises
    ------
    InputError
        If another one is at it.
    """
    run.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run / ".jobs-lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        os.close(descriptor)
        raise InputError(f"another command is submitting jobs of {str(run)!r}; wait for it") from err
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(descriptor)


def submit_chain(journal: Journal, links: Sequence[Link]) -> Journal:
    """Submit the jobs, each waiting for the one before to end well; the journal knows of each first.

    Raises
    ------
    InputError
        If jobs of the run wait or run already, or it is not known whether they do.
    GlacierError
        If the scheduler refuses one; those submitted before it are cancelled.
    """
    _refuse_active(journal)
    token = secrets.token_hex(4)
    after: list[str] = []
    for link in links:
        label = f"{link.spec.label}-{token}"
        path = journal.folder / f"{link.spec.name}.sbatch"
        journal = journal.noted(Entry(link.spec.name, label, str(path)))
        write_text(path, link.script)
        try:
            job = submit(str(path), label, after=after)
        except GlacierError:
            if after:
                call(["scancel", *after])
            raise
        journal = journal.noted(Entry(link.spec.name, label, str(path), job))
        after = [job]
    return journal


def _refuse_active(journal: Journal) -> None:
    for name, (entry, state) in states(journal).items():
        if state.active and state.reason != NEVER_STARTS:
            raise InputError(
                f"job {entry.id} ({name}) of {str(journal.run)!r} is {state.told.lower()}; wait for it, or write: "
                f"glacierhpc cancel {journal.run}"
            )
        # a job that the scheduler has forgotten and that left no word of its own ended long ago
        if state is UNKNOWN and entry.id is not None and not _scheduler_answers():
            raise InputError(
                f"what became of job {entry.id} ({name}) is not known, the scheduler does not answer; try again later"
            )


def _scheduler_answers() -> bool:
    return call(["squeue", "--me", "--noheader"]).ok


def states(journal: Journal) -> dict[str, tuple[Entry, JobState]]:
    """Return the latest job of each part of the chain with what is known of it.

    A job whose submission was cut short is looked for by its name.
    """
    entries = {name: _identified(entry) for name, entry in journal.latest().items()}
    ids = [entry.id for entry in entries.values() if entry.id is not None]
    known = job_states(ids, exit_files=journal.exit_files()) if ids else {}
    never = JobState("cancelled", "NOT SUBMITTED", source="queue")
    return {
        name: (entry, known.get(entry.id, UNKNOWN) if entry.id else never) for name, entry in entries.items()
    }


def _identified(entry: Entry) -> Entry:
    return entry if entry.id is not None else replace(entry, id=find(entry.label))


def cancel(journal: Journal) -> list[str]:
    """Cancel the jobs of a run that wait or run, the last first, and return their ids.

    Raises
    ------
    GlacierError
        If the scheduler does not do it.
    """
    active = [entry.id for entry, state in states(journal).values() if entry.id and state.active]
    if active:
        answer = call(["scancel", *reversed(active)])
        if not answer.ok:
            raise answer.error(f"jobs {', '.join(active)} could not be cancelled")
    return active


def tested(links: Sequence[Link]) -> None:
    """Ask `sbatch --test-only` about each script, which leaves nothing behind, in the run's folder or in the queue.

    Raises
    ------
    InputError
        If the scheduler would refuse one. Where there is no `sbatch`, nothing is said.
    """
    with tempfile.TemporaryDirectory(prefix="glacierhpc-") as folder:
        for link in links:
            path = Path(folder) / f"{link.spec.name}.sbatch"
            path.write_text(link.script, encoding="utf-8")
            answer = call(["sbatch", "--test-only", str(path)])
            if answer.missing:
                return
            if not answer.ok and not answer.transient:
                raise InputError(
                    f"the scheduler would refuse the job {link.spec.name!r}: {answer.err.strip()}"
                )
