"""Finding scenes: any STAC API, a static catalogue on disk, or a saved item collection.

Which asset holds which band is `collections`'s; nothing here reads pixels or signs a URL.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pystac_client
import requests
import urllib3.util.retry
from pystac.errors import STACError
from pystac_client.errors import ClientTypeError
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from pystac_client.warnings import PystacClientWarning

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.files import read_json, write_json
from glacierhpc.scenes.search_filters import Criteria, check_bbox, choose_scenes
from glacierhpc.scenes.static_catalogue import StaticCatalogue, absolute_hrefs

log = logging.getLogger(__name__)

PAGE_SIZE = 100  # items to a page: larger ones run into the time limits of public servers
MOST_PAGES_WITHOUT_NEW = 3  # a page of repeated items may come before one with new ones


@dataclass(frozen=True)
class SearchResult:
    """Scenes found, in the order of (time, id), and how they were found."""

    items: list[dict[str, Any]]
    report: dict[str, Any] = field(default_factory=dict)
    """catalogue, collections, filters_sent, filters_applied, matched, duplicates, kept, dropped."""


class Catalogue(Protocol):
    """Something that can be asked for scenes."""

    def collections(self) -> list[str]:
        """Return the ids of its collections; empty if it does not say."""

    def filters(self, criteria: Criteria) -> dict[str, Any]:
        """Return the filters, beyond place and time, that it can apply itself."""

    def items(self, criteria: Criteria, filters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield items, possibly more than asked for, with absolute hrefs."""


def open_catalogue(catalogue: str, *, timeout_s: float = 60.0, max_attempts: int = 5) -> Catalogue:
    """Open a STAC API by URL, or a catalogue on disk: a folder, a ``catalog.json``, an item collection.

    Raises
    ------
    InputError
        If there is nothing there, or it is not STAC.
    """
    if urlsplit(catalogue).scheme in ("http", "https"):
        return ApiCatalogue(catalogue, timeout_s=timeout_s, max_attempts=max_attempts)
    return StaticCatalogue(Path(catalogue))


def search_scenes(
    catalogue: str,
    *,
    collections: Sequence[str],
    bbox_lonlat: Sequence[float],
    start: date | str,
    end: date | str,
    max_cloud_cover_percent: float | None = None,
    platforms: Sequence[str] = (),
    months: Sequence[int] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_scenes: int | None = None,
    timeout_s: float = 60.0,
    max_attempts: int = 5,
) -> SearchResult:
    """Find the scenes of an area and a period.

    Filters go to the server where it says that it knows them, and are applied here in any case: servers exist
    that accept a filter and ignore it.

    Parameters
    ----------
    catalogue : str
        URL of a STAC API, or a path (see `open_catalogue`).
    collections : sequence of str
        Collection ids; empty means all, where the catalogue allows it.
    bbox_lonlat : sequence of 4 floats
        West, south, east, north, degrees.
    start, end : date or ISO text
        Both days included, UTC.
    platforms : sequence of str
        Such as ``landsat-8``; spelling with ``_``, spaces or capitals does not matter.
    months : sequence of int
        1 to 12; empty means all.
    include, exclude : sequence of str
        Scene ids, ``*`` and ``?`` allowed; included ones pass the other filters.
    max_scenes : int, optional
        Keep the least cloudy.

    Returns
    -------
    SearchResult
        Without duplicates of (collection, id).

    Raises
    ------
    InputError
        If the catalogue cannot be reached or understood, a collection does not exist, the box is not one, or
        nothing is found.
    """
    criteria = Criteria(
        collections=tuple(collections),
        bbox_lonlat=check_bbox(bbox_lonlat),
        start=str(start)[:10],
        end=str(end)[:10],
        max_cloud_cover_percent=max_cloud_cover_percent,
        platforms=tuple(platforms),
        months=tuple(months),
        include=tuple(include),
        exclude=tuple(exclude),
        max_scenes=max_scenes,
    )
    opened = open_catalogue(catalogue, timeout_s=timeout_s, max_attempts=max_attempts)
    filters = {} if include else opened.filters(criteria)
    found = list(opened.items(criteria, filters))
    unique = list({(item.get("collection"), item["id"]): item for item in reversed(found)}.values())
    items, dropped = choose_scenes(unique, criteria)
    report = {
        "catalogue": catalogue,
        "collections": list(collections),
        "filters_sent": filters,
        "filters_applied": criteria.asked(),
        "matched": len(found),
        "duplicates": len(found) - len(unique),
        "kept": len(items),
        "dropped": dropped,
    }
    here = sorted(set(criteria.asked()) - set(filters))
    if here:
        log.info("the catalogue does not filter by %s: done here", ", ".join(here))
    if not items:
        raise _nothing_found(opened, criteria, report)
    return SearchResult(items, report)


