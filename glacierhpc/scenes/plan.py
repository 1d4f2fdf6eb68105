"""What an acquisition will read and write, worked out from metadata before the first byte is read.

Carrying it out is `acquire`'s.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rasterio.warp import transform_bounds

from glacierhpc.cube import CHUNK_PX, SHARD_PX
from glacierhpc.errors import InputError
from glacierhpc.grid import Grid
from glacierhpc.scenes.collections import (
    Item,
    asset_grid,
    find_band,
    item_crs,
    processing_level,
    quality_asset,
    saturation_asset,
    saturation_bits,
)
from glacierhpc.scenes.fetch import QUALITY, SATURATION, AssetTask
from glacierhpc.scenes.radiometry import Radiometry, Storage, common_storage, radiometry
from glacierhpc.scenes.readers import ReadRequest, check_loader
from glacierhpc.scenes.remote.policy import RetryPolicy
from glacierhpc.scenes.signing import SignerSpec

COMPRESSED_SHARE = 0.6  # of a COG's pixels in bytes: deflate with predictor on 16-bit reflectance
NO_NODATA = -(2**31)  # marks pixels outside a file of integers that has no nodata value of its own


@dataclass(frozen=True)
class ScenePlan:
    """One scene and the reads it needs, the one that may drop it first."""

    key: str
    """Folder name, unique over collections."""
    scene: str
    """STAC id."""
    time: pd.Timestamp
    platform: str
    collection: str
    cloud_cover: float
    crs: str
    level: str
    tasks: tuple[AssetTask, ...]
    problem: str = ""
    """Why the scene cannot be read at all."""

    def row(self) -> dict[str, Any]:
        """Return what the scenes table says of the scene whatever happens."""
        names = ("scene", "time", "platform", "collection", "cloud_cover", "crs", "level")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class AcquisitionPlan:
    """Scenes in the order of the cube's time axis, and what they will cost."""

    scenes: tuple[ScenePlan, ...]
    grid: Grid
    bands: tuple[str, ...]
    storage: Storage
    folder: Path
    loader: str
    resampling: str
    bytes_to_read_estimate: int
    """Compressed bytes over the network, from the stated grids; windows are read, not whole files."""
    cube_bytes: int
    """Uncompressed, if every scene is kept."""
    files: int
    """Files of the cube if every scene is kept."""
    inodes: int
    """Files and folders that there are at most at one time, as quotas count them."""

    def to_dict(self) -> dict[str, int]:
        """Return the sizes as plain numbers."""
        return {
            "scenes": sum(not scene.problem for scene in self.scenes),
            "assets": sum(len(scene.tasks) for scene in self.scenes),
            "bytes_to_read_estimate": self.bytes_to_read_estimate,
            "cube_bytes": self.cube_bytes,
            "files": self.files,
            "inodes": self.inodes,
        }

    def table(self) -> list[list[Any]]:
        """Return (label, value) rows for a person."""
        sizes = self.to_dict()
        return [
            ["scenes", sizes["scenes"]],
            ["scenes that cannot be read", len(self.scenes) - sizes["scenes"]],
            ["assets to read", sizes["assets"]],
            ["to read, estimated", f"{self.bytes_to_read_estimate / 1e6:.0f} MB"],
            ["grid", f"{self.grid.shape[0]} x {self.grid.shape[1]} px in {self.grid.crs}"],
            ["cube, at most", f"{self.cube_bytes / 1e6:.0f} MB in {self.files} files"],
            ["files and folders while it is made", self.inodes],
        ]

    def purpose(self) -> dict[str, Any]:
        """Return what pieces on disk have to agree on."""
        return {
            "grid": self.grid.to_dict(),
            "bands": list(self.bands),
            "storage": [self.storage.dtype, self.storage.scale, self.storage.offset, self.storage.fill],
            "loader": self.loader,
            "resampling": self.resampling,
        }


