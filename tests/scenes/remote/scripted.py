"""A file server whose every answer is scripted; in this process, for nothing here is read by GDAL's own client."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

PAGE = b"<!DOCTYPE html><html><body>Please sign in</body></html>"


class Scripted:
    """What is served, what was asked, and what goes wrong.

    Parameters
    ----------
    content : bytes
        Of every file.
    script : callable
        Takes the number of the request, from 0, and gives the name of a fault or None.
    """

    def __init__(self, content: bytes, script: Callable[[int], str | None]) -> None:
        self.content, self.script = content, script
        self.asked: list[str] = []
        self.queries: list[str] = []
        self.users: list[str] = []
        self.tokens, self.lifetime_s, self.ahead_s = 0, 3600.0, 0.0
        self.issued_at: list[float] = []
        self.wait = "0"
        self.tag = '"1"'
        self.url = ""
        self.lock = threading.Lock()

    @property
    def href(self) -> str:
        return f"{self.url}/container/scene_B3.TIF"

    def now(self) -> float:
        return time.time() + self.ahead_s

    def issue(self) -> bytes:
        with self.lock:
            self.tokens += 1
            self.issued_at.append(time.monotonic())
            expiry = (
                datetime.fromtimestamp(self.now() + self.lifetime_s, UTC).isoformat().replace("+00:00", "Z")
            )
            return json.dumps(
                {"msft:expiry": expiry, "token": f"se={expiry}&sig=secret{self.tokens}"}
            ).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    scripted: Scripted

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(self.scripted.now(), usegmt=True)

    def do_GET(self) -> None:
        told = self.scripted
        if self.path.startswith("/token"):
            self._send(200, told.issue(), "application/json")
            return
        with told.lock:
            number = len(told.asked)
            told.asked.append(self.headers.get("Range", ""))
            told.queries.append(urlsplit(self.path).query)
            told.users.append(self.headers.get("Authorization", ""))
        fault = told.script(number)
        first, last = map(int, re.findall(r"\d+", self.headers["Range"]))
        last = min(last, len(told.content) - 1)
        body = told.content[first : last + 1]
        span = f"bytes {first}-{last}/{len(told.content)}"
        if fault is None:
            self._send(206, body, span=span)
        else:
            self._go_wrong(fault, body, span, first)

    def _send(
        self, status: int, body: bytes, kind: str = "image/tiff", *, span: str = "", **more: str
    ) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "ETag": self.scripted.tag, **more}
        if span:
            headers["Content-Range"] = span
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _go_wrong(self, fault: str, body: bytes, span: str, first: int) -> None:
        told = self.scripted
        if fault.isdigit():
            waits = {"Retry_After": told.wait} if fault in ("429", "503") else {}
            self._send(int(fault), b"no", "text/plain", **waits)
        elif fault == "html":
            self._send(200, PAGE, "text/html")
        elif fault == "unlabelled html":
            self._send(200, PAGE, "application/octet-stream")
        elif fault == "ignored range":
            self._send(200, told.content)
        elif fault == "other range":
            self._send(206, body, span=f"bytes {first + 1}-{first + len(body)}/{len(told.content)}")
        elif fault == "no range":
            self._send(206, body)
        elif fault == "corrupt":
            self._send(206, bytes(byte ^ 0x5A for byte in body), span=span)
        else:
            self.close_connection = True
            self._break_off(fault, body, span)

    def _break_off(self, fault: str, body: bytes, span: str) -> None:
        head = (
            f"HTTP/1.1 206 Partial\r\nContent-Length: {len(body)}\r\nContent-Range: {span}\r\n\r\n".encode()
        )
        if fault == "truncated":
            self.wfile.write(head + body[: len(body) // 2])
        elif fault == "slow body":
            self._trickle(body, head)
        elif fault == "slow headers":
            self._trickle(head)
        elif fault == "silence":
            time.sleep(1.5)
        else:
            assert fault == "reset", fault
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def _trickle(self, body: bytes, head: bytes = b"") -> None:
        """Send a byte now and then: each of them soon enough for a limit on silence alone."""
        try:
            self.wfile.write(head)
            for number in range(min(len(body), 30)):
                self.wfile.write(body[number : number + 1])
                self.wfile.flush()
                time.sleep(0.1)
        except OSError:  # the client has given up, as it should
            return


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # connections beyond it are tried again after a second


@contextmanager
def scripted(content: bytes, script: Callable[[int], str | None] = lambda _: None) -> Iterator[Scripted]:
    """Serve a file while the block lasts."""
    told = Scripted(content, script)
    handler = type("Handler", (_Handler,), {"scripted": told})
    server = _Server(("127.0.0.1", 0), handler)
    server.daemon_threads, server.block_on_close = True, False
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    told.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def first_only(*faults: str) -> Callable[[int], str | None]:
    """Return a script whose first requests go wrong."""
    return lambda number: faults[number] if number < len(faults) else None


def only(number: int, fault: str) -> Callable[[int], str | None]:
    """Return a script in which one request goes wrong."""
    return lambda asked: fault if asked == number else None
