"""Alignment of the embedded archive, from files to matrices, against the truth it was made with."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest
import rasterio

from glacierhpc.coreg import align_cube
from glacierhpc.cube import open_cube
from glacierhpc.grid import Grid
from glacierhpc.mapping.outlines import glacier_mask
from glacierhpc.scenes import archive
from glacierhpc.scenes.acquire import acquire
from glacierhpc.scenes.archive.truth import Truth, corner_offsets
from glacierhpc.scenes.clean import clean_cube
from glacierhpc.scenes.stac import search_scenes

EVER = {"start": date(2000, 1, 1), "end": date(2040, 1, 1)}


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Truth, Grid]:
    """Sixteen months of 512 px scenes under cloud: their alignment table, the truth and the grid."""
    folder = tmp_path_factory.mktemp("truth")
    archive.create(folder / "archive", scenes=30, size_px=512, bands=("nir08",), cloud_share=0.3)
    truth = archive.read_truth(folder / "archive")
    found = search_scenes(
        str(folder / "archive"), collections=["landsat-c2-l2"], bbox_lonlat=truth.bbox_lonlat, **EVER
    )
    grid = Grid.from_bbox(truth.bbox_lonlat, 30.0)
    tables = {"manifest": folder / "manifest.parquet", "scenes_table": folder / "scenes.parquet"}
    acquire(found.items, grid, folder / "cube.zarr", bands=["nir08"], signing="none", **tables)
    mask = ("cloud", "dilated_cloud", "cloud_shadow", "cirrus", "saturated")
    clean_cube(folder / "cube.zarr", folder / "clean.zarr", mask=mask, fill_passes=2, min_clear_share=0.2)
    cube = open_cube(folder / "clean.zarr")
    stable = ~glacier_mask(folder / "archive" / "outlines.gpkg", grid)
    table = align_cube(cube, folder / "aligned.zarr", band="nir08", stable=stable, max_shift_px=8)
    return table.assign(cloud_cover=cube.cloud_cover.values), truth, grid


def test_every_scene_under_30_percent_cloud_is_within_a_twentieth_pixel(aligned) -> None:
    table, truth, grid = aligned
    chosen = table.ok & (table.cloud_cover < 30)
    assert chosen.sum() >= 10 and table.ok.mean() > 0.9
    rms_px = np.sqrt((corner_offsets(table[table.ok], truth, grid) ** 2).sum(axis=1).mean(axis=1))
    assert rms_px[chosen[table.ok]].max() < 0.05
    assert np.median(rms_px) < 0.04
    # they were off by more than a pixel before
    assert table.shift_px.median() > 1


def test_the_ice_is_not_followed(aligned) -> None:
    table, truth, grid = aligned
    good = table[table.ok]
    years = (good.time - good.time.min()).dt.days.to_numpy() / 365.25
    drift = np.polyfit(years, corner_offsets(good, truth, grid).mean(axis=2), 1)[0]
    with rasterio.open(truth.folder / "velocity.tif") as raster:
        speed_px = np.hypot(*raster.read([1, 2])) / grid.resolution_m
    assert np.nanmax(speed_px) > 4, "the ice moves by pixels a year"
    assert np.hypot(*drift) < 0.05


def test_the_residual_says_so(aligned) -> None:
    table = aligned[0]
    measured = table[table.ok & table.residual_px.notna()]
    assert len(measured) > 0.8 * table.ok.sum()
    assert measured.residual_px.median() < 0.15 < measured.residual_before_px.median()
