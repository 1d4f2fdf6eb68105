"""The pixel grid of a cube: its CRS, its transform, and the choice of both for an area.

Arrays on the grid and their storage belong to `glacierhpc.cube`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS, Proj, Transformer
from pyproj.exceptions import CRSError

from glacierhpc.errors import InputError

MAX_DISTORTION = 0.01  # a metre on the map may differ from a metre on the ground by one per cent


@dataclass(frozen=True)
class Grid:
    """A regular grid of square pixels in a projected coordinate reference system."""

    crs: str
    """Authority code such as ``EPSG:32643``, or WKT."""
    transform: tuple[float, float, float, float, float, float]
    """Affine coefficients a, b, c, d, e, f: ``x = a*col + b*row + c``, ``y = d*col + e*row + f``, metres."""
    shape: tuple[int, int]
    """Rows, columns."""

    @classmethod
    def from_bbox(
        cls,
        bbox_lonlat: Sequence[float],
        resolution_m: float,
        *,
        crs: str = "auto",
        anchor_m: tuple[float, float] = (0.0, 0.0),
        allow_distortion: bool = False,
    ) -> Grid:
        """Return the grid that covers a geographic box.

        Parameters
        ----------
        bbox_lonlat : sequence of 4 floats
            West, south, east, north in degrees (WGS 84).
        resolution_m : float
            Pixel size in metres.
        crs : str, default "auto"
            ``auto`` takes the UTM zone of the box's centre.
        anchor_m : (float, float)
            Pixel corners lie at ``anchor_m + k * resolution_m``; give an archive's own offset and its
            pixels are copied instead of resampled.
        allow_distortion : bool
            Accept a CRS whose scale at the area differs from 1 by over one per cent.

        Raises
        ------
        InputError
            If the CRS is unknown, not in metres, or distorts lengths here.
        """
        west, south, east, north = map(float, bbox_lonlat)
        centre = ((west + east) / 2, (south + north) / 2)
        name = utm_zone(*centre) if crs == "auto" else crs
        projection = _projected_crs(name)
        if not allow_distortion:
            _refuse_distortion(projection, name, *centre)
        to_grid = Transformer.from_crs("EPSG:4326", projection, always_xy=True)
        left, bottom, right, top = to_grid.transform_bounds(west, south, east, north, densify_pts=51)
        column = math.floor((left - anchor_m[0]) / resolution_m)
        row = math.ceil((top - anchor_m[1]) / resolution_m)
        columns = math.ceil((right - anchor_m[0]) / resolution_m) - column
        rows = row - math.floor((bottom - anchor_m[1]) / resolution_m)
        x0, y0 = anchor_m[0] + column * resolution_m, anchor_m[1] + row * resolution_m
        return cls(name, (float(resolution_m), 0.0, x0, 0.0, -float(resolution_m), y0), (rows, columns))

    @property
    def resolution_m(self) -> float:
        """Pixel size, metres."""
        return abs(self.transform[0])

    @cached_property
    def x(self) -> np.ndarray:
        """Eastings of the pixel centres, (columns,) float64, metres."""
        return self.transform[2] + self.transform[0] * (np.arange(self.shape[1]) + 0.5)

    @cached_property
    def y(self) -> np.ndarray:
        """Northings of the pixel centres, (rows,) float64, metres."""
        return self.transform[5] + self.transform[4] * (np.arange(self.shape[0]) + 0.5)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top in metres."""
        a, _, left, _, e, top = self.transform
        return left, top + e * self.shape[0], left + a * self.shape[1], top

    @property
    def geobox(self) -> GeoBox:
        """The same grid for odc-geo and odc-stac."""
        return GeoBox(self.shape, Affine(*self.transform), self.crs)

    def bounds_lonlat(self) -> tuple[float, float, float, float]:
        """Return west, south, east, north of the grid in degrees (WGS 84)."""
        to_lonlat = Transformer.from_crs(self.crs, "EPSG:4326", always_xy=True)
        return to_lonlat.transform_bounds(*self.bounds, densify_pts=51)

    def cf_attributes(self) -> dict[str, Any]:
        """Return the attributes of a CF grid mapping variable, with GDAL's ``GeoTransform``."""
        crs = CRS.from_user_input(self.crs)
        a, b, c, d, e, f = self.transform
        # GDAL's order: x origin, pixel width, row rotation, y origin, column rotation, pixel height
        transform = " ".join(repr(float(value)) for value in (c, a, b, f, d, e))
        return {**crs.to_cf(), "spatial_ref": crs.to_wkt(), "GeoTransform": transform, "crs_code": self.crs}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that round-trip through JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Grid:
        """Return the grid that `to_dict` described."""
        return cls(values["crs"], tuple(values["transform"]), tuple(values["shape"]))

    @classmethod
    def from_dataset(cls, dataset: xr.Dataset) -> Grid:
        """Return the grid of an opened cube."""
        reference = dataset["spatial_ref"].attrs
        c, a, b, f, d, e = map(float, reference["GeoTransform"].split())
        return cls(reference["crs_code"], (a, b, c, d, e, f), (dataset.sizes["y"], dataset.sizes["x"]))


def utm_zone(longitude: float, latitude: float) -> str:
    """Return the code of the WGS 84 / UTM zone that holds a point, ``EPSG:326zz`` or ``EPSG:327zz``."""
    if not -80 <= latitude <= 84:
        raise InputError(
            f"latitude {latitude:.2f} lies outside the UTM zones (-80 to 84 degrees); "
            "name a polar CRS in area.crs, e.g. EPSG:3413 (north) or EPSG:3031 (south)"
        )
    zone = min(int((longitude + 180) // 6) + 1, 60)
    return f"EPSG:{32600 + zone if latitude >= 0 else 32700 + zone}"


def _projected_crs(name: str) -> CRS:
    try:
        crs = CRS.from_user_input(name)
    except CRSError as err:
        raise InputError(f"area.crs {name!r} is not a known CRS; write e.g. 'EPSG:32643' or 'auto'") from err
    if not crs.is_projected or abs(crs.axis_info[0].unit_conversion_factor - 1) > 1e-9:
        raise InputError(
            f"area.crs {name!r} is not in metres; write a projected CRS, e.g. a UTM zone, or 'auto'"
        )
    return crs


def _refuse_distortion(crs: CRS, name: str, longitude: float, latitude: float) -> None:
    factors = Proj(crs).get_factors(longitude, latitude)
    worst = max(factors.meridional_scale, factors.parallel_scale, key=lambda scale: abs(scale - 1))
    if not abs(worst - 1) <= MAX_DISTORTION:
        raise InputError(
            f"area.crs {name!r} has a scale of {worst:.3f} at {longitude:.2f}, {latitude:.2f}: a metre on its map "
            f"is no metre on the ground; write 'auto' ({utm_zone(longitude, latitude)}), "
            "or set area.allow_distortion: true"
        )
