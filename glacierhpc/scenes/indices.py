"""Spectral indices, albedo and plain bands, as functions of named bands in reflectance.

Digital numbers give other values: the offset of an archive does not cancel in a ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from glacierhpc.errors import InputError, unknown_name
from glacierhpc.scenes.collections import COMMON_NAMES

Bands = Mapping[str, np.ndarray]


def normalised_difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return ``(first - second) / (first + second)``, NaN where that is not in [-1, 1].

    Noise can make the reflectance of a dark pixel slightly negative; then the ratio means nothing.

    Parameters
    ----------
    first, second : (...) float
        Reflectance; NaN stays NaN.
    """
    total = first + second
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (first - second) / total
    return np.where(np.abs(ratio) <= 1, ratio, np.nan).astype(np.result_type(first, second))


def ndsi(bands: Bands) -> np.ndarray:
    """Return the normalised difference snow index, near 1 for snow and ice, negative for rock.

    Shows snow and ice *cover*; a change in it is not ice motion. Hall et al. (1995), Remote Sens. Environ.
    54(2), doi:10.1016/0034-4257(95)00137-P.
    """
    return normalised_difference(bands["green"], bands["swir16"])


def ndwi(bands: Bands) -> np.ndarray:
    """Return the normalised difference water index. McFeeters (1996), doi:10.1080/01431169608948714."""
    return normalised_difference(bands["green"], _near_infrared(bands))


def ndvi(bands: Bands) -> np.ndarray:
    """Return the normalised difference vegetation index. Tucker (1979), doi:10.1016/0034-4257(79)90013-0."""
    return normalised_difference(_near_infrared(bands), bands["red"])


def albedo(bands: Bands) -> np.ndarray:
    """Return the shortwave broadband albedo, about 0.1 for wet rock to 0.9 for fresh snow.

    Equation 13 of Liang (2001), Remote Sens. Environ. 76(2), doi:10.1016/S0034-4257(00)00205-4, made for
    Landsat TM/ETM+: blue, red, near infrared, 1.6 and 2.2 micrometres. Assumes a Lambertian surface and
    reflectance at the surface; topography is not corrected.
    """
    return (
        0.356 * bands["blue"]
        + 0.130 * bands["red"]
        + 0.373 * _near_infrared(bands)
        + 0.085 * bands["swir16"]
        + 0.072 * bands["swir22"]
        - 0.0018
    )


@dataclass(frozen=True)
class Index:
    """An index by name: how to compute it and from what."""

    compute: Callable[[Bands], np.ndarray]
    bands: tuple[str, ...]
    """Common names it needs; ``nir08`` may be given as ``nir``."""
    long_name: str


INDICES: dict[str, Index] = {
    "ndsi": Index(ndsi, ("green", "swir16"), "normalised difference snow index"),
    "ndwi": Index(ndwi, ("green", "nir08"), "normalised difference water index"),
    "ndvi": Index(ndvi, ("red", "nir08"), "normalised difference vegetation index"),
    "albedo": Index(albedo, ("blue", "red", "nir08", "swir16", "swir22"), "shortwave broadband albedo"),
}


def find_index(name: str) -> Index:
    """Return an index by name; the common name of a band gives that band's reflectance unchanged.

    Raises
    ------
    InputError
        If it is neither; lists the names there are.
    """
    if name in INDICES:
        return INDICES[name]
    if name in COMMON_NAMES:
        return Index(itemgetter(name), (name,), f"surface reflectance, {name}")
    raise unknown_name("index (composite.index)", name, (*INDICES, *COMMON_NAMES))


def check_bands(name: str, available: Mapping[str, object] | list[str]) -> tuple[str, ...]:
    """Return the bands of an index as they are named in a cube.

    Raises
    ------
    InputError
        If the cube lacks one; says which to add to ``acquire.bands``.
    """
    found = []
    for band in find_index(name).bands:
        alternatives = (band, "nir") if band == "nir08" and name in INDICES else (band,)
        present = [each for each in alternatives if each in available]
        if not present:
            raise InputError(
                f"index {name!r} needs band {band!r}, and the cube has {', '.join(available)}; "
                f"add {band!r} to acquire.bands"
            )
        found.append(present[0])
    return tuple(found)


def _near_infrared(bands: Bands) -> np.ndarray:
    return bands["nir08"] if "nir08" in bands else bands["nir"]
