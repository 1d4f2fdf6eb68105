"""What a cube's scenes are compared by: a band, its gradient, or the normalised difference of two."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from glacierhpc.coreg import align_cube
from glacierhpc.coreg.sources import CubeImages
from glacierhpc.cube import Variable, create_cube, finish_cube, open_cube, write_time
from glacierhpc.errors import InputError
from glacierhpc.grid import Grid
from glacierhpc.kernels.filters import gradient_size
from tests.pairs import make_pair

GRID = Grid("EPSG:32643", (30.0, 0.0, 700005.0, 0.0, -30.0, 3500025.0), (180, 200))
SHIFTS = [(0.0, 0.0), (1.6, -0.7), (-2.2, 1.3), (0.4, 2.4), (-1.1, -1.9), (0.7, 0.2)]


def write(path, change):
    """Write a cube of shifted scenes whose two bands `change` (image, number) makes."""
    days = np.datetime64("2020-01-01", "ns") + np.arange(len(SHIFTS)) * np.timedelta64(16, "D")
    create_cube(
        path,
        GRID,
        times=days,
        bands=["green", "swir16"],
        variables={
            "data": Variable(("time", "band", "y", "x"), "float32"),
            "valid": Variable(("time", "y", "x"), "bool", False),
            "filled": Variable(("time", "y", "x"), "bool", False),
        },
        coords={"scene": [f"scene-{i}" for i in range(len(SHIFTS))]},
        attrs={},
    )
    seen = np.ones(GRID.shape, bool)
    for i, (x, y) in enumerate(SHIFTS):
        _, image = make_pair(GRID.shape, np.array([[1, 0, x], [0, 1, y]], float), seed=9, noise=0.01)
        write_time(path, i, {"data": change(image, i), "valid": seen, "filled": ~seen})
    finish_cube(path)
    return open_cube(path)


def errors_px(table):
    """Distances of the shifts from those put in, each about its median, over the scenes with a matrix."""
    put_in = np.array(SHIFTS)
    found = table[["shift_col_px", "shift_row_px"]].to_numpy()
    left = found - put_in
    return np.hypot(*(left - np.nanmedian(left, axis=0)).T)


def test_the_gradient_stays_where_bright_and_dark_are_exchanged(tmp_path):
    def reversed_in_turn(image, i):
        return np.stack([image if i % 2 else 1.2 - image, image])

    cube = write(tmp_path / "clean.zarr", reversed_in_turn)
    by_gradient = align_cube(cube, tmp_path / "gradient.zarr", band="green", gradient=True)
    assert by_gradient.ok.all()
    assert errors_px(by_gradient).max() < 0.1
    by_band = align_cube(cube, tmp_path / "band.zarr", band="green")
    assert not by_band.ok.all() or errors_px(by_band).max() > 1


def test_an_index_leaves_out_the_light_that_both_bands_share(tmp_path):
    def lit(image, i):
        light = 1 + 0.9 * gaussian_filter(np.random.default_rng(i).normal(size=image.shape), 5) * 15
        return np.stack([light * image, light * (1.5 - image)]).astype(np.float32)

    cube = write(tmp_path / "clean.zarr", lit)
    by_index = align_cube(cube, tmp_path / "index.zarr", band=("green", "swir16"))
    assert by_index.ok.all()
    assert errors_px(by_index).max() < 0.1


def test_a_part_of_a_gradient_is_part_of_the_gradient(tmp_path):
    cube = write(tmp_path / "clean.zarr", lambda image, _: np.stack([image, image]))
    images = CubeImages(str(tmp_path / "clean.zarr"), ["green"], GRID.shape, range(6), gradient=True)
    whole = gradient_size(cube["data"].isel(time=2, band=0).to_numpy())
    np.testing.assert_array_equal(images.read(2), whole)
    for y, x in ((slice(0, 64), slice(64, 128)), (slice(128, 180), slice(150, 200))):
        np.testing.assert_allclose(images.read(2, y, x), whole[y, x], rtol=1e-6)


def test_the_length_of_a_gradient():
    y, x = np.mgrid[:20, :30]
    slope = (0.3 * x - 0.4 * y).astype(np.float32)
    inside = gradient_size(slope)[2:-2, 2:-2]
    np.testing.assert_allclose(inside, 0.5, rtol=1e-4)
    slope[10, 10] = np.nan
    around = np.isnan(gradient_size(slope)[9:12, 9:12])
    np.testing.assert_array_equal(around, [[False, True, False], [True, True, True], [False, True, False]])


def test_an_unknown_second_band_is_named(tmp_path):
    cube = write(tmp_path / "clean.zarr", lambda image, _: np.stack([image, image]))
    with pytest.raises(InputError, match=r"swir61.*swir16"):
        align_cube(cube, tmp_path / "out.zarr", band=("green", "swir61"))
