"""Windows of dates and what is left of their looks."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from glacierhpc.cube import Variable, create_cube, finish_cube, open_cube, write_time
from glacierhpc.errors import InputError
from glacierhpc.grid import Grid
from glacierhpc.scenes import composite
from glacierhpc.scenes.composite import composite_cube, date_windows, masked_mean, masked_median

GRID = Grid("EPSG:32643", (30.0, 0.0, 600000.0, 0.0, -30.0, 3540000.0), (6, 8))

looks = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
    elements=st.one_of(st.just(np.nan), st.floats(-1, 1, width=32)),
)


@settings(max_examples=60, deadline=None)
@given(looks)
def test_masked_statistics_equal_numpys(values):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        mean, median = np.nanmean(values.astype(np.float64), axis=0), np.nanmedian(values, axis=0)
    np.testing.assert_allclose(masked_mean(values), mean, atol=1e-6)
    np.testing.assert_allclose(masked_median(values), median, atol=1e-6)


def test_windows_start_in_january_and_cover_the_period():
    windows = date_windows("2019-05-20", "2020-04-01", 3)
    starts = [str(window.start)[:10] for window in windows]
    assert starts == ["2019-04-01", "2019-07-01", "2019-10-01", "2020-01-01", "2020-04-01"]
    assert all(a.end == b.start for a, b in zip(windows, windows[1:]))
    assert windows[0].start < windows[0].middle < windows[0].end
    assert len(date_windows("2015-01-01", "2015-12-31", 12)) == 1
    with pytest.raises(InputError, match="window_months"):
        date_windows("2015-01-01", "2015-12-31", 0)
    with pytest.raises(InputError, match="not before the start"):
        date_windows("2016-01-01", "2015-12-31", 3)


@pytest.fixture
def cube(tmp_path):
    """Seven dates: three in January to March (one of them filled in a corner), none in April to June, one in July."""
    days = [
        "2015-01-05",
        "2015-02-05",
        "2015-03-31T23:59",
        "2015-07-01",
        "2016-01-01",
        "2016-01-02",
        "2016-01-03",
    ]
    times = np.array(days, "datetime64[ns]")
    variables = {
        "data": Variable(("time", "band", "y", "x"), "float32"),
        "valid": Variable(("time", "y", "x"), "bool", False),
        "filled": Variable(("time", "y", "x"), "bool", False),
    }
    path = tmp_path / "clean.zarr"
    create_cube(path, GRID, times=times, bands=["green", "swir16"], variables=variables, attrs={"a": 1})
    rng = np.random.default_rng(0)
    for index in range(len(times)):
        data = rng.uniform(0.05, 0.9, (2, *GRID.shape)).astype(np.float32)
        valid = np.ones(GRID.shape, bool)
        valid[0, :] = index == 2
        filled = ~valid
        write_time(path, index, {"data": data, "valid": valid, "filled": filled})
    finish_cube(path)
    return path


def options(**changes):
    asked = {"index": "ndsi", "window_months": 3, "start": "2015-01-01", "end": "2016-03-31", **changes}
    return asked


def test_every_window_is_there_and_an_empty_one_is_a_gap(cube, tmp_path):
    rows = composite_cube(cube, tmp_path / "c.zarr", **options())
    found = open_cube(tmp_path / "c.zarr")
    assert rows.scenes.tolist() == [3, 0, 1, 0, 3]
    assert found.sizes["time"] == 5 and list(found.band.values) == ["ndsi"]
    assert not found.valid[1].any() and np.isnan(found.data[1]).all() and (found.looks[1] == 0).all()
    assert found.looks[0, 0].values.tolist() == [1] * 8 and (found.looks[0, 1:] == 3).all()
    assert not found.valid[2, 0].any() and found.valid[2, 1:].all()
    source = open_cube(cube)
    green, swir = (source.data.sel(band=band).values[:3] for band in ("green", "swir16"))
    images = np.where(source.valid.values[:3], (green - swir) / (green + swir), np.nan)
    np.testing.assert_allclose(found.data[0, 0], np.nanmedian(images, axis=0), atol=1e-6)
    assert str(found.window_start.values[0])[:10] == "2015-01-01"
    assert str(found.window_end.values[0])[:10] == "2015-04-01"
    assert "not ice motion" in found.attrs["shows"] and found.attrs["a"] == 1
    assert isinstance(xr.open_zarr(tmp_path / "c.zarr"), xr.Dataset)


def test_threshold_looks_and_filled_pixels(cube, tmp_path):
    composite_cube(cube, tmp_path / "a.zarr", **options(min_looks=2, statistic="mean"))
    composite_cube(cube, tmp_path / "c.zarr", **options(threshold=0.3, min_looks=2, statistic="mean"))
    whole, found = (open_cube(tmp_path / name) for name in ("a.zarr", "c.zarr"))
    low = whole.data.values < 0.3
    assert low.any() and (whole.data.values >= 0.3).any()
    np.testing.assert_array_equal(found.data.values, np.where(low, np.float32(0), whole.data.values))
    assert not found.valid[0, 0].any() and not found.valid[2].any()
    composite_cube(cube, tmp_path / "f.zarr", **options(use_filled=True, min_looks=1))
    filled = open_cube(tmp_path / "f.zarr")
    assert (filled.looks == found.looks).all()
    assert not filled.valid[2, 0].any(), "a window seen in no date stays a gap"


def test_one_band_is_composited_as_it_is(cube, tmp_path):
    composite_cube(cube, tmp_path / "c.zarr", **options(index="green"))
    found, source = open_cube(tmp_path / "c.zarr"), open_cube(cube)
    np.testing.assert_array_equal(found.data[2, 0, 1:], source.data.sel(band="green")[3, 1:])
    assert list(found.band.values) == ["green"] and found.data.attrs["long_name"].endswith("green")
    assert found.attrs["shows"] == "surface reflectance, green, not ice motion"


def test_blocks_give_the_same_as_one_pass(cube, tmp_path, monkeypatch):
    composite_cube(cube, tmp_path / "a.zarr", **options())
    monkeypatch.setattr(composite, "BLOCK_BYTES", 1)
    composite_cube(cube, tmp_path / "b.zarr", **options())
    xr.testing.assert_identical(open_cube(tmp_path / "a.zarr").load(), open_cube(tmp_path / "b.zarr").load())


def test_wrong_names_are_refused_before_anything_is_written(cube, tmp_path):
    for change, text in (
        ({"index": "albedo"}, "add 'blue' to acquire.bands"),
        ({"statistic": "mode"}, "'mode' is not known"),
        ({"index": "snow"}, "'snow' is not known"),
    ):
        with pytest.raises(InputError, match=text):
            composite_cube(cube, tmp_path / "c.zarr", **options(**change))
    assert not (tmp_path / "c.zarr").exists()
