"""What the stored numbers of a scene mean: scale, offset and nodata, from its metadata or from a table.

Nothing is guessed: numbers of unknown meaning are refused. Which asset holds a band is `collections`'s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glacierhpc.errors import InputError
from glacierhpc.scenes.collections import BandAsset, Item


@dataclass(frozen=True)
class Radiometry:
    """How a stored number becomes a physical one: ``physical = stored * scale + offset``."""

    scale: float
    offset: float
    nodata: float | None
    """Stored number that means "no data"; None if there is none."""
    dtype: str
    source: str
    """Where scale and offset come from."""

    @property
    def meaning(self) -> tuple[float, float]:
        """Scale and offset: what has to agree for stored numbers to be comparable."""
        return self.scale, self.offset


# USGS, Landsat Collection 2 Level-2 Science Product Guide (LSDS-1619), section "Scale factors"
_LANDSAT_REFLECTANCE = (2.75e-05, -0.2)
_LANDSAT_TEMPERATURE = (0.00341802, 149.0)
# ESA, Sentinel-2 products specification: quantification 10000; from processing baseline 04.00 on (25 January
# 2022) BOA_ADD_OFFSET = -1000
_SENTINEL2_SCALE = 1e-4
_SENTINEL2_OFFSET = -0.1
_SENTINEL2_OFFSET_SINCE = (4, 0)


def radiometry(item: Item, asset: BandAsset) -> Radiometry:
    """Return what the stored numbers of one band mean.

    Taken from ``raster:bands``, else from the band fields of STAC 1.1, else from the product guides of Landsat
    Collection 2 Level 2 and Sentinel-2.

    Raises
    ------
    InputError
        If neither the item nor a product guide says what the numbers mean.
    """
    fields = item["assets"][asset.key]
    declared = _declared(fields, asset.index)
    nodata, dtype = declared.get("nodata"), str(declared.get("data_type") or "uint16")
    if declared.get("scale") is not None:
        scale, offset = float(declared["scale"]), float(declared.get("offset") or 0.0)
        if _offset_already_applied(item):
            return Radiometry(
                scale, 0.0, _number(nodata), dtype, "raster:bands; offset already applied to pixels"
            )
        return Radiometry(scale, offset, _number(nodata), dtype, "raster:bands")
    known = _landsat(item, asset.key) or _sentinel2(item)
    if known is None:
        raise InputError(
            f"scene {item['id']!r} does not say what the numbers in its asset {asset.key!r} mean (no raster:bands "
            "scale), and its collection is not known here; index the files with their scale and offset: "
            "glacierhpc archive index FOLDER --scale 0.0001 --offset 0"
        )
    scale, offset, source = known
    return Radiometry(scale, offset, 0.0 if nodata is None else _number(nodata), dtype, source)


def _declared(fields: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Scale, offset, nodata and data_type of one band, whichever dialect they are written in."""
    for name in ("raster:bands", "bands"):
        bands = fields.get(name) or []
        if len(bands) >= index:
            merged = {**fields, **bands[index - 1]}
            found = {key: merged.get(f"raster:{key}", merged.get(key)) for key in ("scale", "offset")}
            return {**found, "nodata": merged.get("nodata"), "data_type": merged.get("data_type")}
    found = {key: fields.get(f"raster:{key}") for key in ("scale", "offset")}
    return {**found, "nodata": fields.get("nodata"), "data_type": fields.get("data_type")}


def _number(nodata: Any) -> float | None:
    return None if nodata is None else float(nodata)


def _offset_already_applied(item: Item) -> bool:
    """Earth Search subtracted Sentinel-2's 1000 from the pixels but kept the offset in ``raster:bands``.

    Its property is the truth of the two: github.com/Element84/earth-search/issues/9.
    """
    properties = item["properties"]
    return any(
        properties.get(f"{prefix}:boa_offset_applied") is True for prefix in ("earthsearch", "sentinel")
    )


def _landsat(item: Item, key: str) -> tuple[float, float, str] | None:
    collection = str(item.get("collection") or "").lower()
    is_level2 = re.match(r"L[CETMO]0?[4-9]_L2S[PR]_", item["id"]) or re.fullmatch(
        r"landsat-c2-?l2(-sr|-st)?", collection
    )
    if not is_level2:
        return None
    thermal = key.lower().startswith(("lwir", "st_b"))
    return *(_LANDSAT_TEMPERATURE if thermal else _LANDSAT_REFLECTANCE), "Landsat Collection 2 Level 2 guide"


