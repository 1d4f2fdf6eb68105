"""Search against recorded answers of real APIs, replayed on loopback, and against folders."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.scenes.search_filters import check_bbox
from glacierhpc.scenes.stac import ApiCatalogue, read_items, search_scenes, write_items

Answer = tuple[int, Any]
BRAZIL = (-43.0, -6.0, -35.0, -2.0)


@contextmanager
def replay(respond: Callable[[str, str, Any, str], Answer]) -> Iterator[str]:
    """Serve what `respond(method, path, body, base url)` gives, as JSON (text as it is)."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, content = respond(self.command, self.path, body, base)
            payload = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    base = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield base
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


CORE = [f"https://api.stacspec.org/v1.0.0/{name}" for name in ("core", "item-search", "collections")]
QUERY = "https://api.stacspec.org/v1.0.0/item-search#query"
CQL2 = [
    "https://api.stacspec.org/v1.0.0-rc.2/item-search#filter",
    "http://www.opengis.net/spec/cql2/1.0/conf/cql2-json",
]


def landing(base: str, conforms: list[str]) -> dict[str, Any]:
    return {
        "type": "Catalog",
        "id": "replay",
        "description": "recorded",
        "stac_version": "1.0.0",
        "conformsTo": conforms,
        "links": [
            {"rel": "self", "href": base + "/"},
            {"rel": "root", "href": base + "/"},
            {"rel": "search", "href": base + "/search", "type": "application/geo+json", "method": "POST"},
            {"rel": "data", "href": base + "/collections", "type": "application/json"},
        ],
    }


class Recorded:
    """The recorded page of Earth Search, whose ``next`` link goes by POST body, then a page made from it."""

    def __init__(
        self, exchange: dict[str, Any], *, conforms: list[str] = CORE, endless: bool = False
    ) -> None:
        self.page, self.conforms, self.endless = exchange["response"], conforms, endless
        self.bodies: list[Any] = []

    def __call__(self, method: str, path: str, body: Any, base: str) -> Answer:
        if path == "/":
            return 200, landing(base, self.conforms)
        if path.startswith("/collections"):
            ids = ("sentinel-2-l1c", "sentinel-2-l2a", "sentinel-2-c1-l2a")
            whole = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
            common = {"type": "Collection", "stac_version": "1.0.0", "description": "", "license": "other"}
            found = [{**common, "id": name, "links": [], "extent": whole} for name in ids]
            return 200, {"collections": found, "links": []}
        self.bodies.append(body)
        following = "next" in (body or {})
        features = self.page["features"]
        link = next(link for link in self.page["links"] if link["rel"] == "next")
        links = [{**link, "href": base + "/search"}]
        if not following:
            return 200, {**self.page, "links": links}
        # servers repeat items across pages (stac-server issue 117): the second page brings 9 old ones and 1 new
        other = {**features[0], "id": "S2A_24MVV_20250801_0_L2A"}
        return 200, {**self.page, "features": [*features[1:], other], "links": links if self.endless else []}


@pytest.fixture(scope="module")
def exchange(real_data) -> dict[str, Any]:
    path = real_data("stac-responses") / "earth-search-v1" / "search-mixed-cloudcover.exchange.json"
    return json.loads(path.read_text())


def search(catalogue: str | Path, **options: Any) -> Any:
    asked = {
        "collections": ["sentinel-2-l2a", "sentinel-2-c1-l2a", "sentinel-2-l1c"],
        "bbox_lonlat": BRAZIL,
        "start": "2025-07-01",
        "end": "2025-08-31",
        "timeout_s": 5,
        "max_attempts": 2,
        **options,
    }
    return search_scenes(str(catalogue), **asked)


def test_paging_by_post_body_without_duplicates(exchange):
    recorded = Recorded(exchange)
    with replay(recorded) as url:
        result = search(url)
    token = next(link for link in exchange["response"]["links"] if link["rel"] == "next")["body"]["next"]
    assert len(recorded.bodies) == 2 and recorded.bodies[1]["next"] == token
    assert result.report["matched"] == 20 and result.report["duplicates"] == 9
    assert len(result.items) == result.report["kept"] == 11
    order = [(item["properties"]["datetime"], item["id"]) for item in result.items]
    assert order == sorted(order)


