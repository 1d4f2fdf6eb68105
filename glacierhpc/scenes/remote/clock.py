"""What time it is by the servers' clocks: a token ends by theirs, and the clock of a compute node may be off."""

from __future__ import annotations

import threading
import time

from glacierhpc.scenes.remote.faults import parse_date

UNSURE_S = 2.0
"""A ``Date`` header has whole seconds and was on its way: a smaller difference is none."""


class ServerClock:
    """This machine's clock, corrected by the last ``Date`` that a server sent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ahead_s = 0.0

    def now(self) -> float:
        """Return the POSIX time by the servers' clocks."""
        return time.time() + self._ahead_s

    @property
    def ahead_s(self) -> float:
        """How far the servers' clocks are ahead of this machine's, s; 0 where they agree or nothing is known."""
        return self._ahead_s

    def learn(self, date: str | None) -> float:
        """Take over the time of a ``Date`` header; return the server's time now."""
        moment = parse_date(date)
        if moment is not None:
            ahead_s = moment + 0.5 - time.time()
            with self._lock:
                self._ahead_s = 0.0 if abs(ahead_s) < UNSURE_S else ahead_s
        return self.now()


CLOCK = ServerClock()
