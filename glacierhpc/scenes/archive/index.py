"""A catalogue of images that are already on disk: GeoTIFF and JPEG 2000 files become STAC items.

Files are described, never copied or changed; reading their pixels is `acquire`'s.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import rasterio
import rasterio.errors
from rasterio.warp import transform_bounds

from glacierhpc.errors import InputError, unknown_name
from glacierhpc.files import write_json
from glacierhpc.scenes.collections import COMMON_NAMES, QUALITY_KINDS, band_assets, quality_asset

log = logging.getLogger(__name__)

SUFFIXES = (".tif", ".tiff", ".jp2")
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".bmp")
CATALOGUE = "catalog.json"

# name patterns with the groups scene and band (optional), date, platform (optional)
_LANDSAT = re.compile(
    r"(?P<scene>L(?P<sensor>[CETMO])0?(?P<number>\d)_(?P<level>L\w{3})_\d{6}_(?P<date>\d{8})(?:_\d{8})?_\d\d_\w\d)"
    r"_(?P<band>(?:SR_|ST_)?B\d{1,2}|QA_PIXEL|QA_RADSAT)$",
    re.IGNORECASE,
)
_SENTINEL = re.compile(
    r"(?P<scene>T\d\d[A-Z]{3}_(?P<date>\d{8}T\d{6}))_(?P<band>B\d[\dA]|SCL)(?:_\d\dm)?$", re.IGNORECASE
)
_ANY_DATE = re.compile(r"(?<!\d)(?P<date>(?:19|20)\d\d[-_]?[01]\d[-_]?[0-3]\d(?:T\d{6})?)(?!\d)")


@dataclass
class _Scene:
    """The files of one scene, by the band they hold (empty: told by the bands inside)."""

    when: pd.Timestamp | None
    platform: str = ""
    files: dict[str, Path] = field(default_factory=dict)


def index(
    folder: Path | str,
    *,
    collection: str = "local",
    scale: float | None = None,
    offset: float | None = None,
    nodata: float | None = None,
    bands: Sequence[str] | None = None,
    pattern: str | None = None,
    quality: Mapping[str, str] | None = None,
) -> Path:
    """Describe the images of a folder as STAC items and write them as a static catalogue beside the images.

    Understands the file names of Landsat (``..._SR_B4.TIF``, ``..._QA_PIXEL.TIF``) and Sentinel-2
    (``T06VVN_..._B04_10m.jp2``); any other name needs a date in it (20150711, 2015-07-11) or in the file's
    metadata, or a `pattern`.

    Parameters
    ----------
    folder : path
        Searched with its subfolders. ``catalog.json``, ``collection.json`` and ``items/`` are written into it.
    collection : str
        Id of the collection.
    scale, offset : float, optional
        ``reflectance = number * scale + offset``; None takes the file's own, or what is known of Landsat
        Collection 2. Floats without either are reflectance already.
    nodata : float, optional
        Number that means "no data", where the files do not say.
    bands : sequence of str, optional
        Common names of the bands inside one file, in order; None takes the descriptions in the file.
    pattern : str, optional
        File names without suffix: a template with ``{date}``, ``{scene}`` and ``{band}``, ``*`` for anything
        else, such as ``{scene}_{date}_{band}``; or a regular expression with groups of these names.
    quality : mapping, optional
        Which band names are quality rasters, and of which kind: ``{"clm": "cloud_mask"}`` (not 0 is cloud,
        255 no data) or ``flags``, ``qa_pixel``, ``scl``.

    Returns
    -------
    path
        The ``catalog.json``.

    Raises
    ------
    InputError
        If there is no image, or one has no date, no place on Earth, or no names for its bands; if a kind of
        quality raster is not known.
    """
    for kind in (quality or {}).values():
        if kind not in QUALITY_KINDS:
            raise unknown_name("kind of quality raster", kind, QUALITY_KINDS)
    root = Path(folder).resolve()
    scenes = _group(_images(root), pattern)
    describe = _Describer(collection, scale, offset, nodata, tuple(bands or ()), dict(quality or {}))
    items = [describe.item(name, scene) for name, scene in sorted(scenes.items())]
    _write_catalogue(root, collection, items)
    log.info("%d scenes in %s", len(items), root / CATALOGUE)
    return root / CATALOGUE


def _write_catalogue(root: Path, collection: str, items: Sequence[dict[str, Any]]) -> None:
    """Write ``catalog.json``, ``collection.json`` and ``items/``, with relative links: the folder may move."""
    target = root / "items"
    for item in items:
        for asset in item["assets"].values():
            asset["href"] = os.path.relpath(asset["href"], target)
        write_json(target / f"{item['id']}.json", item)
    common = {"stac_version": "1.1.0", "id": collection}
    up = {"rel": "root", "href": f"./{CATALOGUE}", "type": "application/json"}
    child = {"rel": "child", "href": "./collection.json", "type": "application/json"}
    links = [
        {"rel": "item", "href": f"./items/{item['id']}.json", "type": "application/geo+json"}
        for item in items
    ]
    times = sorted(item["properties"]["datetime"] for item in items)
    extent = {
        "spatial": {"bbox": [_union([item["bbox"] for item in items])]},
        "temporal": {"interval": [[times[0], times[-1]]]},
    }
    text = f"{len(items)} scenes described from the files of this folder"
    write_json(
        root / "collection.json",
        {
            **common,
            "type": "Collection",
            "description": text,
            "license": "other",
            "extent": extent,
            "links": [up, *links],
        },
    )
    catalogue = {**common, "type": "Catalog", "id": f"{collection}-catalogue", "description": text}
    write_json(root / CATALOGUE, {**catalogue, "links": [up, child]})


def _images(root: Path) -> list[Path]:
    if not root.is_dir():
        raise InputError(f"{str(root)!r} is not a folder; name the folder that holds the images")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    if images:
        return images
    pictures = [path for path in files if path.suffix.lower() in PICTURES]
    if pictures:
        raise InputError(
            f"{str(root)!r} holds {len(pictures)} pictures such as {pictures[0].name!r}, which do not say where on "
            "Earth they lie; convert them to GeoTIFF with their CRS and transform first (gdal_translate -a_srs "
            "EPSG:32622 -a_ullr LEFT TOP RIGHT BOTTOM in.png out.tif)"
        )
    raise InputError(f"{str(root)!r} holds no image ({', '.join(SUFFIXES)})")


def _group(images: Sequence[Path], pattern: str | None) -> dict[str, _Scene]:
    """Sort files into scenes by their names."""
    expression = _compile(pattern) if pattern else None
    scenes: dict[str, _Scene] = {}
    for path in images:
        name, when, band, platform = _parse(path, expression)
        scene = scenes.setdefault(name, _Scene(when, platform))
        if band in scene.files:
            raise InputError(
                f"{path.name!r} and {scene.files[band].name!r} both hold band {band or 'set'!r} of scene {name!r}; "
                "tell scenes apart with --pattern, or move one away"
            )
        scene.files[band] = path
    return scenes


def _compile(pattern: str) -> re.Pattern[str]:
    """Turn a template into a regular expression; one that is already an expression stays as it is."""
    if "(?P<" not in pattern:
        groups = {"date": r"\d{4}[-_]?\d\d[-_]?\d\d(?:T\d{6})?", "scene": ".+?", "band": "[A-Za-z0-9]+"}
        pieces = re.split(r"(\{\w+\}|\*)", pattern)
        pattern = "".join(
            f"(?P<{piece[1:-1]}>{groups[piece[1:-1]]})"
            if piece[1:-1] in groups and piece.startswith("{")
            else ".*?"
            if piece == "*"
            else re.escape(piece)
            for piece in pieces
        )
    try:
        expression = re.compile(pattern)
    except re.error as err:
        raise InputError(
            f"pattern {pattern!r} cannot be read ({err}); write e.g. '{{scene}}_{{date}}_{{band}}'"
        ) from err
    if not {"date", "scene"} & set(expression.groupindex):
        raise InputError(
            f"pattern {pattern!r} names neither {{date}} nor {{scene}}; write e.g. '*_{{date}}_{{band}}'"
        )
    return expression


def _parse(path: Path, expression: re.Pattern[str] | None) -> tuple[str, pd.Timestamp | None, str, str]:
    """Return scene, date, band and platform of a file by its name; empty where it does not say."""
    stem = path.stem
    if expression is not None:
        found = expression.fullmatch(stem)
        if found is None:
            raise InputError(
                f"{path.name!r} does not fit the pattern {expression.pattern!r}; move it away or widen it"
            )
        groups = {name: text for name, text in found.groupdict().items() if text}
        scene = groups.get("scene", "") if "date" not in groups else "_".join(
            filter(None, (groups.get("scene"), groups["date"]))
        )  # fmt: skip
        return scene, _date(groups.get("date")), groups.get("band", ""), ""
    found = _LANDSAT.match(stem)
    if found:
        return found["scene"], _date(found["date"]), found["band"], f"landsat-{found['number']}"
    found = _SENTINEL.match(stem)
    if found:
        return found["scene"], _date(found["date"]), found["band"], "sentinel-2"
    found = _ANY_DATE.search(stem)
    return stem, _date(found["date"]) if found else None, "", ""


def _date(text: str | None) -> pd.Timestamp | None:
    if text is None:
        return None
    try:
        return pd.Timestamp(text.replace("_", "").replace("-", ""))
    except ValueError:
        return None


@dataclass(frozen=True)
class _Describer:
    collection: str
    scale: float | None
    offset: float | None
    nodata: float | None
    bands: tuple[str, ...]
    quality: dict[str, str]

    def item(self, name: str, scene: _Scene) -> dict[str, Any]:
        """Return the STAC item of one scene; hrefs are absolute paths."""
        assets: dict[str, Any] = {}
        boxes, when = [], scene.when
        for band, path in sorted(scene.files.items()):
            key, asset, box, stated = self._asset(band, path)
            assets[key] = asset
            boxes.append(box)
            when = stated or when  # the file knows the hour, its name mostly only the day
        if when is None:
            raise InputError(
                f"scene {name!r} has no date, neither in the name of {path.name!r} nor in its metadata; rename it, "
                "or say where the date is: --pattern '*_{date}'"
            )
        item = self._record(name, scene.platform, when, _union(boxes), assets)
        if not band_assets(item):
            raise InputError(
                f"the bands of {path.name!r} have no names that are known here; name them in order: --bands "
                f"green,red,... (known: {', '.join(sorted(COMMON_NAMES))})"
            )
        if quality_asset(item) is None:
            log.info("scene %s has no quality raster: no pixel of it will be called cloud", name)
        return item

    def _record(
        self, name: str, platform: str, when: pd.Timestamp, box: list[float], assets: dict[str, Any]
    ) -> dict[str, Any]:
        west, south, east, north = box
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        properties: dict[str, Any] = {"datetime": f"{when.isoformat()}Z"}
        if platform:
            properties["platform"] = platform
        return {
            "type": "Feature",
            "stac_version": "1.1.0",
            "stac_extensions": [
                "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
                "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
                "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
            ],
            "id": re.sub(r"[^\w.+-]", "_", name),
            "collection": self.collection,
            "bbox": box,
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": properties,
            "links": [{"rel": "root", "href": f"../{CATALOGUE}", "type": "application/json"}],
            "assets": assets,
        }

    def _asset(self, band: str, path: Path) -> tuple[str, dict[str, Any], list[float], pd.Timestamp | None]:
        """Return key, asset, geographic box and stated time of one file."""
        try:
            with rasterio.open(path) as source:
                if source.crs is None:
                    raise InputError(
                        f"{path.name!r} does not say where on Earth it lies (no CRS); give it one first, e.g. "
                        f"gdal_edit.py -a_srs EPSG:32622 {path.name}"
                    )
                box = [round(v, 7) for v in transform_bounds(source.crs, "EPSG:4326", *source.bounds)]
                stated = _stated_time(source.tags())
                asset = {
                    "href": str(path),
                    "type": "image/jp2"
                    if path.suffix.lower() == ".jp2"
                    else "image/tiff; application=geotiff",
                    "roles": ["data"],
                    **_projection(source),
                    "bands": self._bands(band, source),
                }
        except rasterio.errors.RasterioIOError as err:
            raise InputError(f"{path} cannot be read as an image ({err}); move it away or mend it") from err
        return self._key(band, asset["bands"], path), asset, box, stated

    def _key(self, band: str, bands: list[dict[str, Any]], path: Path) -> str:
        """Name the asset so that quality rasters are recognised."""
        if band.lower() in ("qa_pixel", "qa_radsat", "scl"):
            return band.lower()
        if band in self.quality:
            return self.quality[band]
        return band or (bands[0]["name"] if len(bands) == 1 else "image")

    def _bands(self, band: str, source: rasterio.DatasetReader) -> list[dict[str, Any]]:
        names = self._names(band, source)
        described = []
        for position, name in enumerate(names):
            entry: dict[str, Any] = {"name": name, "data_type": source.dtypes[position]}
            nodata = source.nodatavals[position] if self.nodata is None else self.nodata
            if nodata is not None:
                entry["nodata"] = "nan" if nodata != nodata else nodata
            meaning = self._meaning(source, position)
            if meaning and band.lower() not in ("qa_pixel", "qa_radsat", "scl") and band not in self.quality:
                entry["raster:scale"], entry["raster:offset"] = meaning
            if name in COMMON_NAMES:
                entry["eo:common_name"] = name
            described.append(entry)
        return described

    def _names(self, band: str, source: rasterio.DatasetReader) -> list[str]:
        if source.count == 1 and (band or self.bands):
            return [band or self.bands[0]]
        if self.bands:
            if len(self.bands) != source.count:
                raise InputError(
                    f"{Path(source.name).name!r} has {source.count} bands, and {len(self.bands)} names were given "
                    f"({', '.join(self.bands)}); name all of them in order"
                )
            return list(self.bands)
        return [text or f"band{number}" for number, text in enumerate(source.descriptions, start=1)]

    def _meaning(self, source: rasterio.DatasetReader, position: int) -> tuple[float, float] | None:
        """Scale and offset: as given, as the file says, or none needed; None leaves it to the product guides."""
        if self.scale is not None or self.offset is not None:
            return (1.0 if self.scale is None else self.scale), (self.offset or 0.0)
        own = (source.scales[position], source.offsets[position])
        if own != (1.0, 0.0) or source.dtypes[position].startswith("float"):
            return own
        return None


def _projection(source: rasterio.DatasetReader) -> dict[str, Any]:
    code = source.crs.to_authority()
    crs = {"proj:code": ":".join(code)} if code else {"proj:wkt2": source.crs.to_wkt()}
    return {**crs, "proj:shape": list(source.shape), "proj:transform": list(source.transform)[:6]}


def _stated_time(tags: Mapping[str, str]) -> pd.Timestamp | None:
    """Return the time in a file's metadata; the TIFF tag of its making is not when the scene was taken."""
    for name in ("DATETIME_UTC", "ACQUISITION_DATETIME", "SENSING_TIME"):
        if tags.get(name):
            moment = pd.Timestamp(tags[name])
            return moment.tz_convert(None) if moment.tzinfo else moment
    return None


def _union(boxes: Sequence[Sequence[float]]) -> list[float]:
    west, south, east, north = zip(*boxes)
    return [min(west), min(south), max(east), max(north)]
