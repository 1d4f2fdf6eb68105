"""The line between the ranks by which they notice each other's end: TCP beside the exchange of gradients.

Rank 0 keeps the roll, every other rank holds one connection to it. The kernel closes the connection of a process that
is killed, so that its end is known at once, whatever the exchange itself notices. What is to be done about it, `watch`
says. Nothing here is a reason to fail: where no connection can be made, a rank knows of itself only.
"""

from __future__ import annotations

import fcntl
import hmac
import json
import logging
import secrets
import selectors
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Protocol

from glacierhpc.training.pulse import Word

logger = logging.getLogger(__name__)

CONNECT_S, GREET_S = 3.0, 15.0
"""To reach rank 0 at one of its addresses; to be greeted there, by a thread that has all ranks to greet."""
MAX_LINE_BYTES = 65_536
SIOCGIFADDR = 0x8915
"""The request for an interface's address, of netdevice(7)."""


class Roll(Protocol):
    """What a rank knows of the others."""

    words: dict[int, Word]
    """The latest of each rank that was heard."""
    gone: dict[int, str]
    """How a rank ended that did not say goodbye."""
    hung: bool
    """Whether some rank has said that nothing moves any more."""

    def poll(self, timeout_s: float) -> None:
        """Take in what comes, for at most so long."""
        ...

    def say(self, word: Word) -> None:
        """Tell the others."""
        ...

    def wake(self) -> None:
        """End a `poll` of another thread."""
        ...

    def close(self) -> None: ...


