"""Rows read through a matrix, against SciPy's bilinear and a plain Lagrange interpolation at every pixel."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from glacierhpc.kernels.sampling import (
    CUBIC,
    LINEAR,
    MAX_DRIFT_PX,
    PHASES,
    QUINTIC,
    VECTOR_PX,
    run_length,
    sample_row,
    sample_row_softened,
    softened_kernels,
)
from tests.pairs import apply, rotation

SHAPE = (41, 53)
COLUMNS = 60  # of the reference: wider than the image, so that rows begin and end outside
MATRICES = {
    "identity": np.eye(3),
    "whole pixels": np.array([[1, 0, 5.0], [0, 1, -3.0], [0, 0, 1]]),
    "translation": np.array([[1, 0, -2.3], [0, 1, 4.6], [0, 0, 1]]),
    "turn": np.vstack([rotation(3.0, (1.4, -0.7), SHAPE), [0, 0, 1]]),
    "turn back": np.vstack([rotation(-3.0, (-1.4, 0.7), SHAPE), [0, 0, 1]]),
    "zoom": np.vstack([rotation(0.0, (0.3, 0.2), SHAPE, zoom=1.07), [0, 0, 1]]),
    "shrink": np.vstack([rotation(0.0, (0.3, 0.2), SHAPE, zoom=0.93), [0, 0, 1]]),
    "homography": np.vstack([rotation(2.0, (1.4, -0.7), SHAPE, shear=0.01), [1e-5, -8e-6, 1]]),
}


def rough_image(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def lagrange(image, u, v, half, slant=0.0):
    """Interpolate at one point by the product form of Lagrange's polynomials; NaN where the pixels do not suffice.

    Down the columns first, each where the slanted line through the point crosses it, then along the line.
    """
    i, j = int(np.floor(u)), int(np.floor(v))
    nodes = np.arange(1 - half, half + 1)
    if (
        i + nodes[0] < 0
        or j + nodes[0] < 0
        or i + nodes[-1] >= image.shape[1]
        or j + nodes[-1] >= image.shape[0]
    ):
        return np.nan
    patch = image[np.ix_(j + nodes, i + nodes)].astype(np.float64)
    down = [weights(v - j + slant * (i + node - u), nodes) @ patch[:, k] for k, node in enumerate(nodes)]
    return weights(u - i, nodes) @ down


def weights(position, nodes):
    others = [nodes[nodes != node] for node in nodes]
    return np.array([np.prod((position - o) / (node - o)) for node, o in zip(nodes, others, strict=True)])


def interpolated(image, matrix, half, shape=(SHAPE[0], COLUMNS)):
    """Return what `sample_row` should give for every row of a reference of this shape."""
    u, v = positions(matrix, shape)
    slant = matrix[1, 0] / matrix[0, 0] if half != LINEAR else 0.0
    return np.array([
        [lagrange(image, *at, half, slant) for at in zip(*row, strict=True)] for row in zip(u, v, strict=True)
    ])  # fmt: skip


def sampled(image, matrix, half, *, rows=SHAPE[0], gain=1.0, offset=0.0):
    out = np.empty((rows, COLUMNS), np.float32)
    for y in range(rows):
        sample_row(image, matrix, y, half, np.float32(gain), np.float32(offset), out[y])
    return out


def positions(matrix, shape=(SHAPE[0], COLUMNS)):
    return apply(matrix, *np.mgrid[: shape[0], : shape[1]][::-1].astype(float))


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("half", [LINEAR, CUBIC, QUINTIC])
def test_every_pixel_is_that_of_the_plain_interpolation(name, half):
    image, matrix = rough_image(), MATRICES[name]
    ours = sampled(image, matrix, half)
    theirs = interpolated(image, matrix, half)
    # at a border a position may fall on either side by its rounding; and between the exact positions of a
    # homography's segments up to 0.003 px are missing, at slopes up to 5
    slack_px, slack = (3e-3, 0.015) if name == "homography" else (1e-9, 1e-4)
    near = np.minimum(*(np.abs(axis - np.round(axis)) for axis in positions(matrix))) < slack_px
    agree = np.isnan(ours) == np.isnan(theirs)
    assert agree[~near].all() and np.isfinite(ours).sum() > 0.5 * image.size
    both = np.isfinite(ours) & np.isfinite(theirs)
    np.testing.assert_allclose(ours[both], theirs[both], atol=slack)


def test_bilinear_is_scipys_and_a_line_across_the_columns_is_no_exception():
    image = rough_image()
    for matrix in (
        MATRICES["turn"],
        np.array([[0.02, -1, 40.5], [1, 0.02, 2.25], [0, 0, 1]]),
    ):  # a quarter turn
        u, v = positions(matrix)
        theirs = map_coordinates(image.astype(float), [v, u], order=1, mode="constant", cval=np.nan)
        ours = sampled(image, matrix, LINEAR)
        inside = (u > 0) & (v > 0) & (u < SHAPE[1] - 1) & (v < SHAPE[0] - 1)
        np.testing.assert_array_equal(np.isfinite(ours), inside)
        np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-4)


def test_cubic_polynomials_are_exact_and_linear_ones_for_the_bilinear_kernel():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] / 40.0
    for half, image in ((CUBIC, x**3 - 2 * x * y**2 + y**3 + x * y), (LINEAR, 3 * x - y + 0.5)):
        ours = sampled(image.astype(np.float32), MATRICES["translation"], half)
        u, v = (axis / 40.0 for axis in positions(MATRICES["translation"]))
        truth = u**3 - 2 * u * v**2 + v**3 + u * v if half == CUBIC else 3 * u - v + 0.5
        known = np.isfinite(ours)
        np.testing.assert_allclose(ours[known], truth[known], atol=1e-5)


def test_gain_and_offset_are_applied():
    image = rough_image()
    plain = sampled(image, MATRICES["turn"], CUBIC)
    np.testing.assert_allclose(
        sampled(image, MATRICES["turn"], CUBIC, gain=3.0, offset=-7.0), 3 * plain - 7, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("half", [LINEAR, CUBIC, QUINTIC])
def test_no_data_spreads_as_far_as_the_kernel_and_no_further(half):
    image, matrix = rough_image(), MATRICES["translation"]
    full = sampled(image, matrix, half)
    image[20, 30] = np.nan
    u, v = positions(matrix)
    reaches = (np.abs(u - 30) < half) & (np.abs(v - 20) < half)
    holed = sampled(image, matrix, half)
    assert reaches.sum() == (2 * half) ** 2
    np.testing.assert_array_equal(np.isnan(holed), np.isnan(full) | reaches)
    np.testing.assert_array_equal(holed[np.isfinite(holed)], full[np.isfinite(holed)])


@pytest.mark.parametrize("half", [LINEAR, CUBIC, QUINTIC])
@pytest.mark.parametrize("offset", [(-200, 0), (200, 0), (0, -200), (0, 200), (1e7, -1e7)])
def test_a_row_outside_is_no_data(half, offset):
    matrix = np.array([[1, 0, offset[0]], [0, 1, offset[1]], [0, 0, 1.0]])
    assert np.isnan(sampled(rough_image(), matrix, half)).all()


@pytest.mark.parametrize("half", [LINEAR, CUBIC, QUINTIC])
def test_images_smaller_than_the_kernel_are_no_data(half):
    assert np.isnan(sampled(rough_image((1, 1)), np.eye(3), half, rows=1)).all()


def test_a_homography_stays_within_its_stated_error_on_a_wide_row():
    x = np.arange(2000, dtype=np.float32)
    image = np.tile(x, (4, 1))  # its value is the position
    matrix = np.array([[1, 0, 0.0], [0, 1, 1.5], [1e-5, 0, 1]])
    out = np.empty(2000, np.float32)
    sample_row(image, matrix, 0, LINEAR, np.float32(1), np.float32(0), out)
    known = np.isfinite(out)
    assert known.sum() > 1900
    assert np.abs(out[known] - (x / (1 + 1e-5 * x))[known]).max() < 0.003


def test_softened_kernels_soften_and_shift():
    kernels, nodes = softened_kernels().astype(float), np.arange(-2, 4)
    assert kernels.shape == (PHASES + 1, 6)
    np.testing.assert_allclose(kernels[0], [0, 1 / 8, 6 / 8, 1 / 8, 0, 0], atol=1e-7)
    np.testing.assert_allclose(kernels, kernels[::-1, ::-1], atol=1e-7)
    np.testing.assert_allclose(kernels.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(kernels @ nodes, np.arange(PHASES + 1) / PHASES, atol=1e-6)


@pytest.mark.parametrize("period_px", [6, 8, 12, 20])
def test_softened_kernels_shift_waves_by_what_they_say(period_px):
    """Between a tenth and a half of what Lagrange's polynomial through as many pixels leaves, softened before."""
    frequency = 2 * np.pi / period_px
    response = softened_kernels().astype(float) @ np.exp(1j * frequency * np.arange(-2, 4))
    moved = np.unwrap(np.angle(response)) / frequency
    assert np.abs(moved - np.arange(PHASES + 1) / PHASES).max() < 0.004