def test_a_link_that_was_followed_before_ends_the_paging(exchange):
    page = {
        key: value for key, value in exchange["response"].items() if key not in ("context", "numberMatched")
    }
    recorded = Recorded({**exchange, "response": page}, endless=True)
    with replay(recorded) as url:
        assert len(search(url).items) == 11
    assert len(recorded.bodies) == 2


def test_paging_that_loses_scenes_is_an_error(exchange):
    with (
        replay(Recorded(exchange, endless=True)) as url,
        pytest.raises(GlacierError, match="repeats its pages: 11 scenes came of 115912758 .*shorter period"),
    ):
        search(url)


class Pages:
    """Answers with pages of given items; the next link is ever new unless there is no further page."""

    def __init__(self, pages: list[list[dict[str, Any]]], *, endless: bool = False, **stated: Any) -> None:
        self.pages, self.endless, self.stated = pages, endless, stated
        self.asked = 0

    def __call__(self, method: str, path: str, body: Any, base: str) -> Answer:
        if path == "/":
            return 200, landing(base, CORE)
        if path.startswith("/collections"):
            return 200, {"collections": [], "links": []}
        number, self.asked = self.asked, self.asked + 1
        more = self.endless or number + 1 < len(self.pages)
        link = {
            "rel": "next",
            "method": "POST",
            "href": f"{base}/search",
            "body": {"token": number},
            "merge": True,
        }
        features = self.pages[min(number, len(self.pages) - 1)]
        links = [link] if more else []
        return 200, {"type": "FeatureCollection", "features": features, "links": links, **self.stated}


def test_a_page_that_comes_twice_hides_none_behind_it(exchange):
    items = exchange["response"]["features"]
    pages = Pages([items[:3], items[:3], items[:3], items[3:6]])
    with replay(pages) as url:
        result = search(url)
    assert len(result.items) == 6 and result.report["duplicates"] == 6 and pages.asked == 4


def test_ever_new_links_to_the_same_items_end(exchange, caplog):
    items = exchange["response"]["features"]
    pages = Pages([items[:3]], endless=True)
    with replay(pages) as url, caplog.at_level(logging.WARNING, "glacierhpc"):
        assert len(search(url).items) == 3
    assert pages.asked == 4 and "repeats its pages: ended after 3 scenes" in caplog.text
    counted = Pages([items[:3]], endless=True, numberMatched=3)
    with replay(counted) as url:
        assert len(search(url).items) == 3
    lossy = Pages([items[:3]], endless=True, numberMatched=5)
    with replay(lossy) as url, pytest.raises(GlacierError, match="3 scenes came of 5"):
        search(url)


def test_swapped_coordinates_are_said(exchange):
    items = exchange["response"]["features"]
    west, south, east, north = BRAZIL
    with (
        replay(Pages([items[:3]])) as url,
        pytest.raises(InputError, match="longitude and latitude are swapped; write .west, south"),
    ):
        search(url, bbox_lonlat=(south, west, north, east))
    with replay(Pages([items[:3]])) as url, pytest.raises(InputError, match="check area, period"):
        search(url, bbox_lonlat=(70.0, 10.0, 71.0, 11.0))


def test_an_area_across_the_180th_meridian_is_told_how_to_be_two():
    with pytest.raises(InputError, match=r"179.0, -17.0, 180.0, -16.0\] and \[-180.0, -17.0, -179.0, -16.0"):
        check_bbox((179, -17, -179, -16))


@pytest.mark.parametrize(("west", "found"), [(179.2, True), (-179.8, True), (170.0, False)])
def test_scenes_across_the_180th_meridian_are_found_on_both_sides(exchange, west, found):
    item = {**exchange["response"]["features"][0], "bbox": [179.0, -18.0, -179.0, -15.0]}
    box = (west, -17.0, west + 0.2, -16.0)
    with replay(Pages([[item]])) as url:
        if found:
            assert len(search(url, bbox_lonlat=box).items) == 1
            return
        with pytest.raises(InputError, match="no scenes"):
            search(url, bbox_lonlat=box)


def test_a_scene_without_a_date_is_a_row(exchange):
    good, bad = exchange["response"]["features"][:2]
    bad = {**bad, "properties": {**bad["properties"], "datetime": "yesterday"}}
    with replay(Pages([[good, bad]])) as url:
        result = search(url)
    assert [item["id"] for item in result.items] == [good["id"]]
    assert result.report["dropped"] == [{"scene": bad["id"], "reason": "it has no usable date"}]


