"""Writes the archive's outlines in RGI 7 form and its debris cover as GeoPackages; draws nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
from rasterio.features import shapes
from rasterio.transform import Affine
from shapely.affinity import translate
from shapely.geometry import Polygon, shape
from shapely.ops import unary_union

from glacierhpc.grid import Grid
from glacierhpc.scenes.archive.flow import GlacierField
from glacierhpc.scenes.archive.surface import Surface
from glacierhpc.scenes.archive.terrain import Ground

_DATE = "2000-08-15T00:00:00"
_REGION = "14"  # South Asia West, where the default place is
_SECTORS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")


def write_vectors(
    folder: Path, ground: Ground, surface: Surface, grid: Grid, centre: tuple[float, float], *, zone: str
) -> None:
    """Write ``outlines.gpkg`` and ``debris.gpkg`` (EPSG:4326).

    Parameters
    ----------
    folder : Path
    ground : Ground
    surface : Surface
    grid : Grid
        The perfect grid, whose CRS the ground has.
    centre : (easting, northing)
        Of the ground.
    zone : str
        UTM code, for the attribute ``utm_zone``.
    """
    rings = [Polygon(field.glacier.outline()).buffer(0) for field in ground.glaciers]
    debris = _debris(ground, surface)
    rows, taken = [], Polygon()
    for number, (field, ring) in enumerate(zip(ground.glaciers, rings, strict=True), start=1):
        polygon = ring.difference(taken)
        taken = unary_union([taken, polygon])
        rows.append({**_attributes(number, field, ground, zone), "geometry": _shifted(polygon, centre)})
    outlines = gpd.GeoDataFrame(rows, crs=grid.crs)
    outlines["area_km2"] = (outlines.area / 1e6).round(4)
    centres = outlines.representative_point().to_crs("EPSG:4326")
    outlines["cenlon"], outlines["cenlat"] = centres.x.round(6), centres.y.round(6)
    cover = gpd.GeoDataFrame(
        [
            {"rgi_id": row["rgi_id"], "geometry": _shifted(ring.intersection(debris), centre)}
            for row, ring in zip(rows, rings, strict=True)
        ],
        crs=grid.crs,
    )
    _write(folder / "outlines.gpkg", outlines.to_crs("EPSG:4326"), "outlines")
    _write(folder / "debris.gpkg", cover[~cover.is_empty].to_crs("EPSG:4326"), "debris")


def _attributes(number: int, field: GlacierField, ground: Ground, zone: str) -> dict[str, Any]:
    """Return the attributes of RGI 7.0's glacier product (RGI Consortium 2023, doi:10.5067/F6JMOVY5NAVZ)."""
    z = ground.elevation_m[field.mask]
    east, north = ground.slope_east[field.mask], ground.slope_north[field.mask]
    aspect = float(np.degrees(np.arctan2(-east.mean(), -north.mean())) % 360)
    return {
        "rgi_id": f"RGI2000-v7.0-G-{_REGION}-{number:05d}",
        "o1region": _REGION,
        "o2region": f"{_REGION}-02",
        "glims_id": f"G000000E00000{number}N",
        "anlys_id": number,
        "subm_id": 0,
        "src_date": _DATE,
        "cenlon": 0.0,
        "cenlat": 0.0,
        "utm_zone": int(zone[-2:]),
        "area_km2": 0.0,
        "primeclass": 0,
        "conn_lvl": 0,
        "surge_type": 0,
        "term_type": 0,
        "glac_name": field.glacier.name,
        "is_rgi6": 0,
        "zmin_m": float(z.min()),
        "zmax_m": float(z.max()),
        "zmed_m": float(np.median(z)),
        "zmean_m": float(z.mean(dtype=float)),
        "slope_deg": float(np.degrees(np.arctan(np.hypot(east, north)).mean(dtype=float))),
        "aspect_deg": aspect,
        "aspect_sec": _SECTORS[round(aspect / 45) % 8],
        "dem_source": "synthetic",
        "lmax_m": round(field.glacier.length_m),
    }


def _debris(ground: Ground, surface: Surface) -> Any:
    """Return the polygons where over half of the ice is covered, metres from the centre."""
    edge = ground.half_extent_m + ground.spacing_m / 2
    transform = Affine(ground.spacing_m, 0, -edge, 0, -ground.spacing_m, edge)
    mask = surface.debris() > 0.5
    found = shapes(mask.astype(np.uint8), mask=mask, transform=transform)
    return unary_union([shape(geometry) for geometry, _ in found])


def _shifted(geometry: Any, centre: tuple[float, float]) -> Any:
    return translate(geometry, *centre)


def _write(path: Path, frame: gpd.GeoDataFrame, layer: str) -> None:
    # GeoPackages carry the time of writing unless GDAL is told another: the same seed shall give the same
    # bytes.
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2000-01-01T00:00:00.000Z"})
    try:
        frame.to_file(path, layer=layer, driver="GPKG", engine="pyogrio")
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})