def plan_acquisition(
    items: Sequence[Item],
    grid: Grid,
    *,
    bands: Sequence[str],
    loader: str = "odc",
    resampling: str = "bilinear",
    folder: Path = Path(".parts"),
    signer: SignerSpec | None = None,
    policy: RetryPolicy | None = None,
) -> AcquisitionPlan:
    """Work out what to read for a cube; reads metadata only.

    Parameters
    ----------
    items : sequence of STAC items
    grid : Grid
        Of the cube.
    bands : sequence of str
        Common names.

    Raises
    ------
    InputError
        If there are no scenes, or none of them has the bands with numbers of known meaning.
    """
    check_loader(loader)
    if not items or not bands:
        raise InputError(
            "there is nothing to acquire: no scenes or no bands; widen the search or name acquire.bands"
        )
    known, problems = _radiometries(items, bands)
    if not known:
        raise InputError(next(iter(problems.values())))
    storage = common_storage([one for found in known.values() for one in found.values()])
    signer, policy = signer or SignerSpec(), policy or RetryPolicy()
    planner = _Planner(grid, tuple(bands), storage, loader, resampling, folder, signer, policy)
    keys = _keys(items)
    scenes = [
        planner.scene(item, keys[number], known.get(number), problems.get(number, ""))
        for number, item in enumerate(items)
    ]
    scenes.sort(key=lambda scene: (scene.time, scene.scene, scene.key))
    count = sum(not scene.problem for scene in scenes)
    return AcquisitionPlan(
        scenes=tuple(scenes),
        grid=grid,
        bands=tuple(bands),
        storage=storage,
        folder=folder,
        loader=loader,
        resampling=resampling,
        bytes_to_read_estimate=sum(_bytes_of(item, grid, bands) for item in items),
        cube_bytes=count * math.prod(grid.shape) * (len(bands) * np.dtype(storage.dtype).itemsize + 3),
        files=_files(count, len(bands), grid),
        inodes=_inodes(scenes, len(bands), grid),
    )


def _radiometries(
    items: Sequence[Item], bands: Sequence[str]
) -> tuple[dict[int, dict[str, Radiometry]], dict[int, str]]:
    """Return what the bands of each scene mean, and why some scenes cannot be used."""
    known: dict[int, dict[str, Radiometry]] = {}
    problems: dict[int, str] = {}
    for number, item in enumerate(items):
        try:
            known[number] = {band: radiometry(item, find_band(item, band)) for band in bands}
        except InputError as err:
            problems[number] = str(err)
    return known, problems


@dataclass(frozen=True)
class _Planner:
    grid: Grid
    bands: tuple[str, ...]
    storage: Storage
    loader: str
    resampling: str
    folder: Path
    signer: SignerSpec
    policy: RetryPolicy

    def scene(self, item: Item, key: str, known: dict[str, Radiometry] | None, problem: str) -> ScenePlan:
        properties = item["properties"]
        cover = properties.get("eo:cloud_cover")
        return ScenePlan(
            key=key,
            scene=item["id"],
            time=item_time(item),
            platform=str(properties.get("platform") or properties.get("eo:platform") or ""),
            collection=str(item.get("collection") or ""),
            cloud_cover=float("nan") if cover is None else float(cover),
            crs=item_crs(item) or "",
            level=processing_level(item),
            tasks=tuple(self._tasks(item, key, known)) if known else (),
            problem=problem,
        )

    def _tasks(self, item: Item, key: str, known: dict[str, Radiometry]) -> list[AssetTask]:
        band_tasks = [self._band_task(item, key, band, known[band]) for band in self.bands]
        quality, saturation = quality_asset(item), saturation_asset(item)
        flag_tasks = []
        if quality:
            dtype, outside = _FLAG_RASTERS[quality.kind]
            request = self._request(item, quality.key, quality.href, dtype=dtype, nodata=outside)
            flag_tasks.append(self._task(key, QUALITY, request, kind=quality.kind))
        if saturation:
            request = self._request(item, saturation.key, saturation.href, dtype="uint16", nodata=0.0)
            bits = saturation_bits(item, self.bands)
            band_tasks.append(self._task(key, SATURATION, request, bits=bits))
        return flag_tasks + band_tasks

    def _band_task(self, item: Item, key: str, band: str, meaning: Radiometry) -> AssetTask:
        asset = find_band(item, band)
        dtype, nodata = meaning.dtype, meaning.nodata
        if nodata is None and np.dtype(dtype).kind in "iu":
            dtype, nodata = "int32", float(NO_NODATA)
        request = self._request(
            item,
            asset.key,
            asset.href,
            band_index=asset.index,
            dtype=dtype,
            nodata=nodata,
            resampling=self.resampling,
        )
        return self._task(key, band, request, radiometry=meaning)

    def _request(self, item: Item, asset_key: str, href: str, **options: Any) -> ReadRequest:
        settings = {"resampling": "nearest", **options}
        return ReadRequest(
            href=href, grid=self.grid, crs=item_crs(item, asset_key), loader=self.loader, **settings
        )

    def _task(self, key: str, asset: str, request: ReadRequest, **options: Any) -> AssetTask:
        return AssetTask(key, asset, self.folder, request, self.storage, self.signer, self.policy, **options)


