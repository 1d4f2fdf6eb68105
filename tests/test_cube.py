"""A cube opens with what was written, with plain xarray too, in few files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import rioxarray  # noqa: F401  (registers .rio)
import xarray as xr

from glacierhpc.cube import Variable, create_cube, finish_cube, missing_pieces, open_cube, write_time
from glacierhpc.errors import InputError
from glacierhpc.grid import Grid

GRID = Grid("EPSG:32643", (30.0, 0.0, 700005.0, 0.0, -30.0, 3500025.0), (40, 50))
VARIABLES = {
    "data": Variable(
        ("time", "band", "y", "x"), "uint16", 0, {"scale_factor": 2.75e-5, "add_offset": -0.2}, False
    ),
    "valid": Variable(("time", "y", "x"), "bool", False),
    "quality": Variable(
        ("time", "y", "x"), "uint16", 1, {"flag_masks": [1, 2], "flag_meanings": "fill cloud"}
    ),
    "reflectance": Variable(("time", "band", "y", "x"), "float32"),
}


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, np.ndarray]:
    path = tmp_path / "cube.zarr"
    create_cube(
        path,
        GRID,
        times=np.array(["2020-01-01T10:11:12", "2020-02-01"], "datetime64[ns]"),
        bands=["green", "red"],
        variables=VARIABLES,
        coords={"scene": ["a", "longer-name"], "cloud_cover": [10.0, np.nan]},
        attrs={"radiometry": "{}"},
    )
    numbers = np.random.default_rng(0).integers(1, 65535, (2, *GRID.shape)).astype("uint16")
    numbers[:, :5] = 0
    arrays = {"data": numbers, "valid": numbers[0] > 0, "quality": numbers[0], "reflectance": numbers / 2}
    write_time(path, 1, arrays)
    finish_cube(path)
    return path, numbers


def test_integers_open_as_float32_reflectance_with_nan_where_invalid(
    written: tuple[Path, np.ndarray],
) -> None:
    path, numbers = written
    data = open_cube(path).data[1].values
    assert data.dtype == np.float32
    assert np.isnan(data[:, :5]).all()
    np.testing.assert_allclose(data[:, 5:], numbers[:, 5:] * 2.75e-5 - 0.2, atol=1e-6)


def test_plain_xarray_reads_the_same(written: tuple[Path, np.ndarray]) -> None:
    path, _ = written
    plain, ours = xr.open_zarr(path), open_cube(path)
    np.testing.assert_allclose(plain.data.values, ours.data.values, atol=1e-6)
    assert list(plain.scene.values) == ["a", "longer-name"]
    assert plain.time.values[0] == np.datetime64("2020-01-01T10:11:12")


def test_flags_and_masks_keep_their_types(written: tuple[Path, np.ndarray]) -> None:
    path, numbers = written
    cube = open_cube(path)
    assert cube.valid.dtype == bool and cube.quality.dtype == np.uint16
    np.testing.assert_array_equal(cube.quality[1].values, numbers[0])
    assert not cube.valid[0].any(), "a date that was never written is invalid"


def test_the_grid_and_names_survive(written: tuple[Path, np.ndarray]) -> None:
    cube = open_cube(written[0])
    assert Grid.from_dataset(cube) == GRID
    assert cube.data.sel(band="red").shape == (2, *GRID.shape)
    assert cube.scene.dtype == object and cube.rio.crs.to_epsg() == 32643


def test_one_file_per_date_and_band_whatever_the_chunks(written: tuple[Path, np.ndarray]) -> None:
    path, _ = written
    assert len([file for file in (path / "data" / "c").rglob("*") if file.is_file()]) == 2
    assert len([file for file in (path / "reflectance" / "c").rglob("*") if file.is_file()]) == 1


def test_a_date_of_another_shape_is_refused(written: tuple[Path, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="shape"):
        write_time(written[0], 0, {"valid": np.ones((3, 3), bool)})


def test_no_cube_is_said_clearly(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no cube"):
        open_cube(tmp_path / "cube.zarr")


def test_lost_pieces_are_found_although_they_read_as_fill(written: tuple[Path, np.ndarray]) -> None:
    path, _ = written
    assert missing_pieces(path) == {}
    (path / "valid" / "c" / "1" / "0" / "0").unlink()
    assert not open_cube(path).valid.any(), "zarr gives fill and says nothing"
    assert missing_pieces(path) == {"valid": 1}
    shutil.rmtree(path / "data")
    assert missing_pieces(path) == {"data": 2, "valid": 1}
