"""Which asset of a STAC item holds which band, its quality raster, and its grid, across archives and dialects.

What the stored numbers mean is `radiometry`'s; nothing here opens a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyproj import CRS
from pyproj.exceptions import CRSError

from glacierhpc.errors import InputError, nearest_name

Item = Mapping[str, Any]

# USGS Landsat Collection 2 data dictionary; STAC common names: github.com/stac-extensions/eo
_TM = {"1": "blue", "2": "green", "3": "red", "4": "nir08", "5": "swir16", "6": "lwir", "7": "swir22"}
_OLI = {
    "1": "coastal",
    "2": "blue",
    "3": "green",
    "4": "red",
    "5": "nir08",
    "6": "swir16",
    "7": "swir22",
    "8": "pan",
    "9": "cirrus",
    "10": "lwir11",
    "11": "lwir12",
}
# Sentinel-2 MSI: band 8A is the narrow near infrared that matches Landsat's, band 8 the broad one
_MSI = {
    "1": "coastal",
    "2": "blue",
    "3": "green",
    "4": "red",
    "5": "rededge1",
    "6": "rededge2",
    "7": "rededge3",
    "8": "nir",
    "8A": "nir08",
    "9": "nir09",
    "10": "cirrus",
    "11": "swir16",
    "12": "swir22",
}
_BANDS = {"tm": _TM, "etm": {**_TM, "8": "pan"}, "oli": _OLI, "msi": _MSI}
COMMON_NAMES = frozenset(name for table in _BANDS.values() for name in table.values())

_FAMILY_OF_PLATFORM = (
    ("landsat[-_ ]?[45]$", "tm"),
    ("landsat[-_ ]?7$", "etm"),
    ("landsat[-_ ]?[89]$", "oli"),
    ("sentinel[-_ ]?2", "msi"),
)
_FAMILY_OF_ID = ((r"L[TM]0?[45]", "tm"), (r"LE0?7", "etm"), (r"L[CO]0?[89]", "oli"), (r"S2[A-D]?[_-]", "msi"))
_BAND_NAME = re.compile(r"^(?:(?:OLI|TM|ETM|TIRS|SR|ST|TOA)_)?B0?(\d{1,2}A?)$", re.IGNORECASE)
_PICTURE_ROLES = {"thumbnail", "overview", "visual"}
_PICTURE_KEYS = {"visual", "preview", "rendered_preview", "overview", "thumbnail"}


@dataclass(frozen=True)
class BandAsset:
    """Where one band of one scene is stored."""

    key: str
    """Name of the asset in the item."""
    href: str
    """Unsigned."""
    index: int = 1
    """Band within the file, from 1."""


@dataclass(frozen=True)
class QualityAsset:
    """Where the quality of one scene's pixels is stored."""

    key: str
    href: str
    kind: str
    """``landsat-qa``, ``sentinel2-scl``, ``cloud-mask`` (not 0 is cloud) or ``flags`` (a cube's own bits)."""


def sensor_family(item: Item) -> str | None:
    """Return ``tm``, ``etm``, ``oli`` or ``msi``, or None where neither platform nor id tells."""
    properties = item["properties"]
    platform = str(properties.get("platform") or properties.get("eo:platform") or "").lower()
    for pattern, family in _FAMILY_OF_PLATFORM:
        if re.search(pattern, platform):
            return family
    for pattern, family in _FAMILY_OF_ID:
        if re.match(pattern, item["id"]):
            return family
    return None


def band_assets(item: Item) -> dict[str, BandAsset]:
    """Return the asset of every band of a scene, by common name.

    Understands ``eo:bands``, the ``bands`` of STAC 1.1, asset keys that are common names, and band numbers of
    Landsat 4 to 9 and Sentinel-2. Where a band is stored twice, the GeoTIFF wins over the JPEG 2000 and the
    file of its own over the composite; pictures for people are left out.
    """
    family = sensor_family(item)
    candidates: dict[str, list[tuple[tuple[int, int, int, str], BandAsset]]] = {}
    for key, asset in item["assets"].items():
        if not _holds_data(key, asset):
            continue
        described = _described_bands(asset)
        for index, band in enumerate(described or [{}], start=1):
            name = _common_name(key, band, family, alone=len(described) < 2)
            if name:
                rank = (len(described) > 1, _is_jpeg2000(asset), key != name, key)
                candidates.setdefault(name, []).append((rank, BandAsset(key, asset["href"], index)))
    return {name: min(found, key=lambda pair: pair[0])[1] for name, found in candidates.items()}


