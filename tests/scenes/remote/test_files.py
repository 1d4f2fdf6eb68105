"""Files over HTTP from a server that goes wrong: the same pixels in the end, or an error; never a hole."""

from __future__ import annotations

import base64
import contextlib
import itertools
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import rasterio
from affine import Affine

from glacierhpc.grid import Grid
from glacierhpc.scenes.bearer import PlainSigner
from glacierhpc.scenes.readers import ReadFailed, ReadRequest, read_with_retries
from glacierhpc.scenes.remote import files, hosts, http
from glacierhpc.scenes.remote.policy import RetryPolicy
from glacierhpc.scenes.signing import Signer
from glacierhpc.scenes.tokens import TokenSigner
from tests.scenes.rasters import numbers, write_raster
from tests.scenes.remote.scripted import Scripted, first_only, only, scripted

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

GRID = Grid("EPSG:32643", (30.0, 0.0, 600015.0, 0.0, -30.0, 3540015.0), (320, 256))
PIXELS = numbers(7, GRID.shape)
QUICK = RetryPolicy(max_attempts=4, backoff_s=0.01, timeout_s=30.0, deadline_s=300.0)
SILENT = ("slow body", "slow headers", "silence")
HASTY = replace(QUICK, max_attempts=8, timeout_s=0.6)
"""For these: on a busy machine an answer that is well may be given up, too, and is asked for again."""
PASSING = (
    "429", "503", "500", "502", "504", "408", "html", "unlabelled html", "ignored range", "other range", "no range",
    "truncated", "slow body", "slow headers", "silence", "reset",
)  # fmt: skip


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    """A file of 160 kB: its head, and more than one request for the rest."""
    return write_raster(tmp_path_factory.mktemp("tif") / "a.tif", PIXELS, grid=GRID, block=64).read_bytes()


@pytest.fixture(autouse=True)
def small_requests(monkeypatch) -> None:
    """Split the file into several requests, as large files are."""
    monkeypatch.setattr(files, "LARGEST_REQUEST_BYTES", 40_000)
    monkeypatch.setattr(http, "LEAST_BYTES_PER_S", 200_000.0)


def read(told: Scripted, *, signer: Signer | None = None, policy: RetryPolicy = QUICK, **options: Any) -> Any:
    request = ReadRequest(told.href, GRID, crs=GRID.crs, **options)
    return read_with_retries(request, signer or PlainSigner(), policy)


@pytest.mark.parametrize("loader", ["odc", "stackstac"])
def test_an_undisturbed_read_asks_for_nothing_twice(content, loader):
    with scripted(content) as told:
        image, tries = read(told, loader=loader)
    np.testing.assert_array_equal(image, PIXELS)
    assert tries == 1 and len(set(told.asked)) == len(told.asked) <= 7


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_costs_one_block_and_no_pixel(content, fault, number):
    with scripted(content) as quiet:
        read(quiet)
    with scripted(content, only(number, fault)) as told:
        image, tries = read(told, policy=HASTY if fault in SILENT else QUICK)
    np.testing.assert_array_equal(image, PIXELS)
    if fault in SILENT:
        assert tries >= 2
        assert set(told.asked) == set(quiet.asked)
    elif fault != "ignored range":  # that gave the whole file at once
        assert tries == 2
        assert asked_again(told, quiet) == {told.asked[number]: 1}


def asked_again(told: Scripted, quiet: Scripted) -> Counter[str]:
    """What was asked for more often than by an undisturbed read; the order is any, for much is asked at once."""
    assert set(told.asked) == set(quiet.asked)
    return Counter(told.asked) - Counter(quiet.asked)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("429", "asks to slow down .HTTP 429"),
        ("503", "server failed .HTTP 503"),
        ("504", "server failed .HTTP 504"),
        ("403", "access refused .HTTP 403"),
        ("404", "not there"),
        ("416", "cannot answer"),
        ("html", "not an image but a page"),
        ("unlabelled html", "not an image but a page"),
        ("other range", "another part"),
        ("no range", "does not say which part"),
        ("truncated", "cut short"),
        ("slow body", "no answer in time"),
        ("slow headers", "no answer in time"),
        ("silence", "no answer in time"),
        ("reset", "no connection to 127.0.0.1"),
        ("corrupt", "damaged|not an image"),
    ],
)
@pytest.mark.parametrize("begins", [0, 3])
@pytest.mark.parametrize("compress", ["deflate", "none"])
def test_what_does_not_pass_is_a_reason_and_never_a_hole(tmp_path, fault, reason, begins, compress):
    if fault == "corrupt" and compress == "none":
        pytest.skip("wrong bytes of the right number are no fault that a reader of raw pixels can see")
    content = raster(tmp_path, compress)
    policy = replace(QUICK, max_attempts=2, timeout_s=0.3 if fault in SILENT else 30.0)
    with scripted(content, lambda number: fault if number >= begins else None) as told:
        with pytest.raises(ReadFailed) as caught:
            read(told, policy=policy)
        assert len(told.asked) <= begins + 2 * (begins + 2)
    assert re.search(reason, caught.value.reason), caught.value.reason
    assert "scene_B3" not in caught.value.reason and "vsiriopener" not in caught.value.reason


