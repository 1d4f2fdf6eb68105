"""Writing files so that they are whole or absent, and reading them back with errors that help.

Which files a run has is said in `rundir`.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from glacierhpc.errors import GlacierError, InputError

logger = logging.getLogger(__name__)

_LEFTOVER = re.compile(r"\.(?P<kind>tmp|old)-[0-9a-f]{8}-(?P<name>.+)")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place only if the block ends well.

    Works for files and for folders (a Zarr store); the temporary name keeps the suffix, by which writers choose a
    format. After a failure nothing is left behind and what was there before is untouched.

    Raises
    ------
    GlacierError
        If the disk or the quota is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        _sync(temporary)
        _replace(temporary, path)
        _sync(path.parent)
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise GlacierError(
                f"the disk or quota is full while writing {path}; free space and run again"
            ) from err
        if err.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise InputError(
                f"{path} cannot be written ({err.strerror}); give a folder that may be written, run_dir=..."
            ) from err
        raise
    finally:
        _remove(temporary)


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder inside `folder` for what is needed for a while; removed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".tmp-{secrets.token_hex(4)}-scratch"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        _remove(scratch)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder, and bring back what one had just moved aside.

    Only for a folder that nobody writes to: what a running `atomic_path` writes looks the same.
    """
    if not folder.is_dir():
        return
    found = [(match, path) for path in folder.iterdir() if (match := _LEFTOVER.fullmatch(path.name))]
    # of several copies the last one made is the one that stood there
    for match, path in sorted(found, key=lambda each: each[1].stat().st_mtime_ns, reverse=True):
        target = folder / match["name"]
        if match["kind"] == "old" and not target.exists():
            os.rename(path, target)
            logger.warning("%s was left moved aside by a killed command and is back", target)
        else:
            _remove(path)
            logger.info("removed %s, which a killed command had left", path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(new: Path, path: Path) -> None:
    """Rename; a folder in the way is moved aside first, because a rename replaces files only."""
    if not (new.is_dir() and path.is_dir()):
        os.replace(new, path)
        return
    aside = path.with_name(f".old-{secrets.token_hex(4)}-{path.name}")
    os.rename(path, aside)
    os.rename(new, path)
    shutil.rmtree(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity become null, NumPy numbers plain ones."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """Return a value made of JSON's own types only."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises
    ------
    InputError
        If the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise InputError(f"{path} does not exist; run the step that writes it first") from err
    except ValueError as err:
        raise InputError(
            f"{path} is not JSON ({err}); mend it, or run the step that writes it again"
        ) from err


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet, atomically."""
    with atomic_path(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet table.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; run the step that writes it first")
    try:
        return pd.read_parquet(path)
    except (pa.ArrowException, OSError, ValueError) as err:
        raise InputError(f"{path} is damaged ({err}); run the step that writes it again") from err
