"""What makes this user known to a host, a password or cookies; none of them goes to another host.

Tokens in URLs and in headers are `signing`'s.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from http.cookiejar import Cookie, CookieJar, DefaultCookiePolicy
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import Request

import requests
import urllib3

from glacierhpc.scenes.remote.faults import Fault

MOST_REDIRECTS = 8
"""From a file to a login, its steps, back again, and on to where the file lies: five, as archives do it now."""

HTTP_PORT, HTTPS_PORT = 80, 443
_PLACE = re.compile(r"(?P<host>[\w.-]+|\[[0-9a-f:.]+\])(:(?P<port>\d{1,5}))?", re.ASCII | re.I)
_HERE = ("127.0.0.1", "localhost", "[::1]")


def place_of(url: str) -> tuple[str, int]:
    """Return the host that a URL leads to, in small letters, and the port.

    Raises
    ------
    Fault
        If the host is not plainly one: of ``https://a\\.b/`` one program reads the host ``a\\.b``, another asks ``a``.
    """
    parts = urlsplit(url)
    found = _PLACE.fullmatch(parts.netloc.rpartition("@")[2])
    if not found:
        raise Fault("wrong", "the address names no host that all programs read the same")
    return found["host"].lower(), int(found["port"] or (HTTP_PORT if parts.scheme == "http" else HTTPS_PORT))


def is_safe(url: str) -> bool:
    """Say whether nobody on the way can read what is told: by https, or on this machine."""
    return urlsplit(url).scheme == "https" or place_of(url)[0] in _HERE


def known_headers(url: str) -> dict[str, str]:
    """Return the headers by which the user is known where a URL leads, and nowhere else.

    By the password in the URL or in ``~/.netrc``, and by the cookies that the host has set in this process.

    Raises
    ------
    Fault
        If it cannot be said where the URL leads.
    """
    place_of(url)
    parts = urlsplit(url)
    headers = dict(_password(parts.scheme, parts.netloc))
    if any(True for _ in _jar()):
        request = Request(_bare(url))
        _jar().add_cookie_header(request)
        if cookies := request.get_header("Cookie"):
            headers["Cookie"] = cookies
    return headers


def learn_cookies(url: str, response: urllib3.BaseHTTPResponse) -> None:
    """Keep what a host wants to be told again; for the life of this process, and never on disk."""
    if "Set-Cookie" in response.headers:
        _jar().extract_cookies(response, Request(_bare(url)))  # type: ignore[arg-type]  # has what is asked of it


def next_place(url: str, location: str) -> str:
    """Return where a redirect leads.

    Raises
    ------
    Fault
        If that is no address, no HTTP, or the way from https to http: all that is said there can be read.
    """
    try:
        there = urljoin(url, location)
    except ValueError as err:
        raise Fault("wrong", "the server sends to what is no address") from err
    ways = urlsplit(url).scheme, urlsplit(there).scheme
    if ways[1] not in ("http", "https") or ways == ("https", "http"):
        raise Fault("wrong", f"the server sends from {ways[0]} to {ways[1]}, where nothing is asked for")
    return there


def is_login(url: str, there: str) -> bool:
    """Say whether who asks for a URL is sent to another host that shall know the user by a password."""
    parts = urlsplit(there)
    return place_of(url) != place_of(there) and bool(_password(parts.scheme, parts.netloc))


@contextmanager
def one_login(wait_s: float) -> Iterator[None]:
    """Let others wait while one logs in, not longer than some seconds: they need not, if they then have its cookies."""
    held = _LOGIN.acquire(timeout=wait_s)
    try:
        yield
    finally:
        if held:
            _LOGIN.release()


_LOGIN = threading.Lock()


def login_elsewhere(url: str, there: str) -> str:
    """Return what to do where another host than the one that was asked refuses; nothing if it is the same one."""
    asked, spoke = (urlsplit(place).netloc.rpartition("@")[2] for place in (url, there))
    if asked == spoke:
        return ""
    return (
        f"{asked} sends to {spoke} to log in: put your user and password for {urlsplit(there).hostname} into "
        "~/.netrc, or see archive.signing for a token"
    )


@lru_cache(maxsize=64)
def _password(scheme: str, place: str) -> dict[str, str]:
    stated = urlsplit(f"{scheme}://{place}")
    url = _bare(stated.geturl())
    user = (unquote(stated.username), unquote(stated.password or "")) if stated.username else None
    if user is None and is_safe(url):  # any server could send to a login by http, and listen on the way
        user = requests.utils.get_netrc_auth(url)
    return urllib3.util.make_headers(basic_auth=":".join(user)) if user else {}


def _bare(url: str) -> str:
    """Return a URL without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


class _AsTheyCame(DefaultCookiePolicy):
    """Lets cookies go back by the port by which they came, and by https if they came so, whatever the server says."""

    def set_ok(self, cookie: Cookie, request: Request) -> bool:
        """Say whether to keep a cookie; note which way it came."""
        cookie.port = str(urlsplit(request.full_url).port or HTTP_PORT)  # as a request without a port is read
        cookie.secure = cookie.secure or request.type == "https"
        return super().set_ok(cookie, request)


@lru_cache(maxsize=1)
def _jar() -> CookieJar:
    """Return the cookies of this process."""
    return CookieJar(_AsTheyCame())
