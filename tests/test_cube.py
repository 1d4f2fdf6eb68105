"""A cube opens with what was written, with plain xarray too, in few files."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import dask.array
import numpy as np
import pytest
import rioxarray  # noqa: F401  (registers .rio)
import xarray as xr
import zarr

from glacierhpc import cube
from glacierhpc.cube import (
    Variable,
    create_cube,
    finish_cube,
    missing_pieces,
    open_cube,
    write_lazy,
    write_time,
)
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


def sharded(path: Path) -> Path:
    """Create a cube of one array whose files hold (1, 1, 32, 32) pixels in chunks of 16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cube, "CHUNK_PX", 16)
        patch.setattr(cube, "SHARD_PX", 32)
        dates = np.array(["2020-01-01", "2020-02-01"], "datetime64[ns]")
        create_cube(path, GRID, times=dates, bands=["green", "red"], variables={"data": VARIABLES["data"]})
    return path


def pixels_on_disk(path: Path) -> int:
    return sum(file.is_file() for file in (path / "data").glob("c/**/*"))


VALUES = np.random.default_rng(1).integers(1, 65535, (2, 2, *GRID.shape)).astype("uint16")


@pytest.mark.parametrize(
    "chunks", [(1, 1, 32, 32), (2, 1, 32, 50), (1, 2, (32, 8), (32, 18)), (2, 2, 40, 50)]
)
def test_lazy_arrays_in_whole_files_are_written(tmp_path: Path, chunks: tuple) -> None:
    path = sharded(tmp_path / "c.zarr")
    write_lazy(path, {"data": dask.array.from_array(VALUES, chunks)})
    written = xr.open_zarr(path, mask_and_scale=False, consolidated=False).data
    np.testing.assert_array_equal(written, VALUES)
    assert pixels_on_disk(path) == 2 * 2 * 2 * 2


@pytest.mark.parametrize("chunks", [(1, 1, 16, 32), (1, 1, 32, 16), (1, 1, 32, (20, 30)), (2, 2, 10, 10)])
def test_chunks_that_share_a_file_are_refused_before_any_write(tmp_path: Path, chunks: tuple) -> None:
    path = sharded(tmp_path / "c.zarr")
    lazy = dask.array.from_array(VALUES, chunks)
    with pytest.raises(InputError, match="overwrite each other's pixels; rechunk before writing") as caught:
        write_lazy(path, {"data": lazy})
    assert pixels_on_disk(path) == 0
    advice = re.search(r"chunk\((\{.*\})\)", str(caught.value))
    assert advice is not None
    mended = xr.DataArray(lazy, dims=("time", "band", "y", "x")).chunk(ast.literal_eval(advice[1]))
    write_lazy(path, {"data": mended.data})
    np.testing.assert_array_equal(xr.open_zarr(path, mask_and_scale=False, consolidated=False).data, VALUES)


def test_a_lazy_array_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = sharded(tmp_path / "c.zarr")
    with pytest.raises(InputError, match="has shape .2, 2, 40, 49."):
        write_lazy(path, {"data": dask.array.from_array(VALUES[..., :-1], -1)})
    assert pixels_on_disk(path) == 0


def test_one_date_is_not_written_where_a_file_holds_several(tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "c" / "data", shape=(4, 8, 8), chunks=(1, 8, 8), shards=(2, 8, 8), dtype="uint16"
    )
    with pytest.raises(ValueError, match="several dates in one file"):
        write_time(tmp_path / "c", 0, {"data": np.ones((8, 8), "uint16")})
