"""What is written here is what zarr-python reads."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from glacierhpc import cube
from glacierhpc.cube import Variable, create_cube
from glacierhpc.grid import Grid
from glacierhpc.scenes.shards import ShardLayout, encode_shard, shard_key, write_shards

KINDS = {
    "uint16": Variable(("time", "band", "y", "x"), "uint16", 0, bands_together=False),
    "float32": Variable(("time", "band", "y", "x"), "float32", None, bands_together=False),
    "bool": Variable(("time", "band", "y", "x"), "bool", False, bands_together=False),
}


def images(kind: str, shape: tuple[int, int], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "float32":
        image = rng.normal(size=shape).astype(np.float32)
        image[rng.random(shape) < 0.3] = np.nan
    else:
        image = rng.integers(0, 2 if kind == "bool" else 65535, shape).astype(kind)
    image[: shape[0] // 2] = np.nan if kind == "float32" else 0  # whole chunks of fill
    return image


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.integers(1, 75), st.integers(1, 75), st.integers(0, 9))
def test_zarr_reads_the_same_values(tmp_path_factory, kind, rows, columns, seed):
    folder = tmp_path_factory.mktemp("shards") / "c.zarr"
    grid = Grid("EPSG:32643", (30.0, 0.0, 0.0, 0.0, -30.0, 0.0), (rows, columns))
    with pytest.MonkeyPatch.context() as patch:  # several chunks to a shard, several shards to an image
        patch.setattr(cube, "CHUNK_PX", 16)
        patch.setattr(cube, "SHARD_PX", 32)
        create_cube(
            folder,
            grid,
            times=np.array(["2015-01-01"], "datetime64[ns]"),
            bands=["a", "b"],
            variables={"data": KINDS[kind]},
        )
    image = images(kind, (rows, columns), seed)
    write_shards(folder, "data", ShardLayout.read(folder / "data" / "zarr.json"), image)
    for file in folder.glob("data.*"):
        target = folder / "data" / shard_key(file.name, (0, 1))
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    array = zarr.open_array(folder / "data", mode="r")
    np.testing.assert_array_equal(array[0, 1], image)
    np.testing.assert_array_equal(array[0, 0], np.full_like(image, array.fill_value))


def test_an_image_of_fill_has_no_file(tmp_path):
    grid = Grid("EPSG:32643", (30.0, 0.0, 0.0, 0.0, -30.0, 0.0), (20, 20))
    create_cube(
        tmp_path / "c.zarr",
        grid,
        times=np.array(["2015-01-01"], "datetime64[ns]"),
        bands=["a"],
        variables={"data": KINDS["uint16"]},
    )
    layout = ShardLayout.read(tmp_path / "c.zarr" / "data" / "zarr.json")
    assert encode_shard(np.zeros((20, 20), np.uint16), layout) is None


def test_another_layout_is_refused(tmp_path):
    zarr.create_array(tmp_path / "a", shape=(4, 8, 8), chunks=(1, 4, 4), shards=(2, 8, 8), dtype="uint16")
    with pytest.raises(ValueError, match="not of one image|not written here"):
        ShardLayout.read(tmp_path / "a" / "zarr.json")
