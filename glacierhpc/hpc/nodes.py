"""On which nodes jobs of a run failed again and again: each job writes where it ran beside how it ended."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from glacierhpc.errors import REQUEUE, InputError
from glacierhpc.hpc.journal import Journal
from glacierhpc.hpc.slurm.client import call
from glacierhpc.hpc.slurm.states import JobState

NO_FAULT_OF_NODES = (0, InputError.exit_code, REQUEUE)
KILLED = ("FAILED", "NODE_FAIL")
"""Ends of a job that was not asked to end, so that it could not write how it did."""


def failing_nodes(journal: Journal, known: Mapping[str, JobState]) -> dict[str, list[str]]:
    """Return the nodes on which two jobs of a run failed, or more, with the ids of these jobs.

    Earlier submissions count, too. Which of the nodes of one job was to blame is not known: each is.

    Parameters
    ----------
    known : mapping
        What became of the latest jobs, and of tasks of arrays, by their ids.
    """
    failed: dict[str, list[str]] = {}
    files = {path.stem.rpartition("-")[2]: path for path in journal.exit_files()}
    for job, path in sorted(files.items(), key=lambda item: _numbers(item[0])):
        for node in _failed_on(path, known.get(job)):
            failed.setdefault(node, []).append(job)
    return {node: jobs for node, jobs in sorted(failed.items()) if len(jobs) > 1}


def _failed_on(path: Path, state: JobState | None) -> list[str]:
    """Return the nodes of a job that failed, by its exit file ``CODE WORD ATTEMPT TIME SUCCESSOR NODES``."""
    try:
        code, word, _, _, _, nodes = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):  # torn, or of a job that ran outside of Slurm
        return []
    if word == "ended":
        return _each(nodes) if code.isdigit() and int(code) not in NO_FAULT_OF_NODES else []
    return _each(nodes) if word == "began" and state is not None and state.told in KILLED else []


def _numbers(job: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", job)]


def _each(nodes: str) -> list[str]:
    """Return the names in a list of Slurm, such as ``n[01-03],m7``; ``-`` is none."""
    if "[" not in nodes:
        return [name for name in nodes.split(",") if name != "-"]
    return call(["scontrol", "show", "hostnames", nodes]).out.split()
