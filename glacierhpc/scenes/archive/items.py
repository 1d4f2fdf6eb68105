"""STAC records of the embedded archive, in the shape of Planetary Computer's ``landsat-c2-l2``; writes no
pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glacierhpc.grid import Grid
from glacierhpc.scenes.archive.sensor import OFFSET, SCALE

COLLECTION = "landsat-c2-l2"
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_EXTENSIONS = (
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
    "https://stac-extensions.github.io/eo/v1.0.0/schema.json",
    "https://stac-extensions.github.io/view/v1.0.0/schema.json",
    "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
    "https://stac-extensions.github.io/classification/v1.0.0/schema.json",
)
# Band number, centre and width in micrometres of Landsat 8-9 OLI, and the title Planetary Computer gives.
_OLI = {
    "coastal": (1, 0.44, 0.02, "Coastal/Aerosol Band"),
    "blue": (2, 0.48, 0.06, "Blue Band"),
    "green": (3, 0.56, 0.06, "Green Band"),
    "red": (4, 0.65, 0.04, "Red Band"),
    "nir08": (5, 0.87, 0.03, "Near Infrared Band 0.8"),
    "swir16": (6, 1.61, 0.09, "Short-wave Infrared Band 1.6"),
    "swir22": (7, 2.2, 0.19, "Short-wave Infrared Band 2.2"),
}
_QA_BITS = (
    ("fill", 0, 1),
    ("dilated_cloud", 1, 1),
    ("cirrus", 2, 1),
    ("cloud", 3, 1),
    ("cloud_shadow", 4, 1),
    ("snow", 5, 1),
    ("clear", 6, 1),
    ("water", 7, 1),
    ("cloud_confidence", 8, 2),
    ("cloud_shadow_confidence", 10, 2),
    ("snow_confidence", 12, 2),
    ("cirrus_confidence", 14, 2),
)


def asset_file(scene: str, asset: str) -> str:
    """Return the file name of an asset, as USGS names it: ``<scene>_SR_B3.TIF``, ``<scene>_QA_PIXEL.TIF``."""
    suffix = "QA_PIXEL" if asset == "qa_pixel" else f"SR_B{_OLI[asset][0]}"
    return f"{scene}_{suffix}.TIF"


def make_item(
    scene: str,
    *,
    time: str,
    platform: str,
    grid: Grid,
    geometry: Mapping[str, Any],
    bbox: Sequence[float],
    bands: Sequence[str],
    cloud_cover_percent: float,
    sun: tuple[float, float],
    path_row: tuple[str, str],
) -> dict[str, Any]:
    """Return one STAC item whose hrefs are relative to ``items/``."""
    number = int(grid.crs.split(":")[1])
    properties = {
        "gsd": grid.resolution_m,
        "created": time,
        "datetime": time,
        "platform": platform,
        "instruments": ["oli", "tirs"],
        "description": "Synthetic scene in the form of Landsat Collection 2 Level-2",
        "glacierhpc:synthetic": True,
        "proj:epsg": number,
        "proj:code": grid.crs,
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform),
        "eo:cloud_cover": round(cloud_cover_percent, 2),
        "view:off_nadir": 0,
        "view:sun_azimuth": round(sun[0], 4),
        "view:sun_elevation": round(sun[1], 4),
        "landsat:wrs_path": path_row[0],
        "landsat:wrs_row": path_row[1],
        "landsat:wrs_type": "2",
        "landsat:correction": "L2SP",
        "landsat:collection_number": "02",
        "landsat:collection_category": "T1",
    }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": scene,
        "collection": COLLECTION,
        "geometry": dict(geometry),
        "bbox": list(bbox),
        "properties": properties,
        "links": [
            {"rel": "root", "href": "../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../collection.json", "type": "application/json"},
            {"rel": "collection", "href": "../collection.json", "type": "application/json"},
        ],
        "assets": {asset: _asset(scene, asset, grid.resolution_m) for asset in (*bands, "qa_pixel")},
    }


def _asset(scene: str, asset: str, resolution_m: float) -> dict[str, Any]:
    href = f"../scenes/{scene}/{asset_file(scene, asset)}"
    if asset == "qa_pixel":
        return {
            "href": href,
            "type": _COG,
            "roles": ["cloud", "cloud-shadow", "snow-ice", "water-mask"],
            "title": "Pixel Quality Assessment Band",
            "classification:bitfields": [
                {"name": name, "offset": offset, "length": length} | {"classes": _classes(name, length)}
                for name, offset, length in _QA_BITS
            ],
            "raster:bands": [
                {"nodata": 1, "data_type": "uint16", "unit": "bit index", "spatial_resolution": resolution_m}
            ],
        }
    number, centre, width, title = _OLI[asset]
    return {
        "href": href,
        "type": _COG,
        "roles": ["data", "reflectance"],
        "title": title,
        "eo:bands": [
            {
                "name": f"OLI_B{number}",
                "common_name": asset,
                "center_wavelength": centre,
                "full_width_half_max": width,
            }
        ],
        "raster:bands": [
            {
                "scale": SCALE,
                "offset": OFFSET,
                "nodata": 0,
                "data_type": "uint16",
                "spatial_resolution": resolution_m,
            }
        ],
    }


def _classes(name: str, length: int) -> list[dict[str, Any]]:
    if length == 1:
        return [{"value": 0, "name": f"not_{name}"}, {"value": 1, "name": name}]
    levels = ("not_set", "low", "medium" if name.startswith("cloud_conf") else "reserved", "high")
    return [{"value": value, "name": level} for value, level in enumerate(levels)]


def write_catalogue(folder: Path, items: Sequence[Mapping[str, Any]]) -> None:
    """Write ``catalog.json``, ``collection.json`` and ``items/<scene>.json`` with relative hrefs.

    Parameters
    ----------
    folder : Path
        The archive; created where missing.
    items : sequence of dict
        From `make_item`, at least one.
    """
    boxes = [item["bbox"] for item in items]
    times = sorted(item["properties"]["datetime"] for item in items)
    extent = [
        min(b[0] for b in boxes),
        min(b[1] for b in boxes),
        max(b[2] for b in boxes),
        max(b[3] for b in boxes),
    ]
    collection = {
        "type": "Collection",
        "id": COLLECTION,
        "stac_version": "1.0.0",
        "title": "Synthetic glacier scenes",
        "description": "Synthetic scenes of one glacier valley, in the form of Landsat Collection 2 Level-2.",
        "license": "CC0-1.0",
        "extent": {"spatial": {"bbox": [extent]}, "temporal": {"interval": [[times[0], times[-1]]]}},
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "./catalog.json", "type": "application/json"},
            *(
                {"rel": "item", "href": f"./items/{item['id']}.json", "type": "application/geo+json"}
                for item in items
            ),
        ],
    }
    catalogue = {
        "type": "Catalog",
        "id": "glacierhpc-embedded",
        "stac_version": "1.0.0",
        "title": "Embedded archive",
        "description": "A synthetic glacier scene series with known truth.",
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": "application/json"},
            {"rel": "child", "href": "./collection.json", "type": "application/json"},
        ],
    }
    (folder / "items").mkdir(parents=True, exist_ok=True)
    for item in items:
        _write(folder / "items" / f"{item['id']}.json", item)
    _write(folder / "collection.json", collection)
    _write(folder / "catalog.json", catalogue)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
