"""`glacierhpc status`: what became of the jobs of a run, why, and what to do about what did not end well."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glacierhpc.cli.arguments import Json
from glacierhpc.cli.chains import records
from glacierhpc.cli.steps import STEPS
from glacierhpc.console import show

if TYPE_CHECKING:
    from glacierhpc.hpc.journal import Entry, Journal
    from glacierhpc.hpc.slurm.states import JobState

LAST_LINES = 5
"""Of the log of a job that failed, and of the words of a step that did."""


def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of the run")], as_json: Json = False
) -> None:
    """Say what became of the jobs of a run, why those that failed did, which steps are done, and how to go on."""
    from glacierhpc.hpc import submission
    from glacierhpc.hpc.journal import read_journal

    journal = read_journal(run.absolute())
    found = submission.states(journal)
    logs = submission.last_words(journal, found, lines=LAST_LINES)
    steps = records(journal.run, list(STEPS))
    nodes, advice = _failing_nodes(journal, found), _advice(journal, found, steps)
    rows: list[list[Any]] = [_row(name, entry, state) for name, (entry, state) in found.items()]
    rows += [[f"log {path.stem}", line] for path, lines in logs.items() for line in lines]
    for step, record in steps.items():
        said = str(record.get("error") or "").splitlines()[:LAST_LINES]
        rows += [[f"step {step}", text] for text in (record.get("state"), *said)]
    rows += [[f"node {node}", text] for node, text in _blamed(journal, nodes).items()]
    rows += [[what, text] for what, text in advice.items()]
    told = {
        "jobs": {name: _told(entry, state) for name, (entry, state) in found.items()},
        "logs": {str(path): lines for path, lines in logs.items()},
        "steps": {step: record.get("state") for step, record in steps.items()},
        "failing_nodes": nodes,
        "advice": advice,
    }
    show({"table": rows, "run": str(journal.run), **told}, as_json=as_json)


def _row(name: str, entry: Entry, state: JobState) -> list[str]:
    words = [state.told.lower() or "unknown", f"({state.reason})" if state.reason else ""]
    code = f"exit code {state.exit_code}" if state.exit_code else ""
    return [name, f"job {entry.id or '-'}", *filter(None, (state.verdict, *words, code))]


def _told(entry: Entry, state: JobState) -> dict[str, Any]:
    told = {**_plain(state), "id": entry.id}
    return told | ({"tasks": {job: _plain(task) for job, task in state.tasks.items()}} if state.tasks else {})


def _plain(state: JobState) -> dict[str, Any]:
    return {
        "state": state.verdict, "told": state.told, "exit_code": state.exit_code, "reason": state.reason,
        "source": state.source,
    }  # fmt: skip


def _failing_nodes(journal: Journal, found: Mapping[str, tuple[Entry, JobState]]) -> Mapping[str, list[str]]:
    from glacierhpc.hpc.nodes import failing_nodes

    known = {entry.id: state for entry, state in found.values() if entry.id}
    for _, state in found.values():
        known |= state.tasks
    return failing_nodes(journal, known)


def _blamed(journal: Journal, nodes: Mapping[str, list[str]]) -> dict[str, str]:
    """Return what to say of the nodes on which jobs failed again and again; nothing of those that are left out."""
    directives = journal.values.get("directives", {}).get("all", {})
    left_out = [name for name in str(directives.get("exclude", "")).split(",") if name]
    return {
        node: f"jobs {', '.join(jobs)} failed there; if their logs do not say why, leave it out: glacierhpc resume "
        f"{shlex.quote(str(journal.run))} --set directives.all.exclude={','.join([*left_out, node])}"
        for node, jobs in nodes.items()
        if node not in left_out
    }


def _advice(
    journal: Journal, found: Mapping[str, tuple[Entry, JobState]], steps: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Return commands that repeat what did not end well, where nothing is at work any more."""
    from glacierhpc.hpc.slurm.states import NEVER_STARTS

    states = [state for _, state in found.values()]
    if any(state.active and state.reason != NEVER_STARTS for state in states):
        return {}
    run = shlex.quote(str(journal.run))
    advice = {}
    interrupted = any(record.get("state") != "done" for record in steps.values())
    if interrupted or any(state.verdict not in ("done", "unknown") for state in states):
        advice["go on"] = f"glacierhpc resume {run} repeats what is not done, and nothing else"
    # where some may fail, the step is done all the same
    failed = dict(row[:2] for row in steps.get("acquire", {}).get("table") or ()).get("scenes failed")
    if failed:
        advice["scenes failed"] = (
            f"{failed}; glacierhpc acquire {run} reads these again, and no others; then resume"
        )
    return advice
