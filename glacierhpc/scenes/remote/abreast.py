"""Several requests at the same time: by the thread that needs the answers and by spare ones of the process.

What is asked is `files`'s, and how many a server bears is `hosts`'s.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache

SPARE_THREADS = 8
"""For all files that a process reads: enough for the rows of tiles of one window, few beside the threads that read."""


def fetch_abreast(spans: Sequence[tuple[int, int]], fetch: Callable[[int, int], bytes]) -> list[bytes]:
    """Fetch all spans, in turn, by this thread and by as many spare ones as are idle.

    Parameters
    ----------
    spans : sequence of (int, int)
        What `fetch` takes, in the order in which it is begun.
    fetch : callable
        Runs in several threads at the same time.

    Raises
    ------
    Exception
        The first that `fetch` raises, as soon as what has been begun is over; nothing is begun after it.
    """
    left, bodies = deque(enumerate(spans)), [b""] * len(spans)

    def work() -> None:
        try:
            while left:
                number, span = left.popleft()
                bodies[number] = fetch(*span)
        except IndexError:  # another thread took the last one
            return
        except BaseException:
            left.clear()
            raise

    spare = _spare(os.getpid())
    others = [other for _ in spans[1:] if (other := spare.start(work))]
    try:
        work()
    finally:
        left.clear()
        wait(others)
    for other in others:
        other.result()
    return bodies


class _Spare:
    """Threads that are lent while they are idle, and never waited for."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(SPARE_THREADS, "range")
        self._idle = threading.BoundedSemaphore(SPARE_THREADS)

    def start(self, work: Callable[[], None]) -> Future[None] | None:
        if not self._idle.acquire(blocking=False):
            return None
        begun = self._pool.submit(work)
        begun.add_done_callback(lambda _: self._idle.release())
        return begun


@lru_cache(maxsize=1)
def _spare(process: int) -> _Spare:
    """Return the spare threads of a process: a fork of it has none of them."""
    return _Spare()
