"""One request for a range of a file over HTTP, whose answer is what was asked for or a `Fault`.

Asking again, and when, is `files`'s and `hosts`'s.
"""

from __future__ import annotations

import io
import math
import re
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPResponse
from typing import IO, Any
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
import urllib3
import urllib3.exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection

from glacierhpc.scenes.remote.clock import CLOCK
from glacierhpc.scenes.remote.faults import Fault, fault_of_status, wait_asked_s

LEAST_BYTES_PER_S = 16_000.0  # under this rate an answer counts as silence
CONNECT_S = 20.0
_PIECE = 256 * 1024
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)$")
_REDIRECTS = urllib3.Retry(
    total=3, connect=0, read=0, status=0, other=0, respect_retry_after_header=False
)  # waiting is for the caller, who knows the other readers
_PAGES = re.compile(r"text/|html|json|xml", re.I)


@dataclass(frozen=True)
class Piece:
    """What a server sent of a file."""

    body: bytes
    size: int
    """Of the whole file, bytes."""
    tag: str
    """The server's mark of this version of the file; empty where it has none."""
    whole: IO[bytes] | None = None
    """The whole file in place of `body`, where the server ignored the range."""


def get_range(url: str, first: int, last: int, *, timeout_s: float) -> Piece:
    """Ask once for the bytes `first` to `last` (included) of a file.

    Parameters
    ----------
    url : str
        Signed.
    timeout_s : float
        Longest wait for a sign of life; for the whole answer, as long again as it would take at
        `LEAST_BYTES_PER_S`.

    Raises
    ------
    Fault
        For everything that is not exactly these bytes of an image file, and for what cannot be reached.
    """
    ends = time.monotonic() + timeout_s + (last + 1 - first) / LEAST_BYTES_PER_S
    with _faults(url), _requested(url, f"bytes={first}-{last}", timeout_s) as response:
        server_now = CLOCK.learn(response.headers.get("Date"))
        if response.status == 206:
            return _part(response, first, last, ends)
        if response.status == 200:
            return _whole(response, timeout_s)
        raise fault_of_status(response.status, wait_asked_s(response.headers.get("Retry-After"), server_now))


def _part(response: urllib3.BaseHTTPResponse, first: int, last: int, ends: float) -> Piece:
    found = _RANGE.match(response.headers.get("Content-Range", "").strip())
    if not found or found[3] == "*":
        raise Fault("cut", "the server does not say which part of the file it sent")
    begins, stops, size = int(found[1]), int(found[2]), int(found[3])
    if begins != first or stops != min(last, size - 1):
        raise Fault("cut", "the server sent another part of the file than was asked for")
    body = b"".join(_pieces(response, ends))
    if len(body) != stops + 1 - begins:
        raise Fault("cut", "the answer was cut short")
    return Piece(body, size, _tag(response.headers))


def _whole(response: urllib3.BaseHTTPResponse, timeout_s: float) -> Piece:
    """Take a whole file to disk: a server may ignore a range, and must not be asked for all of it every time."""
    if _PAGES.search(response.headers.get("Content-Type", "")):
        raise Fault("page", "what came is not an image but a page (HTTP 200)")
    stated = response.headers.get("Content-Length")
    size = int(stated) if stated and stated.isdigit() else None
    ends = time.monotonic() + timeout_s + (size or 1e9) / LEAST_BYTES_PER_S
    with _on_disk():
        file = tempfile.TemporaryFile()  # noqa: SIM115 - it outlives this call
    try:
        for piece in _pieces(response, ends):
            if not file.tell() and piece.lstrip()[:1] in (b"<", b"{"):
                raise Fault("page", "what came is not an image but a page (HTTP 200)")
            with _on_disk():
                file.write(piece)
        with _on_disk():
            file.flush()
        if size is not None and file.tell() != size:
            raise Fault("cut", "the answer was cut short")
        return Piece(b"", file.tell(), _tag(response.headers), file)
    except BaseException:
        file.close()
        raise


@contextmanager
def _on_disk() -> Iterator[None]:
    """Say of this machine's disk what would else be said of the connection."""
    try:
        yield
    except OSError as err:
        raise Fault(
            "wrong",
            f"the server ignores ranges, and all of the file cannot be kept here ({err.strerror or err}); set "
            "TMPDIR to a folder with more room",
        ) from err


