"""STAC items of scenes that are already on disk, from what their files and the user say; reads no pixels."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import rasterio
import rasterio.errors
from rasterio.warp import transform_bounds

from glacierhpc.errors import InputError
from glacierhpc.scenes.archive.image_names import SceneFiles
from glacierhpc.scenes.collections import COMMON_NAMES, band_assets, quality_asset

log = logging.getLogger(__name__)

CATALOGUE = "catalog.json"


@dataclass(frozen=True)
class Describer:
    """What the user says of all images of a folder; None and empty leave it to the files."""

    collection: str
    scale: float | None
    offset: float | None
    nodata: float | None
    bands: tuple[str, ...]
    quality: dict[str, str]

    def item(self, name: str, scene: SceneFiles) -> dict[str, Any]:
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
        item = self._record(name, scene.platform, when, union(boxes), assets)
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
        return self._key(band, asset["bands"]), asset, box, stated

    def _key(self, band: str, bands: list[dict[str, Any]]) -> str:
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


def union(boxes: Sequence[Sequence[float]]) -> list[float]:
    """Return the box around boxes, each west, south, east, north."""
    west, south, east, north = zip(*boxes)
    return [min(west), min(south), max(east), max(north)]
