"""Where Horovod's processes find each other without MPI: a store of small values, alive as long as one job script.

Horovod's Gloo controller writes and reads values under ``/scope/name`` by HTTP and asks again for what is not there
yet. It knows no password, but puts whatever it is told as the address before that path: so it is told an address with a
key, and who does not know the key is refused. The key reaches the processes in their environment, which their user
alone can read. What they exchange once they have met is Gloo's own affair, which knows no key.

References
----------
https://horovod.readthedocs.io/en/stable/ ; the client is ``horovod/common/gloo/http_store.cc``.
"""

from __future__ import annotations

import fcntl
import hmac
import os
import secrets
import select
import socket
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from glacierhpc.errors import InputError

MAX_VALUE_BYTES = 2**20
"""Of one value; Gloo's are addresses of some hundred bytes."""
SIOCGIFADDR = 0x8915
"""The request for an interface's address, of netdevice(7)."""


class Store(ThreadingHTTPServer):
    """The store; `values` is guarded by `lock`."""

    daemon_threads = True
    request_queue_size = 1024
    """All processes of a job come at the same time."""

    def __init__(self, address: str, handler: type[Handler] | None = None) -> None:
        super().__init__((address, 0), handler or Handler)
        self.values: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.key = secrets.token_hex(16)

    @property
    def place(self) -> tuple[str, int]:
        """The address with the key, and the port, as Horovod is told them; it asks ``ADDRESS:PORT/scope/name``."""
        address, port = self.server_address[:2]
        return f"{address!s}:{port}/{self.key}", int(port)

    def start(self) -> tuple[str, int]:
        """Serve from a thread; return the place."""
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self.place


class Handler(BaseHTTPRequestHandler):
    """Answers one process."""

    server: Store
    timeout = 60

    def parse_request(self) -> bool:
        """Read what is asked; the path is without the key from here on, and who does not know it gets nothing."""
        if not super().parse_request():
            return False
        key, _, rest = self.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(key.partition(":")[0].encode(), self.server.key.encode()):
            self.close_connection = True
            self.answer(403)
            return False
        self.path = f"/{rest}"
        return True

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        with self.server.lock:
            value = self.server.values.get(self.path)
        self.answer(404 if value is None else 200, value or b"")

    def do_PUT(self) -> None:  # noqa: N802
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_VALUE_BYTES:
            self.answer(413)
            return
        value = self.rfile.read(int(length))
        if len(value) < int(length):
            return  # its sender is gone
        with self.server.lock:
            self.server.values[self.path] = value
        self.answer(200)

    def do_DELETE(self) -> None:  # noqa: N802
        with self.server.lock:
            self.server.values.pop(self.path, None)
        self.answer(200)

    def answer(self, code: int, value: bytes = b"") -> None:
        """Send a status and a value."""
        self.send_response(code)
        self.send_header("Content-Length", str(len(value)))
        self.end_headers()
        self.wfile.write(value)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: every wait of a process is some hundred requests."""


def address_of(host: str, interface: str = "") -> str:
    """Return the IPv4 address to listen on.

    Parameters
    ----------
    host : str
        Name of this machine as the others know it.
    interface : str
        Network interface, whose address is taken instead.

    Raises
    ------
    InputError
        If the interface does not exist or has no address, or the name is not known.
    """
    try:
        if not interface:
            return str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            answer = fcntl.ioctl(asked, SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        return socket.inet_ntoa(answer[20:24])
    except OSError as err:
        there = ", ".join(name for _, name in socket.if_nameindex())
        what = f"network interface {interface!r}" if interface else f"host {host!r}"
        raise InputError(f"{what} has no address here ({err}); the interfaces are {there}") from err


def serve(host: str, interface: str = "") -> None:
    """Serve until standard input ends, which is when whoever started this is gone; tells the place first."""
    with Store(address_of(host, interface)) as store:
        tell(*store.start())
        wait_for_owner()


def tell(*words: object) -> None:
    """Answer the job script, which reads one line at a time."""
    print(*words, flush=True)  # noqa: T201


def wait_for_owner() -> None:
    """Return when standard input has ended."""
    while True:
        select.select([sys.stdin], [], [])
        if not os.read(sys.stdin.fileno(), 1024):
            return
