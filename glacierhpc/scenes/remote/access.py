"""What makes this user known to a host, a password or cookies; none of them goes to another host.

Tokens in URLs and in headers are `signing`'s.
"""

from __future__ import annotations

from functools import lru_cache
from http.cookiejar import CookieJar
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import Request

import requests
import urllib3

from glacierhpc.scenes.remote.faults import Fault

MOST_REDIRECTS = 8
"""From a file to a login, its steps, back again, and on to where the file lies: five, as archives do it now."""


def known_headers(url: str) -> dict[str, str]:
    """Return the headers by which the user is known where a URL leads, and nowhere else.

    By the password in the URL or in ``~/.netrc``, and by the cookies that the host has set in this process.
    """
    parts = urlsplit(url)
    headers = dict(_password(parts.scheme, parts.netloc))
    if any(True for _ in _jar()):
        request = Request(url)
        _jar().add_cookie_header(request)
        if cookies := request.get_header("Cookie"):
            headers["Cookie"] = cookies
    return headers


def learn_cookies(url: str, response: urllib3.BaseHTTPResponse) -> None:
    """Keep what a host wants to be told again; for the life of this process, and never on disk."""
    if "Set-Cookie" in response.headers:
        _jar().extract_cookies(response, Request(url))  # type: ignore[arg-type]  # has what is asked of it


def next_place(url: str, location: str) -> str:
    """Return where a redirect leads.

    Raises
    ------
    Fault
        If that is no HTTP, or the way from https to http: all that is said there can be read.
    """
    there = urljoin(url, location)
    ways = urlsplit(url).scheme, urlsplit(there).scheme
    if ways[1] not in ("http", "https") or ways == ("https", "http"):
        raise Fault("wrong", f"the server sends from {ways[0]} to {ways[1]}, where nothing is asked for")
    return there


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
    url = f"{scheme}://{place}"
    stated = urlsplit(url)
    user = (unquote(stated.username), unquote(stated.password or "")) if stated.username else None
    user = user or requests.utils.get_netrc_auth(url)
    return urllib3.util.make_headers(basic_auth=":".join(user)) if user else {}


@lru_cache(maxsize=1)
def _jar() -> CookieJar:
    """Return the cookies of this process."""
    return CookieJar()
