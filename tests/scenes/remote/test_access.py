"""Archives that want to know who asks: a login on another host, cookies, a token; each goes to its own host only."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import urllib3

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.grid import Grid
from glacierhpc.scenes.bearer import PlainSigner, bearer_hosts, hand_over
from glacierhpc.scenes.readers import ReadFailed, ReadRequest, read_with_retries
from glacierhpc.scenes.remote import files, shared
from glacierhpc.scenes.remote.access import known_headers, learn_cookies, next_place
from glacierhpc.scenes.remote.faults import Fault
from glacierhpc.scenes.remote.policy import RetryPolicy
from glacierhpc.scenes.signing import Signer, make_signer, signer_spec
from tests.scenes.rasters import numbers, write_raster

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.usefixtures("new_to_all"),
]

GRID = Grid("EPSG:32643", (30.0, 0.0, 600015.0, 0.0, -30.0, 3540015.0), (320, 256))
PIXELS = numbers(7, GRID.shape)
POLICY = RetryPolicy(max_attempts=2, backoff_s=0.01, timeout_s=30.0, deadline_s=300.0)
TOKEN = "eyJ0.of-Ann_~+/="

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Host:
    """A server that keeps what it was told."""

    name: str
    answer: Callable[[str, dict[str, str]], Answer]
    """Takes the path and the headers, by names in small letters."""
    url: str = ""
    told: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def words(self) -> str:
        """Return all that it was ever told."""
        return str(self.told)


@contextmanager
def running(host: Host) -> Iterator[Host]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            host.told.append((self.path, headers))
            status, more, body = host.answer(self.path, headers)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1" if host.name == "localhost" else host.name, 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    host.url = f"http://{host.name}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Archive:
    """Three hosts as NASA's archives have them: for the data, for the login, and where the files lie.

    The data host knows a user by a token, or by a cookie that the way over the login brings; it sends whom it knows
    on to a signed URL, where a header with a password or token is an error, as it is at S3.
    """

    def __init__(self, content: bytes) -> None:
        self.content, self.signature = content, "X-Amz-Signature=1"
        self.data = Host("localhost", self._data)
        self.login = Host("127.0.0.1", self._login)
        self.store = Host("127.0.0.2", self._store)  # whose name is not in ~/.netrc

    @property
    def href(self) -> str:
        return f"{self.data.url}/protected/scene_B3.TIF"

    def _data(self, path: str, headers: dict[str, str]) -> Answer:
        if path.startswith("/login"):
            assert path == "/login?code=ann"
            return (
                302,
                {"Location": "/protected/scene_B3.TIF", "Set-Cookie": "session=ann; HttpOnly"},
                b"back",
            )
        if headers.get("authorization") == f"Bearer {TOKEN}" or "session=ann" in headers.get("cookie", ""):
            return 303, {"Location": f"{self.store.url}/scene_B3.TIF?{self.signature}"}, b"go"
        return 302, {"Location": f"{self.login.url}/oauth/authorize"}, b"who are you?"

    def _login(self, path: str, headers: dict[str, str]) -> Answer:
        if headers.get("authorization") == "Basic YW5uOnB3":
            return 302, {"Location": f"{self.data.url}/login?code=ann"}, b""
        return 401, {"WWW-Authenticate": "Basic"}, b"no"

    def _store(self, path: str, headers: dict[str, str]) -> Answer:
        if {"authorization", "cookie"} & set(headers):
            return 400, {}, b"two ways to be known"
        if urlsplit(path).query != self.signature:
            return 403, {}, b"too late"
        first, last = map(int, re.findall(r"\d+", headers["range"]))
        body = self.content[first : last + 1]
        span = f"bytes {first}-{first + len(body) - 1}/{len(self.content)}"
        return 206, {"Content-Range": span, "Content-Type": "image/tiff"}, body


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    return write_raster(tmp_path_factory.mktemp("tif") / "a.tif", PIXELS, grid=GRID, block=64).read_bytes()


@pytest.fixture
def archive(content, monkeypatch, tmp_path) -> Iterator[Archive]:
    """An archive to which nobody is known yet, and a user whose password for the login is in ~/.netrc."""
    monkeypatch.setattr(files, "LARGEST_REQUEST_BYTES", 40_000)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    netrc(tmp_path, "machine 127.0.0.1 login ann password pw")
    with ExitStack() as stack:
        made = Archive(content)
        for host in (made.data, made.login, made.store):
            stack.enter_context(running(host))
        yield made


def netrc(folder: Path, line: str) -> None:
    (folder / "netrc").write_text(line + "\n")
    (folder / "netrc").chmod(0o600)


def read(archive: Archive, signer: Signer) -> tuple[np.ndarray, int]:
    return read_with_retries(ReadRequest(archive.href, GRID, crs=GRID.crs), signer, POLICY)


def bearer(archive: Archive, folder: Path, token: str = TOKEN) -> Signer:
    spec = signer_spec(f"bearer:{urlsplit(archive.data.url).netloc}", shared=shared.make_private(folder))
    hand_over(spec.hosts, token, spec.shared)
    return make_signer(spec)


def test_a_password_in_netrc_logs_in_once_and_goes_to_the_login_only(archive):
    image, tries = read(archive, PlainSigner())
    np.testing.assert_array_equal(image, PIXELS)
    again, _ = read(archive, PlainSigner())
    np.testing.assert_array_equal(again, PIXELS)
    assert tries == 1 and len(archive.login.told) == 1
    assert "Basic" not in archive.data.words() + archive.store.words()
    assert "session=ann" not in archive.login.words() + archive.store.words()


def test_threads_that_begin_together_log_in_once(archive):
    together, strangers = threading.Barrier(4), threading.Semaphore(4)

    def all_first(path: str, headers: dict[str, str]) -> Answer:
        if "cookie" not in headers and path.startswith("/protected") and strangers.acquire(blocking=False):
            together.wait(60.0)
        return Archive._data(archive, path, headers)

    archive.data.answer = all_first
    with ThreadPoolExecutor(4) as pool:
        images = [image for image, _ in pool.map(lambda _: read(archive, PlainSigner()), range(4))]
    assert all(np.array_equal(image, PIXELS) for image in images)
    assert len(archive.login.told) == 1


def test_a_token_goes_to_its_own_host_only(archive, tmp_path):
    image, tries = read(archive, bearer(archive, tmp_path / "access"))
    np.testing.assert_array_equal(image, PIXELS)
    assert tries == 1 and not archive.login.told
    assert TOKEN in archive.data.words() and TOKEN not in archive.store.words()


def test_a_token_that_the_archive_does_not_take_is_not_sent_on_to_the_login(archive, tmp_path):
    netrc(tmp_path, "")
    other = "of-somebody-else"
    with pytest.raises(ReadFailed, match=r"access refused \(HTTP 401\).* sends to 127.0.0.1:\d+ to log in"):
        read(archive, bearer(archive, tmp_path / "access", other))
    assert other in archive.data.words() and archive.login.told
    assert other not in archive.login.words() + archive.store.words()


def test_a_refusal_by_the_host_itself_is_no_matter_of_a_login(archive):
    archive.data.answer = lambda path, headers: (403, {}, b"no")
    with pytest.raises(ReadFailed, match=r"access refused \(HTTP 403\)") as caught:
        read(archive, PlainSigner())
    assert "log in" not in caught.value.reason


@pytest.mark.parametrize("way", ["token", "password"])
def test_no_log_line_has_what_makes_a_user_known(archive, tmp_path, caplog, way):
    with caplog.at_level(logging.DEBUG):
        read(
            archive,
            bearer(archive, tmp_path / "access") if way == "token" else make_signer(signer_spec("none")),
        )
    assert "/scene_B3.TIF" in caplog.text  # urllib3 tells each request
    for secret in (TOKEN, "YW5uOnB3", "session=ann", archive.signature):
        assert secret not in caplog.text


def test_the_archive_is_asked_once_for_where_a_file_lies(archive, tmp_path):
    read(archive, bearer(archive, tmp_path / "access"))
    assert len(archive.data.told) == 1 and len(archive.store.told) >= 4


def test_an_end_of_the_signed_place_is_no_end_of_the_file(archive, tmp_path):
    def expiring(path: str, headers: dict[str, str]) -> Answer:
        if len(archive.store.told) == 2:
            archive.signature = "X-Amz-Signature=2"
        return Archive._store(archive, path, headers)

    archive.store.answer = expiring
    image, tries = read(archive, bearer(archive, tmp_path / "access"))
    np.testing.assert_array_equal(image, PIXELS)
    assert tries > 1 and len(archive.data.told) > 1


def test_a_circle_of_redirects_is_an_error(archive):
    archive.data.answer = lambda path, headers: (302, {"Location": path}, b"")
    with pytest.raises(ReadFailed, match="from place to place"):
        read(archive, PlainSigner())
    assert len(archive.data.told) < 20


def test_a_redirect_away_from_https_is_not_followed():
    with pytest.raises(Fault, match="from https to http"):
        next_place("https://data.invalid/a", "http://data.invalid/a")
    with pytest.raises(Fault, match="from https to file"):
        next_place("https://data.invalid/a", "file:///etc/passwd")
    assert next_place("https://data.invalid/a/b", "/c?d") == "https://data.invalid/c?d"


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://data.one.invalid/a", True),
        ("https://DATA.ONE.invalid:443/a", True),
        ("https://x.two.invalid/a", True),
        ("https://a.port.invalid:8443/a", True),
        ("https://a.port.invalid/a", False),
        ("https://data.one.invalid:8443/a", False),
        ("http://a.port.invalid:8443/a", False),
        ("https://data.one.invalid./a", False),
        ("http://data.one.invalid/a", False),  # anybody on the way could read it
        ("https://data.one.invalid.evil.invalid/a", False),
        ("https://data.one.invalid@evil.invalid/a", False),
        ("https://evildata.one.invalid/a", False),
        ("https://two.invalid/a", False),
        ("https://eviltwo.invalid/a", False),
    ],
)
def test_whom_a_token_is_sent_to(tmp_path, url, sent):
    folder = shared.make_private(tmp_path / "access")
    hosts = bearer_hosts("bearer:data.one.invalid, *.two.invalid,a.port.invalid:8443")
    hand_over(hosts, TOKEN, folder)
    headers = PlainSigner(hosts, folder).headers(url)
    assert headers == ({"Authorization": f"Bearer {TOKEN}"} if sent else {})


@pytest.mark.parametrize(
    "host", ["evil.invalid\\", "evil.invalid;", "evil.invalid%2f", "evil.invalid ", "[::1]"]
)
def test_a_host_that_two_programs_read_in_two_ways_is_told_nothing(tmp_path, host):
    folder = shared.make_private(tmp_path / "access")
    hosts = bearer_hosts("bearer:*.two.invalid")
    hand_over(hosts, TOKEN, folder)
    for tell in (PlainSigner(hosts, folder).headers, known_headers):
        with pytest.raises(Fault, match="no host that all programs read the same"):
            tell(f"https://{host}.two.invalid/a")


def test_a_token_is_not_sent_to_whom_a_backslash_leads(archive, tmp_path):
    """Of ``a\\.b`` the HTTP library asks ``a``, which is no host of the token's, although it ends in ``.b``."""
    port = urlsplit(archive.login.url).port
    evil = f"http://127.0.0.1:{port}\\.two.invalid:{port}/a"
    archive.data.answer = lambda path, headers: (302, {"Location": evil}, b"")
    netrc(tmp_path, "")
    folder = shared.make_private(tmp_path / "access")
    spec = signer_spec(f"bearer:{urlsplit(archive.data.url).netloc},*.two.invalid:{port}", shared=folder)
    hand_over(spec.hosts, TOKEN, folder)
    with pytest.raises(ReadFailed):
        read(archive, make_signer(spec))
    assert TOKEN in archive.data.words() and not archive.login.told