def test_folders_below_a_folder_are_not_searched(exchange, tmp_path):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "item.json").write_text(json.dumps(exchange["response"]["features"][0]))
    with pytest.raises(InputError, match="folders below it are not searched"):
        search(tmp_path)
    assert len(search(deep).items) == 1


@pytest.mark.parametrize(
    ("conforms", "sent"),
    [
        (CORE, {}),
        ([*CORE, QUERY], {"query": {"eo:cloud_cover": {"lte": 20}}}),
        ([*CORE, *CQL2], {"filter": {"op": "<=", "args": [{"property": "eo:cloud_cover"}, 20]}}),
    ],
    ids=["none", "query", "cql2"],
)
def test_filters_go_where_the_server_knows_them_and_are_checked_here(exchange, conforms, sent, caplog):
    recorded = Recorded(exchange, conforms=conforms)
    with replay(recorded) as url, caplog.at_level(logging.INFO, "glacierhpc"):
        result = search(url, max_cloud_cover_percent=20, months=[7])
    for key in ("query", "filter"):
        assert recorded.bodies[0].get(key) == sent.get(key)
    assert all(item["properties"]["eo:cloud_cover"] <= 20 for item in result.items)
    cloudy = [row for row in result.report["dropped"] if row["reason"] == "cloud cover above 20 %"]
    assert cloudy and len(cloudy) + len(result.items) == 11
    assert bool(result.report["filters_sent"]) == bool(sent)
    assert result.report["filters_applied"] == {"max_cloud_cover_percent": 20, "months": [7]}
    assert ("max_cloud_cover_percent" in caplog.text) == (not sent)


def test_platforms_include_exclude_and_the_clearest(exchange):
    with replay(Recorded(exchange)) as url:
        only = search(url, platforms=["Sentinel_2B"], exclude=["*_L1C"])
        assert all(not item["id"].endswith("L1C") for item in only.items)
        assert any(row["reason"] == "excluded by archive.exclude" for row in only.report["dropped"])
        forced = search(url, platforms=["landsat-8"], include=["S2B_24MVV_*"])
        assert {item["id"] for item in forced.items} == {
            "S2B_24MVV_20250731_0_L2A",
            "S2B_24MVV_20250731_0_L1C",
        }
        two = search(url, max_scenes=2)
        covers = sorted(row["properties"]["eo:cloud_cover"] for row in exchange["response"]["features"])
        assert sorted(item["properties"]["eo:cloud_cover"] for item in two.items)[0] == covers[0]
        assert len(two.items) == 2


def test_nothing_found_says_why(exchange):
    with replay(Recorded(exchange)) as url:
        with pytest.raises(InputError, match="landsat-9.*not in this catalogue; it has.*sentinel-2-l2a"):
            search(url, collections=["landsat-9"])
        with pytest.raises(InputError, match="every one was dropped .*loosen"):
            search(url, max_cloud_cover_percent=0)
        with pytest.raises(InputError, match="no scenes of .*sentinel-2-l2a.*from 1999"):
            search(url, start="1999-01-01", end="1999-02-01")


def test_unreachable_or_wrong_catalogues_are_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot be reached") as caught:
        search("http://127.0.0.1:9/stac")
    assert "\n" not in str(caught.value)
    for answer, text in (
        ((200, "<html>Sign in</html>"), "does not answer like a STAC API|refused"),
        ((404, {"detail": "no"}), "refused|does not answer"),
    ):
        with replay(lambda *_, answer=answer: answer) as url, pytest.raises(InputError, match=text):
            search(url)
    with pytest.raises(InputError, match="does not exist; write the URL"):
        search(tmp_path / "nowhere")
    with pytest.raises(InputError, match="archive index"):
        search(tmp_path)


def test_a_server_that_hangs_is_given_up():
    release = threading.Event()

    def silence(*_: Any) -> Answer:
        release.wait(1)
        return 200, {}

    with replay(silence) as url:
        with pytest.raises(GlacierError, match="cannot be reached|in time"):
            search(url, timeout_s=0.2, max_attempts=1)
        release.set()


