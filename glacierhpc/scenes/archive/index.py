"""A catalogue of images that are already on disk: GeoTIFF and JPEG 2000 files become STAC items.

Files are described, never copied or changed; reading their pixels is `acquire`'s.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glacierhpc.errors import InputError, unknown_name
from glacierhpc.files import write_json
from glacierhpc.scenes.archive.image_items import CATALOGUE, Describer, union
from glacierhpc.scenes.archive.image_names import group
from glacierhpc.scenes.collections import QUALITY_KINDS

log = logging.getLogger(__name__)

SUFFIXES = (".tif", ".tiff", ".jp2")
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".bmp")


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
    scenes = group(_images(root), pattern)
    describe = Describer(collection, scale, offset, nodata, tuple(bands or ()), dict(quality or {}))
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
        "spatial": {"bbox": [union([item["bbox"] for item in items])]},
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
