"""How patient a read is, and how much of a server it may take; a small value that travels with every task."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("glacierhpc.scenes.remote")


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request is tried, how long a try and a file may take, and how many may run at once."""

    max_attempts: int = 5
    """Tries of one block of a file in a row."""
    backoff_s: float = 0.5
    """The n-th pause is drawn evenly from 0 to ``backoff_s * 2**n`` ("full jitter"), one minute at most."""
    timeout_s: float = 60.0
    """Longest wait for one answer."""
    deadline_s: float = 900.0
    """Longest time for one file, all tries and waits together."""
    max_connections: int | None = None
    """Requests to one host at the same time, of all workers together; None = as many as there are threads, and in
    each process those of `abreast`."""
    requests_per_s: float | None = None
    """Requests to one host in a second, of all workers together; None = no limit."""
    shared: Path | None = None
    """Private folder in which all workers see each other's waits and tokens; None = every process by itself."""
