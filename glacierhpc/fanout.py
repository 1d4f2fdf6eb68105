"""Running a function over many argument tuples, here or on an executor, with a count of what is done.

What the function does, and where the executor comes from, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import Any

IN_FLIGHT = 256  # submitted and not yet collected; a scheduler with all scenes in its queue gains nothing
Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""


@dataclass
class Tally:
    """A count over everything a step does, whatever number of fan-outs it takes."""

    total: int
    show: Progress | None = None
    done: int = 0

    def add(self, count: int = 1) -> None:
        """Count what has been done and show it."""
        self.done += count
        if self.show is not None and count:
            self.show(self.done, self.total)


def run_all(
    executor: Executor | None,
    function: Callable[..., Any],
    calls: Iterable[tuple],
    *,
    tally: Tally | None = None,
    in_flight: int = IN_FLIGHT,
) -> Iterator[Any]:
    """Yield the results in the order of the calls, with a bounded number in flight.

    After an error nothing that waits is begun, and what runs has ended when the error is seen: nobody writes into
    a folder that is being removed.

    Parameters
    ----------
    executor : Executor or None
        None runs the calls here, one after another.
    function : callable
        At module level, for executors of other processes.
    calls : iterable of tuple
        The positional arguments of each call.
    tally : Tally, optional
        Counts one for every result.
    in_flight : int
        Calls submitted and not yet collected.
    """
    tally = tally or Tally(0)
    results = _here(function, calls) if executor is None else _on(executor, function, calls, in_flight)
    for result in results:
        tally.add()
        yield result


def _here(function: Callable[..., Any], calls: Iterable[tuple]) -> Iterator[Any]:
    for arguments in calls:
        yield function(*arguments)


def _on(
    executor: Executor, function: Callable[..., Any], calls: Iterable[tuple], in_flight: int
) -> Iterator[Any]:
    waiting: list[Future] = []
    try:
        for arguments in calls:
            if len(waiting) >= in_flight:
                yield waiting.pop(0).result()
            waiting.append(executor.submit(function, *arguments))
        while waiting:
            yield waiting.pop(0).result()
    finally:
        wait([future for future in waiting if not future.cancel()])
