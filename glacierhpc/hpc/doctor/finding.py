"""What a check found; the checks themselves are in the modules beside this one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from glacierhpc.hpc.slurm.client import Answer

Status = Literal["ok", "warn", "fail", "skip", "unknown"]
"""``warn``: works, not as it should; ``fail``: something needed is broken; ``skip``: does not matter here;
``unknown``: it could not be found out, which is not the same as broken."""

STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class Finding:
    """What one check found on one machine."""

    status: Status
    told: str
    """What there is."""
    fix: str = ""
    """What to do about it; empty where there is nothing to do."""
    name: str = ""
    """Of the check."""

    def plain(self) -> dict[str, str]:
        """Return it as it is written to JSON."""
        return asdict(self)


def ok(told: str) -> Finding:
    """Return the finding that all is well."""
    return Finding("ok", told)


def warn(told: str, fix: str) -> Finding:
    """Return the finding that something works, but not as it should."""
    return Finding("warn", told, fix)


def fail(told: str, fix: str) -> Finding:
    """Return the finding that something needed is broken."""
    return Finding("fail", told, fix)


def skip(told: str) -> Finding:
    """Return the finding that a check does not matter here."""
    return Finding("skip", told)


def unknown(told: str, fix: str = "") -> Finding:
    """Return the finding that it could not be found out."""
    return Finding("unknown", told, fix)


AGAIN = "the machine or a file server is busy, or away: try again, with more time: --patience 4"


def unheard(answer: Answer) -> Finding | None:
    """Return the finding for a command that did not end in time: what it would have said nobody knows."""
    if answer.code is not None or answer.missing:
        return None
    return unknown(f"{Path(answer.command[0]).name} did not answer in time", AGAIN)


def read(values: dict[str, Any]) -> Finding:
    """Return a finding of another machine, of which nothing is taken for granted."""
    status = values.get("status")
    known: Status = status if status in STATUSES else "unknown"
    return Finding(
        known, str(values.get("told", "")), str(values.get("fix", "")), str(values.get("name", ""))
    )
