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
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.client import HTTPResponse
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

import requests
import urllib3
import urllib3.exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection

from glacierhpc.scenes.remote import access
from glacierhpc.scenes.remote.clock import CLOCK
from glacierhpc.scenes.remote.faults import Fault, fault_of_status, wait_asked_s

LEAST_BYTES_PER_S = 16_000.0  # under this rate an answer counts as silence
CONNECT_S = 20.0
_PIECE = 256 * 1024
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)$")
_PAGES = re.compile(r"text/|html|json|xml", re.I)


Headers = Callable[[str], dict[str, str]]
"""Takes a URL, and gives what to tell there."""


@dataclass(frozen=True)
class Piece:
    """What a server sent of a file."""

    body: bytes
    size: int
    """Of the whole file, bytes."""
    tag: str
    """The server's mark of this version of the file; empty where it has none."""
    there: str = field(repr=False)
    """The URL that it came from in the end: a server may send on to another, signed for a while."""
    whole: IO[bytes] | None = None
    """The whole file in place of `body`, where the server ignored the range."""


def get_range(
    url: str,
    first: int,
    last: int,
    *,
    timeout_s: float,
    headers: Headers = lambda _: {},
) -> Piece:
    """Ask once for the bytes `first` to `last` (included) of a file, wherever the server sends for it.

    Parameters
    ----------
    url : str
        Signed.
    timeout_s : float
        Longest wait for a sign of life; for the whole answer, as long again as it would take at
        `LEAST_BYTES_PER_S`.
    headers : callable
        Takes the URL of each request on the way, and gives what to tell there and at no other place.

    Raises
    ------
    Fault
        For everything that is not exactly these bytes of an image file, and for what cannot be reached.
    """
    ends = time.monotonic() + timeout_s + (last + 1 - first) / LEAST_BYTES_PER_S
    with _answered(url, f"bytes={first}-{last}", timeout_s, headers) as (response, there):
        server_now = CLOCK.learn(response.headers.get("Date"))
        try:
            if response.status == 206:
                return _part(response, there, first, last, ends)
            if response.status == 200:
                return _whole(response, there, timeout_s)
            raise fault_of_status(
                response.status, wait_asked_s(response.headers.get("Retry-After"), server_now)
            )
        except Fault as fault:
            login = access.login_elsewhere(url, there)
            if login and fault.kind in ("page", "refused"):
                raise Fault(fault.kind, f"{fault.reason}; {login}") from fault
            raise


def _part(response: urllib3.BaseHTTPResponse, there: str, first: int, last: int, ends: float) -> Piece:
    found = _RANGE.match(response.headers.get("Content-Range", "").strip())
    if not found or found[3] == "*":
        raise Fault("cut", "the server does not say which part of the file it sent")
    begins, stops, size = int(found[1]), int(found[2]), int(found[3])
    if begins != first or stops != min(last, size - 1):
        raise Fault("cut", "the server sent another part of the file than was asked for")
    body = b"".join(_pieces(response, ends))
    if len(body) != stops + 1 - begins:
        raise Fault("cut", "the answer was cut short")
    return Piece(body, size, _tag(response.headers), there)


def _whole(response: urllib3.BaseHTTPResponse, there: str, timeout_s: float) -> Piece:
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
        return Piece(b"", file.tell(), _tag(response.headers), there, file)
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
def _answered(
    url: str, asked: str, timeout_s: float, headers: Headers
) -> Iterator[tuple[urllib3.BaseHTTPResponse, str]]:
    """Yield the answer and the URL that it comes from, which may be another one than was asked."""
    there, knew = url, access.known_headers(url)
    told = knew
    with ExitStack() as login:
        for _ in range(1 + access.MOST_REDIRECTS):
            with (
                _faults(there),
                _requested(there, {**told, "Range": asked, **headers(there)}, timeout_s) as response,
            ):
                access.learn_cookies(there, response)
                location = response.get_redirect_location()
                if not location:
                    login.close()
                    yield response, there
                    return
                if (response.length_remaining or 0) <= _PIECE:  # else the connection ends with it
                    deque(_pieces(response, time.monotonic() + timeout_s), maxlen=0)
            there = access.next_place(there, location)
            if access.is_login(url, there):
                login.close()
                login.enter_context(access.one_login(timeout_s))
                known = access.known_headers(url)
                if known != knew:  # another thread has logged in meanwhile
                    there, knew = url, known
            told = access.known_headers(there)
    raise Fault("wrong", f"the server sends from place to place, more than {access.MOST_REDIRECTS} times")


@contextmanager
def _requested(url: str, headers: dict[str, str], timeout_s: float) -> Iterator[urllib3.BaseHTTPResponse]:
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    response = _pools(bare.scheme, bare.netloc).request(
        "GET",
        urlunsplit(bare),
        headers={"Accept-Encoding": "identity", **headers},
        preload_content=False,
        timeout=urllib3.Timeout(connect=min(CONNECT_S, timeout_s), read=timeout_s),
        retries=False,
        redirect=False,
    )
    try:
        yield response
    except BaseException:
        response.close()  # what is left of the answer is of no use to the next request
        raise
    if not response.closed:  # a page nobody reads
        response.close()
    response.release_conn()


@contextmanager
def _faults(url: str) -> Iterator[None]:
    """Turn what the HTTP library raises into faults."""
    host = urlsplit(url).netloc.rpartition("@")[2]
    try:
        yield
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
def _pools(scheme: str, place: str) -> urllib3.PoolManager:
    """Return the connections to a host, kept alive, by the proxy and the authorities that this machine names."""
    url = f"{scheme}://{place}"
    settings = requests.Session().merge_environment_settings(url, {}, None, None, None)
    proxy = requests.utils.select_proxy(url, settings["proxies"])
    verify = settings["verify"]
    options: dict[str, Any] = {"num_pools": 4, "maxsize": 64, "block": False}
    if scheme == "https":
        options["ca_certs"] = verify if isinstance(verify, str) else requests.certs.where()
    pools = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
    pools.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return pools
