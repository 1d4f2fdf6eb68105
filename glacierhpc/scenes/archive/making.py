"""Writes the embedded archive: a synthetic glacier scene series with known truth, from a seed.

The files look like an archive of Landsat Collection 2 Level-2 scenes; serving them is `serve`'s work.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from glacierhpc.grid import Grid, utm_zone
from glacierhpc.scenes.archive import items, rasters
from glacierhpc.scenes.archive.parameters import check, exists
from glacierhpc.scenes.archive.plan import SceneSpec, bbox_inside, grids_for, make_plan
from glacierhpc.scenes.archive.sensor import PixelToGround, Product, photograph
from glacierhpc.scenes.archive.surface import Surface
from glacierhpc.scenes.archive.terrain import OVERSAMPLING, Ground, make_ground
from glacierhpc.scenes.archive.truth import MATRIX_COLUMNS
from glacierhpc.scenes.archive.vectors import write_vectors
from glacierhpc.scenes.archive.weather import make_clouds

_FORMAT = 1  # of the archive; another number means that the same parameters give other pixels


@dataclass(frozen=True)
class ArchiveSummary:
    """What `create` wrote."""

    folder: Path
    scenes: int
    files: int
    bytes: int
    bbox_lonlat: tuple[float, float, float, float]
    """The area to ask for: inside every scene's raster."""
    start: str
    """Date of the first scene."""
    end: str
    """Date of the last scene."""
    collection: str


def create(
    folder: Path | str,
    *,
    seed: int = 0,
    scenes: int = 24,
    size_px: int = 256,
    resolution_m: float = 30.0,
    start: str = "2015-01-10",
    every_days: int = 16,
    bands: Sequence[str] = ("blue", "green", "red", "nir08", "swir16"),
    max_speed_m_per_year: float = 150.0,
    cloud_share: float = 0.3,
    noise: float = 0.01,
    misregistration_px: float = 1.5,
    motion: str = "translation",
    utm_zones: int = 1,
    nodata_wedges: bool = True,
    bbox_centre_lonlat: tuple[float, float] = (77.65, 32.11),
    progress: Callable[[int, int], None] | None = None,
) -> ArchiveSummary:
    """Write a synthetic glacier scene series as COG and STAC, with its truth beside it.

    A valley with three glaciers is photographed on a row of dates. The ground is fixed; the ice carries its
    texture with a known velocity; sun, snow line, meadows and clouds follow the season (`weather.snow_season`
    says what is predictable in the snow and why). Every scene is moved by a known pointing error, which its
    georeference does not know of, as in real series. The same parameters give the same bytes with the same
    library versions. An existing archive of the same parameters is left as it is; a killed run leaves nothing
    in `folder`.

    Parameters
    ----------
    folder : path
        To be made: ``catalog.json collection.json items/ scenes/ outlines.gpkg debris.gpkg truth/``.
    seed : int
    scenes : int
    size_px : int
        Rows and columns of each scene, 64 or more.
    resolution_m : float
    start : str
        Date of the first scene.
    every_days : int
    bands : sequence of str
        Common names out of coastal, blue, green, red, nir08, swir16, swir22.
    max_speed_m_per_year : float
        Of the fastest point of the main glacier.
    cloud_share : float
        Mean share of cloud, 0 (none) to 0.9; single scenes reach from clear to overcast.
    noise : float
        Standard deviation in reflectance.
    misregistration_px : float
        Standard deviation of the pointing error on each axis. The errors of all scenes have zero mean, so
        that an average over scenes lies on the perfect grid; a co-registration cannot find more than this
        from the scenes alone.
    motion : {"translation", "euclidean"}
        Kind of pointing error; ``euclidean`` adds a rotation about the scene's centre.
    utm_zones : {1, 2}
        With 2, every other scene lies on a grid of the neighbouring zone.
    nodata_wedges : bool
        Half of the scenes are cut by the slanted edge of the swath.
    bbox_centre_lonlat : (longitude, latitude)
        Where the valley is put; south of the equator its seasons turn.
    progress : callable, optional
        Called with (scenes done, scenes in all).

    Returns
    -------
    ArchiveSummary

    Raises
    ------
    InputError
        If a parameter is out of range, or `folder` holds something else.
    """
    parameters: dict[str, Any] = {
        "format": _FORMAT,
        "seed": int(seed),
        "scenes": int(scenes),
        "size_px": int(size_px),
        "resolution_m": float(resolution_m),
        "start": str(start),
        "every_days": int(every_days),
        "bands": list(bands),
        "max_speed_m_per_year": float(max_speed_m_per_year),
        "cloud_share": float(cloud_share),
        "noise": float(noise),
        "misregistration_px": float(misregistration_px),
        "motion": motion,
        "utm_zones": int(utm_zones),
        "nodata_wedges": bool(nodata_wedges),
        "bbox_centre_lonlat": [float(value) for value in bbox_centre_lonlat],
    }
    check(parameters)
    folder = Path(folder)
    if not exists(folder, parameters):
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write_archive(partial, parameters, progress)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    return _summary(folder)


