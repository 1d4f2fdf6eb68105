"""Who takes part in a training whose processes come and go, and which rank each has: an elastic store of Horovod's.

Every process holds one connection open for as long as it lives, so that the kernel tells of its end. Whenever one is
lost, or another has come and the rest have saved their work, all that are left say that they are ready, and ranks are
given out anew. Horovod has such a server of its own, which runs what anybody sends it: it loads pickles. This one holds
bytes and hands out numbers, nothing more, and that to those who know its key (`rendezvous`); a second job finds the key
in the folder of the run, in a file that its user alone can read.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, TextIO

from glacierhpc.atomic import writing_errors
from glacierhpc.errors import REQUEUE, GlacierError
from glacierhpc.hpc.rendezvous import Handler, Store, address_of, tell, wait_for_owner

logger = logging.getLogger(__name__)

FILE = ".members"
"""In a run's folder: where its server is, so that the processes of a second job find it; empty where none is."""
PATIENCE_S = 120.0
"""For the processes that were started together, at the beginning; then those that have come begin."""
LOST_S = 60
"""Without an answer of a process's machine: it is lost. The kernel asks and answers, also for a stopped process."""
MEMBER = re.compile(r"/members/([^/]+)/(\d{1,6})")
"""Where a process holds its connection: its host, and its number there."""
PLACES = "/rank_and_size/"
"""Where Horovod asks for its rank when it joins again: ``horovod/common/gloo/gloo_context.cc``."""


@dataclass(eq=False)
class Seat:
    """One process."""

    host: str
    slot: int
    """Its number among those of its host."""
    tell: Callable[[str], None]
    """Send it a line."""
    ready: bool = False
    """Whether it waits for a rank."""
    at_work: bool = False
    """Whether it has one."""

    def __str__(self) -> str:
        return f"process {self.slot} of {self.host}"


class Members:
    """The processes that are connected: those that began together by name, then in the order in which they came.

    Parameters
    ----------
    expected : int
        How many are waited for before ranks are given out for the first time.
    patience_s : float
        How long, from the first one on.
    """

    def __init__(self, expected: int, patience_s: float = PATIENCE_S) -> None:
        self.places: dict[str, str] = {}
        """What Horovod asks for: by ``HOST:LOCAL RANK``, the six numbers of a place."""
        self.values: dict[str, bytes] = {}
        """What the processes tell each other to join; begins empty every time."""
        self._expected, self._patience_s = expected, patience_s
        self._seats: list[Seat] = []
        self._lock = threading.Lock()

    def join(self, seat: Seat) -> None:
        """Take a process in; those at work are told, and let it in when they have saved."""
        with self._lock:
            if not self._seats and not self.places:
                timer = threading.Timer(self._patience_s, self._begin)
                timer.daemon = True
                timer.start()
            if self.places:
                logger.info("%s has come, and is let in after the next checkpoint", seat)
            for other in self._seats:
                if other.at_work:
                    other.tell("changed")
            self._seats.append(seat)

    def ready(self, seat: Seat) -> None:
        """Note that a process waits for its rank."""
        with self._lock:
            seat.ready, seat.at_work = True, False
            self._give_out()

    def leave(self, seat: Seat) -> None:
        """Take a process out; the others notice by the exchange that breaks."""
        with self._lock:
            self._seats.remove(seat)
            logger.info("%s has ended, %d are left", seat, len(self._seats))
            self._give_out()

    def _begin(self) -> None:
        with self._lock:
            self._expected = 1
            self._give_out()

    def _give_out(self) -> None:
        """Give ranks to all, as soon as all wait for them."""
        if (
            not self._seats
            or len(self._seats) < self._expected
            or not all(each.ready for each in self._seats)
        ):
            return
        if not self.places:
            self._seats.sort(key=lambda each: (each.host, each.slot))  # not as they happened to come
        self._expected = 1
        self.values.clear()
        self.places.clear()
        for seat, name, place in given_out(self._seats):
            self.places[name] = ",".join(map(str, place))
            seat.ready, seat.at_work = False, True
            seat.tell(f"go {' '.join(map(str, place))}")


def given_out(seats: list[Seat]) -> Iterator[tuple[Seat, str, tuple[int, ...]]]:
    """Yield every process with its name for Horovod and its place.

    Who came first is rank 0, as far as the processes of a host have neighbouring ranks. A place is rank, size, the two
    among the processes of the host, and the two among those with the same number on their hosts.
    """
    hosts: dict[str, list[Seat]] = {}
    for seat in seats:
        hosts.setdefault(seat.host, []).append(seat)
    rank = 0
    for host, here in hosts.items():
        for local, seat in enumerate(sorted(here, key=lambda each: each.slot)):
            like = [name for name, others in hosts.items() if len(others) > local]
            yield seat, f"{host}:{local}", (rank, len(seats), local, len(here), like.index(host), len(like))
            rank += 1


