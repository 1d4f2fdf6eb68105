"""Forecasts and flows leave in formats others open, with nothing made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr

from glacierhpc.cube import Variable, create_cube, finish_cube, open_cube
from glacierhpc.errors import InputError
from glacierhpc.grid import Grid
from glacierhpc.workflows import products
from glacierhpc.workflows.tasks import need

GRID = Grid("EPSG:32643", (30.0, 0.0, 700005.0, 0.0, -30.0, 3500025.0), (40, 50))
TIMES = np.array(["2020-02-15", "2020-05-15"], "datetime64[ns]")


@pytest.fixture
def composite(tmp_path: Path) -> xr.Dataset:
    path = tmp_path / "composite.zarr"
    create_cube(
        path, GRID, times=TIMES, bands=["ndsi"], variables={"valid": Variable(("time", "y", "x"), "bool")}
    )
    finish_cube(path)
    return open_cube(path)


def field(u: float, v: float, valid: bool = True) -> products.Flow:
    return np.full((4, 4), u), np.full((4, 4), v), np.full((4, 4), valid)


def test_maps_are_cloud_optimised_and_georeferenced(composite: xr.Dataset, tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((2, 1, *GRID.shape)).astype("float32")
    images[0, 0, :5] = np.nan
    paths = products.write_maps(tmp_path / "prediction", composite, images, TIMES)
    with rasterio.open(paths[0]) as raster:
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert raster.crs.to_epsg() == 32643 and raster.descriptions == ("ndsi",)
        assert raster.bounds == pytest.approx(GRID.bounds) and np.isnan(raster.nodata)
        np.testing.assert_array_equal(raster.read(1), images[0, 0])
    assert [path.name for path in paths] == ["ndsi_2020-02-15.tif", "ndsi_2020-05-15.tif"]


def test_large_maps_have_overviews_and_tell_what_they_are(tmp_path: Path) -> None:
    grid = Grid("EPSG:32643", (30.0, 0.0, 700005.0, 0.0, -30.0, 3500025.0), (1100, 1300))
    path = tmp_path / "composite.zarr"
    create_cube(path, grid, times=TIMES, bands=["ndsi"], variables={}, attrs={"shows": "snow cover"})
    finish_cube(path)
    rows, cols = np.mgrid[:1100, :1300]
    image = (rows * 0.001 + cols * 0.002).astype("float32")
    image[:300, :400] = np.nan
    (name,) = products.write_maps(tmp_path / "maps", open_cube(path), image[None, None], TIMES[:1])
    assert [file.name for file in (tmp_path / "maps").iterdir()] == [name.name]
    with rasterio.open(name) as raster:
        np.testing.assert_array_equal(raster.read(1), image)
        assert raster.overviews(1) and raster.block_shapes == [(512, 512)]
        tags = raster.tags()
        assert tags["date"] == "2020-02-15" and tags["kind"] == "forecast" and tags["shows"] == "snow cover"
        assert raster.tags(ns="IMAGE_STRUCTURE")["COMPRESSION"] == "DEFLATE"
        assert raster.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "3"
        raster_mean = float(np.nanmean(raster.read(1)))
    with rasterio.open(name, overview_level=0) as small:
        half = small.read(1)
        assert np.isnan(half[:140, :190]).all() and np.nanmean(half) == pytest.approx(raster_mean, abs=0.01)


def test_a_prediction_round_trips_and_hides_invalid_targets(composite: xr.Dataset, tmp_path: Path) -> None:
    images = np.ones((2, 1, *GRID.shape), "float32")
    valid = np.ones((2, *GRID.shape), bool)
    valid[1, :3] = False
    when = {"lead_time": TIMES, "input_time": TIMES - np.timedelta64(180, "D")}
    with products.prediction_writer(tmp_path / "prediction.zarr", composite, **when) as writer:
        writer.write(
            slice(None), slice(None), prediction=images, target=images, target_valid=valid, inputs=images
        )
        writer.note(seam_ratio=1.02, seam_ratio_observed=float("nan"))
    opened = products.open_prediction(tmp_path / "prediction.zarr")
    assert np.isnan(opened.target[1, 0, :3]).all() and np.isfinite(opened.target[0]).all()
    assert list(opened.lead.values) == [1, 2] and opened.lead_time.values[0] == TIMES[0]
    assert opened.attrs["seam_ratio"] == 1.02 and opened.attrs["seam_ratio_observed"] is None


def test_motion_is_written_lead_by_lead(composite: xr.Dataset, tmp_path: Path) -> None:
    images = np.ones((2, 1, *GRID.shape), "float32")
    with products.prediction_writer(
        tmp_path / "prediction.zarr", composite, lead_time=TIMES, input_time=TIMES
    ) as writer:
        writer.write(slice(None), slice(None), prediction=images, target=images,
                     target_valid=images[:, 0] > 0, inputs=images)  # fmt: skip
    prediction = products.open_prediction(tmp_path / "prediction.zarr")
    known = np.ones(GRID.shape, bool)
    known[:7] = False
    with products.flow_writer(tmp_path / "flow.zarr", prediction) as flows:
        for lead in (1, 0):
            u, v = (np.full(GRID.shape, value + lead, np.float32) for value in (1.0, 3.0))
            flows.write(lead, target=(u, v, known), prediction=(-u, -v, known))
    opened = open_cube(tmp_path / "flow.zarr")
    assert np.isnan(opened.u_target[:, :7]).all() and opened.u_target.attrs["units"] == "px"
    assert opened.v_prediction[:, 20, 20].values.tolist() == [-3.0, -4.0] and opened.u_target[1, 9, 9] == 2.0
    assert list(opened.lead_time.values) == list(TIMES) and "not ice velocity" in opened.attrs["shows"]


def test_a_missing_input_names_the_step_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="glacierhpc predict CONFIG"):
        need(tmp_path / "prediction.zarr", "predict")


def test_end_point_error_stands_beside_the_control() -> None:
    row = products.flow_row(1, field(3.0, 4.0), field(3.0, 3.0))
    assert row["epe_px"] == pytest.approx(1.0) and row["epe_zero_flow_px"] == pytest.approx(5.0)
    assert np.isnan(products.flow_row(1, field(1, 1, False), field(1, 1))["epe_px"])
