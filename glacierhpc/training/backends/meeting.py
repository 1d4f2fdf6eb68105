"""How ranks that know only a machine and a port find the store of rank 0, also where another program has the port.

Rank 0 puts its store at any free port and a signpost to it at the first of a few agreed ones that it gets; whoever
asks there is told which run it belongs to. That all know a port is thus no more than a suggestion.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from glacierhpc.errors import GlacierError

TRIES = 8
"""Ports at which a signpost may stand."""
STRIDE = 997
"""Between them: a prime, as neighbours are often of one program."""
ANSWER_S = 3.0
"""For a signpost to answer; another program there may keep silent for ever."""
FIRST, LAST = 1024, 65_535


def signposts(port: int) -> list[int]:
    """Return the ports at which ranks look for each other, from the one they were given."""
    return [FIRST + (port - FIRST + number * STRIDE) % (LAST - FIRST) for number in range(TRIES)]


@contextlib.contextmanager
def signpost(address: str, port: int, *, run: str, store: int) -> Iterator[int]:
    """Tell whoever asks where the store is, while the block runs; gives the port at which it is told.

    Parameters
    ----------
    address : str
        To listen on; empty for all networks of this machine.
    port : int
        The first to try.
    run : str
        Which run this is; its ranks ask by the same name.
    store : int
        Port of the store.

    Raises
    ------
    GlacierError
        If other programs have all the ports.
    """
    listener = _listening(address, port)
    answering = threading.Thread(target=_answer, args=(listener, f"{run} {store}\n".encode()), daemon=True)
    answering.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        listener.close()
        answering.join()


def follow(address: str, port: int, *, run: str, timeout_s: float) -> int:
    """Return the port of the store of a run, asked at its signpost.

    Raises
    ------
    GlacierError
        If nobody answers in time; says what stands at the ports.
    """
    end = time.monotonic() + timeout_s
    while True:
        found = {each: _asked(address, each) for each in signposts(port)}
        for told in found.values():
            name, _, store = told.rpartition(" ")
            if name == run and store.isdigit():
                return int(store)
        if time.monotonic() > end:
            heard = "; ".join(f"{each}: {told}" for each, told in found.items())
            raise GlacierError(f"rank 0 was not found on {address} in {timeout_s:.0f} s ({heard})")
        time.sleep(0.2)


def _listening(address: str, port: int) -> socket.socket:
    error: OSError | None = None
    for each in signposts(port):
        try:
            return socket.create_server((address, each), backlog=1024)
        except OSError as err:
            error = err
    raise GlacierError(
        f"none of the ports {', '.join(map(str, signposts(port)))} is free here ({error}): set MASTER_PORT to another"
    )


def _answer(listener: socket.socket, text: bytes) -> None:
    while True:
        try:
            line, _ = listener.accept()
        except OSError:
            return
        with line, contextlib.suppress(OSError):
            line.sendall(text)


def _asked(address: str, port: int) -> str:
    try:
        with socket.create_connection((address, port), timeout=ANSWER_S) as line:
            line.settimeout(ANSWER_S)
            text = b""
            while not text.endswith(b"\n") and len(text) < 500:
                piece = line.recv(500)
                if not piece:
                    break
                text += piece
            return text.decode(errors="replace").strip() or "another program"
    except TimeoutError:
        return "a program that does not answer"
    except OSError as err:
        return err.strerror or str(err)