class Alone:
    """The roll of one rank, or of one that reached no other."""

    def __init__(self) -> None:
        self.words: dict[int, Word] = {}
        self.gone: dict[int, str] = {}
        self.hung = False
        self._selector = selectors.DefaultSelector()
        self._bell, self._ear = socket.socketpair()
        self._selector.register(self._ear, selectors.EVENT_READ, None)
        self._kept: list[socket.socket] = [self._bell, self._ear]

    def poll(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                self._ear.recv(64)
            else:
                key.data()

    def say(self, word: Word) -> None:
        self.words[word.rank] = word

    def wake(self) -> None:
        with suppress(OSError):
            self._bell.send(b"!")

    def close(self) -> None:
        """Close all; also what a forked process has inherited, as the others would take it for this one."""
        for kept in self._kept:
            kept.close()
        self._selector.close()

    def _lose(self, rank: int, how: str) -> None:
        last = self.words.get(rank)
        if last is None or last.kind not in ("bye", "failed"):
            self.gone.setdefault(rank, how)

    def _hear(self, word: Word) -> None:
        self.words[word.rank] = word
        self.hung |= word.kind == "hung"
        if word.kind == "failed":
            self.gone.setdefault(word.rank, f"failed: {word.text}")


class Desk(Alone):
    """The roll as rank 0 keeps it.

    Parameters
    ----------
    address : str
        To listen on; empty for all of this machine's.
    word : Word
        What rank 0 says first.
    """

    def __init__(self, address: str, word: Word) -> None:
        super().__init__()
        self.words[0] = word
        self.token = secrets.token_hex(16)
        self._listener = socket.create_server((address, 0), backlog=1024)
        self._listener.setblocking(False)
        self._kept.append(self._listener)
        self._lines: dict[socket.socket, _Lines] = {}
        self._ranks: dict[socket.socket, int] = {}
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def say(self, word: Word) -> None:
        super().say(word)
        self._tell({"word": word.told()})

    def _accept(self) -> None:
        with suppress(OSError):
            line, _ = self._listener.accept()
            line.setblocking(False)
            self._kept.append(line)
            self._lines[line] = _Lines()
            self._selector.register(line, selectors.EVENT_READ, lambda: self._read(line))

    def _read(self, line: socket.socket) -> None:
        try:
            for told in self._lines[line].take(line):
                self._take(line, told)
        except _Ended:
            self._forget(line)
            if line in self._ranks:
                rank = self._ranks.pop(line)
                self._lose(rank, "ended without a word")
                if rank in self.gone:
                    self._tell({"gone": [rank, self.gone[rank]], "last": self.words[rank].told()})
        except (ValueError, TypeError, KeyError, AttributeError):  # not one of ours
            self._forget(line)

    def _take(self, line: socket.socket, told: dict[str, Any]) -> None:
        if line not in self._ranks:
            if not hmac.compare_digest(str(told.get("token", "")), self.token):
                raise ValueError("a stranger")
            self._ranks[line] = int(told["word"]["rank"])
        word = Word.read(told["word"])
        before = self.hung, len(self.gone)
        self._hear(word)
        if word.kind == "beat" and "token" in told:
            _send(line, {"greeting": self.token, "word": self.words[0].told()})
        if before != (self.hung, len(self.gone)):
            self._tell({"word": word.told()})

    def _tell(self, what: dict[str, Any]) -> None:
        for line in list(self._ranks):
            _send(line, what)

    def _forget(self, line: socket.socket) -> None:
        self._selector.unregister(line)
        self._lines.pop(line, None)
        self._kept.remove(line)
        line.close()


class Line(Alone):
    """The roll as another rank knows it, from what rank 0 tells.

    Raises
    ------
    OSError
        If rank 0 cannot be reached at any of its addresses.
    """

    def __init__(self, addresses: Iterable[str], port: int, token: str, word: Word) -> None:
        self._line, greeting = _reached(addresses, port, {"token": token, "word": word.told()})
        super().__init__()
        self._hear(Word.read(greeting["word"]))
        self._kept.append(self._line)
        self._lines, self._open = _Lines(), True
        self._selector.register(self._line, selectors.EVENT_READ, self._read)

    def say(self, word: Word) -> None:
        super().say(word)
        _send(self._line, {"word": word.told()})

    def _read(self) -> None:
        try:
            for told in self._lines.take(self._line):
                if "word" in told:
                    self._hear(Word.read(told["word"]))
                if "gone" in told:
                    rank, how = told["gone"]
                    self._hear(Word.read(told["last"]))
                    self.gone.setdefault(int(rank), str(how))
        except _Ended:
            self._selector.unregister(self._line)
            self._lose(0, "ended without a word")
        except (ValueError, TypeError, KeyError):
            pass


def open_roll(word: Word, *, share: Callable[[str], list[str]]) -> Roll:
    """Return the roll of this rank; all ranks call it together.

    Parameters
    ----------
    word : Word
        What this rank says first.
    share : callable
        Takes a text and gives those of all ranks, by rank.
    """
    hosts = share(word.host)
    if len(hosts) == 1:
        return Alone()
    one = len(set(hosts)) == 1
    if word.rank == 0:
        desk = Desk("127.0.0.1" if one else "", word)
        addresses = ["127.0.0.1"] if one else [hosts[0], *own_addresses()]
        share(json.dumps([addresses, desk.port, desk.token]))
        return desk
    addresses, port, token = json.loads(share("-")[0])
    try:
        return Line(addresses, port, token, word)
    except OSError as err:
        logger.warning(
            "%s cannot reach rank 0 at %s (%s): it is watched alone", word.name, ", ".join(addresses), err
        )
        return Alone()


def own_addresses() -> list[str]:
    """Return the IPv4 addresses of this machine's networks, loopback left out."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                answer = fcntl.ioctl(asked, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(answer[20:24]))
    return [address for address in found if not address.startswith("127.")]


class _Ended(Exception):
    """The other side has closed the connection."""


class _Lines:
    """Whole lines of JSON out of what arrives in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, line: socket.socket) -> Iterator[dict[str, Any]]:
        try:
            got = line.recv(MAX_LINE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            raise _Ended from None
        if not got:
            raise _Ended
        *whole, self._rest = (self._rest + got).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise ValueError("no line")
        for text in whole:
            yield json.loads(text)


def _send(line: socket.socket, what: dict[str, Any]) -> None:
    # never waits: a stopped process reads nothing, and what it does not read it need not know
    with suppress(OSError):
        line.send(json.dumps(what).encode() + b"\n")


def _reached(
    addresses: Iterable[str], port: int, first: dict[str, Any]
) -> tuple[socket.socket, dict[str, Any]]:
    """Return a connection to rank 0, and how it greets."""
    error: OSError = OSError("no address")
    for address in addresses:
        try:
            line = socket.create_connection((address, port), timeout=CONNECT_S)
        except OSError as err:
            error = err
            continue
        try:
            line.settimeout(GREET_S)
            _send(line, first)
            greeting = json.loads(line.recv(MAX_LINE_BYTES).splitlines()[0])
            if greeting["greeting"] == first["token"]:
                line.setblocking(False)
                return line, greeting
            error = OSError(f"{address} is not rank 0")
        except OSError as err:
            error = err
        except (ValueError, LookupError, TypeError):
            error = OSError(f"{address} is another program")
        line.close()
    raise error
