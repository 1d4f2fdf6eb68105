"""Gathered patches against plain slices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glacierhpc.errors import InputError
from glacierhpc.kernels.patches import GatherPlan, gather


@settings(max_examples=25, deadline=None)
@given(
    bands=st.integers(1, 3),
    steps=st.integers(1, 4),
    size=st.integers(1, 20),
    masked=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_slicing(bands, steps, size, masked, seed):
    rng = np.random.default_rng(seed)
    cube = rng.normal(size=(6, bands, 30, 25)).astype(np.float32)
    cube[rng.random(cube.shape) < 0.05] = np.nan
    valid = rng.random((6, 30, 25)) < 0.8 if masked else None
    limits = (6 - steps + 1, 30 - size + 1, 25 - size + 1)
    starts = np.stack([rng.integers(0, limit, 7) for limit in limits], axis=1)
    patches, validity = gather(cube, GatherPlan(starts, steps, size), valid=valid)
    assert patches.shape == (7, steps, bands, size, size)
    assert np.isfinite(patches).all()
    for i, (t, y, x) in enumerate(starts):
        box = cube[t : t + steps, :, y : y + size, x : x + size]
        ok = np.isfinite(box).all(axis=1)
        if valid is not None:
            ok &= valid[t : t + steps, y : y + size, x : x + size]
        np.testing.assert_array_equal(validity[i], ok)
        np.testing.assert_array_equal(patches[i], np.where(ok[:, None], box, 0))


def test_out_is_filled_and_memory_maps_work(tmp_path):
    cube = np.lib.format.open_memmap(tmp_path / "cube.npy", "w+", np.float32, (3, 1, 10, 10))
    cube[:] = np.arange(300).reshape(cube.shape)
    out = np.full((2, 2, 1, 4, 4), -1, np.float32)
    patches, validity = gather(cube, GatherPlan(np.array([[0, 0, 0], [1, 6, 6]]), 2, 4), out=out)
    assert patches is out and validity.all()
    np.testing.assert_array_equal(out[1, :, 0], cube[1:3, 0, 6:10, 6:10])


def test_an_empty_plan_gives_empty_patches():
    patches, validity = gather(np.zeros((2, 1, 5, 5), np.float32), GatherPlan(np.empty((0, 3)), 1, 2))
    assert patches.shape == (0, 1, 1, 2, 2) and validity.shape == (0, 1, 2, 2)


@pytest.mark.parametrize("start", [(-1, 0, 0), (4, 0, 0), (0, 8, 0), (0, 0, 8), (0, 0, -1)])
def test_a_box_that_leaves_the_cube_is_named(start):
    plan = GatherPlan(np.array([[0, 0, 0], start]), 2, 3)
    with pytest.raises(InputError, match="box 1 starts at"):
        gather(np.zeros((5, 1, 10, 10), np.float32), plan)


@pytest.mark.parametrize(
    ("cube", "options"),
    [
        (np.zeros((5, 1, 10, 10)), {}),
        (np.zeros((5, 10, 10), np.float32), {}),
        (np.zeros((5, 1, 10, 10), np.float32)[..., ::2], {}),
        (np.zeros((5, 1, 10, 10), np.float32), {"valid": np.ones((5, 10), bool)}),
        (np.zeros((5, 1, 10, 10), np.float32), {"out": np.zeros((1, 2, 1, 3, 4), np.float32)}),
    ],
)
def test_wrong_arrays_are_refused(cube, options):
    with pytest.raises(InputError, match="give"):
        gather(cube, GatherPlan(np.zeros((1, 3)), 2, 3), **options)
    with pytest.raises(InputError, match="give"):
        GatherPlan(np.zeros(3), 1, 1)


def test_given_validity_is_filled():
    cube = np.arange(200, dtype=np.float32).reshape(2, 1, 10, 10)
    cube[1, 0, 2, 2] = np.nan
    seen = np.zeros((1, 2, 4, 4), bool)
    _, validity = gather(cube, GatherPlan(np.array([[0, 0, 0]]), 2, 4), validity=seen)
    assert validity is seen and seen.sum() == 31
    with pytest.raises(InputError, match="`validity` is"):
        gather(cube, GatherPlan(np.array([[0, 0, 0]]), 2, 4), validity=seen[..., 0])
