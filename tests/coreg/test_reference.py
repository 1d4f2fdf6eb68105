"""References of a stack: seasons, medians in blocks, images at half the resolution."""

from __future__ import annotations

import numpy as np
import pytest

from glacierhpc.coreg.reference import make_medians, reference_blocks, reference_image, season_groups
from glacierhpc.coreg.sources import ArrayImages, HalvedImages
from glacierhpc.kernels.pyramid import halve
from glacierhpc.kernels.warp import warp


def dates(*months):
    return np.array([f"2020-{month:02d}-15" for month in months], "datetime64[ns]")


def groups(counts, least=5):
    """Return the names of groups by month for so many scenes of each season (winter, spring, summer, autumn)."""
    months = [month for month, count in zip((1, 4, 7, 10), counts) for _ in range(count)]
    found = season_groups(dates(*months), np.ones(len(months), bool), least)
    return {month: name for month, name in zip(months, found)}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((5, 5, 5, 5), {1: "DJF", 4: "MAM", 7: "JJA", 10: "SON"}),
        ((0, 9, 9, 0), {4: "MAM", 7: "JJA"}),
        ((9, 0, 9, 1), {1: "DJF+SON", 7: "JJA"}),
        ((2, 0, 2, 0), {1: "all", 7: "all"}),
        ((30, 0, 0, 0), {1: "all"}),
        ((4, 4, 9, 0), {1: "DJF+MAM", 4: "DJF+MAM", 7: "JJA"}),
    ],
)
def test_seasons_with_few_scenes_join_a_neighbour(counts, expected):
    found = groups(counts)
    if counts == (9, 0, 9, 1):  # October is as near to July as to January, by a day or two
        assert found[10] in ("DJF+SON", "JJA+SON")
    else:
        assert found == expected


def test_only_scenes_that_can_make_a_reference_count():
    times = dates(*[1] * 6 + [7] * 6)
    counted = np.array([True] * 6 + [False] * 6)
    assert season_groups(times, counted) == ["all"] * 12
    assert season_groups(times, ~counted) == ["all"] * 12
    assert season_groups(times, np.ones(12, bool)) == ["DJF"] * 6 + ["JJA"] * 6


def images(count=7, shape=(90, 101), seed=0):
    rng = np.random.default_rng(seed)
    stack = rng.normal(size=(count, *shape)).astype(np.float32)
    valid = rng.random((count, *shape)) > 0.1
    return ArrayImages(dict(enumerate(stack)), dict(enumerate(valid))), stack, valid


@pytest.mark.parametrize("shift", [(0.0, 0.0), (2.3, -1.6)])
def test_medians_in_blocks_are_those_of_the_whole(shift):
    source, stack, valid = images()
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1.0]])
    matrices = {i: matrix if i else np.eye(3) for i in range(7)}
    blocks = [(slice(y, min(y + 40, 90)), slice(x, min(x + 64, 101))) for y in (0, 40, 80) for x in (0, 64)]
    found = make_medians(source, {"few": [0, 2, 5], "most": range(6)}, matrices, blocks, overall="all")
    warped = [warp(stack[i], matrices[i], valid=valid[i], kernel="cubic")[0] for i in range(7)]
    for name, members in {"few": [0, 2, 5], "most": range(6)}.items():
        expected, _ = reference_image(
            np.stack([warped[i] for i in members]), np.ones((len(members), 90, 101), bool)
        )
        np.testing.assert_allclose(found[name], expected, atol=1e-5)
    both, _ = reference_image(np.stack([found["few"], found["most"]]), np.ones((2, 90, 101), bool))
    np.testing.assert_allclose(found["all"], both, atol=1e-6)


def test_blocks_cover_every_pixel_once_and_stay_small():
    for shape, scenes in (((3000, 1700), 40), ((90, 101), 3), ((800, 800), 1000)):
        seen = np.zeros(shape, int)
        for y, x in reference_blocks(shape, scenes):
            seen[y, x] += 1
            assert (y.stop - y.start) * (x.stop - x.start) * min(scenes, 300) * 5 <= 64 * 1024**2
        assert (seen == 1).all()


@pytest.mark.parametrize(
    "part", [(slice(None), slice(None)), (slice(3, 20), slice(0, 50)), (slice(30, 45), slice(7, 9))]
)
def test_parts_of_halved_images_are_those_of_the_whole_halved(part):
    source, stack, valid = images(2)
    whole = halve(np.where(valid[1], stack[1], np.float32(np.nan)))
    for halved in (HalvedImages(source), source.halved(None)):
        assert halved.shape == whole.shape == (45, 50)
        np.testing.assert_array_equal(halved.read(1, *part), whole[part])


def test_reference_image_is_the_masked_median():
    stack = np.array([[[1, 5]], [[2, 6]], [[90, 7]]], np.float32)
    valid = np.array([[[True, False]], [[True, False]], [[False, False]]])
    image, ok = reference_image(stack, valid)
    np.testing.assert_array_equal(image, [[1.5, np.nan]])
    np.testing.assert_array_equal(ok, [[True, False]])
