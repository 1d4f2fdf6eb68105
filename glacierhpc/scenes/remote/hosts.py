"""When a host may be asked: its waits, its limits, and whether it is there at all, for all threads and workers.

What is asked, and what becomes of the answer, is `files`'s.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from glacierhpc.scenes.remote import shared
from glacierhpc.scenes.remote.faults import LONGEST_WAIT_S, OF_THE_HOST, Fault
from glacierhpc.scenes.remote.policy import RetryPolicy, log

LOOK_EVERY_S = 0.2  # at what the others tell: a stat of a file
BREAK_AFTER = 8  # failures of a host in a row, none of its requests answered in between
FIRST_COOLING_S, LONGEST_COOLING_S = 1.0, 30.0
DEAD_AFTER_S = 120.0  # without one answer: what is left fails at once, in place of waiting file by file
NAP_S = 0.25


def host_of(href: str, policy: RetryPolicy) -> Host:
    """Return what this process knows of a file's host; one for all threads."""
    parts = urlsplit(href)
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return _host(place, policy.shared, policy.max_connections, policy.requests_per_s)


@lru_cache(maxsize=256)
def _host(place: str, folder: Path | None, connections: int | None, rate: float | None) -> Host:
    return Host(place, folder=folder, max_connections=connections, requests_per_s=rate)


class Host:
    """One server: asked in turn, left alone when it says so, given up when it is dead.

    Parameters
    ----------
    folder : path, optional
        Private folder where the processes that read from this host tell each other.
    max_connections : int, optional
        Requests at the same time.
    requests_per_s : float, optional
        Requests in a second; at once not more than come in half a second.
    """

    def __init__(
        self,
        place: str,
        *,
        folder: Path | None = None,
        max_connections: int | None = None,
        requests_per_s: float | None = None,
    ) -> None:
        self.place, self._folder = place, folder
        self._connections, self._rate = max_connections, requests_per_s
        self._name = shared.name_for("host", place)
        self._gate = threading.BoundedSemaphore(max_connections) if max_connections else None
        self._lock = threading.Lock()
        self._rest_until = 0.0  # wall clock: nodes that share a file system share the time, roughly
        self._failures, self._failing_since = 0, 0.0
        self._probe_at = 0.0
        self._looked_at, self._seen = -math.inf, 0
        self._next_at = 0.0

    @contextmanager
    def turn(self, ends: float) -> Iterator[None]:
        """Wait until the host may be asked once; learn from how the block ends.

        Parameters
        ----------
        ends : float
            When the caller gives up, of `time.monotonic`.

        Raises
        ------
        Fault
            If the host is dead, or would be free too late.
        """
        self._wait_for_rest(ends)
        with self._slot(ends):
            self._wait_for_rate(ends)
            try:
                yield
            except Fault as fault:
                self._learn(fault)
                raise
        self._answered()

    def _wait_for_rest(self, ends: float) -> None:
        """Wait while the server wants to be left alone, or is not there and it is another's turn to try."""
        while True:
            self._look()
            with self._lock:
                now = time.time()
                wait_s, why = self._rest_until - now, "asks for longer pauses than a file may take"
                if wait_s <= 0 and self._failures >= BREAK_AFTER:
                    wait_s, why = self._probe_at - now, "does not answer"
                    if wait_s <= 0:
                        self._probe_at = now + self._cooling_s()
                        return
                    if now - self._failing_since > DEAD_AFTER_S:
                        raise Fault("dead", f"{self.place} has not answered for {DEAD_AFTER_S:.0f} s")
                if wait_s <= 0:
                    return
            _nap(wait_s, ends, f"{self.place} {why}")

    def _cooling_s(self) -> float:
        doublings = min((self._failures - BREAK_AFTER), 10)
        return min(LONGEST_COOLING_S, FIRST_COOLING_S * 2**doublings) * random.uniform(0.75, 1.25)

    def _answered(self) -> None:
        with self._lock:
            was_down, self._failures = self._failures >= BREAK_AFTER, 0
        if was_down:
            log.warning("%s answers again", self.place)

    def _learn(self, fault: Fault) -> None:
        """Take over a wait the server asked for; count what says that the host is not well."""
        if fault.wait_s:
            self._rest(fault.wait_s)
        if fault.kind not in OF_THE_HOST:
            if fault.kind != "dead":
                self._answered()
            return
        with self._lock:
            now = time.time()
            self._failing_since = self._failing_since if self._failures else now
            self._failures += 1
            broke = self._failures == BREAK_AFTER
            if broke:
                self._probe_at = now + self._cooling_s()
        if broke:
            log.warning("%s: %s, %d times in a row; asked less often now", self.place, fault, BREAK_AFTER)

    def _rest(self, wait_s: float) -> None:
        """Leave the host alone for a while, and tell the other processes."""
        with self._lock:
            self._rest_until = max(self._rest_until, time.time() + min(wait_s, LONGEST_WAIT_S))
        with shared.locked(self._folder, self._name, wait_s=1.0):
            self._look(now=True)  # another may have been told to wait longer
            shared.write(self._folder, self._name, {"rest_until": self._rest_until})

    def _look(self, *, now: bool = False) -> None:
        """Take over what other processes have told, if they have."""
        if self._folder is None or (not now and time.monotonic() - self._looked_at < LOOK_EVERY_S):
            return
        self._looked_at = time.monotonic()
        try:
            stamp = (self._folder / self._name).stat().st_mtime_ns
        except OSError:
            return
        if stamp == self._seen:
            return
        self._seen = stamp
        told = shared.read(self._folder, self._name)
        with self._lock:
            latest = (
                time.time() + LONGEST_WAIT_S
            )  # a node whose clock is off must not stop the others for good
            self._rest_until = max(self._rest_until, min(float(told.get("rest_until", 0.0)), latest))

    @contextmanager
    def _slot(self, ends: float) -> Iterator[None]:
        """Hold one of the connections that are allowed, among all threads and processes."""
        if self._gate is None or self._connections is None:
            yield
            return
        if not self._gate.acquire(timeout=max(0.0, ends - time.monotonic())):
            raise _too_late(f"all {self._connections} connections to {self.place} were taken for too long")
        descriptor = None
        try:
            while self._folder is not None and shared.is_private(self._folder):
                descriptor = shared.take_slot(self._folder, self._name, self._connections)
                if descriptor is not None:
                    break
                _nap(random.uniform(0.002, 0.02), ends, f"all connections to {self.place} were taken")
            yield
        finally:
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
            self._gate.release()

    def _wait_for_rate(self, ends: float) -> None:
        """Wait for a place in the sequence of requests, which all processes share.

        The generic cell rate algorithm: one number, the time at which the next request would be due, is enough.
        """
        if self._rate is None:
            return
        step_s, spare_s = 1.0 / self._rate, 0.5
        with self._lock, shared.locked(self._folder, f"{self._name}-rate", wait_s=5.0):
            now = time.time()
            told = shared.read(self._folder, f"{self._name}-rate").get("next_at", self._next_at)
            due = float(told) if float(told) < now + LONGEST_WAIT_S else now
            self._next_at = max(due, now - spare_s) + step_s
            shared.write(self._folder, f"{self._name}-rate", {"next_at": self._next_at})
        while (wait_s := due - time.time()) > 0:
            _nap(wait_s, ends, f"{self.place} is asked too seldom; raise archive.requests_per_s")


def _nap(wait_s: float, ends: float, why: str) -> None:
    if time.monotonic() + wait_s > ends:
        raise _too_late(why)
    time.sleep(min(wait_s, NAP_S))


def _too_late(why: str) -> Fault:
    return Fault("dead", why)
