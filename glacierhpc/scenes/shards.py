"""One image as the shard files of a Zarr v3 array, encoded in the calling thread.

zarr-python sends every write through one event loop, which takes 23 ms for 8 MB with any number of threads; the
same bytes take 7 ms here and many threads work side by side. Layout and codecs come from the array's own metadata;
what zarr-python reads back is compared in the tests.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import Blosc

_ABSENT = struct.pack("<QQ", 2**64 - 1, 2**64 - 1)  # index entry of a chunk that is all fill value
_SHUFFLES = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}


@dataclass(frozen=True)
class ShardLayout:
    """How an array of images is stored: (..., y, x) with one image to a shard or to several."""

    dtype: str
    shard: tuple[int, int]
    chunk: tuple[int, int]
    fill_value: float
    codec: Blosc

    @classmethod
    def read(cls, metadata: Path) -> ShardLayout:
        """Read the ``zarr.json`` of an array written by `glacierhpc.cube`.

        Raises
        ------
        ValueError
            If the array is stored in a way that this module does not write.
        """
        array = json.loads(metadata.read_text())
        (sharding,) = array["codecs"]
        inner, index = sharding["configuration"]["codecs"], sharding["configuration"]["index_codecs"]
        names = [codec["name"] for codec in (*inner, *index)]
        shard, chunk = _chunk_shape(array), tuple(sharding["configuration"]["chunk_shape"])
        if names != ["bytes", "blosc", "bytes", "crc32c"]:
            raise ValueError(f"{metadata} has codecs {names}, which are not written here")
        if set(shard[:-2]) != {1} or sharding["configuration"]["index_location"] != "end":
            raise ValueError(f"{metadata} has shards of {shard}, not of one image")
        blosc = inner[1]["configuration"]
        codec = Blosc(blosc["cname"], blosc["clevel"], _SHUFFLES[blosc["shuffle"]], blosc["blocksize"])
        fill = float("nan") if array["fill_value"] == "NaN" else array["fill_value"]
        return cls(array["data_type"], (shard[-2], shard[-1]), (chunk[-2], chunk[-1]), fill, codec)


def _chunk_shape(array: dict[str, Any]) -> tuple[int, ...]:
    return tuple(array["chunk_grid"]["configuration"]["chunk_shape"])


def write_shards(folder: Path, name: str, layout: ShardLayout, image: np.ndarray) -> None:
    """Write one image as whole shards, files ``<name>.<row>.<column>`` of a folder.

    Flat, because a folder of a few files is cheap on a parallel file system and a tree is not; `shard_key`
    says where a file belongs in the array.

    Parameters
    ----------
    image : (y, x)
    """
    image = np.asarray(image, layout.dtype)
    counts = [math.ceil(size / step) for size, step in zip(image.shape, layout.shard)]
    for row, column in itertools.product(*map(range, counts)):
        top, left = row * layout.shard[0], column * layout.shard[1]
        part = image[top : top + layout.shard[0], left : left + layout.shard[1]]
        content = encode_shard(part, layout)
        if content is not None:  # Zarr has no file for what is all fill value
            (folder / f"{name}.{row}.{column}").write_bytes(content)


def shard_key(file: str, leading: tuple[int, ...]) -> str:
    """Return the path within an array, ``c/<leading>/<row>/<column>``, of a file of `write_shards`."""
    _, row, column = file.rsplit(".", 2)
    return "/".join(["c", *map(str, leading), row, column])


def encode_shard(image: np.ndarray, layout: ShardLayout) -> bytes | None:
    """Return the bytes of one shard: chunks, then their offsets and lengths, then a CRC-32C of these.

    Zarr v3 specification, codec ``sharding_indexed`` 1.0. None if there is nothing but fill value.
    """
    pieces, entries, position = [], [], 0
    rows, columns = (size // step for size, step in zip(layout.shard, layout.chunk))
    for row, column in itertools.product(range(rows), range(columns)):
        chunk = _chunk(image, row * layout.chunk[0], column * layout.chunk[1], layout)
        if chunk is None:
            entries.append(_ABSENT)
            continue
        encoded = layout.codec.encode(chunk)
        entries.append(struct.pack("<QQ", position, len(encoded)))
        pieces.append(encoded)
        position += len(encoded)
    if not pieces:
        return None
    index = b"".join(entries)
    return b"".join([*pieces, index, struct.pack("<I", google_crc32c.value(index))])


def _chunk(image: np.ndarray, top: int, left: int, layout: ShardLayout) -> np.ndarray | None:
    """Cut one chunk, padded at the rim with the fill value; None if it is all fill value."""
    part = image[top : top + layout.chunk[0], left : left + layout.chunk[1]]
    fill = np.asarray(layout.fill_value, layout.dtype)
    is_fill = np.isnan(part) if fill != fill else part == fill
    if is_fill.all():
        return None
    if part.shape == layout.chunk:
        return np.ascontiguousarray(part)
    whole = np.full(layout.chunk, fill, layout.dtype)
    whole[: part.shape[0], : part.shape[1]] = part
    return whole