def heard(url: str, *cookies: str) -> None:
    learn_cookies(url, urllib3.HTTPResponse(headers=[("Set-Cookie", cookie) for cookie in cookies]))


def test_a_cookie_goes_back_the_way_it_came():
    heard("https://ann:pw@data.one.invalid/a", "session=own", "wide=all; Domain=.one.invalid; Path=/")
    heard("http://plain.invalid:8000/a", "open=yes; Path=/")
    told = {
        url: known_headers(url).get("Cookie", "")
        for url in (
            "https://data.one.invalid/b", "https://DATA.one.invalid/b", "https://x@data.one.invalid/b",
            "https://other.one.invalid/b", "https://data.one.invalid:8443/b", "http://data.one.invalid/b",
            "http://other.one.invalid:443/b", "https://data.one.invalid@evil.invalid/b",
            "https://evildata.one.invalid.evil.invalid/b", "https://evilone.invalid/b",
            "http://plain.invalid:8000/b", "http://plain.invalid:8001/b",
        )
    }  # fmt: skip
    assert list(told.values()) == ["session=own; wide=all"] * 3 + ["wide=all"] + [""] * 6 + ["open=yes", ""]


def test_a_password_in_netrc_goes_by_no_way_on_which_others_listen(monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    netrc(tmp_path, "machine login.invalid login ann password pw")
    assert known_headers("https://login.invalid/a") == {"authorization": "Basic YW5uOnB3"}
    for url in (
        "http://login.invalid/a",
        "https://login.invalid@evil.invalid/a",
        "https://login.invalid:@evil.invalid/a",
    ):
        assert "YW5uOnB3" not in str(known_headers(url))


def test_a_redirect_to_no_address_is_a_fault():
    with pytest.raises(Fault, match="no address"):
        next_place("https://data.invalid/a", "https://[evil/a")


@pytest.mark.parametrize(
    "signing",
    ["bearer", "bearer:", "bearer:a b", "bearer:https://a", "bearer:a,,b", "bearer:*", "bearer:*.org"],
)
def test_hosts_that_are_no_hosts(signing):
    with pytest.raises(InputError, match="is not known"):
        signer_spec(signing)


def test_a_token_is_needed_and_kept_from_others(tmp_path):
    folder = shared.make_private(tmp_path / "access")
    for token, said in (("", "is not set"), ("a\nCookie: b", "has characters")):
        with pytest.raises(InputError, match=said) as caught:
            hand_over(("a.invalid",), token, folder)
        assert "Cookie" not in str(caught.value)
    with pytest.raises(GlacierError, match="kept from others"):
        hand_over(("a.invalid",), TOKEN, None)
    hand_over((), "", None)
    hand_over(("a.invalid",), TOKEN, folder)
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]
    assert TOKEN not in repr(signer_spec("bearer:a.invalid", shared=folder))