def _write_archive(folder: Path, p: dict[str, Any], progress: Callable[[int, int], None] | None) -> None:
    grids, centre = grids_for(
        tuple(p["bbox_centre_lonlat"]),
        size_px=p["size_px"],
        resolution_m=p["resolution_m"],
        zones=p["utm_zones"],
    )
    extent = p["size_px"] * p["resolution_m"]
    ground = make_ground(
        seed=p["seed"],
        extent_m=extent,
        # Room for pointing errors and for the turn of one zone's grid in the other's, under 4 degrees; whether they
        # are asked for or not, so that the ground of a seed stays the same.
        margin_m=20 * p["resolution_m"] + 0.05 * extent,
        spacing_m=p["resolution_m"] / OVERSAMPLING,
        max_speed_m_per_year=p["max_speed_m_per_year"],
    )
    surface = Surface(ground, bands=tuple(p["bands"]), seed=p["seed"])
    places = [PixelToGround(grid, grids[0].crs, centre) for grid in grids]
    plan = make_plan(p, grids)
    records, rows = [], []
    for spec in plan:
        product = _photograph(spec, surface, ground, places[spec.zone], p, extent)
        grid = grids[spec.zone]
        rasters.write_scene(folder / "scenes" / spec.scene, spec.scene, product, grid)
        geometry, bbox = rasters.footprint(grid, grids[0].crs, centre, spec.wedge)
        records.append(
            items.make_item(
                spec.scene,
                time=spec.time,
                platform=spec.platform,
                grid=grid,
                geometry=geometry,
                bbox=bbox,
                bands=p["bands"],
                cloud_cover_percent=product.cloud_cover_percent,
                sun=spec.sun,
                path_row=spec.path_row,
            )
        )
        rows.append(_truth_row(spec, grid, product, ground))
        if progress:
            progress(len(rows), len(plan))
    items.write_catalogue(folder, records)
    write_vectors(folder, ground, surface, grids[0], centre, zone=utm_zone(*p["bbox_centre_lonlat"]))
    _write_truth(folder / "truth", p, ground, surface, grids, places[0], rows)


def _photograph(
    spec: SceneSpec,
    surface: Surface,
    ground: Ground,
    place: PixelToGround,
    p: dict[str, Any],
    extent_m: float,
) -> Product:
    rng = np.random.default_rng([p["seed"], 100, spec.index])
    clouds = make_clouds(
        rng,
        ground.shape,
        ground.spacing_m,
        share=spec.cloud_share,
        extent_m=extent_m,
        sun_azimuth=spec.sun[0],
        sun_elevation=spec.sun[1],
    )
    scene = surface.look(
        spec.years,
        snow_line=spec.snow_line,
        melt=spec.melt,
        green=spec.green,
        sun_azimuth=spec.sun[0],
        sun_elevation=spec.sun[1],
        clouds=clouds,
    )
    shape = (p["size_px"], p["size_px"])
    return photograph(
        scene, ground, place, spec.matrix, shape=shape, wedge=spec.wedge, noise=p["noise"], rng=rng
    )


def _truth_row(spec: SceneSpec, grid: Grid, product: Product, ground: Ground) -> dict[str, Any]:
    low, high = ground.relief_m
    clear = (product.qa_pixel & 0b1011111) == 64
    return {
        "scene": spec.scene,
        "time": np.datetime64(spec.time.rstrip("Z"), "ns"),
        "years": spec.years,
        "crs": grid.crs,
        "platform": spec.platform,
        **dict(zip(MATRIX_COLUMNS, spec.matrix.ravel().tolist(), strict=True)),
        "shift_px": float(np.hypot(spec.matrix[0, 2], spec.matrix[1, 2]))
        if _is_shift(spec.matrix)
        else np.nan,
        "snow_line_m": low + spec.snow_line * (high - low),
        "snow_line_share": spec.snow_line,
        "snow_line_anomaly": spec.snow_anomaly,
        "sun_azimuth": spec.sun[0],
        "sun_elevation": spec.sun[1],
        "cloud_share": product.cloud_cover_percent / 100.0,
        "fill_share": float(product.fill.mean()),
        "clear_share": float(clear.mean()),
    }


def _is_shift(matrix: np.ndarray) -> bool:
    return bool(np.array_equal(matrix[:2, :2], np.eye(2)))


def _write_truth(
    folder: Path,
    p: dict[str, Any],
    ground: Ground,
    surface: Surface,
    grids: Sequence[Grid],
    place: PixelToGround,
    rows: list[dict[str, Any]],
) -> None:
    folder.mkdir()
    pd.DataFrame(rows).to_parquet(folder / "matrices.parquet", index=False)
    rasters.write_truth(folder, ground, surface, grids[0], place)
    about = {
        "parameters": p,
        "bbox_lonlat": bbox_inside(grids[0]),
        "grids": [grid.to_dict() for grid in grids],
        "convention": "matrix maps a pixel (x, y, 1) of the perfect grid to the pixel of the scene in which "
        "the same ground appears; pixel centres at integers; the scene's georeference is that of the perfect "
        "grid",
        "velocity": "vx, vy in metres per year along the axes of the first grid; zero off the ice",
        "relief_m": list(ground.relief_m),
        "glaciers": [field.glacier.name for field in ground.glaciers],
    }
    (folder / "truth.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _summary(folder: Path) -> ArchiveSummary:
    about = json.loads((folder / "truth" / "truth.json").read_text(encoding="utf-8"))
    times = pd.read_parquet(folder / "truth" / "matrices.parquet", columns=["time"])["time"]
    files = [path for path in folder.rglob("*") if path.is_file()]
    west, south, east, north = about["bbox_lonlat"]
    return ArchiveSummary(
        folder=folder,
        scenes=len(times),
        files=len(files),
        bytes=sum(path.stat().st_size for path in files),
        bbox_lonlat=(west, south, east, north),
        start=str(times.min().date()),
        end=str(times.max().date()),
        collection=items.COLLECTION,
    )
