"""Windows of composites are the same from memory and from disk, and reading one never loads the rest."""

import numpy as np
import pytest

from glacierhpc.cube import Variable, create_cube, finish_cube, write_time
from glacierhpc.datasets.composites import ArrayComposites, StoredComposites, read_steps
from glacierhpc.errors import InputError
from glacierhpc.grid import Grid

GRID = Grid("EPSG:32643", (30.0, 0.0, 700005.0, 0.0, -30.0, 3500025.0), (21, 34))
TIMES = np.datetime64("2015-01-15", "ns") + np.arange(3) * np.timedelta64(31, "D")


@pytest.fixture(scope="module")
def cube():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(3, 2, *GRID.shape)).astype(np.float32)
    valid = rng.random((3, *GRID.shape)) < 0.8
    data[1, 1, 4, 5] = np.nan  # under a mask that calls it valid
    valid[1, 4, 5] = True
    return data, valid


@pytest.fixture(scope="module")
def stored(cube, tmp_path_factory):
    path = tmp_path_factory.mktemp("cube") / "composite.zarr"
    image, mask = Variable(("time", "band", "y", "x"), "float32"), Variable(("time", "y", "x"), "bool")
    create_cube(path, GRID, times=TIMES, bands=["a", "b"], variables={"data": image, "valid": mask})
    for step in range(3):
        write_time(path, step, {"data": cube[0][step], "valid": cube[1][step]})
    finish_cube(path)
    return StoredComposites.open(path)


def test_memory_and_disk_give_the_same_windows(cube, stored):
    held = ArrayComposites.build(*cube)
    assert held.shape == stored.shape == (3, 2, 21, 34)
    window = (slice(2, 19), slice(5, 33))
    for ours, theirs in zip(read_steps(held, [0, 2, 1], *window), read_steps(stored, [0, 2, 1], *window)):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    values, valid = held.read(1, *window)
    np.testing.assert_array_equal(values, np.where(valid, cube[0][1][(slice(None), *window)], 0))
    assert not valid[2, 0] and cube[1][1, 4, 5]


def test_shapes_that_do_not_belong_together(cube):
    with pytest.raises(InputError, match="do not belong together"):
        ArrayComposites.build(cube[0], cube[1][:2])
