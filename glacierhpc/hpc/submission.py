"""Submitting a chain, looking at it, ending it: what the scheduler is asked to do for a run, kept in its journal."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from glacierhpc.atomic import write_text
from glacierhpc.errors import GlacierError, InputError, redact
from glacierhpc.hpc.chain import Link
from glacierhpc.hpc.journal import Entry, Journal
from glacierhpc.hpc.slurm.arrays import keys, numbers_of, numbers_text
from glacierhpc.hpc.slurm.client import call
from glacierhpc.hpc.slurm.states import NEVER_STARTS, JobState, combined, job_states, successor
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


def submit_chain(
    journal: Journal, links: Sequence[Link], *, prepare: Callable[[], object] = lambda: None
) -> Journal:
    """Submit the jobs, each waiting for those it names; the journal knows of each first.

    Parameters
    ----------
    prepare : callable
        Called before the first is submitted, and not at all where jobs of the run are still at work.

    Raises
    ------
    InputError
        If jobs of the run wait or run already, or it is not known whether they do.
    GlacierError
        If the scheduler refuses one; those submitted before it are cancelled.
    """
    _refuse_active(journal)
    prepare()
    token = secrets.token_hex(4)
    ids: dict[str, str] = {}
    for link in links:
        path = journal.folder / f"{link.spec.name}.sbatch"
        entry = Entry(
            link.spec.name, f"{link.spec.label}-{token}", str(path), array=numbers_text(link.spec.array)
        )
        journal = journal.noted(entry)
        write_text(path, link.script)
        after, ended = ([ids[name] for name in names] for names in (link.after, link.ended))
        try:
            job = submit(str(path), entry.label, after=after, ended=ended)
        except GlacierError:
            if ids:
                call(["scancel", *ids.values()])
            raise
        journal = journal.noted(replace(entry, id=job))
        ids[link.spec.name] = job
    return journal


def _refuse_active(journal: Journal) -> None:
    for name, (entry, state) in states(journal).items():
        # who told last that it is queued again was the job itself: it may have been cancelled since
        gone = state.source == "exit file" and _scheduler_answers()
        if state.active and state.reason != NEVER_STARTS and not gone:
            raise InputError(
                f"job {entry.id} ({name}) of {str(journal.run)!r} is {state.told.lower()}; wait for it, or write: "
                f"glacierhpc cancel {journal.run}"
            )
        # a job that the scheduler has forgotten and that left no word of its own ended long ago
        if state.verdict == "unknown" and entry.id is not None and not _scheduler_answers():
            raise InputError(
                f"what became of job {entry.id} ({name}) is not known, the scheduler does not answer; try again later"
            )


def _scheduler_answers() -> bool:
    return call(["squeue", "--me", "--noheader"]).ok


def states(journal: Journal) -> dict[str, tuple[Entry, JobState]]:
    """Return the latest job of each part of the chain with what is known of it.

    A job whose submission was cut short is looked for by its name; of one that a new job goes on for, it is told what
    became of the new one. An array has the states of its tasks.
    """
    entries = {name: _identified(entry) for name, entry in journal.latest().items()}
    files = {path.stem.rpartition("-")[2]: path for path in journal.exit_files()}
    tasks = {name: [_last(key, files) for key in _keys(entry)] for name, entry in entries.items()}
    ids = [job for jobs in tasks.values() for job in jobs]
    known = job_states(ids, exit_files=files.values()) if ids else {}
    found = {}
    for name, entry in entries.items():
        own = {job: known[job] for job in tasks[name]}
        state = combined(own) if entry.array and own else next(iter(own.values()), NEVER)
        alone = not entry.array and tasks[name]
        found[name] = (replace(entry, id=tasks[name][0]) if alone else entry, state)
    return found


NEVER = JobState("cancelled", "NOT SUBMITTED", source="queue")


def _keys(entry: Entry) -> list[str]:
    return keys(entry.id, numbers_of(entry.array)) if entry.id is not None else []


def _last(job: str, files: Mapping[str, Path]) -> str:
    """Return the job that goes on for one, or itself."""
    seen: set[str] = set()
    while job in files and job not in seen and (after := successor(files[job])):
        seen.add(job)
        job = f"{after}_{job.partition('_')[2]}" if "_" in job else after
    return job


def _identified(entry: Entry) -> Entry:
    return entry if entry.id is not None else replace(entry, id=find(entry.label))


def last_words(
    journal: Journal, found: Mapping[str, tuple[Entry, JobState]], *, lines: int, most: int = 3
) -> dict[Path, list[str]]:
    """Return the last lines of the logs of jobs that failed; where none did, the last line of the latest log.

    Parameters
    ----------
    found : mapping
        What `states` has said.
    lines : int
        How many of each log.
    most : int
        Of how many tasks of one array.
    """
    told: dict[Path, int] = {}
    for name, (entry, state) in found.items():
        of_tasks = [job for job, task in state.tasks.items() if task.verdict in WENT_WRONG][:most]
        jobs = of_tasks or (
            [entry.id] if entry.id and not state.tasks and state.verdict in WENT_WRONG else []
        )
        told |= {path: lines for job in jobs if (path := journal.folder / f"{name}-{job}.log").is_file()}
    if not told:
        logs = sorted(journal.folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
        told = dict.fromkeys(logs[-1:], 1)
    return {path: _end_of(path, count) for path, count in told.items()}


WENT_WRONG = ("failed", "stopped")


def _end_of(path: Path, lines: int) -> list[str]:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8000))
        text = file.read().decode("utf-8", "replace")
    return [redact(line) for line in text.strip().splitlines()[-lines:]]


def cancel(journal: Journal) -> list[str]:
    """Cancel the jobs of a run that wait or run, the last first, and return their ids.

    Raises
    ------
    GlacierError
        If the scheduler does not do it.
    """
    active: list[str] = []
    found = states(journal)
    known = [task.verdict for _, state in found.values() for task in state.tasks.values() or [state]]
    if "unknown" in known and not _scheduler_answers():
        raise GlacierError(
            f"nothing was cancelled: the scheduler does not answer, and whether jobs of {str(journal.run)!r} wait or "
            "run is not known; try again later"
        )
    for entry, state in found.values():
        if state.tasks:
            active += dict.fromkeys(job.partition("_")[0] for job, task in state.tasks.items() if task.active)
        elif entry.id and state.active:
            active.append(entry.id)
    if active:
        answer = call(["scancel", *reversed(active)])
        if not answer.ok:
            raise answer.error(f"jobs {', '.join(active)} could not be cancelled")
    return active


def tested(links: Sequence[Link]) -> bool:
    """Ask `sbatch --test-only` about each script, which leaves nothing behind, in the run's folder or in the queue.

    Returns
    -------
    bool
        Whether it accepted all: False where there is no `sbatch`, or the scheduler does not answer.

    Raises
    ------
    InputError
        If the scheduler would refuse one.
    """
    accepted = True
    with tempfile.TemporaryDirectory(prefix="glacierhpc-") as folder:
        for link in links:
            path = Path(folder) / f"{link.spec.name}.sbatch"
            path.write_text(link.script, encoding="utf-8")
            answer = call(["sbatch", "--test-only", str(path)])
            if answer.missing:
                return False
            accepted = accepted and answer.ok
            if not answer.ok and not answer.transient:
                raise InputError(
                    f"the scheduler would refuse the job {link.spec.name!r}: {answer.err.strip()}"
                )
    return accepted