def _sentinel2(item: Item) -> tuple[float, float, str] | None:
    """Scale and offset of Sentinel-2 L2A; refused where the baseline, and so the offset, is unknown."""
    properties = item["properties"]
    platform = str(properties.get("platform") or "").lower()
    if not platform.startswith("sentinel-2") or "l1c" in str(item.get("collection")).lower():
        return None
    if _offset_already_applied(item):
        return _SENTINEL2_SCALE, 0.0, "Sentinel-2 L2A guide; offset already applied to pixels"
    baseline = _baseline(item)
    if baseline is None:
        return None
    offset = _SENTINEL2_OFFSET if baseline >= _SENTINEL2_OFFSET_SINCE else 0.0
    return _SENTINEL2_SCALE, offset, f"Sentinel-2 L2A guide, baseline {baseline[0]:02d}.{baseline[1]:02d}"


def _baseline(item: Item) -> tuple[int, int] | None:
    properties = item["properties"]
    names = ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version")
    stated = next((str(properties[name]) for name in names if properties.get(name)), "")
    found = re.fullmatch(r"N?(\d\d)[._]?(\d\d)", stated)
    if not found:
        products = (properties.get("s2:product_uri"), properties.get("sentinel:product_id"), item["id"])
        found = next(filter(None, (re.search(r"_N(\d\d)(\d\d)_", str(name)) for name in products)), None)
    return (int(found[1]), int(found[2])) if found else None


@dataclass(frozen=True)
class Storage:
    """How a cube stores the numbers of all its scenes."""

    dtype: str
    scale: float
    offset: float
    fill: float | None
    """Stored number of pixels without data; None means NaN."""
    source: str

    def cf_attributes(self) -> dict[str, float]:
        """Return the CF attributes that turn stored numbers into physical ones; none for floats."""
        if (self.scale, self.offset) == (1.0, 0.0):
            return {}
        return {"scale_factor": self.scale, "add_offset": self.offset}


def common_storage(found: Sequence[Radiometry]) -> Storage:
    """Choose how to store scenes together: the archive's own integers wherever that is exact.

    Scenes that differ by a whole number of counts (Sentinel-2 before and after baseline 04.00) get the smallest
    offset, so that no count becomes negative. Scenes that differ in more are stored as float32.
    """
    source = "; ".join(sorted({one.source for one in found}))
    first = min(found, key=lambda one: (one.offset, one.scale))
    integers = all(np.dtype(one.dtype).kind in "iu" for one in found)
    exact = all(one.scale == first.scale and _whole(one.offset - first.offset, one.scale) for one in found)
    if not (integers and exact):
        return Storage("float32", 1.0, 0.0, None, source)
    dtype = np.result_type(*(one.dtype for one in found))
    fills = {one.nodata for one in found if one.nodata is not None}
    return Storage(str(dtype), first.scale, first.offset, min(fills, default=0.0), source)


def to_storage(stored: np.ndarray, valid: np.ndarray, own: Radiometry, target: Storage) -> np.ndarray:
    """Convert one band to the numbers of the cube, exactly for integers; ``fill`` where not valid.

    Parameters
    ----------
    stored : (y, x)
        The archive's numbers.
    valid : (y, x) bool

    Returns
    -------
    (y, x) of the target's dtype
    """
    if target.fill is None:
        values = stored.astype(np.float32)
        if own.meaning != (target.scale, target.offset):
            values = values * np.float32(own.scale) + np.float32(own.offset)
        return np.where(valid, values, np.float32(np.nan))
    if (
        own.meaning == (target.scale, target.offset)
        and own.nodata == target.fill
        and stored.dtype == target.dtype
    ):
        return stored
    shift = round((own.offset - target.offset) / target.scale)
    limits = np.iinfo(target.dtype)
    moved = np.clip(stored.astype(np.int64) + shift, limits.min, limits.max)
    # a real count that lands on the fill value would vanish: it is one count off instead, inside the range
    moved[moved == target.fill] += -1 if target.fill == limits.max else 1
    return np.where(valid, moved, target.fill).astype(target.dtype)


def _whole(difference: float, scale: float) -> bool:
    counts = difference / scale
    return math.isclose(counts, round(counts), abs_tol=1e-6)
