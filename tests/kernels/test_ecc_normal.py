"""Sums, normal equations and steps against plain NumPy on whole arrays, block by block where it matters."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from glacierhpc.kernels.ecc_normal import (
    blocks_of,
    correlation_of,
    covariance,
    normal_equations,
    offsets,
    residuals,
    solve,
)
from glacierhpc.kernels.ecc_sums import (
    SIDES_PX,
    SUMS,
    accumulate,
    accumulate_softened,
    block_centres,
    block_side,
)
from glacierhpc.kernels.ecc_weights import robust_weights
from glacierhpc.kernels.motions import MOTIONS, Frame, increment, jacobian, to_pixels
from glacierhpc.kernels.pyramid import soften
from glacierhpc.kernels.sampling import (
    CUBIC,
    LEAST_RUN_PX,
    LINEAR,
    QUINTIC,
    VECTOR_PX,
    run_length,
    sample_row_softened,
    softened_kernels,
)
from tests.kernels.test_sampling import interpolated, positions
from tests.pairs import make_pair, rotation

SHAPE = (70, 90)
# no homography here: its segments are tested in test_sampling
MATRIX = np.vstack([rotation(2.0, (1.3, -0.6), SHAPE, zoom=1.01), [0, 0, 1]])
MEAN, GAIN, OFFSET = 0.3, 1.7, -0.4


def pair_with_holes(seed=2):
    """Two unrelated rough images on slopes, so that no sum vanishes, with holes of their own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    reference = (rng.normal(size=SHAPE) + 0.08 * x - 0.05 * y).astype(np.float32)
    moving = (rng.normal(size=SHAPE) + 0.08 * x).astype(np.float32)
    reference[:9, 3:30], reference[40, 50] = np.nan, np.nan
    moving[10:15, 5:20], moving[60:, 80:] = np.nan, np.nan
    return reference, moving


def warped(moving, matrix, half):
    if half != LINEAR:
        return interpolated(moving, matrix, half, SHAPE)
    u, v = positions(matrix, SHAPE)
    return map_coordinates(moving.astype(float), [v, u], order=1, cval=np.nan)


def plain_sums(reference, moving, side):
    """Return the table of `SUMS` of two images on one grid, by whole arrays, and what each pixel says."""
    with np.errstate(invalid="ignore"):
        r, i = reference[1:-1, 1:-1], moving[1:-1, 1:-1]
        (rx, ry), (ix, iy) = (
            (image[1:-1, 2:] - image[1:-1, :-2], image[2:, 1:-1] - image[:-2, 1:-1])
            for image in (reference, moving)
        )
        gx, gy = rx + ix, ry + iy
        one = np.ones_like(r)
        terms = [one, r, i, r * r, i * i, r * i, gx, gy, gx * r, gy * r, gx * i, gy * i]
        terms += [gx * gx, gx * gy, gy * gy, rx * ix + ry * iy]
    ok = np.isfinite(np.sum(terms, axis=0))
    terms = [np.where(ok, term, 0.0) for term in terms]
    rows, columns = (range(0, n, side) for n in r.shape)
    return np.array([[[t[y : y + side, x : x + side].sum() for t in terms] for x in columns] for y in rows])


def table_of(reference, moving, matrix, half, side, *, every=1):
    table = np.full((*block_centres(SHAPE, side).shape[:2], len(SUMS)), 777.0)
    known = (np.float32(MEAN), moving, matrix, np.float32(GAIN), np.float32(OFFSET))
    accumulate(reference, *known, half, side, every, table)
    return table


@pytest.mark.parametrize(
    ("half", "side"), [(LINEAR, 16), (LINEAR, 64), (CUBIC, 16), (CUBIC, 32), (QUINTIC, 64)]
)
def test_one_pass_sums_what_plain_arrays_give(half, side):
    reference, moving = pair_with_holes()
    table = table_of(reference, moving, MATRIX, half, side)
    plain = plain_sums(reference.astype(float) - MEAN, GAIN * warped(moving, MATRIX, half) + OFFSET, side)
    assert table.shape == plain.shape and 0 < plain[..., 0].sum() < 0.95 * (SHAPE[0] - 2) * (SHAPE[1] - 2)
    np.testing.assert_array_equal(table[..., 0], plain[..., 0])
    scale = np.abs(plain).max(axis=(0, 1))
    np.testing.assert_allclose(table / scale, plain / scale, atol=3e-5)