# type and value of pixels outside the file: QA_PIXEL's fill bit, SCL's class 0, ...
_FLAG_RASTERS = {
    "landsat-qa": ("uint16", 1.0),
    "sentinel2-scl": ("uint8", 0.0),
    "cloud-mask": ("uint8", 255.0),
    "flags": ("uint16", 1.0),
}


def item_time(item: Item) -> pd.Timestamp:
    """Return when a scene was taken: ``datetime``, else the middle of its interval; UTC without zone.

    Raises
    ------
    InputError
        If the item has neither.
    """
    properties = item["properties"]
    texts = [properties.get("datetime")]
    if not texts[0]:
        texts = [properties.get("start_datetime"), properties.get("end_datetime")]
    try:
        moments = [pd.Timestamp(text) for text in texts if text]
        utc = [moment.tz_convert(None) if moment.tzinfo else moment for moment in moments]
        return (utc[0] + (utc[-1] - utc[0]) / 2).as_unit("ns")
    except (ValueError, IndexError) as err:
        raise InputError(
            f"scene {item['id']!r} has no usable date ({texts!r}); leave it out: archive.exclude"
        ) from err


def _keys(items: Sequence[Item]) -> list[str]:
    """Folder names: the id, with the collection where two collections have the same id."""
    often = Counter(item["id"] for item in items)
    names = [
        item["id"] if often[item["id"]] == 1 else f"{item.get('collection')}--{item['id']}" for item in items
    ]
    return [re.sub(r"[^\w.+-]", "_", name).lstrip(".") for name in names]


def _bytes_of(item: Item, grid: Grid, bands: Sequence[str]) -> int:
    """Estimate the bytes of one scene: the window's pixels at the file's resolution, as compressed."""
    total = 0.0
    for band in bands:
        try:
            key = find_band(item, band).key
        except InputError:
            return 0
        total += _window_pixels(item, key, grid) * 2 * COMPRESSED_SHARE
    quality = quality_asset(item)
    return round(total + (_window_pixels(item, quality.key, grid) * 0.2 if quality else 0))


def _window_pixels(item: Item, key: str, grid: Grid) -> float:
    stated, crs = asset_grid(item, key), item_crs(item, key)
    if stated is None or crs is None:
        return float(math.prod(grid.shape))
    (rows, columns), (a, _, left, _, e, top) = stated
    own = transform_bounds(grid.crs, crs, *grid.bounds)
    width = min(own[2], left + a * columns) - max(own[0], left)
    height = min(own[3], top) - max(own[1], top + e * rows)
    return max(0.0, width) * max(0.0, height) / abs(a * e)


def _shards(grid: Grid) -> tuple[int, int]:
    side = max(CHUNK_PX, SHARD_PX // CHUNK_PX * CHUNK_PX)
    return math.ceil(grid.shape[0] / side), math.ceil(grid.shape[1] / side)


def _files(scenes: int, bands: int, grid: Grid) -> int:
    return scenes * (bands + 2) * math.prod(_shards(grid)) + 20


def _inodes(scenes: Sequence[ScenePlan], bands: int, grid: Grid) -> int:
    """Count the pieces, whose files become the cube's by links, and the folders of both."""
    rows, columns = _shards(grid)
    whole = [scene for scene in scenes if not scene.problem]
    pieces = sum(1 + sum(_inodes_of(task, rows * columns) for task in scene.tasks) for scene in whole)
    sealed = len(whole) * (1 + 2 * rows * columns)
    folders = len(whole) * ((1 + bands * (1 + rows)) + 2 * (1 + rows))  # c/<time>/<band>/<row>/<column>
    return pieces + sealed + folders + 60  # template, coordinates, tables


def _inodes_of(task: AssetTask, shards: int) -> int:
    return 2 + (shards if task.radiometry is not None else 0)
