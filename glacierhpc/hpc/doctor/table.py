"""Findings as a table of a given width, and as plain values; printing them is the command line's."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from glacierhpc.hpc.doctor.finding import STATUSES, Finding, Status

WORDS: dict[Status, str] = {
    "ok": "ok",
    "warn": "warning",
    "fail": "BROKEN",
    "skip": "-",
    "unknown": "unknown",
}
"""What a status is called in a table."""
NARROW, WIDE = 60, 160


def broken(columns: Mapping[str, Sequence[Finding]]) -> bool:
    """Say whether something needed is broken."""
    return any(finding.status == "fail" for findings in columns.values() for finding in findings)


def table(columns: Mapping[str, Sequence[Finding]], *, width: int = 80) -> str:
    """Return the findings of one or more machines, a line for each check, with what to do below it.

    Parameters
    ----------
    columns : mapping
        Findings by machine: ``{"login": ..., "compute": ...}``.
    width : int
        Of the terminal, characters.
    """
    width = min(max(width, NARROW), WIDE)
    names = _names(columns)
    first = max(len(name) for name in names) + 2
    wide = [max(len(title), *(len(word) for word in WORDS.values())) + 2 for title in columns]
    head = "".join(f"{title:<{size}}" for title, size in zip(columns, wide))
    lines = [f"{'':<{first}}{head}".rstrip()]
    for name in names:
        found = {title: _named(name, findings) for title, findings in columns.items()}
        cells = "".join(f"{_word(finding):<{size}}" for finding, size in zip(found.values(), wide))
        lines += _row(f"{name:<{first}}{cells}", _told(found), width)
    return "\n".join([*lines, "", *textwrap.wrap(summary(columns), width)])


def _names(columns: Mapping[str, Sequence[Finding]]) -> list[str]:
    """Return the names of all checks, in the order of the machines."""
    return list(dict.fromkeys(finding.name for findings in columns.values() for finding in findings))


def _named(name: str, findings: Sequence[Finding]) -> Finding | None:
    return next((finding for finding in findings if finding.name == name), None)


def _word(finding: Finding | None) -> str:
    return "" if finding is None else WORDS[finding.status]


def _told(found: Mapping[str, Finding | None]) -> list[tuple[str, str]]:
    """Return what was told and what to do, each once where the machines agree."""
    there = {title: finding for title, finding in found.items() if finding is not None}
    if len({(finding.told, finding.fix) for finding in there.values()}) == 1:
        finding = next(iter(there.values()))
        return [(finding.told, finding.fix)]
    # what does not matter on one machine is not worth a line beside what was found on the other
    worth = {title: finding for title, finding in there.items() if finding.status != "skip"} or there
    if len(worth) == 1 and len(there) > 1:
        return [(finding.told, finding.fix) for finding in worth.values()]
    *others, (last, fix) = [(f"{title}: {finding.told}", finding.fix) for title, finding in worth.items()]
    if all(finding.fix == fix for finding in worth.values()):
        return [*((text, "") for text, _ in others), (last, fix)]
    return [(f"{title}: {finding.told}", finding.fix) for title, finding in worth.items()]


def _row(start: str, told: Sequence[tuple[str, str]], width: int) -> list[str]:
    room = max(width - len(start), 24)
    lines: list[str] = []
    for text, fix in told:
        for line in text.split("\n"):
            lines += textwrap.wrap(line, room, break_on_hyphens=False) or [""]
        if fix:
            lines += textwrap.wrap(
                fix, room, initial_indent="> ", subsequent_indent="  ", break_on_hyphens=False
            )
    return [f"{start}{lines[0]}".rstrip(), *(f"{'':<{len(start)}}{line}" for line in lines[1:])]


def summary(columns: Mapping[str, Sequence[Finding]]) -> str:
    """Return how many findings there are of each kind, in a sentence."""
    every = [finding.status for findings in columns.values() for finding in findings]
    counts = {status: every.count(status) for status in STATUSES}
    words = {
        "ok": "fine",
        "warn": "to be looked at",
        "fail": "broken",
        "skip": "not needed here",
        "unknown": "not known",
    }
    return ", ".join(f"{count} {words[status]}" for status, count in counts.items() if count)
