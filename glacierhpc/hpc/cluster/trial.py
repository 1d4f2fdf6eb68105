"""Whether workers answer: each says on which machine it runs."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from concurrent.futures import Executor


def places(executor: Executor | None, workers: int) -> dict[str, int]:
    """Return how many workers run on each machine, as soon as all of them have answered.

    Parameters
    ----------
    executor : Executor or None
        What `make_cluster` gives.
    workers : int
        How many must answer.
    """
    if executor is None:
        return {socket.gethostname(): 1}
    seen: set[tuple[str, int]] = set()
    while len(seen) < workers:
        seen |= set(executor.map(_place, range(2 * workers)))
    return dict(sorted(Counter(host for host, _ in seen).items()))


def _place(_: int) -> tuple[str, int]:
    time.sleep(0.2)  # so that one worker does not answer for all
    return socket.gethostname(), os.getpid()
