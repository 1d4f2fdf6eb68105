"""What a search asks for, and the filters applied on this side.

Talking to catalogues is `stac`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from glacierhpc.errors import InputError
from glacierhpc.scenes.plan import item_time

Row = dict[str, str]


@dataclass(frozen=True)
class Criteria:
    """What scenes have to be."""

    collections: tuple[str, ...]
    bbox_lonlat: tuple[float, float, float, float]
    start: str
    end: str
    """ISO dates, both included."""
    max_cloud_cover_percent: float | None = None
    platforms: tuple[str, ...] = ()
    months: tuple[int, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_scenes: int | None = None

    def asked(self) -> dict[str, Any]:
        """Return the filters beyond collection, place and time that were asked for."""
        names = ("max_cloud_cover_percent", "platforms", "months", "include", "exclude", "max_scenes")
        values = {name: getattr(self, name) for name in names}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value not in (None, ())
        }


def check_bbox(bbox_lonlat: Sequence[float]) -> tuple[float, float, float, float]:
    """Return the box as floats, or raise InputError saying what is wrong with it."""
    box = tuple(float(value) for value in bbox_lonlat)
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise InputError(
            f"area.bbox_lonlat {list(bbox_lonlat)!r} must be four numbers: [west, south, east, north]"
        )
    west, south, east, north = box
    if west > east and -180 <= east < west <= 180 and west - east > 180:
        raise InputError(
            f"area.bbox_lonlat {list(box)!r} lies across the 180th meridian, which one area cannot; make two runs: "
            f"{[west, south, 180.0, north]} and {[-180.0, south, east, north]}"
        )
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise InputError(
            f"area.bbox_lonlat {list(box)!r} is not [west, south, east, north] in degrees: west {west} must be less "
            f"than east {east} and south {south} less than north {north}; the longitude comes first"
        )
    return west, south, east, north


def choose_scenes(
    items: Sequence[dict[str, Any]], criteria: Criteria
) -> tuple[list[dict[str, Any]], list[Row]]:
    """Return the scenes that meet the criteria, by (time, id), and a row with a reason for each other one.

    What lies outside the place and the time, or in another collection, was not asked for and gets no row.
    """
    kept, dropped = [], []
    for item in items:
        try:
            if not _asked_for(item, criteria):
                continue
        except InputError:
            dropped.append({"scene": str(item["id"]), "reason": "it has no usable date"})
            continue
        reason = next(_objections(item, criteria), None)
        if reason:
            dropped.append({"scene": item["id"], "reason": reason})
        else:
            kept.append(item)
    kept.sort(key=lambda item: (item_time(item), item["id"]))
    if criteria.max_scenes is not None and len(kept) > criteria.max_scenes:
        best = sorted(kept, key=_cloudiness)[: criteria.max_scenes]
        chosen = {id(item) for item in best}
        reason = f"more than max_scenes ({criteria.max_scenes}), and cloudier"
        dropped += [{"scene": item["id"], "reason": reason} for item in kept if id(item) not in chosen]
        kept = [item for item in kept if id(item) in chosen]
    return kept, dropped


def _asked_for(item: Mapping[str, Any], criteria: Criteria) -> bool:
    if criteria.collections and item.get("collection") not in criteria.collections:
        return False
    day = item_time(item).date().isoformat()
    return criteria.start <= day <= criteria.end and _touches(item, criteria.bbox_lonlat)


def _touches(item: Mapping[str, Any], box: tuple[float, float, float, float]) -> bool:
    own = item.get("bbox")
    if not own:
        return True  # no footprint stated: reading will tell
    west, south, east, north = own[:4] if len(own) == 4 else (own[0], own[1], own[3], own[4])
    if west > east:  # across the antimeridian
        return south <= box[3] and north >= box[1] and (box[2] >= west or box[0] <= east)
    return west <= box[2] and east >= box[0] and south <= box[3] and north >= box[1]


def _objections(item: Mapping[str, Any], criteria: Criteria) -> Iterator[str]:
    if any(fnmatchcase(item["id"], pattern) for pattern in criteria.exclude):
        yield "excluded by archive.exclude"
    if criteria.include:  # a list by hand is the last word: no other filter takes from it or adds to it
        if not any(fnmatchcase(item["id"], pattern) for pattern in criteria.include):
            yield "not in archive.include"
        return
    properties = item["properties"]
    cover = properties.get("eo:cloud_cover")
    limit = criteria.max_cloud_cover_percent
    if limit is not None and cover is not None and cover > limit:
        yield f"cloud cover above {limit:g} %"
    platform = properties.get("platform") or properties.get("eo:platform") or ""
    if criteria.platforms and _plain(platform) not in {_plain(name) for name in criteria.platforms}:
        yield f"platform {platform or 'unknown'} not wanted"
    if criteria.months and item_time(item).month not in criteria.months:
        yield "month not wanted"


def _plain(platform: str) -> str:
    return platform.lower().replace("_", "-").replace(" ", "-")


def _cloudiness(item: Mapping[str, Any]) -> tuple[float, str]:
    cover = item["properties"].get("eo:cloud_cover")
    return (math.inf if cover is None else float(cover), item["id"])