def test_values_of_pixels_without_data_never_matter_and_other_rows_of_blocks_can_be_left_out():
    reference, moving = pair_with_holes()
    full = table_of(reference, moving, MATRIX, LINEAR, 16)
    sparse = table_of(reference, moving, MATRIX, LINEAR, 16, every=2)
    np.testing.assert_array_equal(sparse[1::2], full[1::2])
    assert not sparse[::2].any() and full[::2].any()


STRIPS = {
    "turn": np.vstack([rotation(7.0, (1.3, -0.6), (150, 130)), [0, 0, 1]]),
    "homography": np.vstack([rotation(-2.0, (1.3, -0.6), (150, 130), zoom=0.97), [1e-5, 2e-5, 1]]),
    "beside": np.vstack([rotation(3.0, (60.5, -120.5), (150, 130)), [0, 0, 1]]),
}
RUNS = {
    "identity": np.eye(3),
    "whole pixels": np.array([[1, 0, 7.0], [0, 1, -5.0], [0, 0, 1]]),
    "translation": np.array([[1, 0, 1.3], [0, 1, -0.6], [0, 0, 1]]),
    "turn": np.vstack([rotation(0.2, (1.3, -0.6), (150, 130)), [0, 0, 1]]),
    "homography": np.vstack([rotation(-0.1, (1.3, -0.6), (150, 130)), [1e-6, 2e-6, 1]]),
    "beside": np.array([[1, 0, 60.5], [0, 1, -120.5], [0, 0, 1]]),
}
NOWHERE = np.array([[1, 0, 0.5], [0, 1, 1e12], [0, 0, 1]])


def rough_pair():
    rng = np.random.default_rng(3)
    reference, moving = (rng.normal(size=shape).astype(np.float32) for shape in ((150, 130), (140, 160)))
    reference[30:50, 20:90], moving[70:76, 100:104], moving[::31, ::37] = np.nan, np.nan, np.nan
    return reference, moving


def softened_table(reference, moving, matrix, side):
    table = np.full((*block_centres(reference.shape, side).shape[:2], len(SUMS)), 777.0)
    known = (
        np.float32(MEAN),
        moving,
        matrix,
        np.float32(GAIN),
        np.float32(OFFSET),
        softened_kernels(),
        side,
        1,
    )
    accumulate_softened(reference, *known, table)
    return table


@pytest.mark.parametrize("side", SIDES_PX)
@pytest.mark.parametrize("name", STRIPS)
def test_softening_strips_is_softening_before(name, side):
    reference, moving = rough_pair()
    assert run_length(STRIPS[name], reference.shape) < LEAST_RUN_PX
    table = softened_table(reference, moving, STRIPS[name], side)
    before = np.full(table.shape, 777.0)
    known = STRIPS[name], np.float32(GAIN), np.float32(OFFSET), QUINTIC, side, 1
    accumulate(soften(reference), np.float32(MEAN), soften(moving), *known, before)
    np.testing.assert_array_equal(table[..., 0], before[..., 0])
    assert table[..., 0].sum() > 0
    # a row that lies otherwise in its strip is interpolated with other roundings
    np.testing.assert_allclose(table, before, rtol=1e-4, atol=0.02)


@pytest.mark.parametrize("side", SIDES_PX)
@pytest.mark.parametrize("name", RUNS)
def test_softening_rows_on_the_way_is_softening_before(name, side):
    reference, moving = rough_pair()
    assert run_length(RUNS[name], reference.shape) >= LEAST_RUN_PX
    table = softened_table(reference, moving, RUNS[name], side)
    plain = plain_sums(softened(reference) - MEAN, softened_rows(moving, RUNS[name], reference.shape), side)
    np.testing.assert_array_equal(table[..., 0], plain[..., 0])
    assert table[..., 0].sum() > 0
    scale = np.abs(plain).max(axis=(0, 1))
    np.testing.assert_allclose(table / scale, plain / scale, atol=3e-5)


def softened(image):
    """Soften by [1, 6, 1] / 8 in both axes; NaN spreads, and comes from beyond."""
    padded = np.pad(image.astype(float), 1, constant_values=np.nan)
    rows = (padded[:-2] + 6 * padded[1:-1] + padded[2:]) / 8
    return (rows[:, :-2] + 6 * rows[:, 1:-1] + rows[:, 2:]) / 8