def raster(folder: Path, compress: str) -> bytes:
    path = folder / f"{compress}.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=320, width=256, dtype="uint16", crs=GRID.crs, nodata=0,
        transform=Affine(*GRID.transform), tiled=True, blockxsize=64, blockysize=64, compress=compress,
    ) as target:  # fmt: skip
        target.write(PIXELS[None])
    return path.read_bytes()


def tiles(size_bytes: int, count: int, gap_bytes: int) -> list[tuple[int, int]]:
    return [(number * (size_bytes + gap_bytes), size_bytes) for number in range(count)]


@pytest.mark.parametrize("gap_bytes", [0, 8])
def test_what_is_read_in_a_row_is_asked_for_in_few_and_growing_requests(monkeypatch, gap_bytes):
    """As GDAL reads more than 10 MB of a COG: tile by tile, with a few bytes between them that nobody reads."""
    monkeypatch.setattr(files, "LARGEST_REQUEST_BYTES", 400_000)
    content = np.random.default_rng(0).bytes(4_000_000)
    with scripted(content) as told:
        file = files.RemoteFile(told.href, PlainSigner(), QUICK, ends=math.inf)
        for first, count in tiles(40_000, 90, gap_bytes)[3:]:
            assert file.read(first, count) == content[first : first + count]
    spans = [tuple(map(int, re.findall(r"\d+", asked))) for asked in told.asked]
    between = [later[0] - earlier[1] - 1 for earlier, later in zip(spans[1:], spans[2:])]
    assert set(between) <= {0, gap_bytes}  # nothing twice, no hole
    assert len(spans) <= 14 and max(last - first for first, last in spans) < 400_000
    assert sum(len(body) for _, body in file._blocks) <= files.KEPT_BYTES + 400_000


def test_what_is_asked_for_in_one_go_is_not_read_beyond(monkeypatch):
    monkeypatch.setattr(files, "LARGEST_REQUEST_BYTES", 400_000)
    content = np.random.default_rng(0).bytes(4_000_000)
    with scripted(content) as told:
        file = files.RemoteFile(told.href, PlainSigner(), QUICK, ends=math.inf)
        places = tiles(40_000, 25, 8)[1:]
        assert file.read_many(places) == [content[first : first + count] for first, count in places]
    spans = [tuple(map(int, re.findall(r"\d+", asked))) for asked in told.asked]
    assert len(spans) == 4 and max(last for _, last in spans) == sum(places[-1]) - 1


def test_a_server_that_always_ignores_ranges_is_asked_once(content):
    with scripted(content, lambda _: "ignored range") as told:
        image, tries = read(told)
    np.testing.assert_array_equal(image, PIXELS)
    assert len(told.asked) == 1 and tries == 1


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_wait_a_server_asks_for_is_taken(content, form):
    with scripted(content, only(2, "429")) as told:
        told.ahead_s = 5000.0  # a date is meant by the server's own clock
        told.wait = "70" if form == "seconds" else formatdate(told.now() + 70, usegmt=True)
        pauses: list[float] = []
        request = ReadRequest(told.href, GRID, crs=GRID.crs)
        with unhurried() as hosts_slept:
            image, _ = read_with_retries(request, PlainSigner(), QUICK, sleep=pauses.append)
    np.testing.assert_array_equal(image, PIXELS)
    assert 40.0 < max(pauses) <= 70.5 and sum(hosts_slept) > 40.0


