"""A remote file as bytes by place: what is asked for comes whole and right, or a `Fault` says why it cannot.

Signed anew for every request, so that an end of a token costs one block; handing it to GDAL is `vsi`'s.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO

from glacierhpc.errors import redact
from glacierhpc.scenes.remote.abreast import fetch_abreast
from glacierhpc.scenes.remote.faults import Fault
from glacierhpc.scenes.remote.hosts import host_of
from glacierhpc.scenes.remote.http import Piece, get_range
from glacierhpc.scenes.remote.policy import RetryPolicy, log
from glacierhpc.scenes.signing import Signer

HEAD_BYTES = 32 * 1024  # header and tile index of a COG of 8,000 pixels a side
AHEAD_BYTES = 16 * 1024
LARGEST_REQUEST_BYTES = 4 * 1024**2  # what is asked for again when an answer breaks; read ahead at most
GAP_BYTES = 64 * 1024  # at 50 ms and 10 MB/s a new request costs as much as 500 kB; other readers pay, too
KEPT_BLOCKS, KEPT_BYTES = 16, 8 * 1024**2


class RemoteFile:
    """One file on a server.

    Parameters
    ----------
    href : str
        Unsigned.
    ends : float
        When to give up, of `time.monotonic`.
    sleep : callable
        For pauses; takes seconds.
    """

    def __init__(
        self,
        href: str,
        signer: Signer,
        policy: RetryPolicy,
        *,
        ends: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.href, self.size = href, 0
        self.failures, self._lost = 0, False
        self._signer, self._policy, self._ends, self._sleep = signer, policy, ends, sleep
        self._host = host_of(href, policy)
        self._lock = threading.RLock()  # of one reader; held while
        self._state = threading.Lock()  # keeps apart the requests that it makes at the same time
        self._tag = ""
        self._there: str | None = (
            ""  # where the server sent, to spare it the question; None after a fault there
        )
        self._whole: IO[bytes] | None = None
        self._blocks: list[tuple[int, bytes]] = []
        self._next, self._ahead = -math.inf, AHEAD_BYTES

    def open(self) -> None:
        """Read the head of the file, which tells its size; once.

        Raises
        ------
        Fault
        """
        with self._lock:
            if not self.size:
                self._keep(0, self._fetch(0, HEAD_BYTES - 1))

    def close(self) -> None:
        """Let go of what was kept."""
        with self._lock:
            self._blocks.clear()
            if self._whole is not None:
                self._whole.close()

    def read(self, first: int, count: int) -> bytes:
        """Return `count` bytes from `first` on; fewer at the end of the file.

        Raises
        ------
        Fault
        """
        with self._lock:
            self.open()
            count = min(count, self.size - first)
            if count <= 0:
                return b""
            begun = self._kept(first, count)
            start, missing = first + len(begun), count - len(begun)
            if not missing:
                return begun
            (rest,) = self._take([(start, self._with_ahead(start, missing))])
            return (begun + rest)[:count]

    def read_many(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of several places, (first, count), asking for neighbours together, and for no more."""
        with self._lock:
            self.open()
            groups = _together([(first, max(0, min(count, self.size - first))) for first, count in places])
            begun = [self._kept(first, count) for first, count, _ in groups]
            rests = self._take(
                [(first + len(body), count - len(body)) for (first, count, _), body in zip(groups, begun)]
            )
            found: dict[int, bytes] = {}
            for (first, _, members), body, rest in zip(groups, begun, rests):
                whole = body + rest
                found |= {
                    number: whole[begin - first : begin - first + length] for number, begin, length in members
                }
            return [found[number] for number in range(len(places))]

    def _with_ahead(self, start: int, missing: int) -> int:
        """Return how much to ask for: more and more, as long as it goes on."""
        # tiles of a COG have a few bytes between them, which nobody reads
        goes_on = 0 <= start - self._next <= GAP_BYTES
        self._ahead = min(2 * max(self._ahead, missing), LARGEST_REQUEST_BYTES) if goes_on else AHEAD_BYTES
        wanted = min(max(missing, self._ahead), self.size - start)
        self._next = start + wanted
        return wanted

    def _take(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Fetch some places, large ones in several requests, all of them at the same time; keep what came."""
        spans = [
            (number, begin, min(begin + LARGEST_REQUEST_BYTES, first + count))
            for number, (first, count) in enumerate(places)
            for begin in range(first, first + count, LARGEST_REQUEST_BYTES)
        ]
        pieces = fetch_abreast([(begin, end - 1) for _, begin, end in spans], self._fetch)
        bodies: list[list[bytes]] = [[] for _ in places]
        for (number, begin, _), piece in zip(spans, pieces):
            self._keep(begin, piece)
            bodies[number].append(piece)
        return [b"".join(body) for body in bodies]

    def _kept(self, first: int, count: int) -> bytes:
        """Return the beginning of what is asked for, as far as it is there."""
        if self._whole is not None:
            return self._of_whole(self._whole, first, count)
        for begin, body in reversed(self._blocks):
            if begin <= first < begin + len(body):
                return body[first - begin : first - begin + count]
        return b""

    def _of_whole(self, whole: IO[bytes], first: int, count: int) -> bytes:
        with self._state:
            whole.seek(first)
            return whole.read(count)

    def _keep(self, first: int, body: bytes) -> None:
        if self._whole is not None:
            return
        self._blocks.append((first, body))
        held = sum(len(body) for _, body in self._blocks)
        while len(self._blocks) > 2 and (held > KEPT_BYTES or len(self._blocks) > KEPT_BLOCKS):
            held -= len(self._blocks.pop(1)[1])  # the first is the head, which is read again and again

    def _fetch(self, first: int, last: int) -> bytes:
        """Ask until the bytes are there, or asking is of no use; several threads of one file at the same time."""
        attempt = 0
        while self._whole is None:
            signed = self._there or self._signer.sign(self.href)
            try:
                with self._host.turn(self._ends):
                    piece = get_range(
                        signed, first, last, timeout_s=self._policy.timeout_s, headers=self._signer.headers
                    )
                return self._accept(piece, signed, first, last)
            except Fault as fault:
                attempt += 1
                self._after(fault, signed, attempt)
        return self._of_whole(self._whole, first, last + 1 - first)

    def _after(self, fault: Fault, signed: str, attempt: int) -> None:
        """Wait before the next try, or raise the fault if there is to be none."""
        with self._state:
            self.failures += 1
            if signed == self._there:
                self._there = None  # its time may be over: from now on by the long way
        # an expired token may be refused in any words, or with none
        if fault.kind == "refused" or self._signer.expired(signed):
            self._signer.renew(signed)
        rest_s = max(pause_s(self._policy, attempt), fault.wait_s or 0.0)
        late = time.monotonic() + rest_s > self._ends
        if fault.lasting or late or attempt >= self._policy.max_attempts or self._lost:
            self._lost = True  # what else is under way need not be asked for again
            raise fault
        log.info("try %d of %s failed (%s)", attempt, redact(self.href), fault)
        self._sleep(rest_s)

    def _accept(self, piece: Piece, signed: str, first: int, last: int) -> bytes:
        with self._state:
            if self._there is not None and piece.there != signed:
                self._there = piece.there
            changed = self.size and (piece.size, piece.tag or self._tag) != (
                self.size,
                self._tag or piece.tag,
            )
            if piece.whole is not None and (changed or self._whole is not None):
                piece.whole.close()
            if changed:
                raise Fault("changed", "the file changed while it was read")
            self.size, self._tag = piece.size, piece.tag or self._tag
            if piece.whole is None:
                return piece.body
            if self._whole is None:
                log.info("the server ignores ranges: all of %s was taken", redact(self.href))
                self._whole = piece.whole
        return self._of_whole(self._whole, first, last + 1 - first)


def _together(places: Sequence[tuple[int, int]]) -> list[tuple[int, int, list[tuple[int, int, int]]]]:
    """Join places that lie close to each other: (first, count, the number, first and count of each within)."""
    joined: list[tuple[int, int, list[tuple[int, int, int]]]] = []
    for (first, count), number in sorted(zip(places, range(len(places)))):
        if joined:
            begin, length, members = joined[-1]
            ends = max(begin + length, first + count)
            if first - (begin + length) <= GAP_BYTES and ends - begin <= LARGEST_REQUEST_BYTES:
                joined[-1] = (begin, ends - begin, [*members, (number, first, count)])
                continue
        joined.append((first, count, [(number, first, count)]))
    return joined


def pause_s(policy: RetryPolicy, attempt: int) -> float:
    """Return how long to wait after the n-th failure."""
    # secrets of timing need no seed: the pause never reaches a result
    return random.uniform(0.0, min(60.0, policy.backoff_s * 2**attempt))