def softened_rows(moving, matrix, shape):
    """Return what `sample_row_softened` makes of the rows that the reference has, which is tested for itself."""
    out, buffer = np.full(shape, np.nan, np.float32), np.empty(shape[1] + 5 + VECTOR_PX, np.float32)
    length = run_length(matrix, shape)
    for y in range(1, shape[0] - 1):
        scale = np.float32(GAIN), np.float32(OFFSET)
        sample_row_softened(moving, matrix, y, softened_kernels(), length, *scale, buffer, out[y])
    return out.astype(float)


def test_nothing_is_summed_far_beside_an_image():
    for side in SIDES_PX:
        assert not softened_table(*rough_pair(), NOWHERE, side).any()


def test_blocks_cover_all_but_the_rim_once():
    for shape in ((70, 90), (129, 66), (18, 500)):
        for side in SIDES_PX:
            centres = block_centres(shape, side)
            seen = np.zeros(shape, int)
            for x, y in centres.reshape(-1, 2):
                first_x, first_y = (int(at - 1) // side * side + 1 for at in (x, y))
                seen[
                    first_y : min(first_y + side, shape[0] - 1), first_x : min(first_x + side, shape[1] - 1)
                ] += 1
            assert (seen[1:-1, 1:-1] == 1).all() and seen.sum() == (shape[0] - 2) * (shape[1] - 2)
    np.testing.assert_allclose(block_centres((34, 50), 32)[0], [[16.5, 16.5], [40.5, 16.5]])


@pytest.mark.parametrize(
    ("shape", "side"), [((100, 100), 16), ((192, 900), 32), ((383, 500), 32), ((384, 384), 64)]
)
def test_images_have_six_blocks_or_more_along_the_shorter_side(shape, side):
    assert block_side(shape) == side


def matched_pair(shape=(130, 150), shift=(0.12, -0.07), noise=0.01, seed=3):
    truth = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
    return make_pair(shape, truth, noise=noise, seed=seed)


def compared(reference, moving, side=16, *, local=False, gain=1.0):
    table = np.empty((*block_centres(reference.shape, side).shape[:2], len(SUMS)))
    mean, offset = np.float32(0.5), np.float32(-0.5 * gain)
    accumulate(reference, mean, moving, np.eye(3), np.float32(gain), offset, LINEAR, side, 1, table)
    return blocks_of(table.reshape(-1, len(SUMS)), local)


def fields_of(motion, shape, side=16):
    return jacobian(motion, Frame.of(shape).scaled(block_centres(shape, side).reshape(-1, 2)))


def equations(blocks, fields):
    return normal_equations(blocks, np.ones(len(blocks.pixels)), fields, 1.0)


# a rim without gradients, and on a whole pixel the bilinear kernel needs the next
INNER = (slice(1, -2), slice(1, -2))


def steepest(motion, reference, moving, at_blocks=16):
    """Return the (k, pixels) images of the motion's fields along the mean gradient, and the images' common pixels."""
    gradients = []
    for axis in (1, 0):
        both = sum(np.gradient(image.astype(float), axis=axis) for image in (reference, moving))
        gradients.append(0.5 * both[INNER])
    y, x = (axis[INNER].astype(float) for axis in np.indices(reference.shape))
    if at_blocks:
        centres = block_centres(reference.shape, at_blocks)
        x, y = (
            centres[(y.astype(int) - 1) // at_blocks, (x.astype(int) - 1) // at_blocks, i] for i in (0, 1)
        )
    fields = jacobian(motion, Frame.of(reference.shape).scaled(np.stack([x.ravel(), y.ravel()], axis=1)))
    return np.einsum("pck,cp->kp", fields, np.stack([g.ravel() for g in gradients]))


@pytest.mark.parametrize("motion", MOTIONS)
def test_normal_equations_are_those_of_whole_arrays(motion):
    reference, moving = matched_pair()
    g = steepest(motion, reference, moving)
    r, i = (image[INNER].ravel().astype(float) for image in (reference, moving))
    r, i = r - r.mean(), i - i.mean()
    blocks = compared(reference, moving)
    normal = equations(blocks, fields_of(motion, reference.shape))
    assert blocks.pixels.sum() == r.size
    scale = np.sqrt(np.diag(g @ g.T))
    np.testing.assert_allclose(
        normal.hessian / np.outer(scale, scale), g @ g.T / np.outer(scale, scale), atol=1e-5
    )
    np.testing.assert_allclose(normal.on_reference / scale, g @ r / scale, atol=1e-4)
    np.testing.assert_allclose(normal.on_moving / scale, g @ i / scale, atol=1e-4)
    assert normal.rho == pytest.approx(np.corrcoef(r, i)[0, 1], abs=1e-6)
    assert normal.gain == pytest.approx(r.std() / i.std(), abs=1e-5)
    assert correlation_of(*blocks.totals[1:]) == pytest.approx(normal.rho, abs=1e-12)


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_step_is_that_of_the_paper(motion):
    """Equations (15), (18) and (19) of Evangelidis & Psarakis (2008), solved by least squares."""
    reference, moving = matched_pair()
    g = steepest(motion, reference, moving).T
    r, i = (image[INNER].ravel().astype(float) for image in (reference, moving))
    r, i = r - r.mean(), i - i.mean()
    on = np.linalg.lstsq(g, np.stack([r, i], axis=1), rcond=None)[0].T
    gain = (r @ r - r @ g @ on[0]) / (r @ i - r @ g @ on[1])
    blocks = compared(reference, moving)
    normal = equations(blocks, fields_of(motion, reference.shape))
    step, own_gain = solve(normal)
    assert own_gain == pytest.approx(gain, abs=1e-4)
    np.testing.assert_allclose(step * normal.newton, on[0] - gain * on[1], atol=2e-4)


@pytest.mark.parametrize("motion", MOTIONS)
def test_one_step_all_but_ends_a_small_way(motion):
    frame, one = Frame.of((300, 320)), np.zeros((1, 2))
    p = np.random.default_rng(5).uniform(-0.15, 0.15, 8)[: jacobian(motion, one).shape[2]]
    truth = to_pixels(increment(p / frame.half), frame)
    reference, moving = make_pair((300, 320), truth, noise=0.0, seed=3)
    blocks = compared(reference, moving)
    normal = equations(blocks, fields_of(motion, reference.shape))
    step, _ = solve(normal)
    np.testing.assert_allclose(step, p, atol=0.01)


def test_local_means_drop_out_of_everything():
    reference, moving = matched_pair()
    y, x = np.mgrid[: reference.shape[0], : reference.shape[1]]
    steps = 0.3 * ((x - 1) // 16 % 3).astype(np.float32)  # constant within each block
    for local in (True, False):
        plain, stepped = (compared(reference, image, local=local) for image in (moving, moving + steps))
        # only pixels beside an edge have other gradients
        assert np.allclose(plain.ri, stepped.ri, rtol=1e-3, atol=1e-3) == local
        assert np.allclose(plain.ii, stepped.ii, rtol=1e-3, atol=1e-3) == local
    own = compared(reference, moving, local=True)
    patch_r, patch_i = (image[1:17, 1:17].astype(float) for image in (reference, moving))
    patch_r, patch_i = patch_r - patch_r.mean(), patch_i - patch_i.mean()
    sums = [(patch_r**2).sum(), (patch_i**2).sum(), (patch_r * patch_i).sum()]
    np.testing.assert_allclose([own.rr[0], own.ii[0], own.ri[0]], sums, rtol=1e-4)


def test_residuals_and_offsets_are_those_of_each_block():
    reference, moving = matched_pair(shift=(0.2, -0.1), noise=0.0)
    blocks = compared(reference, moving, side=32)
    variance, pull = residuals(blocks, 1.0)
    difference = (reference - moving)[1:33, 1:33].astype(float)
    # of values about the common mean, which cancels here
    assert variance[0] == pytest.approx((difference**2).mean(), rel=0.02)
    left = offsets(blocks, pull, 1.0)
    np.testing.assert_allclose(np.median(left, axis=0), [0.2, -0.1], atol=0.02)
    np.testing.assert_allclose(offsets(blocks, pull, 0.5), 2 * left)


def test_a_block_that_varies_in_one_direction_has_no_offset():
    reference, moving = matched_pair()
    stripes = np.sin(np.arange(1, 60) / 3.0).astype(np.float32)
    reference[:60, :59], moving[:60, :59] = stripes, stripes
    blocks = compared(reference, moving)
    left = offsets(blocks, residuals(blocks, 1.0)[1], 1.0)
    assert np.isnan(left[0]).all() and np.isfinite(left[-1]).all()


def weights_of(reference, moving):
    blocks = compared(reference, moving, local=True)
    return robust_weights(blocks, 1.0, 16).reshape(block_centres(reference.shape, 16).shape[:2])


def test_equal_blocks_keep_their_weight_and_cloud_and_movement_lose_it():
    reference, moving = matched_pair((242, 242), shift=(0.02, 0.01), noise=0.01)
    assert np.median(weights_of(reference, moving)) > 0.8
    cloud = moving.copy()
    cloud[1:49, 1:49] = 0.9 + 0.3 * np.random.default_rng(0).normal(size=(48, 48))
    moved = moving.copy()
    moved[1:49, 1:49] = make_pair((242, 242), [[1, 0, 0.7], [0, 1, -0.5]], noise=0.01, seed=3)[1][1:49, 1:49]
    for image in (cloud, moved):
        weights = weights_of(reference, image)
        assert weights[:3, :3].max() < 0.1
        assert np.median(weights[5:, 5:]) > 0.8
        assert ((weights >= 0) & (weights <= 1)).all()


def test_weights_do_not_depend_on_units_and_blocks_with_few_pixels_have_none():
    reference, moving = matched_pair((242, 242), shift=(0.3, 0.1), noise=0.02)
    moving[1:17, 1:17] = np.nan
    moving[5, 5:8] = 0.5
    plain, scaled = (
        weights_of(reference, moving),
        weights_of(*(3000 * image - 1499.5 for image in (reference, moving))),
    )
    np.testing.assert_allclose(plain, scaled, atol=0.02)
    assert plain[0, 0] == 0


def test_gradients_of_noise_are_told_from_those_of_the_scene():
    reference, moving = matched_pair(noise=0.0)
    fields = fields_of("translation", reference.shape)
    clear = compared(reference, moving)
    noisy = compared(*matched_pair(noise=0.05))
    shares = [equations(blocks, fields).newton for blocks in (clear, noisy)]
    assert shares[0] == pytest.approx(1.0, abs=0.02) and shares[1] < 0.8 * shares[0]


@pytest.mark.parametrize("motion", ["translation", "affine"])
def test_the_covariance_is_that_of_repeated_noise(motion):
    """Steps from the truth scatter as the sandwich form says."""
    shape, steps, predicted = (162, 178), [], []
    clear = make_pair(shape, np.eye(3), noise=0.0, seed=6)
    rng = np.random.default_rng(7)
    for _ in range(60):
        pair = [(image + 0.01 * rng.standard_normal(shape)).astype(np.float32) for image in clear]
        blocks = compared(*pair)
        ones, fields = np.ones(len(blocks.pixels)), fields_of(motion, shape)
        normal = normal_equations(blocks, ones, fields, 1.0)
        step, gain = solve(normal)
        steps.append(step)
        # scores are taken where the iteration ends
        left = compared(pair[0], pair[1])
        predicted.append(np.diag(covariance(normal, ones, residuals(left, gain)[1], fields)))
    ratio = np.std(steps, axis=0) / np.sqrt(np.mean(predicted, axis=0))
    assert ((ratio > 0.7) & (ratio < 1.3)).all(), ratio


def test_no_covariance_from_few_blocks():
    reference, moving = matched_pair((60, 60))
    blocks = compared(reference, moving)
    ones, fields = np.ones(len(blocks.pixels)), fields_of("homography", (60, 60))
    assert len(ones) == 16
    normal = normal_equations(blocks, ones, fields, 1.0)
    pull = residuals(blocks, 1.0)[1]
    assert covariance(normal, ones, pull, fields).shape == (8, 8)
    ones[0] = 0
    assert not len(covariance(normal, ones, pull, fields))


def test_texture_in_one_direction_determines_nothing():
    stripes = np.tile(np.sin(np.arange(100) / 3).astype(np.float32), (100, 1))
    blocks = compared(stripes, np.roll(stripes, 1, axis=1))
    for motion in MOTIONS:
        assert not len(solve(equations(blocks, fields_of(motion, stripes.shape)))[0])
