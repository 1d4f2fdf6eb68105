"""The parameters of an embedded archive: their limits, and whether a folder holds an archive of the same ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from glacierhpc.errors import InputError, unknown_name
from glacierhpc.scenes.archive.surface import BANDS

_MOTIONS = ("translation", "euclidean")


def check(p: dict[str, Any]) -> None:
    """Refuse parameters of `create` of which no archive can be made.

    Raises
    ------
    InputError
        If one is out of range.
    """
    for band in p["bands"]:
        if band not in BANDS:
            raise unknown_name("archive band", band, BANDS)
    if p["motion"] not in _MOTIONS:
        raise unknown_name("archive motion", p["motion"], _MOTIONS)
    lon, lat = p["bbox_centre_lonlat"]
    limits = {
        "scenes": (1, 5000),
        "size_px": (64, 4096),
        "resolution_m": (1.0, 1000.0),
        "every_days": (1, 3660),
        "max_speed_m_per_year": (0.0, 20000.0),
        "cloud_share": (0.0, 0.9),
        "noise": (0.0, 1.0),
        "misregistration_px": (0.0, 5.0),
        "utm_zones": (1, 2),
    }
    for name, (low, high) in limits.items():
        if not low <= p[name] <= high:
            raise InputError(
                f"archive {name} {p[name]!r} is out of range; write a value from {low} to {high}."
            )
    if not p["bands"]:
        raise InputError("archive bands [] is empty; write at least one of: " + ", ".join(BANDS) + ".")
    if not (-180 <= lon <= 180 and -65 <= lat <= 65):
        raise InputError(
            f"archive bbox_centre_lonlat {(lon, lat)!r} is not a place with daylight all year; "
            "write (longitude, latitude) with a latitude from -65 to 65."
        )
    try:
        np.datetime64(p["start"], "D")
    except ValueError as err:
        raise InputError(f"archive start {p['start']!r} is not a date; write it like 2015-01-10.") from err


def exists(folder: Path, parameters: dict[str, Any]) -> bool:
    """Return whether the folder holds an archive of these parameters; False where nothing is there.

    Raises
    ------
    InputError
        If something else is there.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return False
    path = folder / "truth" / "truth.json"
    if not path.is_file():
        raise InputError(
            f"{str(folder)!r} is not empty and no embedded archive; name a folder that does not exist yet."
        )
    old = json.loads(path.read_text(encoding="utf-8"))["parameters"]
    other = [key for key in parameters if old.get(key) != parameters[key]]
    if other:
        raise InputError(
            f"{str(folder)!r} holds an archive with another {', '.join(other)}; remove it or name another "
            "folder."
        )
    return True