def write_items(path: Path, result: SearchResult) -> None:
    """Write scenes as a GeoJSON feature collection, unsigned, with the search's report as key ``search``."""
    write_json(path, {"type": "FeatureCollection", "features": result.items, "search": result.report})


def read_items(path: Path) -> list[dict[str, Any]]:
    """Read the scenes that `write_items` wrote."""
    return list(read_json(Path(path))["features"])


class ApiCatalogue:
    """A STAC API, through pystac-client: paged, with timeouts, retries and a stop on endless paging."""

    def __init__(self, url: str, *, timeout_s: float = 60.0, max_attempts: int = 5) -> None:
        retry = urllib3.util.retry.Retry(
            total=max_attempts - 1,
            backoff_factor=0.5,
            backoff_jitter=0.5,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=("GET", "POST"),
        )
        self._url = url
        with _clear_errors(url):
            # the timeout goes to both: opening a client overwrites that of its reader
            reader = StacApiIO(max_retries=retry, timeout=timeout_s)
            self._client = pystac_client.Client.open(url, stac_io=reader, timeout=timeout_s)

    def collections(self) -> list[str]:
        """Return the ids of the API's collections."""
        with _clear_errors(self._url):
            if not self._client.conforms_to("COLLECTIONS"):
                return []
            return sorted(collection.id for collection in self._client.get_collections())

    def filters(self, criteria: Criteria) -> dict[str, Any]:
        """Return the filters in the dialect the API conforms to: ``query`` or CQL2; none if neither."""
        if criteria.max_cloud_cover_percent is None:
            return {}
        conforms = " ".join(self._client.get_conforms_to())
        limit = criteria.max_cloud_cover_percent
        if "item-search#query" in conforms:
            return {"max_cloud_cover_percent": {"query": {"eo:cloud_cover": {"lte": limit}}}}
        if "item-search#filter" in conforms and "cql2-json" in conforms:
            expression = {"op": "<=", "args": [{"property": "eo:cloud_cover"}, limit]}
            return {"max_cloud_cover_percent": {"filter": expression, "filter_lang": "cql2-json"}}
        return {}

    def items(self, criteria: Criteria, filters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield all items of all pages, until there is no further page or they repeat themselves."""
        extra: dict[str, Any] = {}
        for sent in filters.values():
            extra.update(sent)
        with _clear_errors(self._url):
            search = self._client.search(
                collections=list(criteria.collections) or None,
                bbox=list(criteria.bbox_lonlat),
                datetime=f"{criteria.start}T00:00:00Z/{criteria.end}T23:59:59.999Z",
                limit=PAGE_SIZE,
                **extra,
            )
            paging = _Paging(self._url)
            for page in search.pages_as_dicts():
                features = page.get("features") or []
                yield from (absolute_hrefs(item, _self_link(item) or self._url) for item in features)
                if paging.repeats(page):
                    break


class _Paging:
    """Knows when further pages bring nothing: servers exist whose last page links to another one for ever."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._seen: set[tuple[Any, Any]] = set()
        self._links: set[str] = set()
        self._without_new = 0

    def repeats(self, page: Mapping[str, Any]) -> bool:
        """Take note of a page; say whether it was the last one worth asking for.

        Raises
        ------
        GlacierError
            If it was, although the server says that there are more items than came.
        """
        new = {(item.get("collection"), item["id"]) for item in page.get("features") or []} - self._seen
        self._seen |= new
        self._without_new = 0 if new else self._without_new + 1
        link = next((one for one in page.get("links", ()) if one.get("rel") == "next"), None)
        if link is None:
            return False
        where = json.dumps([link.get("href"), link.get("method"), link.get("body")], sort_keys=True)
        again = where in self._links
        self._links.add(where)
        if not again and self._without_new < MOST_PAGES_WITHOUT_NEW:
            return False
        self._compare(page)
        return True

    def _compare(self, page: Mapping[str, Any]) -> None:
        stated = page.get("numberMatched", (page.get("context") or {}).get("matched"))
        if isinstance(stated, int) and stated > len(self._seen):
            raise GlacierError(
                f"{self._url} repeats its pages: {len(self._seen)} scenes came of {stated} that it says there are; "
                "ask for a shorter period or a smaller area"
            )
        log.warning("%s repeats its pages: ended after %d scenes", self._url, len(self._seen))


def _self_link(item: Mapping[str, Any]) -> str | None:
    return next((link["href"] for link in item.get("links", ()) if link.get("rel") == "self"), None)


@contextmanager
def _clear_errors(url: str) -> Iterator[None]:
    """Turn what goes wrong between here and a STAC API into one line."""
    try:
        with warnings.catch_warnings():
            # conformance is looked at here, not by the client
            warnings.simplefilter("ignore", PystacClientWarning)
            yield
    except (APIError, ClientTypeError, STACError, requests.RequestException) as err:
        raise _explain(err, url) from err
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise InputError(_not_stac(url, err)) from err


def _explain(err: Exception, url: str) -> GlacierError:
    # pystac-client puts what requests said into an APIError of its own
    causes = [each for each in (err, err.__cause__, err.__context__) if each is not None]
    if any(isinstance(each, requests.exceptions.Timeout) for each in causes):
        return GlacierError(f"{url} did not answer in time; try again, or raise archive.timeout_s")
    if any(isinstance(each, requests.exceptions.RetryError) for each in causes):
        return GlacierError(
            f"{url} kept failing or asking to slow down ({_first_line(err)}); try again later"
        )
    if any(isinstance(each, requests.exceptions.ConnectionError) for each in causes):
        return InputError(
            f"archive.catalogue {url!r} cannot be reached ({_first_line(err)}); check the address and the network"
        )
    if isinstance(err, (ClientTypeError, STACError)):
        return InputError(_not_stac(url, err))
    return InputError(f"archive.catalogue {url!r} refused the request: {_first_line(err)}; check the address")


def _not_stac(url: str, err: Exception) -> str:
    return (
        f"archive.catalogue {url!r} does not answer like a STAC API ({_first_line(err)}); write the URL of the "
        "API's landing page"
    )


def _first_line(err: BaseException) -> str:
    text = str(err).strip()
    return (text.splitlines()[0] if text else type(err).__name__)[:160]


def _nothing_found(catalogue: Catalogue, criteria: Criteria, report: Mapping[str, Any]) -> InputError:
    """Say whether the collection is unknown, the filters too strict, or nothing is there."""
    known = catalogue.collections()
    missing = [name for name in criteria.collections if known and name not in known]
    if missing:
        return InputError(
            f"archive.collections: {', '.join(missing)} not in this catalogue; it has {', '.join(known[:20])}"
        )
    if report["dropped"]:
        reasons = sorted({row["reason"] for row in report["dropped"]})
        return InputError(
            f"{report['matched']} scenes are there, and every one was dropped ({'; '.join(reasons[:3])}); loosen "
            "the filters in archive and period"
        )
    west, south, east, north = criteria.bbox_lonlat
    if _has_any(catalogue, replace(criteria, bbox_lonlat=(south, west, north, east))):
        return InputError(
            f"no scenes within area.bbox_lonlat {list(criteria.bbox_lonlat)}, but there are some within "
            f"{[south, west, north, east]}: longitude and latitude are swapped; write [west, south, east, north]"
        )
    return InputError(
        f"no scenes of {', '.join(criteria.collections) or 'any collection'} within {criteria.bbox_lonlat} from "
        f"{criteria.start} to {criteria.end}; check area, period and archive.collections"
    )


def _has_any(catalogue: Catalogue, criteria: Criteria) -> bool:
    """Say whether anything is found with other criteria; a search that fails finds nothing."""
    try:
        check_bbox(criteria.bbox_lonlat)
        return any(choose_scenes([item], criteria) != ([], []) for item in catalogue.items(criteria, {}))
    except GlacierError:
        return False
