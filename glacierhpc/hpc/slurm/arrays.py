"""Job arrays: the numbers of their tasks as Slurm writes them, and lists too long for one array parted into several."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def numbers_text(numbers: Iterable[int]) -> str:
    """Return numbers as Slurm writes them: ``0-3,7``.

    Parameters
    ----------
    numbers : iterable of int
        In any order.
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def numbers_of(text: str) -> tuple[int, ...]:
    """Return the numbers that Slurm means by ``0-3,7``, ``0-6:2``, ``[4-9%2]``; none where it is no such text."""
    found: list[int] = []
    for part in text.strip("[]").partition("%")[0].split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if match:
            first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
            found += range(first, last + 1, step)
    return tuple(found)


def parted(numbers: Sequence[int], size: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return the arrays that together have these numbers: for each what to add, and the numbers of its own tasks.

    Parameters
    ----------
    numbers : sequence of int
        Of all tasks.
    size : int
        MaxArraySize of the scheduler: its arrays count from 0 to one less.
    """
    parts: dict[int, list[int]] = {}
    for number in sorted(set(numbers)):
        parts.setdefault(number // size * size, []).append(number % size)
    return [(offset, tuple(own)) for offset, own in parts.items()]


def keys(job: str, numbers: Sequence[int]) -> list[str]:
    """Return the names of a job's tasks, ``ID_NUMBER``, or its own where it is no array."""
    return [f"{job}_{number}" for number in numbers] if numbers else [job]
