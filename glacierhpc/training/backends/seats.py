"""This process's seat in a training whose ranks come and go, given by either of two programs.

``glacierhpc members``, which the job script of an elastic training starts, and ``horovodrun`` with a host discovery
script. Both answer Horovod when it joins again; here is what they say to the process, and what it says to them.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from glacierhpc.errors import REQUEUE, GlacierError

PLACE = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")
"""The numbers of a place among the ranks, as Horovod calls them in the environment and in its library."""
JOIN_S = 60.0
"""To reach the server of seats."""


class RanksChanged(GlacierError):
    """A rank was lost, or one wants to come in: the work goes on from its last checkpoint with those that are there.

    Exit code 75, for whoever does not go on by himself.
    """

    exit_code = REQUEUE


class Seat(Protocol):
    """What both programs give."""

    changed: bool
    """Whether there are others by now: at the next checkpoint ranks are to be given out anew."""

    def wait(self) -> None:
        """Say that this process has no rank, and wait until all have one; the place is then in the environment."""
        ...

    def joined(self) -> None:
        """Note that Horovod has joined the ranks."""
        ...

    def close(self) -> None: ...


class Line:
    """A seat by ``glacierhpc members``: one connection for as long as the process lives.

    Parameters
    ----------
    environment : mapping
        HOROVOD_GLOO_RENDEZVOUS_ADDR, which is ADDRESS:PORT/KEY, and HOROVOD_HOSTNAME; the place is written into it.

    Raises
    ------
    GlacierError
        If the server cannot be reached.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self.changed = False
        self._environment = environment
        self._answers: queue.Queue[str] = queue.Queue()
        host, slot = environment["HOROVOD_HOSTNAME"], environment.get("HOROVOD_LOCAL_RANK", "0")
        place, _, key = environment["HOROVOD_GLOO_RENDEZVOUS_ADDR"].partition("/")
        address, _, port = place.partition(":")
        try:
            self._line = socket.create_connection((address, int(port)), timeout=JOIN_S)
        except OSError as err:
            raise GlacierError(
                f"the server that gives out ranks does not answer at {place} ({err}); it ends with the "
                "job that started it: submit the job again"
            ) from err
        self._line.settimeout(None)
        self._line.sendall(f"POST /{key}/members/{host}/{slot} HTTP/1.0\r\n\r\n".encode())
        threading.Thread(target=self._listen, name="seat", daemon=True).start()

    def wait(self) -> None:
        with suppress(OSError):  # the answer says so, too
            self._line.sendall(b"ready\n")
        answer = self._answers.get()
        if not answer:
            raise RanksChanged(
                "the server that gives out ranks is gone with the job that started it: submit the job again"
            )
        self._environment.update(
            {f"HOROVOD_{name}": number for name, number in zip(PLACE, answer.split(), strict=True)}
        )

    def joined(self) -> None:
        return None

    def close(self) -> None:
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._line.close()

    def _listen(self) -> None:
        with suppress(OSError, ValueError), self._line.makefile("r") as lines:
            for line in lines:
                what, _, rest = line.strip().partition(" ")
                if what == "go":
                    self.changed = False  # those who came before are among the ranks
                    self._answers.put(rest)
                self.changed |= what == "changed"
        self._answers.put("")


class Discovered:
    """A seat by ``horovodrun``, which waits inside of Horovod's own joining.

    It tells the process by a server that Horovod opens in it, for pickles signed with a key that crosses the network
    as it is: for one machine, or a network that is one's own.
    """

    def __init__(self) -> None:
        from horovod.common.elastic import notification_manager

        self.changed = False
        self._manager: Any = notification_manager
        self._listening = False

    def wait(self) -> None:
        self.changed = False

    def joined(self) -> None:
        if not self._listening:
            self._manager.init()
            self._manager.register_listener(self)
            self._listening = True

    def on_hosts_updated(self, timestamp: int, result: object) -> None:
        """Take in what horovodrun tells rank 0."""
        self.changed = True

    def close(self) -> None:
        if self._listening:
            self._manager.remove_listener(self)


def is_elastic(environment: Mapping[str, str]) -> bool:
    """Return whether the launcher of this process lets ranks come and go."""
    return environment.get("HOROVOD_ELASTIC", "0") == "1"


def open_seat(environment: MutableMapping[str, str]) -> Seat:
    """Return this process's seat: that of horovodrun, which has given it a rank already, or of our own server."""
    return Discovered() if "HOROVOD_RANK" in environment else Line(environment)


# A seat is a fact about the process, as its environment is: who opens the backend, deep in a workflow, must know of it.
_held: list[Seat] = []


@contextmanager
def held(seat: Seat) -> Iterator[None]:
    """Let this process's backend know of its seat."""
    _held.append(seat)
    try:
        yield
    finally:
        _held.remove(seat)
        seat.close()


def own_seat() -> Seat | None:
    """Return this process's seat, None where ranks stay as they were started."""
    return _held[-1] if _held else None
