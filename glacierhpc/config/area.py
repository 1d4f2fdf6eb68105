"""From a box drawn on a map to the `area` section of a configuration; the map itself is in notebooks/."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from glacierhpc.errors import InputError

DECIMALS = 5  # of a degree: one metre, finer than any pixel


def bbox_of(geo_json: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Return the box around a drawn shape.

    Parameters
    ----------
    geo_json : mapping
        A GeoJSON feature or geometry, in degrees. Longitudes beyond 180, which a map that was dragged around the
        world gives, are brought back.

    Returns
    -------
    tuple
        west, south, east, north in degrees, to 5 decimals.

    Raises
    ------
    InputError
        If the shape has no extent, or lies over the 180th meridian.
    """
    geometry = geo_json.get("geometry", geo_json)
    points = list(_points(geometry.get("coordinates", ()) if geometry else ()))
    if not points:
        raise InputError(f"{geometry!r} has no coordinates; draw a rectangle")
    longitudes, latitudes = zip(*points, strict=True)
    turns = 360 * ((min(longitudes) + 180) // 360)
    west, east = min(longitudes) - turns, max(longitudes) - turns
    south, north = min(latitudes), max(latitudes)
    if east > 180:
        raise InputError("the box lies over the 180th meridian; draw one on either side of it, for two runs")
    bbox = tuple(round(float(value), DECIMALS) for value in (west, south, east, north))
    if bbox[0] == bbox[2] or bbox[1] == bbox[3]:
        raise InputError(f"the shape {list(bbox)} has no extent; draw a rectangle")
    return bbox[0], bbox[1], bbox[2], bbox[3]


def area_yaml(bbox_lonlat: tuple[float, float, float, float], *, resolution_m: float = 30.0) -> str:
    """Return the `area` section of a configuration as YAML."""
    numbers = ", ".join(f"{value:.{DECIMALS}f}" for value in bbox_lonlat)
    return f"area:\n  bbox_lonlat: [{numbers}]\n  resolution_m: {resolution_m:g}\n"


def _points(coordinates: Any) -> Iterator[tuple[float, float]]:
    """Yield the positions of coordinates nested to any depth."""
    if len(coordinates) >= 2 and all(isinstance(value, (int, float)) for value in coordinates):
        yield coordinates[0], coordinates[1]
        return
    for inner in coordinates:
        yield from _points(inner)
