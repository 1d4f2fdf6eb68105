"""Tiles cover every pixel once in weight, and what is cut comes back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glacierhpc import tiling
from glacierhpc.errors import InputError

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@st.composite
def plans(draw):
    shape, size = draw(SHAPES), draw(st.integers(1, 15))
    edge = "pad" if size > min(shape) else draw(st.sampled_from(tiling.EDGES))
    return tiling.plan(shape, size, overlap=draw(st.integers(0, size - 1)), edge=edge)


@settings(max_examples=40, deadline=None)
@given(plans(), st.sampled_from(sorted(tiling.BLENDS)), st.integers(0, 2**31))
def test_stitch_is_the_inverse_of_cut(plan, blend, seed):
    image = np.random.default_rng(seed).normal(size=(2, *plan.shape))
    tiles = tiling.cut(image, plan)
    assert tiles.shape == (len(plan), 2, plan.size, plan.size)
    np.testing.assert_allclose(tiling.stitch(tiles, plan, blend=blend), image, rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(plans())
def test_every_pixel_is_covered_and_without_overlap_only_once(plan):
    counts = np.zeros(plan.shape, dtype=int)
    for row, col in plan.origins:
        counts[row : row + plan.size, col : col + plan.size] += 1
    assert counts.min() >= 1
    if plan.overlap == 0 and plan.edge == "pad":
        assert counts.max() == 1


@settings(max_examples=30, deadline=None)
@given(plans())
def test_plan_survives_json(plan):
    assert tiling.TilePlan.from_json(plan.to_json()) == plan


def test_invalid_pixels_have_no_weight_and_uncovered_ones_are_nan():
    plan = tiling.plan((4, 6), 4, overlap=2)
    image = np.arange(24.0).reshape(4, 6)
    tiles = tiling.cut(image, plan)
    valid = np.ones((len(plan), 4, 4), dtype=bool)
    tiles[0, :, 3], valid[0, :, 3] = np.nan, False
    tiles[:, 0, 0], valid[:, 0, 0] = 1e9, False
    stitched = tiling.stitch(tiles, plan, valid=valid)
    assert np.isnan(stitched[0, 0])
    rest = np.isfinite(stitched)
    assert rest.sum() == 23
    np.testing.assert_allclose(stitched[rest], image[rest])


def test_mosaic_in_batches_equals_stitch_at_once():
    plan = tiling.plan((20, 17), 8, overlap=4)
    tiles = np.random.default_rng(0).normal(size=(len(plan), 3, 8, 8))
    mosaic = tiling.Mosaic(plan, (3,))
    for first in range(0, len(plan), 3):
        numbers = range(first, min(first + 3, len(plan)))
        mosaic.add(numbers, tiles[first : first + 3])
    np.testing.assert_array_equal(mosaic.result(), tiling.stitch(tiles, plan))


@settings(max_examples=40, deadline=None)
@given(plans(), st.integers(1, 30), st.integers(0, 2**31))
def test_blocks_put_together_are_the_whole(plan, size_px, seed):
    tiles = np.random.default_rng(seed).normal(size=(len(plan), 2, plan.size, plan.size))
    rim = (plan.size - 1) // 4
    together, covered = np.full((2, *plan.shape), np.nan), np.zeros(plan.shape, int)
    for block in tiling.blocks(plan, size_px):
        mosaic = tiling.Mosaic(plan, (2,), rim_px=rim, rows=block.rows, cols=block.cols)
        mosaic.add(block.numbers, tiles[list(block.numbers)])
        together[:, block.rows, block.cols] = mosaic.result()
        covered[block.rows, block.cols] += 1
        assert block.reach_rows.start <= block.rows.start and block.rows.stop <= block.reach_rows.stop
    whole = tiling.Mosaic(plan, (2,), rim_px=rim)
    whole.add(range(len(plan)), tiles)
    assert (covered == 1).all()
    np.testing.assert_array_equal(together, whole.result())


def test_the_rim_of_a_tile_counts_only_where_there_is_no_other():
    plan = tiling.plan((12, 12), 8, overlap=4)
    tiles = np.ones((len(plan), 8, 8))
    tiles[:, 2:-2, 2:-2] = 0
    mosaic = tiling.Mosaic(plan, rim_px=2)
    mosaic.add(range(len(plan)), tiles)
    image = mosaic.result()
    np.testing.assert_allclose(image[2:-2, 2:-2], 0, atol=1e-6)
    np.testing.assert_allclose(image[:2], 1)


@pytest.mark.parametrize("window_px", [5, 16, 17, 1000])
def test_seams_are_measured_window_by_window(window_px):
    random = np.random.default_rng(5)
    plan = tiling.plan((50, 70), 16, overlap=3)
    image = random.normal(size=(2, 50, 70))
    valid = random.random((50, 70)) < 0.7
    known = np.where(valid, image, np.nan)
    edges = [
        np.array([e for first in firsts for e in (first, first + 16)]) for firsts in (plan.rows, plan.cols)
    ]
    on, off = [], []
    for axis, borders in zip((1, 2), edges):
        steps = np.moveaxis(np.abs(np.diff(known, axis=axis)), axis, 0)
        border = np.isin(np.arange(len(steps)) + 1, borders)
        on.append(steps[border].ravel())
        off.append(steps[~border].ravel())
    expected = np.nanmean(np.concatenate(on)) / np.nanmean(np.concatenate(off))
    assert tiling.seam_ratio(image, plan, valid=valid, window_px=window_px) == pytest.approx(expected)


def test_seam_ratio_sees_pasted_tiles_and_not_blended_ones():
    random = np.random.default_rng(1)
    pasted, blended = (tiling.plan((96, 96), 16, overlap=overlap) for overlap in (0, 8))
    base = random.normal(size=(96, 96)).cumsum(axis=0) * 0.01

    def forecast(plan):  # every tile with an offset of its own, as networks do
        tiles = tiling.cut(base, plan)
        return tiling.stitch(tiles + random.normal(size=(len(plan), 1, 1)) * 0.3, plan)

    assert tiling.seam_ratio(base, pasted) == pytest.approx(1, abs=0.3)  # 10 seams of noise
    assert tiling.seam_ratio(forecast(pasted), pasted) > 5
    assert tiling.seam_ratio(forecast(blended), blended) < 1.1


def test_seam_ratio_without_seams_is_nan():
    assert np.isnan(tiling.seam_ratio(np.ones((8, 8)), tiling.plan((8, 8), 8)))


@pytest.mark.parametrize(
    ("shape", "size", "options", "says"),
    [
        ((10, 10), 0, {}, "size 0"),
        ((10, 10), 4, {"overlap": 4}, "0 <= overlap < size"),
        ((10, 10), 12, {}, "edge='pad'"),
        ((10, 10), 4, {"edge": "mirror"}, "'mirror' is not known"),
    ],
)
def test_impossible_plans_are_refused(shape, size, options, says):
    with pytest.raises(InputError, match=says):
        tiling.plan(shape, size, **options)


def test_wrong_arrays_are_refused():
    plan = tiling.plan((10, 10), 5)
    with pytest.raises(InputError, match="a rim of 3 px"):
        tiling.Mosaic(plan, rim_px=3)
    with pytest.raises(InputError, match="blocks of 0 px"):
        list(tiling.blocks(plan, 0))
    with pytest.raises(InputError, match="does not belong"):
        tiling.cut(np.zeros((9, 10)), plan)
    with pytest.raises(InputError, match="3 tiles given"):
        tiling.stitch(np.zeros((3, 5, 5)), plan)
    with pytest.raises(InputError, match="'linear' is not known"):
        tiling.stitch(np.zeros((4, 5, 5)), plan, blend="linear")
