"""How the login host and a job on a compute node try to reach each other: by TCP both ways, and by their shared folder.

Both sides listen at an address of their own, and answer only those who know a word that is in a folder which nobody
else may read. Nothing but the word, a time and the node's address goes over the network.
"""

from __future__ import annotations

import fcntl
import hmac
import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from glacierhpc.atomic import write_text
from glacierhpc.errors import GlacierError, InputError
from glacierhpc.hpc.rendezvous import address_of

CALL_S = 10.0
"""Longest wait for one call over the network, seconds."""
STAY_S = 60.0
"""How long the node waits to be called: a shared file system tells others of a new file after up to half of that."""
LINE_BYTES = 4096


class Listener:
    """Listens at one address, and answers each caller who knows the word with the time; `heard` is what they said.

    A machine of which nobody knows an address of its own does not listen, and is called in vain.
    """

    def __init__(self, host: str, interface: str | None, word: str) -> None:
        self._word = word
        self.heard: dict[str, Any] = {}
        self._called = threading.Event()
        self.address: tuple[str, int] = (host, 0)
        self._socket: socket.socket | None = None
        with suppress(InputError, OSError):
            self._socket = socket.create_server((own_address(host, interface), 0))
            self.address = self._socket.getsockname()[:2]
            threading.Thread(target=self._serve, args=(self._socket,), daemon=True).start()

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return  # closed
            with connection, suppress(OSError, ValueError):
                self.heard = {**_understood(connection, self._word), "heard": time.time()}
                connection.sendall(_message(self._word))
                self._called.set()

    def called(self, timeout_s: float) -> bool:
        """Wait for a caller who knows the word, and say whether there was one."""
        return self._socket is not None and self._called.wait(timeout_s)

    def close(self) -> None:
        """Stop listening."""
        if self._socket is None:
            return
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for callers
        self._socket.close()


def call(address: str, port: int, word: str, /, **more: object) -> dict[str, Any]:
    """Call a listener and return its answer.

    Raises
    ------
    OSError
        If it is not reached.
    ValueError
        If somebody else listens there.
    """
    if not port:
        raise OSError(f"{address} has no address of its own to listen at")
    with socket.create_connection((address, port), timeout=CALL_S) as connection:
        connection.sendall(_message(word, **more))
        return _understood(connection, word)


def _message(word: str, /, **more: object) -> bytes:
    return f"{word} {json.dumps({'time': time.time(), **more})}\n".encode()


def _understood(connection: socket.socket, word: str) -> dict[str, Any]:
    """Return what the other says behind the word; of what a stranger says nothing is read."""
    first, _, rest = _line(connection).partition(b" ")
    if not hmac.compare_digest(first, word.encode()):
        raise ValueError("it is somebody else who answers there")
    return dict(json.loads(rest))


def _line(connection: socket.socket) -> bytes:
    """Read a line, however slowly its parts come, for `CALL_S` at most."""
    said, end = b"", time.monotonic() + CALL_S
    while not said.endswith(b"\n") and len(said) < LINE_BYTES:
        connection.settimeout(max(0.01, end - time.monotonic()))
        part = connection.recv(LINE_BYTES)
        if not part:
            break
        said += part
    return said


def own_address(host: str, interface: str | None) -> str:
    """Return the address at which other machines reach this one: that of the interface, or of its name."""
    if interface:
        with suppress(InputError):  # its name may be another on this kind of machine
            return address_of(host, interface)
    return address_of(host)


class Host:
    """The side of the login host: listens, keeps a file locked, and leaves in the folder where it is found."""

    def __init__(self, folder: Path, host: str, interface: str | None) -> None:
        self._folder = folder
        self.word = secrets.token_hex(16)
        self._listener = Listener(host, interface, self.word)
        self._lock = (folder / "lock").open("w")
        with suppress(OSError):  # a file system without locks, which the node tells
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        address, port = self._listener.address
        values = {"word": self.word, "address": address, "port": port, "host": host}
        write_text(folder / "host.json", json.dumps(values))
        os.chmod(folder / "host.json", 0o600)

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._listener.address[0]

    @property
    def heard(self) -> dict[str, Any]:
        """What the node said over the network, and when that was heard; empty as long as it said nothing."""
        return self._listener.heard

    def node(self) -> dict[str, Any]:
        """Return what the node wrote into the folder, empty as long as nothing is seen of it."""
        return _read(self._folder / "node.json")

    def call_node(self) -> str:
        """Call the node, and return what came in between, empty if nothing did."""
        node = self.heard or self.node()
        try:
            call(str(node["address"]), int(node["port"]), self.word)
        except (OSError, ValueError, KeyError) as err:
            return str(err)
        return ""

    def close(self) -> None:
        """Stop listening, and let go of the lock."""
        self._listener.close()
        self._lock.close()


class Node:
    """The side of the job: listens, calls the host, and writes into the folder what it saw."""

    def __init__(self, folder: Path, host: str, interface: str | None) -> None:
        other = _read(folder / "host.json")
        if not other:
            raise GlacierError(f"{folder} of the login host is not seen on {host}")
        self._listener = Listener(host, interface, str(other["word"]))
        address, port = self._listener.address
        known = {"host": host, "address": address, "port": port}
        refused = ""
        try:
            call(str(other["address"]), int(other["port"]), str(other["word"]), **known)
        except (OSError, ValueError) as err:
            refused = str(err)
        seen = {**known, "refused": refused, "time": time.time(), "locked": _locked(folder / "lock")}
        write_text(folder / "node.json", json.dumps(seen))

    def wait(self) -> None:
        """Stay until the host has called, but not for ever."""
        self._listener.called(STAY_S)
        self.close()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()


def _locked(path: Path) -> bool | None:
    """Say whether a file that the host keeps locked is locked here, too; None if that cannot be tried."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
