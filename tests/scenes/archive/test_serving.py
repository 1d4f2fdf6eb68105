"""The embedded archive is served as a real archive would be, and goes wrong on demand in the ways real ones do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pystac_client
import pytest
import rasterio
from rasterio.errors import RasterioIOError

from glacierhpc.errors import InputError
from glacierhpc.scenes import archive
from glacierhpc.scenes.archive.tokens import TokenOffice

OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({}))
GDAL = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_HTTP_TIMEOUT": "3", "VSI_CACHE": "FALSE"}


@pytest.fixture(scope="module")
def served(archive_folder: Path) -> Iterator[archive.ServedArchive]:
    """A server of this module alone, so that it may be spoilt and counted in."""
    with archive.serve(archive_folder, hang_s=8.0) as server:
        yield server


@pytest.fixture(autouse=True)
def healthy(request: pytest.FixtureRequest) -> None:
    """Start every test with a server that does nothing wrong."""
    if "served" in request.fixturenames:
        server = request.getfixturevalue("served")
        server.set_faults()
        server.reset_statistics()


def fetch(url: str, **headers: str):
    """Return (status, headers, body); errors of HTTP are answers, too."""
    request = urllib.request.Request(
        url, headers={key.replace("_", "-"): value for key, value in headers.items()}
    )
    try:
        with OPEN.open(request, timeout=5) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.headers, err.read()


def band_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("scenes/*/*_SR_B3.TIF"))


def url_of(served: archive.ServedArchive, path: Path) -> str:
    return f"{served.files_url}/{path.relative_to(served.folder).as_posix()}"


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-99", 206, slice(0, 100)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-50", 206, slice(-50, None)),
        ("bytes=10-99999999", 206, slice(10, None)),
        ("bytes=99999999-", 416, slice(0, 0)),
        ("bytes=9-3", 200, slice(None)),
        ("bytes=0-1,5-6", 200, slice(None)),
        ("lines=0-1", 200, slice(None)),
    ],
)
def test_ranges_are_answered_as_rfc_9110_says(served, asked, status, part) -> None:
    path = band_files(served.folder)[0]
    got, headers, body = fetch(url_of(served, path), Range=asked)
    whole = path.read_bytes()
    assert got == status and body == whole[part]
    if status == 206:
        first = part.indices(len(whole))[0]
        assert headers["Content-Range"] == f"bytes {first}-{first + len(body) - 1}/{len(whole)}"


def test_head_gives_the_headers_of_get_and_no_body(served) -> None:
    path = band_files(served.folder)[0]
    request = urllib.request.Request(url_of(served, path), method="HEAD")
    with OPEN.open(request, timeout=5) as answer:
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert int(answer.headers["Content-Length"]) == path.stat().st_size
        assert answer.read() == b""


@pytest.mark.parametrize(
    "path", ["nothing.TIF", "../../etc/hostname", "%2e%2e/%2e%2e/etc/hostname", "scenes", ""]
)
def test_only_files_of_the_archive_are_given_out(served, path) -> None:
    assert fetch(f"{served.files_url}/{path}")[0] == 404


def test_gdal_reads_over_http_what_lies_on_disk_and_requests_are_counted(served) -> None:
    path = band_files(served.folder)[1]
    with (
        rasterio.Env(**GDAL),
        rasterio.open("/vsicurl/" + url_of(served, path)) as remote,
        rasterio.open(path) as local,
    ):
        np.testing.assert_array_equal(remote.read(), local.read())
    counted = served.statistics()
    name = path.relative_to(served.folder).as_posix()
    assert counted.requests == counted.by_path[name] > 0
    assert counted.by_status.keys() <= {200, 206} and counted.bytes_sent > 0


def test_the_stac_api_searches_by_area_time_and_collection_and_pages(served) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pystac-client's hints about what the server does not conform to
        client = pystac_client.Client.open(served.stac_url)
        everything = list(client.search(collections=["landsat-c2-l2"]).items())
        paged = list(client.search(collections=["landsat-c2-l2"], limit=5).items())
        here = archive.read_truth(served.folder).bbox_lonlat
        found = list(
            client.search(collections=["landsat-c2-l2"], bbox=here, datetime="2015-02-01/2015-04-30").items()
        )
        elsewhere = list(client.search(collections=["landsat-c2-l2"], bbox=(10, 10, 11, 11)).items())
    assert len(everything) == 12
    assert sorted(item.id for item in paged) == sorted(item.id for item in everything)
    assert {str(item.datetime.date()) for item in found} == {
        "2015-02-03",
        "2015-02-27",
        "2015-03-23",
        "2015-04-16",
    }
    assert not elsewhere
    assert everything[0].assets["green"].href.startswith(served.files_url)


@pytest.mark.parametrize(
    "kind", ["503", "429", "500", "403", "404", "html", "reset", "truncate", "timeout", "corrupt"]
)
def test_every_fault_reaches_gdal_as_an_error(served, kind) -> None:
    path = band_files(served.folder)[2]
    served.set_faults(always={"*_SR_B3.TIF": kind})
    # A query of its own, as GDAL remembers failed files by their URL for the life of the process.
    url = f"/vsicurl/{url_of(served, path)}?fault={kind}"
    with rasterio.Env(**GDAL), pytest.raises(RasterioIOError):  # noqa: SIM117
        with rasterio.open(url) as remote:
            remote.read()
    assert served.statistics().faults[kind] > 0


def test_a_server_that_ignores_ranges_sends_the_whole_file_with_status_200(served) -> None:
    path = band_files(served.folder)[3]
    served.set_faults(always={"*": "ignore_range"})
    status, _, body = fetch(url_of(served, path), Range="bytes=0-9")
    assert status == 200 and body == path.read_bytes()


def test_failures_come_at_the_stated_rate_and_the_same_every_time(served) -> None:
    path = band_files(served.folder)[4]
    served.set_faults(fail_rate=0.4, fail_kinds=("503", "429"), retry_after_s=2.0)
    first = [fetch(url_of(served, path), Range="bytes=0-9")[0] for _ in range(60)]
    served.reset_statistics()
    again = [fetch(url_of(served, path), Range="bytes=0-9")[0] for _ in range(60)]
    assert first == again
    assert 12 <= sum(status != 206 for status in first) <= 36
    assert {429, 503} <= set(first)
    served.set_faults(always={"*": "503"}, retry_after_s=2.0)
    assert fetch(url_of(served, path))[1]["Retry-After"] == "2"


def test_first_requests_of_a_file_fail_and_later_ones_do_not(served) -> None:
    path = band_files(served.folder)[5]
    served.set_faults(fail_first=2, fail_kinds=("503",))
    assert [fetch(url_of(served, path), Range="bytes=0-9")[0] for _ in range(4)] == [503, 503, 206, 206]


def test_delay_and_rate_are_kept_and_requests_wait_side_by_side(served) -> None:
    path = band_files(served.folder)[6]
    size = path.stat().st_size
    served.set_faults(delay_s=0.1, bytes_per_s=size / 0.4)
    start = time.perf_counter()
    assert len(fetch(url_of(served, path))[2]) == size
    assert time.perf_counter() - start > 0.45
    served.set_faults(delay_s=0.2)
    start = time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: fetch(url_of(served, path), Range="bytes=0-9"), range(32)))
    assert time.perf_counter() - start >= 0.4
    assert served.statistics().most_at_once > 8


def test_tokens_are_demanded_and_end(archive_folder) -> None:
    path = band_files(archive_folder)[0]
    with archive.serve(archive_folder, token_lifetime_s=2.0) as served:
        url = url_of(served, path)
        assert fetch(url)[0] == 403
        answer = json.loads(fetch(f"{served.token_url}/account/container")[2])
        assert set(answer) == {"msft:expiry", "token"} and answer["token"].startswith("se=")
        signed = f"{url}?{answer['token']}"
        with rasterio.Env(**GDAL), rasterio.open("/vsicurl/" + signed) as remote:
            assert remote.read().any()
        assert fetch(signed.replace("sig=", "sig=x"))[0] == 403
        assert fetch(signed.replace("se=20", "se=21"))[0] == 403  # a later end is another signature
        time.sleep(2.1)
        status, _, body = fetch(signed)
        assert status == 403 and b"AuthenticationFailed" in body
        assert served.statistics().tokens_issued == 1


def test_a_token_ends_at_its_time() -> None:
    now = [1000.0]
    office = TokenOffice(60.0, clock=lambda: now[0])
    token = office.issue()["token"]
    assert office.refuses(token) is None
    now[0] = 1060.0
    assert "expired" in str(office.refuses(token))
    assert "signature" in str(office.refuses(""))
    assert "match" in str(TokenOffice(60.0).refuses(token))


def test_wrong_requests_are_refused_with_what_to_write(archive_folder, tmp_path) -> None:
    cases = [
        (tmp_path, {}, "archive create"),
        (archive_folder, {"fail_rate": 1.5}, "from 0 to 1"),
        (archive_folder, {"fail_kinds": ("htm",)}, "did you mean 'html'"),
        (archive_folder, {"bytes_per_s": 0}, "full speed"),
    ]
    for folder, options, words in cases:
        with pytest.raises(InputError, match=words), archive.serve(folder, **options):
            pass


def test_a_taken_port_is_refused(served) -> None:
    port = int(served.stac_url.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(InputError, match="taken"), archive.serve(served.folder, port=port):
        pass


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to look for processes: run on Linux")
def test_nothing_outlives_a_killed_parent(archive_folder) -> None:
    code = (
        "import sys, time\nfrom glacierhpc.scenes import archive\n"
        "with archive.serve(sys.argv[1]) as served:\n"
        "    print(served.stac_url, served.files_url, flush=True)\n    time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(archive_folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert parent.stdout
    with parent.stdout:
        urls = parent.stdout.readline().split()
    assert len(urls) == 2 and fetch(urls[0])[0] == 200
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 5
    alive = urls
    while alive and time.monotonic() < deadline:
        alive = [url for url in alive if _listens(url)]
        time.sleep(0.05)
    assert not alive


def _listens(url: str) -> bool:
    try:
        fetch(url)
    except (urllib.error.URLError, OSError):
        return False
    return True
