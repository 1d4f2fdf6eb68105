"""What a file server was asked and answered, counted while many threads answer."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ServerStatistics:
    """What a file server was asked and answered since its start or the last reset."""

    requests: int = 0
    """Of files; tokens are counted apart."""
    bytes_sent: int = 0
    tokens_issued: int = 0
    most_at_once: int = 0
    """Requests in work at the same time, at most."""
    by_path: dict[str, int] = field(default_factory=dict)
    by_status: dict[int, int] = field(default_factory=dict)
    """Status to count; 0 is a connection that ended without an answer."""
    faults: dict[str, int] = field(default_factory=dict)
    """Kind of fault to count."""


class Counts:
    """Counts requests as they begin and end; may be called by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        with self._lock:
            self._paths: Counter[str] = Counter()
            self._statuses: Counter[int] = Counter()
            self._faults: Counter[str] = Counter()
            self._bytes = self._tokens = self._most = 0
            self._now = 0

    def begin(self, path: str) -> int:
        """Count a request and return how many this path had before."""
        with self._lock:
            number = self._paths[path]
            self._paths[path] += 1
            self._now += 1
            self._most = max(self._most, self._now)
            return number

    def end(self, status: int) -> None:
        with self._lock:
            self._now = max(self._now - 1, 0)
            self._statuses[status] += 1

    def add_fault(self, kind: str) -> None:
        with self._lock:
            self._faults[kind] += 1

    def add_bytes(self, count: int) -> None:
        with self._lock:
            self._bytes += count

    def add_token(self) -> None:
        with self._lock:
            self._tokens += 1

    def snapshot(self) -> ServerStatistics:
        with self._lock:
            return ServerStatistics(
                requests=self._paths.total(),
                bytes_sent=self._bytes,
                tokens_issued=self._tokens,
                most_at_once=self._most,
                by_path=dict(self._paths),
                by_status=dict(self._statuses),
                faults=dict(self._faults),
            )
