"""The pieces an acquisition leaves on disk: one folder per scene and asset, whole shards that become the cube.

A piece appears by a rename, complete or not at all; which pieces are needed is `acquire`'s to know.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from glacierhpc import atomic
from glacierhpc.atomic import atomic_path, publish, temporary_name
from glacierhpc.cube import Variable, create_cube, finish_cube
from glacierhpc.errors import GlacierError
from glacierhpc.grid import Grid
from glacierhpc.scenes.quality import FLAG_ATTRIBUTES
from glacierhpc.scenes.radiometry import Storage
from glacierhpc.scenes.shards import ShardLayout, shard_key, write_shards

FOLDER = ".parts"
"""Beside a cube until nothing is missing in it."""
TEMPLATE = "template.zarr"
# Raw bytes, not .npy: numpy parses that header with ast.literal_eval, which in CPython 3.11 fails now and then
# when threads do it together ("AST constructor recursion depth mismatch").
VALID_FILE = "valid.bits"  # one bit per pixel, rows packed
FLAGS_FILE = "flags.u2"
FLAGS_DTYPE = "<u2"
SEALED = "sealed"


def cube_variables(storage: Storage) -> dict[str, Variable]:
    """Return the arrays of ``cube.zarr``: every band of a date is a file of its own."""
    data_attrs: dict[str, Any] = {"long_name": "reflectance", "units": "1", **storage.cf_attributes()}
    return {
        "data": Variable(
            ("time", "band", "y", "x"), storage.dtype, storage.fill, data_attrs, bands_together=False
        ),
        "valid": Variable(("time", "y", "x"), "bool", False, {"long_name": "has data in every band"}),
        "quality": Variable(("time", "y", "x"), "uint16", 0, FLAG_ATTRIBUTES),
    }


def create_template(folder: Path, grid: Grid, bands: tuple[str, ...], storage: Storage) -> None:
    """Create the one-date cube whose metadata all pieces share, if it is not there yet."""
    if (folder / TEMPLATE).is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / TEMPLATE) as temporary:
        epoch = [np.datetime64("1970-01-01", "ns")]
        create_cube(temporary, grid, times=epoch, bands=bands, variables=cube_variables(storage))


@contextmanager
def new_piece(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `path` in one step when the block ends well."""
    temporary = temporary_name(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        publish(temporary, path)
    except OSError as err:
        raise disk_error(err, path) from err
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_band(folder: Path, scene: str, asset: str, values: np.ndarray, valid: np.ndarray) -> Path:
    """Write one band of one scene as it will lie in the cube, and which of its pixels have data."""
    path = folder / scene / asset
    with new_piece(path) as piece:
        write_shards(piece, "data", _layout(folder, "data"), values)
        np.packbits(valid).tofile(piece / VALID_FILE)
    return path


def write_flags(folder: Path, scene: str, asset: str, flags: np.ndarray) -> Path:
    """Write the decoded flags of one scene."""
    path = folder / scene / asset
    with new_piece(path) as piece:
        flags.astype(FLAGS_DTYPE).tofile(piece / FLAGS_FILE)
    return path


def read_valid(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Return which pixels of a band's piece have data, (y, x) bool."""
    bits = np.fromfile(path / VALID_FILE, np.uint8)
    return np.unpackbits(bits, count=shape[0] * shape[1]).astype(bool).reshape(shape)


def read_flags(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Return the flags of a piece, (y, x) uint16."""
    return np.fromfile(path / FLAGS_FILE, FLAGS_DTYPE).reshape(shape)


def write_sealed(folder: Path, scene: str, valid: np.ndarray, quality: np.ndarray) -> None:
    """Write what only the scene as a whole can say: where it is valid, and its quality."""
    with new_piece(folder / scene / SEALED) as piece:
        for name, values in (("valid", valid), ("quality", quality)):
            write_shards(piece, name, _layout(folder, name), values)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed run left half-written; what one may still write that was overtaken stays."""
    for place in (folder, *folder.glob("*")):
        atomic.remove_leftovers(place)


def checksum(path: Path) -> tuple[str, int]:
    """Return the SHA-256 of a piece's files (names in order, then contents) and their size in bytes."""
    digest, size = hashlib.sha256(), 0
    for name in sorted(os.listdir(path)):
        content = (path / name).read_bytes()
        digest.update(name.encode() + b"\0")
        digest.update(content)
        size += len(content)
    return digest.hexdigest(), size


def assemble_cube(
    cube: Path,
    folder: Path,
    scenes: list[str],
    *,
    grid: Grid,
    times: np.ndarray,
    bands: tuple[str, ...],
    storage: Storage,
    coords: Mapping[str, Any],
    attrs: Mapping[str, Any],
) -> None:
    """Make the cube out of the pieces of complete scenes: links, no pixel is read again.

    The cube takes its place in one step; killed before, there is no cube and the pieces are still there.

    Parameters
    ----------
    scenes : list of str
        Folder names of the scenes, in the order of the time axis.
    """
    with atomic_path(cube) as temporary:
        create_cube(
            temporary,
            grid,
            times=times,
            bands=bands,
            variables=cube_variables(storage),
            coords=coords,
            attrs=attrs,
        )
        for index, scene in enumerate(scenes):
            for position, band in enumerate(bands):
                _link_shards(folder / scene / band, temporary / "data", (index, position))
            for name in ("valid", "quality"):
                _link_shards(folder / scene / SEALED, temporary / name, (index,))
        finish_cube(temporary)


def _link_shards(piece: Path, array: Path, leading: tuple[int, ...]) -> None:
    """Give the shards of a piece their place in the array of the same name."""
    for file in sorted(piece.glob(f"{array.name}.*")):
        target = array / shard_key(file.name, leading)
        target.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(file, target)


def _link_or_copy(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(file, target)


@contextmanager
def clear_disk_errors(place: Path) -> Iterator[None]:
    """Turn a full disk, a used-up quota, a limit on file sizes or a lost right to write into one clear error."""
    try:
        yield
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise disk_error(err, place) from err
        raise


def disk_error(err: OSError, path: Path) -> GlacierError:
    """Return the error for a file that cannot be written."""
    advice = "make it writable" if err.errno == errno.EROFS else "free some space (or quota)"
    return GlacierError(
        f"cannot write {str(path)!r}: {err.strerror or err}; {advice} and run the same command again: what was "
        "read so far is kept"
    )


def _layout(folder: Path, name: str) -> ShardLayout:
    return ShardLayout.read(folder / TEMPLATE / name / "zarr.json")
