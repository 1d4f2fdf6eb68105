"""The tasks of an acquisition, as they run on a worker: read one asset, or close one scene.

Everything a task needs travels in it as plain values; what to run when is `acquire`'s to decide.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glacierhpc.scenes import parts
from glacierhpc.scenes.journal import Receipt
from glacierhpc.scenes.quality import FLAGS, NOT_CLEAR, clean_mask, quality_flags
from glacierhpc.scenes.radiometry import Radiometry, Storage, to_storage
from glacierhpc.scenes.readers import ReadFailed, ReadRequest, read_with_retries
from glacierhpc.scenes.remote.policy import RetryPolicy
from glacierhpc.scenes.signing import SignerSpec, make_signer

QUALITY = "quality"
SATURATION = "saturation"


@dataclass(frozen=True)
class AssetTask:
    """Read one asset of one scene and leave a piece of the cube."""

    scene: str
    asset: str
    """A band's common name, ``quality`` or ``saturation``."""
    folder: Path
    """Where the pieces are."""
    request: ReadRequest
    storage: Storage
    signer: SignerSpec
    policy: RetryPolicy
    radiometry: Radiometry | None = None
    """Of a band."""
    kind: str = ""
    """Of the quality raster."""
    bits: int = 0
    """Of the saturation raster: which bits count."""


@dataclass(frozen=True)
class SealTask:
    """Say of a scene, when all its assets are there, where it is valid and what its quality is."""

    scene: str
    folder: Path
    bands: tuple[str, ...]
    flag_assets: tuple[str, ...]
    shape: tuple[int, int]


Task = AssetTask | SealTask


def run_tasks(tasks: list[Task], threads: int) -> list[Receipt]:
    """Run tasks with threads of this process: reading waits for the network, not for the processor."""
    if threads == 1 or len(tasks) == 1:
        return [run_task(task) for task in tasks]
    with ThreadPoolExecutor(threads, "read") as pool:
        return list(pool.map(run_task, tasks))


def run_task(task: Task) -> Receipt:
    """Run one task; a file that cannot be read is a receipt that says why, a full disk an error."""
    if isinstance(task, SealTask):
        return seal(task)
    started = time.perf_counter()
    try:
        image, attempts = read_with_retries(task.request, make_signer(task.signer), task.policy)
    except ReadFailed as err:
        seconds = time.perf_counter() - started
        return Receipt(task.scene, task.asset, "failed", err.reason, err.attempts, seconds=seconds)
    path, valid, clear = _write(task, image)
    digest, size = parts.checksum(path)
    return Receipt(
        task.scene,
        task.asset,
        "done",
        attempts=attempts,
        bytes=size,
        checksum=digest,
        seconds=time.perf_counter() - started,
        valid_share=valid,
        clear_share=clear,
    )


def _write(task: AssetTask, image: np.ndarray) -> tuple[Path, float, float]:
    """Write the piece; return its path and the shares of valid and of clear pixels."""
    if task.radiometry is not None:
        valid = has_data(image, task.request.nodata)
        values = to_storage(image, valid, task.radiometry, task.storage)
        share = _share(valid)
        return (
            parts.write_band(task.folder, task.scene, task.asset, values, valid),
            share,
            share,
        )
    if task.asset == SATURATION:
        flags = np.where(image & task.bits, FLAGS["saturated"], 0).astype(np.uint16)
    else:
        flags = quality_flags(image, task.kind)
    valid_share, clear_share = _shares(flags)
    return parts.write_flags(task.folder, task.scene, task.asset, flags), valid_share, clear_share


def seal(task: SealTask) -> Receipt:
    """Combine the masks of all bands and the flags of all quality assets of one scene."""
    started = time.perf_counter()
    folder = task.folder / task.scene
    valid = np.ones(task.shape, bool)
    for band in task.bands:
        valid &= parts.read_valid(folder / band, task.shape)
    quality = np.zeros(task.shape, np.uint16)
    for asset in task.flag_assets:
        quality |= parts.read_flags(folder / asset, task.shape)
    valid &= (quality & FLAGS["fill"]) == 0
    quality[~valid] = FLAGS["fill"]
    parts.write_sealed(task.folder, task.scene, valid, quality)
    digest, size = parts.checksum(folder / parts.SEALED)
    valid_share, clear_share = _shares(quality)
    return Receipt(
        task.scene,
        parts.SEALED,
        "done",
        bytes=size,
        checksum=digest,
        seconds=time.perf_counter() - started,
        valid_share=valid_share,
        clear_share=clear_share,
    )


def has_data(image: np.ndarray, nodata: float | None) -> np.ndarray:
    """Say which pixels of an image are data, (y, x) bool."""
    valid = np.isfinite(image) if image.dtype.kind == "f" else np.ones(image.shape, bool)
    return valid if nodata is None or np.isnan(nodata) else valid & (image != nodata)


def _shares(flags: np.ndarray) -> tuple[float, float]:
    return _share(clean_mask(flags, ())), _share(clean_mask(flags, NOT_CLEAR))


def _share(where: np.ndarray) -> float:
    # three times as fast as the mean of booleans
    return np.count_nonzero(where) / where.size
