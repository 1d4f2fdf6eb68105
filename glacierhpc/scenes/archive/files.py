"""An HTTP file server with range requests, which can ask for tokens and go wrong on purpose; knows no
STAC."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from glacierhpc.scenes.archive.counts import Counts
from glacierhpc.scenes.archive.faults import Faults
from glacierhpc.scenes.archive.tokens import TokenOffice

log = logging.getLogger(__name__)
CONTAINER = "landsat-c2"  # first part of every path; what a token is asked for
_PIECE = 64 * 1024
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")
_TYPES = {
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".json": "application/json",
    ".gpkg": "application/geopackage+sqlite3",
}
_HTML = (
    b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><h1>Please sign in</h1></body></html>\n"
)


class FileServer:
    """Serves a folder below ``/<container>/`` and tokens below ``/token/`` from threads of this process.

    Parameters
    ----------
    folder : path
    host, port : str, int
        Port 0 takes a free one.
    token_lifetime_s : float, optional
        Files need a token that lives so long; None asks for none.
    faults : Faults
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token_lifetime_s: float | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.folder = Path(folder).resolve()
        self.faults = faults or Faults()
        self.needs_token = token_lifetime_s is not None
        self.office = TokenOffice(3600.0 if token_lifetime_s is None else token_lifetime_s)
        self.counts = Counts()
        self.stopping = threading.Event()
        owner = self

        class Handler(_Handler):
            server_owner = owner

        self._server = _Server((host, port), Handler)
        self.host, self.port = host, int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """``http://host:port``."""
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Start answering, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End all answers and free the port."""
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = (
        256  # dozens of readers connect at once; refused connections would be faults nobody asked for
    )

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients that hang up are their own affair: GDAL does so on every probe it is done with.
        log.debug("connection of %s ended", client_address, exc_info=True)


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: dict[str, str]
    first: int = 0
    length: int = 0
    path: Path | None = None
    body: bytes = b""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = (
        True  # headers and body go out apart; waiting to join them costs 40 ms a request
    )
    wbufsize = _PIECE
    timeout = 60
    server_owner: FileServer

    def do_GET(self) -> None:
        self._serve(with_body=True)

    def do_HEAD(self) -> None:
        self._serve(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:
        # The path only: a query may hold a token.
        log.debug("%s %s", self.command, urlsplit(self.path).path)

    def _serve(self, *, with_body: bool) -> None:
        owner = self.server_owner
        url = urlsplit(self.path)
        if url.path.startswith("/token/"):
            owner.counts.add_token()
            self._send(_plain(200, json.dumps(owner.office.issue()).encode(), "application/json"), with_body)
            return
        faults = owner.faults
        relative = unquote(url.path).removeprefix(f"/{CONTAINER}/")
        number = owner.counts.begin(relative)
        status = 0
        try:
            if faults.delay_s:
                owner.stopping.wait(faults.delay_s)
            answer = self._answer(relative, url.query)
            fault = faults.of(relative, number) if answer.status < 400 else None
            if fault:
                owner.counts.add_fault(fault)  # now: an answer that hangs is not over for long
            status = self._go_wrong(fault, answer, with_body) if fault else self._send(answer, with_body)
        finally:
            owner.counts.end(status)

    def _answer(self, relative: str, query: str) -> _Answer:
        owner = self.server_owner
        if not urlsplit(self.path).path.startswith(f"/{CONTAINER}/"):
            return _plain(404, b"not found\n")
        refusal = owner.office.refuses(query) if owner.needs_token else None
        if refusal:
            return _plain(403, _azure_error(refusal), "application/xml")
        path = (owner.folder / relative).resolve()
        if not path.is_relative_to(owner.folder) or not path.is_file():
            return _plain(404, b"not found\n")
        return self._of_file(path, self.headers.get("Range"))

    def _of_file(self, path: Path, asked: str | None) -> _Answer:
        stat = path.stat()
        headers = {
            "Content-Type": _TYPES.get(path.suffix.lower(), "application/octet-stream"),
            "Accept-Ranges": "bytes",
            "Last-Modified": formatdate(stat.st_mtime, usegmt=True),
            "ETag": f'"{stat.st_size:x}-{stat.st_mtime_ns:x}"',
        }
        bounds = _parse_range(asked, stat.st_size)
        if bounds is None:  # none asked, or a form that a server may ignore (RFC 9110, 14.2)
            return _Answer(200, headers, 0, stat.st_size, path)
        first, last = bounds
        if first >= stat.st_size or first > last:
            return _plain(416, b"", extra={"Content-Range": f"bytes */{stat.st_size}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{stat.st_size}"
        return _Answer(206, headers, first, last - first + 1, path)

    def _send(
        self,
        answer: _Answer,
        with_body: bool,
        *,
        share: float = 1.0,
        rate: float | None = None,
        spoil: bool = False,
    ) -> int:
        """Send an answer, or the first `share` of its body; return the status."""
        length = answer.length if answer.path else len(answer.body)
        self._send_head(answer.status, {**answer.headers, "Content-Length": str(length)})
        if with_body:
            rate = rate or (self.server_owner.faults.bytes_per_s if answer.path else None)
            self._send_body(answer, int(length * share), rate, spoil)
        self.wfile.flush()
        return answer.status

    def _send_head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status, HTTPStatus(status).phrase)
        for name, value in headers.items():
            self.send_header(name, value)
        if status >= 400 and self.command not in ("GET", "HEAD"):
            self.close_connection = True
        self.end_headers()

    def _send_body(self, answer: _Answer, count: int, rate: float | None, spoil: bool) -> None:
        owner = self.server_owner
        if answer.path is None:
            self.wfile.write(answer.body[:count])
            owner.counts.add_bytes(min(count, len(answer.body)))
            return
        piece = _PIECE if rate is None else max(min(int(rate / 20), _PIECE), 1)
        with answer.path.open("rb") as source:
            source.seek(answer.first)
            while count > 0 and not owner.stopping.is_set():
                data = source.read(min(piece, count))
                self.wfile.write(bytes(b ^ 0x5A for b in data) if spoil else data)
                count -= len(data)
                owner.counts.add_bytes(len(data))
                if rate is not None:
                    self.wfile.flush()
                    owner.stopping.wait(len(data) / rate)

    def _go_wrong(self, kind: str, answer: _Answer, with_body: bool) -> int:
        owner = self.server_owner
        faults = owner.faults
        if kind.isdigit():
            retry = {"Retry-After": f"{faults.retry_after_s:g}"} if kind in ("429", "503") else {}
            return self._send(
                _plain(int(kind), HTTPStatus(int(kind)).phrase.encode(), extra=retry), with_body
            )
        if kind == "html":
            return self._send(_plain(200, _HTML, "text/html; charset=utf-8"), with_body)
        if kind == "ignore_range" and answer.path:
            return self._send(self._of_file(answer.path, None), with_body)
        if kind == "corrupt":
            return self._send(answer, with_body, spoil=True)
        if kind == "slow":
            return self._send(answer, with_body, rate=(faults.bytes_per_s or 200_000.0) / 100)
        self.close_connection = True
        if kind == "truncate":
            return self._send(answer, with_body, share=0.5)
        if kind == "timeout":
            owner.stopping.wait(faults.hang_s)
        self._hang_up()
        return 0

    def _hang_up(self) -> None:
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # the client was faster
            log.debug("client hung up first")


def _plain(
    status: int, body: bytes, content_type: str = "text/plain", extra: dict[str, str] | None = None
) -> _Answer:
    return _Answer(status, {"Content-Type": content_type, **(extra or {})}, body=body)


def _azure_error(why: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="utf-8"?><Error><Code>AuthenticationFailed</Code>'
        f"<Message>Server failed to authenticate the request: {why}.</Message></Error>"
    ).encode()


def _parse_range(asked: str | None, size: int) -> tuple[int, int] | None:
    """Return (first, last) byte of a single range, or None where the whole file is to be sent."""
    found = _RANGE.match(asked.strip()) if asked else None
    if not found or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        return (max(size - int(last), 0), size - 1) if int(last) else (size, size)
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) if last else size - 1, size - 1)
