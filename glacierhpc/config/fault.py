"""One thing that is wrong with a configuration; which rules there are is said in `checks`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: the key it belongs to and a sentence."""

    path: tuple[str | int, ...]
    message: str
