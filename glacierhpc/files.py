"""JSON and tables, written so that they are whole or absent, and read back with errors that help.

How a file takes its place is in `atomic`; which files a run has is said in `rundir`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from glacierhpc.atomic import atomic_path, scratch_folder, write_text
from glacierhpc.errors import InputError

__all__ = [
    "atomic_path", "plain", "read_json", "read_table", "scratch_folder", "write_json", "write_table", "write_text",
]  # fmt: skip


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity become null, NumPy numbers plain ones."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


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
