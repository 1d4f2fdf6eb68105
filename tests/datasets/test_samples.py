"""Batches from a cube and from shards are the same, and masks travel with them."""

import numpy as np
import pytest
import torch

from glacierhpc.datasets.climatology import Climatology
from glacierhpc.datasets.samples import SequenceDataset, materialise
from glacierhpc.datasets.sequences import SequencePlan
from glacierhpc.errors import InputError


@pytest.fixture(scope="module")
def cube():
    random = np.random.default_rng(0)
    data = random.normal(size=(7, 2, 20, 26)).astype(np.float32)
    valid = random.random((7, 20, 26)) < 0.8
    data[~np.broadcast_to(valid[:, None], data.shape)] = np.nan
    return data, valid


@pytest.fixture(scope="module")
def plan(cube):
    times = np.datetime64("2015-02-15", "ns") + np.arange(7) * np.timedelta64(91, "D")
    return SequencePlan.build((7, 20, 26), times, size=8, stride=5, steps_in=3, steps_out=2)


def usual(cube, plan):
    return Climatology.build(*cube, plan.times, np.arange(len(plan.times)), causal=False)


def test_batch_equals_plain_slices(cube, plan):
    data, valid = cube
    chosen = np.array([len(plan) - 1, 0, 7])
    batch = SequenceDataset.from_cube(data, valid, plan, chosen).__getitems__([0, 2])
    assert batch.images.shape == (2, 3, 2, 8, 8) and batch.images.dtype == torch.float32
    assert batch.targets.shape == (2, 2, 2, 8, 8) and batch.targets_valid.shape == (2, 2, 8, 8)
    for position, number in enumerate([len(plan) - 1, 7]):
        first, row, col = plan.starts[number]
        patch = (slice(row, row + 8), slice(col, col + 8))
        inputs, targets = (slice(first, first + 3), slice(first + 3, first + 5))
        np.testing.assert_array_equal(batch.images_valid[position], valid[(inputs, *patch)])
        np.testing.assert_array_equal(batch.targets_valid[position], valid[(targets, *patch)])
        np.testing.assert_array_equal(
            batch.targets[position], np.nan_to_num(data[targets, :, patch[0], patch[1]])
        )
        np.testing.assert_array_equal(
            batch.images[position], np.nan_to_num(data[inputs, :, patch[0], patch[1]])
        )
        np.testing.assert_array_equal(batch.dates[position], plan.years(np.array([number]))[0])
    assert batch.numbers.tolist() == [len(plan) - 1, 7]
    assert set(batch.inputs) == {"images", "images_valid", "dates"}


def test_one_sample_is_a_batch_without_its_first_axis(cube, plan):
    dataset = SequenceDataset.from_cube(*cube, plan, climatology=usual(cube, plan))
    batch = dataset.__getitems__([3])
    for single, several in zip(dataset[3], batch):
        assert torch.equal(single, several[0])
    assert len(dataset) == len(plan)


def test_shards_give_identical_samples(tmp_path, cube, plan):
    materialise(tmp_path / "sequences.zarr", *cube, plan, shard_sequences=5)
    chosen = np.array([1, 4, 6, 11, 17])
    view = SequenceDataset.from_cube(*cube, plan, chosen, climatology=usual(cube, plan))
    shards = SequenceDataset.from_shards(
        tmp_path / "sequences.zarr", plan, chosen, climatology=usual(cube, plan)
    )
    assert len(view) == len(shards) == 5
    for items in ([0, 1, 2, 3, 4], [4, 0, 2]):
        for ours, theirs in zip(view.__getitems__(items), shards.__getitems__(items)):
            assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    files = [path for path in (tmp_path / "sequences.zarr").rglob("*") if path.is_file()]
    assert len(files) < 4 * (-(-len(plan) // 5)) + 10


def test_nan_under_a_valid_mask_becomes_invalid(cube, plan):
    data, valid = cube
    data = data.copy()
    data[0, 1, 0, 0] = np.nan
    batch = SequenceDataset.from_cube(data, np.ones_like(valid), plan).__getitems__([0])
    assert not batch.images_valid[0, 0, 0, 0]
    assert all(torch.isfinite(part).all() for part in (batch.images, batch.targets))


def test_data_of_another_cube_are_refused(cube, plan, tmp_path):
    data, valid = cube
    with pytest.raises(InputError, match="do not belong to a plan"):
        SequenceDataset.from_cube(data[:5], valid, plan)
    with pytest.raises(InputError, match="do not belong to a plan"):
        SequenceDataset.from_cube(data[:, 0], valid, plan)
    materialise(tmp_path / "sequences.zarr", data, valid, plan)
    other = SequencePlan.build(plan.shape, plan.times, size=8, stride=6, steps_in=3, steps_out=2)
    with pytest.raises(InputError, match="write the shards again"):
        SequenceDataset.from_shards(tmp_path / "sequences.zarr", other)


@pytest.mark.parametrize("causal", [False, True])
def test_the_climatology_of_a_batch_is_that_of_each_sequence(cube, plan, causal):
    known = Climatology.build(*cube, plan.times, np.arange(len(plan.times)), causal=causal)
    chosen = np.array([len(plan) - 1, 3, 0, 9])
    batch = SequenceDataset.from_cube(*cube, plan, chosen, climatology=known).__getitems__([3, 0, 1])
    for position, number in enumerate(chosen[[3, 0, 1]]):
        first, row, col = plan.starts[number]
        values, valid = known.frames(
            int(first), steps_in=3, steps=5, rows=slice(row, row + 8), cols=slice(col, col + 8)
        )
        np.testing.assert_array_equal(batch.climatology[position], values)
        np.testing.assert_array_equal(batch.climatology_valid[position], valid)
    assert batch.climatology_valid.any() and not batch.climatology_valid.all()


def test_a_batch_of_nothing_has_every_part(cube, plan):
    batch = SequenceDataset.from_cube(*cube, plan, climatology=usual(cube, plan)).__getitems__([])
    assert len(batch.images) == 0 and batch.climatology.shape == (0, 5, 2, 8, 8)


def test_what_stands_at_invalid_pixels_never_comes_out(cube, plan):
    data, valid = cube
    wild = np.where(valid[:, None], data, np.inf).astype(np.float32)
    for ours, theirs in zip(
        SequenceDataset.from_cube(wild, valid, plan).__getitems__([0, 5]),
        SequenceDataset.from_cube(data, valid, plan).__getitems__([0, 5]),
    ):
        assert ours is theirs is None or torch.equal(ours, theirs)


def test_a_cube_that_marks_its_invalid_pixels_is_not_copied(cube, plan):
    data, valid = cube
    reader = SequenceDataset.from_cube(data, valid, plan)._reader
    assert np.shares_memory(reader._data, data)
    assert not np.shares_memory(SequenceDataset.from_cube(data * 1, valid & False, plan)._reader._data, data)