def find_band(item: Item, band: str) -> BandAsset:
    """Return the asset of one band.

    ``nir`` falls back to ``nir08`` on sensors that have only one near infrared.

    Raises
    ------
    InputError
        If the scene has no such band; names the bands it has.
    """
    assets = band_assets(item)
    if band in assets:
        return assets[band]
    if band == "nir" and "nir08" in assets:
        return assets["nir08"]
    nearest = nearest_name(band, assets)
    hint = f"; did you mean {nearest!r}?" if nearest else "."
    raise InputError(
        f"scene {item['id']!r} has no band {band!r}{hint} Its bands: {', '.join(sorted(assets)) or 'none'}."
    )


QUALITY_KINDS = {
    "qa_pixel": "landsat-qa",
    "scl": "sentinel2-scl",
    "cloud_mask": "cloud-mask",
    "flags": "flags",
}


def quality_asset(item: Item) -> QualityAsset | None:
    """Return the raster that says which pixels are cloud, shadow, snow or fill, or None."""
    found = []
    for key, asset in item["assets"].items():
        kind = QUALITY_KINDS.get(key.lower())
        if kind:
            found.append((_is_jpeg2000(asset), key, QualityAsset(key, asset["href"], kind)))
    return min(found, key=lambda entry: entry[:2])[2] if found else None


def saturation_asset(item: Item) -> BandAsset | None:
    """Return the Landsat raster whose bits say which bands are saturated (``QA_RADSAT``), or None."""
    for key, asset in item["assets"].items():
        if key.lower() == "qa_radsat":
            return BandAsset(key, asset["href"])
    return None


def saturation_bits(item: Item, bands: Iterable[str]) -> int:
    """Return the mask of the ``QA_RADSAT`` bits of some bands: bit n-1 is band n in every Landsat sensor."""
    table = _BANDS.get(sensor_family(item) or "", {})
    numbers = [int(number) for number, name in table.items() if name in set(bands) and number.isdigit()]
    return sum(1 << (number - 1) for number in numbers)


def item_crs(item: Item, key: str | None = None) -> str | None:
    """Return the CRS of a scene (of one asset, if named) as an authority code or WKT; None where not stated.

    Landsat scenes of the southern hemisphere come in northern UTM codes with negative northings: that is their
    true CRS and is returned unchanged, see `southern_twin`.
    """
    asset = item["assets"].get(key, {}) if key else {}
    for source in (asset, item["properties"]):
        if source.get("proj:code"):
            return str(source["proj:code"])
        if source.get("proj:epsg"):
            return f"EPSG:{int(source['proj:epsg'])}"
        if source.get("proj:wkt2"):
            return str(source["proj:wkt2"])
        if source.get("proj:projjson"):
            return CRS.from_json_dict(source["proj:projjson"]).to_wkt()
    return None


def southern_twin(crs: str, other: str) -> float | None:
    """Return what to add to northings in `other` to get northings in `crs`, if both are one UTM zone.

    The two hemispheres of a zone differ by 10,000 km of false northing and nothing else, so pixels of one are
    copied to the other, not resampled. None if the two are not such twins.
    """
    zones = [re.fullmatch(r"EPSG:32([67])(\d\d)", text.upper()) for text in (crs, other)]
    if not all(zones) or zones[0][2] != zones[1][2]:  # type: ignore[index]
        return None
    southern, other_southern = (zone[1] == "7" for zone in zones)  # type: ignore[index]
    return 1e7 * (southern - other_southern)


