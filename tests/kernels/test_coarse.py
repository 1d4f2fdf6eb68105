"""The start among whole-pixel shifts, against the correlation coefficient of every shift in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from glacierhpc.kernels.coarse import coarse_shifts
from tests.pairs import make_pair

REACH = 6


def rough(shape, seed):
    image = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    image[np.random.default_rng(seed + 100).random(shape) < 0.2] = np.nan
    return image


def plain_scores(reference, moving, reach, least):
    """Return {(x, y): correlation of the common pixels} of every shift with enough of them."""
    scores = {}
    rows, columns = np.mgrid[: reference.shape[0], : reference.shape[1]]
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            inside = (rows + dy >= 0) & (rows + dy < moving.shape[0])
            inside &= (columns + dx >= 0) & (columns + dx < moving.shape[1])
            r, i = reference[inside], moving[rows[inside] + dy, columns[inside] + dx]
            ok = np.isfinite(r) & np.isfinite(i)
            if ok.sum() >= least:
                scores[dx, dy] = np.corrcoef(r[ok].astype(float), i[ok].astype(float))[0, 1]
    return scores


@pytest.mark.parametrize("shapes", [((30, 40), (30, 40)), ((25, 40), (33, 31)), ((40, 20), (20, 40))])
def test_every_peak_is_that_of_brute_force(shapes):
    reference, moving = rough(shapes[0], 1), rough(shapes[1], 2)
    least = 0.05 * min(np.isfinite(image).sum() for image in (reference, moving))
    scores = plain_scores(reference, moving, REACH, max(16, least))
    found = coarse_shifts(reference, moving, max_shift_px=REACH, most=10_000)
    around = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    peaks = {
        at for at, score in scores.items()
        if all(scores.get((at[0] + dx, at[1] + dy), -np.inf) <= score for dx, dy in around)
    }  # fmt: skip
    assert {(x, y) for x, y, _ in found} == peaks and len(peaks) > 5
    for x, y, correlation in found:
        assert correlation == pytest.approx(scores[x, y], abs=1e-4)
    assert [peak[2] for peak in found] == sorted((peak[2] for peak in found), reverse=True)
    assert coarse_shifts(reference, moving, max_shift_px=REACH, most=3) == found[:3]


@pytest.mark.parametrize("shift", [(0, 0), (30, -12), (-41, 38)])
def test_whole_pixels_are_found_among_masks_and_unequal_shapes(shift):
    truth = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], float)
    reference, moving = (image - image.mean() for image in make_pair((160, 200), truth, seed=8))
    reference[:30] = np.nan
    y, x = np.mgrid[:160, :200]
    moving[(y - 60) ** 2 + (x - 70) ** 2 < 40**2] = np.nan
    [(x, y, correlation)] = coarse_shifts(reference, moving[:150, :190], max_shift_px=45)
    assert (x, y) == shift and correlation > 0.8


def test_values_behind_no_data_and_gain_do_not_matter():
    reference, moving = rough((30, 40), 1), rough((30, 40), 2)
    plain = coarse_shifts(reference, moving, max_shift_px=REACH, most=5)
    scaled = coarse_shifts(30 * reference, 0.01 * moving, max_shift_px=REACH, most=5)
    np.testing.assert_allclose(scaled, plain, atol=1e-4)


def test_shifts_with_little_overlap_are_not_considered():
    image = np.random.default_rng(3).normal(size=(32, 32)).astype(np.float32)
    # the same corner, seen at the largest shift only
    moving = np.random.default_rng(4).normal(size=(32, 32)).astype(np.float32)
    moving[:8, :8] = image[24:, 24:]
    assert coarse_shifts(image, moving, max_shift_px=24)[0][:2] == (-24, -24)
    assert coarse_shifts(image, moving, max_shift_px=24, min_overlap_share=0.1)[0][:2] != (-24, -24)


@pytest.mark.parametrize("hopeless", [np.nan, 0.0])
def test_nothing_where_nothing_can_be_compared(hopeless):
    image, flat = rough((30, 40), 1), np.full((30, 40), hopeless, np.float32)
    for pair in ((image, flat), (flat, image), (flat, flat)):
        assert coarse_shifts(*pair, max_shift_px=REACH) == []


def test_nothing_where_no_shift_leaves_an_overlap():
    left, right = rough((30, 40), 1), rough((30, 40), 1)
    left[:, 10:], right[:, :30] = np.nan, np.nan
    assert coarse_shifts(left, right, max_shift_px=15) == []
    assert coarse_shifts(left, right, max_shift_px=32) != []