SMALL_MOTIONS = {
    "translation": np.array([[1, 0, 1.3], [0, 1, 4.6], [0, 0, 1]]),
    "whole pixels": np.array([[1, 0, 5.0], [0, 1, -3.0], [0, 0, 1]]),
    "turn": np.vstack([rotation(0.1, (1.4, -0.7), SHAPE), [0, 0, 1]]),
    "homography": np.vstack([rotation(0.05, (1.4, -0.7), SHAPE, zoom=1.001), [1e-5, -8e-6, 1]]),
}


def softened_point(image, u, v):
    """Weight six rows and six columns around a point; NaN where they do not lie in the image."""
    i, j = int(np.floor(u)), int(np.floor(v))
    if i < 2 or j < 2 or i + 3 >= image.shape[1] or j + 3 >= image.shape[0]:
        return np.nan
    phases = np.arange(PHASES + 1) / PHASES
    across, down = (
        [np.interp(at, phases, weights) for weights in softened_kernels().T] for at in (u - i, v - j)
    )
    return down @ image[j - 2 : j + 4, i - 2 : i + 4].astype(float) @ across


@pytest.mark.parametrize("name", SMALL_MOTIONS)
def test_softened_rows_are_right_within_half_the_drift_and_on_average(name):
    image, matrix = rough_image(), SMALL_MOTIONS[name]
    image[20, 30] = np.nan
    ramps = [
        np.broadcast_to(ramp, SHAPE).astype(np.float32) for ramp in (np.arange(53), np.arange(41)[:, None])
    ]
    got, at_u, at_v = (softened_rows(each, matrix) for each in (image, *ramps))
    u, v = positions(matrix, (SHAPE[0], COLUMNS))
    for got_at, wanted in ((at_u, u), (at_v, v)):  # a ramp tells where its pixels are read
        off = (got_at - wanted)[np.isfinite(got_at)]
        assert np.abs(off).max() <= MAX_DRIFT_PX / 2 + 1e-4 and abs(off.mean()) < 0.004
    places = zip(at_u.ravel(), at_v.ravel(), strict=True)
    wanted = np.array([softened_point(image, *p) if np.isfinite(p).all() else np.nan for p in places])
    both = np.isfinite(got.ravel()) & np.isfinite(wanted)
    assert both.sum() > 0.6 * both.size
    np.testing.assert_allclose(got.ravel()[both], wanted[both], atol=2e-3)


def softened_rows(image, matrix):
    shape = SHAPE[0], COLUMNS
    out, buffer = np.full(shape, 777, np.float32), np.empty(COLUMNS + 5 + VECTOR_PX, np.float32)
    for row in range(shape[0]):
        known = softened_kernels(), run_length(matrix, shape), np.float32(1), np.float32(0)
        sample_row_softened(image, matrix, row, *known, buffer, out[row])
    return out