def asset_grid(item: Item, key: str) -> tuple[tuple[int, int], tuple[float, ...]] | None:
    """Return (rows, columns) and the affine coefficients a..f of an asset; None where not stated."""
    asset, properties = item["assets"][key], item["properties"]
    shape = asset.get("proj:shape") or properties.get("proj:shape")
    transform = asset.get("proj:transform") or properties.get("proj:transform")
    if not shape or not transform:
        return None
    return (int(shape[0]), int(shape[1])), tuple(float(value) for value in transform[:6])


def archive_anchor(items: Iterable[Item], crs: str, resolution_m: float, *, band: str) -> tuple[float, float]:
    """Return where the pixel corners of most scenes lie in `crs`: the anchor for `Grid.from_bbox`.

    A cube with the archive's own anchor copies pixels; any other one resamples them. (0, 0) if no scene of
    that CRS has that resolution.
    """
    votes: dict[tuple[float, float], int] = {}
    for item in items:
        anchor = _anchor(item, crs, resolution_m, band)
        if anchor:
            votes[anchor] = votes.get(anchor, 0) + 1
    return max(votes, key=lambda anchor: (votes[anchor], anchor)) if votes else (0.0, 0.0)


def _anchor(item: Item, crs: str, resolution_m: float, band: str) -> tuple[float, float] | None:
    asset = band_assets(item).get(band)
    grid = asset_grid(item, asset.key) if asset else None
    own = item_crs(item, asset.key) if asset else None
    if grid is None or own is None:
        return None
    shift = 0.0 if same_crs(own, crs) else southern_twin(crs, own)
    a, b, c, d, e, f = grid[1]
    if shift is None or b or d or abs(a - resolution_m) > 1e-6 or abs(e + resolution_m) > 1e-6:
        return None
    return c % resolution_m, (f + shift) % resolution_m


def same_crs(one: str, other: str) -> bool:
    """Say whether two CRS definitions mean the same system."""
    if one.upper() == other.upper():
        return True
    try:
        return CRS.from_user_input(one).equals(CRS.from_user_input(other), ignore_axis_order=True)
    except CRSError:
        return False


def processing_level(item: Item) -> str:
    """Return the processing level as the archive names it, such as ``L2SP``; empty where not stated."""
    properties = item["properties"]
    for name in ("landsat:correction", "processing:level", "s2:product_type"):
        if properties.get(name):
            return str(properties[name])
    found = re.search(r"(?:^|_)(L1[A-Z]{2}|L2SP|L2SR|MSIL2A|MSIL1C|L2A|L1C)(?:_|$)", item["id"])
    return found[1] if found else ""


def _holds_data(key: str, asset: Mapping[str, Any]) -> bool:
    if _PICTURE_ROLES & set(asset.get("roles") or ()) or key.lower() in _PICTURE_KEYS:
        return False
    kind = str(asset.get("type") or "").lower()
    if kind and not re.search("tiff|jp2|jpeg2000|zarr|netcdf|vrt", kind):
        return False
    return bool(kind) or bool(re.search(r"\.(tiff?|jp2|vrt)$", asset["href"].split("?")[0], re.IGNORECASE))


def _is_jpeg2000(asset: Mapping[str, Any]) -> bool:
    return "jp2" in str(asset.get("type")).lower() or asset["href"].split("?")[0].lower().endswith(".jp2")


def _described_bands(asset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(asset.get("eo:bands") or asset.get("bands") or [])


def _common_name(key: str, band: Mapping[str, Any], family: str | None, *, alone: bool) -> str | None:
    """The key where it is a common name, then the band number, then what the archive calls common.

    The archive's own word comes last: Planetary Computer calls four bands of Sentinel-2 ``rededge``.
    """
    if alone and key in COMMON_NAMES:
        return key
    for text in _names(key if alone else "", band):
        number = _BAND_NAME.match(text)
        name = _BANDS[family].get(number[1].upper()) if number and family else None
        if name:
            return name
    declared = band.get("common_name") or band.get("eo:common_name")
    if declared:
        return str(declared)
    return str(band["name"]) if band.get("name") in COMMON_NAMES else None


def _names(key: str, band: Mapping[str, Any]) -> Iterator[str]:
    for text in (band.get("name"), key):
        if text:
            # JPEG 2000 duplicates are keyed "<name>-jp2"
            yield str(text).removesuffix("-jp2")