def test_a_token_that_ends_in_mid_read_costs_the_blocks_it_was_refused(content, caplog):
    with scripted(content) as quiet:
        read(quiet)
    with scripted(content) as told, caplog.at_level(logging.DEBUG):
        # the first token is good for three requests, the next one for all that follow
        told.script = lambda number: (
            "403" if number >= 3 and told.queries[number].endswith("secret1") else None
        )
        image, tries = read(told, signer=TokenSigner(f"{told.url}/token", azure_only=False))
    np.testing.assert_array_equal(image, PIXELS)
    refused = [query.endswith("secret1") for query in told.queries[3:]]
    assert told.tokens == 2 and tries == 1 + sum(refused) > 1
    assert asked_again(told, quiet) == Counter(itertools.compress(told.asked[3:], refused))
    assert "secret" not in caplog.text


def test_a_server_that_refuses_every_token_is_not_asked_for_thousands(content):
    with scripted(content, lambda _: "403") as told:
        signer = TokenSigner(f"{told.url}/token", azure_only=False)
        for _ in range(6):
            with pytest.raises(ReadFailed, match="access refused"):
                read(told, signer=signer)
    assert told.tokens == 2


def test_a_failed_open_poisons_nothing(content):
    once = replace(QUICK, max_attempts=1)
    for fault in ("503", "404", "html", "reset"):
        with scripted(content, first_only(fault)) as told:
            with pytest.raises(ReadFailed):
                read(told, policy=once)
            np.testing.assert_array_equal(read(told, policy=once)[0], PIXELS)


def test_a_file_that_changes_while_it_is_read_is_begun_anew(content, tmp_path):
    other = raster(tmp_path, "none")
    with scripted(content) as told:

        def change(number: int) -> None:
            if number == 2:
                told.content, told.tag = other, '"2"'

        told.script = change
        image, tries = read(told)
    np.testing.assert_array_equal(image, PIXELS)
    assert tries > 1 and told.asked.count(told.asked[0]) == 2


def test_a_broken_answer_of_the_right_length_is_asked_for_again(content):
    with scripted(content, only(2, "corrupt")) as told:
        image, tries = read(told)
    np.testing.assert_array_equal(image, PIXELS)
    assert tries == 2


def test_a_file_has_a_time_limit_over_all_its_tries(content):
    hasty = replace(QUICK, max_attempts=1000, backoff_s=0.0, deadline_s=0.5)
    with (
        scripted(content, lambda _: "500") as told,
        pytest.raises(ReadFailed, match="server failed|does not answer") as caught,
    ):
        read(told, policy=hasty)
    assert caught.value.attempts < 1000


def test_a_proxy_is_used_where_the_machine_names_one(content, new_to_all, monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "elsewhere.invalid")
    with scripted(content) as told:
        monkeypatch.setenv("HTTP_PROXY", told.url)
        monkeypatch.setenv("http_proxy", told.url)
        request = ReadRequest("http://far.invalid/container/scene_B3.TIF", GRID, crs=GRID.crs)
        image, _ = read_with_retries(request, PlainSigner(), QUICK)
    np.testing.assert_array_equal(image, PIXELS)
    assert told.asked


@pytest.mark.parametrize("place", ["url", "netrc"])
def test_a_user_and_password_go_as_a_header(content, new_to_all, monkeypatch, tmp_path, place):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password p:w" if place == "netrc" else "")
    (tmp_path / "netrc").chmod(0o600)
    with scripted(content) as told:
        href = told.href.replace("//", "//ann:p%3Aw@", 1) if place == "url" else told.href
        image, _ = read_with_retries(ReadRequest(href, GRID, crs=GRID.crs), PlainSigner(), QUICK)
    np.testing.assert_array_equal(image, PIXELS)
    assert set(told.users) == {"Basic " + base64.b64encode(b"ann:p:w").decode()}


def test_a_whole_file_that_has_no_room_here_is_no_fault_of_the_server(content, monkeypatch, tmp_path):
    monkeypatch.setattr(http.tempfile, "tempdir", str(tmp_path / "gone"))
    with (
        scripted(content, lambda _: "ignored range") as told,
        pytest.raises(ReadFailed, match="cannot be kept here .* set TMPDIR"),
    ):
        read(told)
    assert len(told.asked) == 1


@contextlib.contextmanager
def unhurried() -> Iterator[list[float]]:
    """Let waits for a host pass at once; gives their lengths."""
    slept: list[float] = []

    class Time:
        time = staticmethod(lambda: 1e9 + sum(slept))
        monotonic = staticmethod(lambda: 0.0)
        sleep = staticmethod(slept.append)

    hosts._host.cache_clear()
    with mock.patch.object(hosts, "time", Time):
        yield slept
    hosts._host.cache_clear()
