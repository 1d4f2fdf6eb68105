"""A STAC catalogue of files on disk, and hrefs that hold wherever an item lies.

Reads what is there; what is wanted of it is chosen in `stac`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from glacierhpc.errors import InputError, redact
from glacierhpc.scenes.search_filters import Criteria


class StaticCatalogue:
    """A catalogue of files on disk; filtered here."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise InputError(
                f"archive.catalogue {str(path)!r} does not exist; write the URL of a STAC API, or a folder with a "
                "catalog.json (made by: glacierhpc archive index FOLDER)"
            )
        self._root = path

    def collections(self) -> list[str]:
        """Return the ids of the collections of all items."""
        return sorted({str(item.get("collection")) for item in self._all()})

    def filters(self, criteria: Criteria) -> dict[str, Any]:
        """Files filter nothing."""
        return {}

    def items(self, criteria: Criteria, filters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield all items; place, time and the rest are compared by the caller."""
        return self._all()

    def _all(self) -> Iterator[dict[str, Any]]:
        root = self._root
        if root.is_dir():
            start = root / "catalog.json"
            root = start if start.is_file() else root / "collection.json"
        if root.is_file():
            yield from _walk(root.resolve(), set())
            return
        # not the folders below: a folder named by mistake may hold a whole file system
        files = sorted(self._root.glob("*.json")) + sorted(self._root.glob("*.geojson"))
        for file in files:
            yield from _items_of(_read(file), file.resolve())
        if not files:
            raise InputError(
                f"{str(self._root)!r} holds no STAC catalogue: no catalog.json, collection.json or items, and folders "
                f"below it are not searched; make one of its images with: glacierhpc archive index {self._root}"
            )


def absolute_hrefs(item: dict[str, Any], base: str) -> dict[str, Any]:
    """Return the item with asset hrefs that do not depend on where the item lies."""
    assets = {
        key: {**asset, "href": _absolute(asset["href"], base)}
        for key, asset in item.get("assets", {}).items()
    }
    return {**item, "assets": assets}


def _absolute(href: str, base: str) -> str:
    parts = urlsplit(href)
    if parts.scheme == "file":
        return unquote(parts.path)
    if parts.scheme or href.startswith("/"):
        return href
    if urlsplit(base).scheme in ("http", "https"):
        return urljoin(base, href)
    return str((Path(base).parent / href).resolve())


def _walk(path: Path, visited: set[Path]) -> Iterator[dict[str, Any]]:
    if path in visited:
        return
    visited.add(path)
    content = _read(path)
    yield from _items_of(content, path)
    for link in content.get("links", ()) if isinstance(content, dict) else ():
        if link.get("rel") in ("child", "item"):
            yield from _walk(_linked(link["href"], path), visited)


def _linked(href: str, path: Path) -> Path:
    """Return the file that a catalogue's file links to."""
    place = Path(_absolute(href, str(path)))
    if urlsplit(href).scheme not in ("", "file"):
        raise InputError(
            f"{path} links to {redact(href)!r}, and a catalogue on disk is read from files only; make its links "
            "relative, or give the URL of a STAC API as archive.catalogue"
        )
    if not place.is_file():
        raise InputError(f"{path} links to {href!r}, which does not exist; copy the whole catalogue")
    return place.resolve()


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as err:
        raise InputError(
            f"{path} is not JSON ({err}); copy it again, or take it out of the catalogue's folder"
        ) from err


def _items_of(content: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield the items of a file: one, a collection of them, or none."""
    features: Iterable[Any] = content if isinstance(content, list) else []
    if isinstance(content, dict):
        features = [content] if content.get("type") == "Feature" else content.get("features") or []
    for feature in features:
        if isinstance(feature, dict) and "assets" in feature and "id" in feature:
            yield absolute_hrefs(feature, str(path))