class MemberStore(Store):
    """The store of values, and the members."""

    def __init__(self, address: str, members: Members) -> None:
        super().__init__(address, _Member)
        self.members = members
        self.values = members.values
        self.mark = secrets.token_hex(16)
        """By which whoever reads of this server knows it from another program at the same port, later on."""


class _Member(Handler):
    server: MemberStore

    def do_GET(self) -> None:
        if self.path == "/mark":
            self.answer(200, self.server.mark.encode())
        elif self.path.startswith(PLACES):
            place = self.server.members.places.get(self.path.removeprefix(PLACES))
            self.answer(200 if place else 404, (place or "").encode())
        else:
            super().do_GET()

    def do_POST(self) -> None:  # noqa: N802
        """Hold ``/members/HOST/SLOT``: lines "ready" come in, "changed" and "go PLACE" go out, until either ends."""
        asked = MEMBER.fullmatch(self.path)
        if not asked:
            self.answer(404)
            return
        self.close_connection = True
        self.connection.settimeout(None)
        notice_loss(self.connection)
        seat = Seat(asked[1], int(asked[2]), self._tell)
        self.server.members.join(seat)
        with suppress(OSError):
            for line in self.rfile:
                if line.strip() == b"ready":
                    self.server.members.ready(seat)
        self.server.members.leave(seat)

    def _tell(self, line: str) -> None:
        with suppress(OSError):  # its end is noticed where it is read from
            self.connection.sendall(f"{line}\n".encode())


def notice_loss(line: socket.socket) -> None:
    """Let a connection end when the other machine does not answer, tcp(7)."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, LOST_S // 4)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, LOST_S // 4)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_S * 1000)


def serve(run: Path, host: str, interface: str, expected: int) -> None:
    """Serve the processes of a run's training until standard input ends; tells the place first, a code last.

    Where another job of the run has such a server, its place is told, and its processes take these in.

    Parameters
    ----------
    run : Path
        Folder of the run.
    host, interface : str
        As for `rendezvous.address_of`.
    expected : int
        Processes that are waited for at the beginning.

    Raises
    ------
    InputError
        If the run may not be written by this user, or another one trains it.
    """
    before = _record(run)
    with ExitStack() as stack:
        with known(run) as file:
            place = served(file, run)
            if place is None:
                store = stack.enter_context(MemberStore(address_of(host, interface), Members(expected)))
                place = store.start()
                _say(file, json.dumps([*place, store.mark, str(run.resolve())]))
                stack.callback(_withdraw, run, store.mark)
        tell(*place)
        wait_for_owner()
    tell(exit_code(before, _record(run)))


@contextmanager
def known(run: Path) -> Iterator[TextIO]:
    """Open the file that says where the run's server is: one process at a time, where the file system has locks."""
    path = run / FILE
    with writing_errors(path):
        run.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
            os.fchmod(descriptor, 0o600)  # also refuses what another user has laid there
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield file


def _say(file: TextIO, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)


def _withdraw(run: Path, mark: str) -> None:
    """Say that the server with this mark is gone; another's word stands."""
    with suppress(OSError, GlacierError), known(run) as file:
        if mark in file.read():
            _say(file, "")


def served(file: TextIO, run: Path) -> tuple[str, int] | None:
    """Return the place of the server that a file speaks of, if it answers; in the copy of a run it is another's."""
    try:
        address, port, mark, of = json.loads(file.read())
        host, _, key = address.partition("/")
    except (ValueError, TypeError, AttributeError):
        return None
    if of != str(run.resolve()):
        return None
    connection = HTTPConnection(host, timeout=10)
    try:
        connection.request("GET", f"/{key}/mark")
        answer = connection.getresponse()
        return (address, port) if answer.read(len(mark) + 1) == mark.encode() else None
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def _record(run: Path) -> dict[str, Any]:
    """Return what is recorded about the training."""
    return dict(_read(run / "steps" / "train.json") or {})


def exit_code(before: dict[str, Any], after: dict[str, Any]) -> int | str:
    """Return the exit code of the training as its run has it, a dash where it does not say.

    The codes of the processes do not: one that was killed is no failure where the others have done the work.
    """
    codes = {"done": 0, "interrupted": REQUEUE}
    return "-" if before == after else codes.get(str(after.get("state")), "-")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