def _pieces(response: urllib3.BaseHTTPResponse, ends: float) -> Iterator[bytes]:
    while piece := response.read1(_PIECE):
        yield piece
        if time.monotonic() > ends:
            raise Fault("silent", "no answer in time; raise archive.timeout_s")


def _tag(headers: Mapping[str, str]) -> str:
    tag = headers.get("ETag", "")
    return "" if tag.startswith("W/") else tag


@contextmanager
def _requested(url: str, asked: str, timeout_s: float) -> Iterator[urllib3.BaseHTTPResponse]:
    parts = urlsplit(url)
    pools, known = _pools(parts.scheme, parts.netloc)
    response = pools.request(
        "GET",
        urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])),
        headers={"Range": asked, "Accept-Encoding": "identity", **known},
        preload_content=False,
        timeout=urllib3.Timeout(connect=min(CONNECT_S, timeout_s), read=timeout_s),
        retries=_REDIRECTS,
    )
    try:
        yield response
    except BaseException:
        response.close()  # what is left of the answer is of no use to the next request
        raise
    response.release_conn()


@contextmanager
def _faults(url: str) -> Iterator[None]:
    """Turn what the HTTP library raises into faults."""
    host = urlsplit(url).netloc.rpartition("@")[2]
    try:
        yield
    except urllib3.exceptions.MaxRetryError as err:
        raise _fault(err.reason or err, host) from err
    except (urllib3.exceptions.HTTPError, OSError) as err:
        raise _fault(err, host) from err


def _fault(err: BaseException, host: str) -> Fault:
    # a connection that cannot be made is a timeout of urllib3's, too: look at it first
    if isinstance(err, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)):
        return Fault("unreachable", f"no connection to {host}")
    if isinstance(err, (urllib3.exceptions.TimeoutError, TimeoutError)):
        return Fault("silent", "no answer in time; raise archive.timeout_s")
    if isinstance(err, urllib3.exceptions.IncompleteRead):
        return Fault("cut", "the answer was cut short")
    if isinstance(err, urllib3.exceptions.SSLError):
        return Fault("unreachable", f"no secure connection to {host}")
    if isinstance(err, urllib3.exceptions.ProtocolError) and "IncompleteRead" in str(err):
        return Fault("cut", "the answer was cut short")
    return Fault("unreachable", f"no connection to {host}")


class _Hasty(io.RawIOBase):
    """Bytes from a connection, of which the first must not trickle in: its own time limit begins anew with each."""

    def __init__(self, raw: io.RawIOBase, ends: float) -> None:
        self._raw, self.ends = raw, ends

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._raw.readinto(buffer)
        if time.monotonic() > self.ends:
            raise TimeoutError("the headers took too long")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _HastyResponse(HTTPResponse):
    """Gives up on headers that trickle in."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self._limit_s = sock.gettimeout()
        self._hasty = _Hasty(self.fp.detach(), math.inf)
        self.fp = io.BufferedReader(self._hasty)

    def begin(self) -> None:
        self._hasty.ends = time.monotonic() + (self._limit_s or math.inf)
        super().begin()
        self._hasty.ends = math.inf  # of the body, who reads it takes care


class _HastyHTTP(HTTPConnection):
    response_class = _HastyResponse


class _HastyHTTPS(HTTPSConnection):
    response_class = _HastyResponse


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HastyHTTP  # type: ignore[assignment]


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HastyHTTPS  # type: ignore[assignment]


@lru_cache(maxsize=64)
def _pools(scheme: str, place: str) -> tuple[urllib3.PoolManager, dict[str, str]]:
    """Return the connections to a host, kept alive, and the header by which the user is known there.

    By the proxy and the authorities that this machine names, and the password in the URL or in ``~/.netrc``.
    """
    url = f"{scheme}://{place}"
    settings = requests.Session().merge_environment_settings(url, {}, None, None, None)
    proxy = requests.utils.select_proxy(url, settings["proxies"])
    verify = settings["verify"]
    options: dict[str, Any] = {"num_pools": 4, "maxsize": 64, "block": False}
    if scheme == "https":
        options["ca_certs"] = verify if isinstance(verify, str) else requests.certs.where()
    pools = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
    pools.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    stated = urlsplit(url)
    user = (unquote(stated.username), unquote(stated.password or "")) if stated.username else None
    user = user or requests.utils.get_netrc_auth(url)
    return pools, urllib3.util.make_headers(basic_auth=":".join(user)) if user else {}