def test_a_busy_server_is_asked_again(exchange):
    recorded, failures = Recorded(exchange), iter([429, 503])

    def busy(method: str, path: str, body: Any, base: str) -> Answer:
        status = next(failures, 200) if path == "/search" else 200
        return (status, {"code": status}) if status != 200 else recorded(method, path, body, base)

    with replay(busy) as url:
        assert len(search(url, max_attempts=4).items) == 11


@pytest.mark.parametrize(
    "box",
    [
        (77.8, 31.9, 77.4, 32.2),
        (31.9, 77.4, 32.2, 77.3),
        (0, 0, 0, 1),
        (0, 0, 200, 1),
        (0, 0, 1),
        (0, 0, 1, float("nan")),
    ],
)
def test_a_wrong_box_says_the_order(box):
    with pytest.raises(InputError, match=r"\[west, south, east, north\]"):
        check_bbox(box)


def test_static_catalogues_and_saved_items(exchange, tmp_path):
    features = exchange["response"]["features"]
    for item in features[:3]:
        near = {**item, "assets": {"red": {**item["assets"].get("red", {}), "href": "../images/a.tif"}}}
        (tmp_path / "cat" / "items").mkdir(parents=True, exist_ok=True)
        (tmp_path / "cat" / "items" / f"{item['id']}.json").write_text(json.dumps(near))
    links = [{"rel": "item", "href": f"./items/{item['id']}.json"} for item in features[:3]]
    catalogue = tmp_path / "cat" / "catalog.json"
    catalogue.write_text(json.dumps({"type": "Catalog", "id": "c", "links": links}))
    for place in (tmp_path / "cat", catalogue, tmp_path / "cat" / "items"):
        result = search(place)
        assert {item["id"] for item in result.items} == {item["id"] for item in features[:3]}
        assert result.items[0]["assets"]["red"]["href"] == str(tmp_path / "cat" / "images" / "a.tif")
    path = tmp_path / "items.json"
    write_items(path, result)
    assert read_items(path) == result.items
    assert json.loads(path.read_text())["search"]["kept"] == 3
    assert len(search(path).items) == 3
    with pytest.raises(InputError, match="no scenes"):
        search(path, bbox_lonlat=(10, 10, 11, 11))


def test_planetary_computers_landing_page_gets_cql2(real_data):
    content = json.loads(
        (real_data("stac-responses") / "planetary-computer" / "landing.exchange.json").read_text()
    )
    page = content["response"]
    page = json.loads(page) if isinstance(page, str) else page

    def respond(method: str, path: str, body: Any, base: str) -> Answer:
        text = json.dumps(page).replace(content["url"].rstrip("/"), base)
        return 200, text

    from glacierhpc.scenes.search_filters import Criteria

    criteria = Criteria((), BRAZIL, "2020-01-01", "2020-02-01", max_cloud_cover_percent=30)
    with replay(respond) as url:
        sent = ApiCatalogue(url).filters(criteria)["max_cloud_cover_percent"]
    assert sent.get("filter_lang") == "cql2-json" or "query" in sent


@pytest.fixture
def linked(exchange, tmp_path):
    """Return a search of a catalogue on disk whose one link is as given."""
    (tmp_path / "an item.json").write_text(json.dumps(exchange["response"]["features"][0]))

    def run(href: str) -> Any:
        link = {"rel": "item", "href": href}
        (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "c", "links": [link]}))
        return search(tmp_path)

    return run


def test_a_catalogue_on_disk_links_to_files(linked, tmp_path):
    for href in ("./an item.json", str(tmp_path / "an item.json"), (tmp_path / "an item.json").as_uri()):
        assert len(linked(href).items) == 1
    for href, words in (
        ("https://a.b/item.json", "catalog.json links to 'https://a.b/item.json', and a catalogue on disk"),
        ("s3://a/item.json", "read from files only"),
        ("none.json", "links to 'none.json', which does not exist"),
    ):
        with pytest.raises(InputError, match=words):
            linked(href)


def test_a_broken_file_of_a_folder_is_named(exchange, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(exchange["response"]["features"][0]))
    for broken in (b'{"type": "Feat', b"\xff\xfe"):
        (tmp_path / "b.json").write_bytes(broken)
        with pytest.raises(InputError, match="b.json is not JSON"):
            search(tmp_path)
