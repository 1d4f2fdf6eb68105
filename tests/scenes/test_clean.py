"""Clouds leave no number behind, small holes are filled and marked, empty bands end with a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glacierhpc.cube import Variable, create_cube, finish_cube, open_cube, write_time
from glacierhpc.grid import Grid
from glacierhpc.scenes.clean import clean_cube
from glacierhpc.scenes.quality import FLAG_ATTRIBUTES, FLAGS

GRID = Grid("EPSG:32643", (30.0, 0.0, 700005.0, 0.0, -30.0, 3500025.0), (40, 50))
SCALING = {"scale_factor": 2.75e-5, "add_offset": -0.2}
MASK = ("cloud", "cloud_shadow")


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    """Three scenes: a hole and a cloud; overcast; a band without data."""
    path = tmp_path / "cube.zarr"
    create_cube(
        path,
        GRID,
        times=np.arange("2020-01-01", "2020-01-04", dtype="datetime64[D]"),
        bands=["green", "swir16"],
        variables={
            "data": Variable(("time", "band", "y", "x"), "uint16", 0, SCALING, False),
            "valid": Variable(("time", "y", "x"), "bool", False),
            "quality": Variable(("time", "y", "x"), "uint16", 1, FLAG_ATTRIBUTES),
        },
        coords={"scene": ["holed", "overcast", "bandless"]},
    )
    for index in range(3):
        data = np.full((2, *GRID.shape), 20000, np.uint16)
        quality = np.zeros(GRID.shape, np.uint16)
        if index == 0:
            data[0, 10:13, 10:13] = 0
            quality[20:30, 20:40] |= FLAGS["cloud"]
        elif index == 1:
            quality[:] |= FLAGS["cloud"]
        else:
            data[1] = 0
        write_time(path, index, {"data": data, "valid": np.ones(GRID.shape, bool), "quality": quality})
    finish_cube(path)
    return path


def test_clouds_leave_no_number_and_holes_are_marked(cube: Path, tmp_path: Path) -> None:
    rows = clean_cube(cube, tmp_path / "clean.zarr", mask=MASK, fill_passes=1, min_clear_share=0.2)
    clean = open_cube(tmp_path / "clean.zarr")
    assert list(clean.scene.values) == ["holed", "bandless"]
    first = clean.isel(time=0)
    assert not first.valid[20:30, 20:40].any() and not first.valid[10:13, 10:13].any()
    assert np.isnan(first.data[:, 23:27, 23:37]).all(), "a cloud wider than the filling stays empty"
    assert first.filled[10:13, 10:13].all(), "a hole of 3 px closes in one pass of two pixels"
    np.testing.assert_allclose(first.data[0, 11, 11], 20000 * 2.75e-5 - 0.2, atol=1e-6)
    assert not (first.filled & first.valid).any()
    holed = rows[(rows.scene == "holed") & (rows.band == "green")].iloc[0]
    assert holed.clear_share == pytest.approx(1 - 200 / 2000) and holed.state == "done"


def test_a_scene_without_clear_ground_is_a_row_with_a_reason(cube: Path, tmp_path: Path) -> None:
    rows = clean_cube(cube, tmp_path / "clean.zarr", mask=MASK, fill_passes=0, min_clear_share=0.2)
    dropped = rows[rows.state == "dropped"]
    assert list(dropped.scene) == ["overcast"] and "0.0% of the area is clear" in dropped.reason.iloc[0]


def test_an_empty_band_ends_with_a_row_even_when_all_gaps_are_to_be_filled(
    cube: Path, tmp_path: Path
) -> None:
    rows = clean_cube(cube, tmp_path / "clean.zarr", mask=MASK, fill_passes=None, min_clear_share=0.2)
    empty = rows[rows.state == "empty"].iloc[0]
    assert (empty.scene, empty.band) == ("bandless", "swir16") and "no valid pixel" in empty.reason
    clean = open_cube(tmp_path / "clean.zarr").isel(time=1)
    assert np.isnan(clean.data[1]).all() and not clean.valid.any()


def test_no_filling_leaves_every_hole(cube: Path, tmp_path: Path) -> None:
    clean_cube(cube, tmp_path / "clean.zarr", mask=MASK, fill_passes=0)
    clean = open_cube(tmp_path / "clean.zarr")
    assert not clean.filled.any() and np.isnan(clean.data[0, 0, 11, 11])
