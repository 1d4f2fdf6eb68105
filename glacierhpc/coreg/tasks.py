"""Running a function over many argument tuples, here or on an executor; what it does is not known here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

IN_FLIGHT = 256  # submitted and not yet collected; a scheduler with all scenes in its queue gains nothing


def run_all(executor: Executor | None, function: Callable[..., Any], calls: Iterable[tuple]) -> Iterator[Any]:
    """Yield the results in the order of the calls, with a bounded number in flight."""
    if executor is None:
        for arguments in calls:
            yield function(*arguments)
        return
    waiting: list[Future] = []
    try:
        for arguments in calls:
            if len(waiting) >= IN_FLIGHT:
                yield waiting.pop(0).result()
            waiting.append(executor.submit(function, *arguments))
        while waiting:
            yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()
