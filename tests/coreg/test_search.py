"""The way from a start at low resolution to full size: coordinates of levels, rivals, motions, the finest structure."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from glacierhpc.coreg import descent
from glacierhpc.coreg import search as module
from glacierhpc.coreg.descent import AUTO, SearchOptions
from glacierhpc.coreg.prepared import prepare
from glacierhpc.coreg.search import search
from glacierhpc.kernels.motions import MOTIONS, corners
from tests.pairs import apply, corner_rms, generator, make_pair

SHAPE = (300, 320)


def options(motion="translation", **given):
    known = {"max_shift_px": 64.0, "max_iterations": 100, "epsilon": 1e-6, "min_overlap_share": 0.05, **given}
    return SearchOptions(motion, **known)


def shift(x, y):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def found(reference, moving, motion="translation", start=None, **given):
    return search(prepare(reference), prepare(moving), options(motion, **given), start)


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_matrix_means_the_same_on_every_level(motion):
    matrix = generator.random_matrix(motion, SHAPE, np.random.default_rng(0), reach_px=5.0)
    coarse = descent.coarser(matrix, 1)
    np.testing.assert_allclose(descent.finer(coarse) / descent.finer(coarse)[2, 2], matrix, atol=1e-12)
    # pixel i of a level lies at 2 i + 0.5 of the one before
    x, y = corners((150, 160))[:2]
    u, v = apply(coarse, x, y)
    np.testing.assert_allclose(apply(matrix, 2 * x + 0.5, 2 * y + 0.5), (2 * u + 0.5, 2 * v + 0.5), atol=1e-9)
    np.testing.assert_allclose(descent.coarser(matrix, 2), descent.coarser(coarse, 1), atol=1e-12)


@pytest.mark.parametrize("side", [60, 100, 200, 300, 500])
@pytest.mark.parametrize("motion", MOTIONS)
def test_the_motion_is_the_one_asked_for_whatever_the_size(motion, side):
    shape = (side, side + 10)
    truth = generator.random_matrix(motion, shape, np.random.default_rng(2), reach_px=3.0)
    reference, moving = make_pair(shape, truth, noise=0.01, seed=3)
    result = found(reference, moving, motion)
    assert result.reason == "" and result.motion == motion
    # noise of a hundredth leaves next to nothing to an image of 60 px, a wrong motion a pixel
    assert corner_rms(result.matrix, truth, shape) < 0.25


def test_only_clear_pairs_leave_out_half_size():
    """Where noise hides what full size shows, half of it may tell more, and is looked at."""
    shape, truth = (520, 540), shift(1.3, -0.6)
    for noise, levels in ((0.03, 2), (0.3, 1)):
        pair = (prepare(image) for image in make_pair(shape, truth, noise=noise, seed=3))
        end = descent.descend(*pair, np.eye(3), 4, options())
        assert end.levels == levels
        assert corner_rms(end.matrix, truth, shape) < 0.3


def test_small_levels_are_not_asked_for_more_than_they_determine():
    assert descent.motions_at(descent.PARAMETRIC_PIXELS - 1, "affine") == ["translation"]
    assert descent.motions_at(descent.FULL_PIXELS - 1, "affine") == ["translation", "similarity"]
    assert descent.motions_at(descent.FULL_PIXELS - 1, "euclidean") == ["translation", "euclidean"]
    for motion in MOTIONS:
        assert descent.motions_at(descent.FULL_PIXELS, motion)[-1] == motion
    assert descent.motions_at(descent.FULL_PIXELS, AUTO) == list(MOTIONS[:4])


def test_repeating_dunes_with_detail_between_them_are_told_apart():
    """Dunes repeat: at low resolution many shifts are nearly as good as the right one, and none may win by chance."""
    y, x = np.mgrid[: SHAPE[0] + 80, : SHAPE[1] + 80]
    wide = np.sin((x + 0.3 * y) / 4.0) + np.sin((y - 0.3 * x) / 4.0)
    detail = np.random.default_rng(1).normal(size=wide.shape)
    detail = gaussian_filter(detail, 5)
    land = (wide + detail / detail.std()).astype(np.float32)
    for at in ((3, 41), (40, 12), (60, 77), (20, 50)):
        moving = land[at[0] : at[0] + SHAPE[0], at[1] : at[1] + SHAPE[1]]
        result = found(land[40:-40, 40:-40], moving)
        assert result.reason == ""
        assert corner_rms(result.matrix, shift(40 - at[1], 40 - at[0]), SHAPE) < 0.02


@pytest.mark.parametrize("motion", ["translation", "affine"])
def test_illumination_that_moved_does_not_outvote_the_rock(motion):
    """Shadows are coarser than rock: the last look is at what is finer."""
    truth = shift(1.3, -0.8)
    made = generator.make(SHAPE, truth, noise=0.01, seed=4)
    rock = made.reference, made.moving
    shade = make_pair(SHAPE, shift(3.0, 1.0) @ truth, noise=0.0, seed=9)
    pair = [fine + 1.5 * (gaussian_filter(dark, 6) - 0.5) for fine, dark in zip(rock, shade, strict=True)]
    result = found(*(image.astype(np.float32) for image in pair), motion)
    plain = found(*(image.astype(np.float32) for image in pair), motion, robust=False)
    assert corner_rms(result.matrix, truth, SHAPE) < 0.1
    assert corner_rms(plain.matrix, truth, SHAPE) > 3 * corner_rms(result.matrix, truth, SHAPE)


def test_levels_are_left_out_where_both_show_the_same(monkeypatch):
    looked = []
    plain = module.ecc
    for place in (descent, module):
        monkeypatch.setattr(
            place, "ecc", lambda a, b, *given, **named: looked.append(a.shape) or plain(a, b, *given, **named)
        )
    reference, moving = make_pair((520, 520), shift(7.3, -4.1), noise=0.01, seed=3)
    clear = found(reference, moving)
    assert [shape[0] for shape in looked] == [32, 130, 520]
    looked.clear()
    moving[:200, :300] = 0.9 + 0.2 * np.random.default_rng(0).standard_normal((200, 300), np.float32)
    cloudy = found(reference, moving)
    assert {520, 260, 130} <= {shape[0] for shape in looked}
    for result in (clear, cloudy):
        assert corner_rms(result.matrix, shift(7.3, -4.1), (520, 520)) < 0.02


@pytest.mark.parametrize("seed", range(6))
def test_what_a_coarse_step_leaves_is_not_taken_for_something_else(seed):
    """A homography is steep at the corners: blocks there are off until the step before full size is short."""
    centre = shift(255.5, 255.5) @ np.diag([256.0, 256.0, 1.0])
    local = np.eye(3) + np.random.default_rng(seed).uniform(-1, 1, (3, 3)) * [
        [0.01] * 3,
        [0.01] * 3,
        [0.01, 0.01, 0],
    ]
    bent = centre @ local @ np.linalg.inv(centre)
    reference, moving = make_pair((512, 512), bent, noise=0.03, seed=seed)
    result = found(reference, moving, "homography")
    assert result.plain and corner_rms(result.matrix, bent, (512, 512)) < 0.04


def test_a_start_leaves_the_search_out(monkeypatch):
    reference, moving = make_pair(SHAPE, shift(90.3, -70.2), seed=3, margin=120)
    monkeypatch.setattr(descent, "coarse_shifts", lambda *_, **__: pytest.fail("searched"))
    result = found(reference, moving, start=shift(90, -70))
    assert corner_rms(result.matrix, shift(90.3, -70.2), SHAPE) < 0.03


def test_a_start_far_off_is_not_followed():
    reference, moving = make_pair(SHAPE, shift(2.0, 1.0), seed=3)
    lost = found(reference, moving, start=shift(40.0, -30.0))
    assert lost.reason or corner_rms(lost.matrix, shift(2.0, 1.0), SHAPE) < 0.05 or lost.rho < 0.5


def test_a_failure_keeps_what_is_known():
    empty = np.full(SHAPE, np.nan, np.float32)
    image = make_pair(SHAPE, shift(0, 0), seed=3)[0]
    for pair, name in (((empty, image), "reference"), ((image, empty), "moving image")):
        result = found(*pair)
        assert name in result.reason and result.vectors.shape == (0, 5) and result.iterations == 0


def test_correlation_before_is_that_of_the_smoothed_images():
    reference, moving = make_pair(SHAPE, shift(2.0, -1.0), noise=0.02, seed=3)
    result = found(reference, moving)
    a, b = (prepare(image).smooth[2:-3, 2:-3] for image in (reference, moving))
    assert result.rho_before == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=0.1)
    assert result.rho > result.rho_before
    # a rim of the smoothed images, of the gradients and of the cubic kernel is left out
    assert 0.94 < result.overlap_share < (SHAPE[0] - 5) * (SHAPE[1] - 6) / SHAPE[0] / SHAPE[1]


def test_without_overlap_at_no_shift_there_is_no_correlation_before():
    image = make_pair((200, 300), shift(0, 0), seed=3)[0]
    left, right = image[:, :200].copy(), image[:, 70:270].copy()
    left[:, :130], right[:, 130:] = np.nan, np.nan  # nearly the same ground, at opposite ends
    result = found(left, right, max_shift_px=100)
    assert result.reason == "" and np.isnan(result.rho_before)
    assert corner_rms(result.matrix, shift(-70, 0), (200, 200)) < 0.02
