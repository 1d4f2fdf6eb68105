"""The synthetic pairs are what they say: exact views of one landscape; the bounds are the least errors."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from tests.pairs import apply, generator, landscapes

SHAPE = (90, 110)
NOISE = 0.03
PARAMETERS, World = generator.PARAMETERS, landscapes.World


@pytest.fixture(scope="module")
def bound():
    return importlib.import_module("align_bound")


@pytest.fixture(scope="module", params=[landscapes.landscape, landscapes.smooth])
def world(request):
    return World((150, 170), seed=4, spectrum=request.param)


def test_an_image_is_the_fourier_series_at_every_point(world):
    assert world.sampling_error_px() < 1e-5
    image = world.image(world.shape)
    assert image.mean() == pytest.approx(0, abs=1e-4) and image.std() == pytest.approx(1, abs=1e-4)


def test_gradients_are_those_of_the_series(world):
    x, y, step = np.array([3.0, 40.0, 99.0]), np.array([0.0, 31.0, 88.0]), 1e-3
    along_x, along_y = world.gradients(world.shape)
    places = (y.astype(int), x.astype(int))
    differences = (world.exactly(x + step, y) - world.exactly(x - step, y)) / (2 * step)
    np.testing.assert_allclose(along_x[places], differences, atol=1e-4)
    differences = (world.exactly(x, y + step) - world.exactly(x, y - step)) / (2 * step)
    np.testing.assert_allclose(along_y[places], differences, atol=1e-4)
    np.testing.assert_allclose(world.gradients(world.shape, every=3)[0], along_x[::3, ::3], atol=1e-6)


@pytest.mark.parametrize("motion", list(PARAMETERS))
def test_the_moving_image_shows_at_the_mapped_point_what_the_reference_shows(motion):
    rng = np.random.default_rng(2)
    matrix = generator.random_matrix(motion, SHAPE, rng, reach_px=5.0)
    world = World(SHAPE, seed=1)
    moving = generator.view(world, SHAPE, matrix)
    i, j = rng.integers(0, 90, 50), rng.integers(0, 110, 50)
    back = apply(np.linalg.inv(matrix), j.astype(float), i.astype(float))
    np.testing.assert_allclose(moving[i, j], world.exactly(*back) / 6 + 0.5, atol=1e-5)


@pytest.mark.parametrize("motion", list(PARAMETERS))
def test_a_random_matrix_is_of_its_motion_and_reaches_as_far_as_asked(motion):
    for seed in range(20):
        matrix = generator.random_matrix(motion, SHAPE, np.random.default_rng(seed), reach_px=3.0)
        x, y = np.array([0.0, 109, 0, 109]), np.array([0.0, 0, 89, 89])
        u, v = apply(matrix, x, y)
        assert np.hypot(u - x, v - y).max() == pytest.approx(3.0, rel=0.02)
        linear = matrix[:2, :2]
        if motion == "translation":
            np.testing.assert_array_equal(linear, np.eye(2))
        if motion in ("euclidean", "similarity"):
            np.testing.assert_allclose(linear.T @ linear, np.linalg.det(linear) * np.eye(2), atol=1e-12)
        if motion == "euclidean":
            assert np.linalg.det(linear) == pytest.approx(1)
        assert (motion == "homography") == bool(matrix[2, :2].any())


def test_noise_and_clouds_are_as_asked_and_different_in_both():
    clear, noisy = (generator.make((200, 200), np.eye(3), noise=n, seed=3) for n in (0.0, 0.1))
    np.testing.assert_allclose(clear.reference, clear.moving, atol=1e-6)
    added = [noisy.reference - clear.reference, noisy.moving - clear.moving]
    assert [a.std() for a in added] == pytest.approx([0.1, 0.1], rel=0.02)
    assert abs(np.corrcoef(added[0].ravel(), added[1].ravel())[0, 1]) < 0.02
    cloudy = generator.make((200, 200), np.eye(3), clouds=0.3, seed=3)
    shares = [cloudy.reference_valid.mean(), cloudy.moving_valid.mean()]
    assert shares == pytest.approx([0.7, 0.7], abs=0.001)
    assert 0.35 < (cloudy.reference_valid & cloudy.moving_valid).mean() < 0.65
    assert cloudy.reference[~cloudy.reference_valid].min() > 0.8


def test_a_stack_shows_one_landscape():
    images, valid, truth = generator.stack_images(3, 120, noise=0.0, clouds=0.2, seed=1)
    world = World((120 + 64, 120 + 64), seed=1)
    for image, mask, matrix in zip(images, valid, truth):
        np.testing.assert_allclose(image[mask], generator.view(world, (120, 120), matrix)[mask], atol=1e-6)
    assert 0.5 < valid.mean() < 1 and not np.array_equal(truth[0], truth[1])


def bounds_of(bound, motion, noise, *, shape=(160, 160), clouds=0.0):
    world = World(shape, seed=3)
    clear = generator.view(world, shape)
    pair = generator.observe(clear, clear, np.eye(3), noise=noise, clouds=clouds, seed=3)
    gradients = bound.exact_gradients(world, shape)
    return bound.known_signal(pair, motion, gradients, noise), bound.unknown_signal(pair, motion, noise)


@pytest.mark.parametrize("motion", list(PARAMETERS))
def test_not_knowing_the_landscape_costs_little_where_noise_is_low_and_much_where_it_is_high(bound, motion):
    quiet, loud = bounds_of(bound, motion, 0.003), bounds_of(bound, motion, 0.1)
    assert 0.8 < quiet[1] / quiet[0] < 1.2
    assert loud[0] == pytest.approx(quiet[0] * 0.1 / 0.003)
    assert loud[1] > 1.2 * loud[0]


def test_more_parameters_and_more_clouds_raise_the_bound(bound):
    errors = [bounds_of(bound, motion, NOISE) for motion in PARAMETERS]
    for less, more in zip(errors, errors[1:]):
        assert more[0] > less[0] and more[1] > less[1]
    cloudy = bounds_of(bound, "affine", NOISE, clouds=0.3)
    clear = errors[list(PARAMETERS).index("affine")]
    assert 1.2 < cloudy[0] / clear[0] < 3 and 1.2 < cloudy[1] / clear[1] < 3


def test_the_most_likely_shift_of_periodic_images_scatters_by_the_bound(bound):
    """Simulate what the bound says: images of which only the spectrum is known, whose shift is the most likely one."""
    n, noise, trials = 48, 0.06, 300
    f = np.fft.fftfreq(n)
    fx, fy = np.broadcast_to(f, (n, n)), np.broadcast_to(f[:, None], (n, n))
    radius = np.hypot(fx, fy)
    power = (landscapes.landscape(radius) * (radius <= 0.48)) ** 2
    power[0, 0] = 0
    power /= power.mean() * 36
    weight = power / ((power + noise**2) ** 2 - power**2)
    rng = np.random.default_rng(0)
    found = [_most_likely_shift(power, weight, noise, fx, fy, rng) for _ in range(trials)]
    scatter = np.sqrt((np.array(found) ** 2).sum(axis=1).mean())
    information = bound.information_of_a_pixel(noise, size=n)[0, 0] * n**2
    assert scatter == pytest.approx(np.sqrt(2 / information), rel=0.1)


def _most_likely_shift(power, weight, noise, fx, fy, rng):
    shape = power.shape
    signal = np.fft.fft2(rng.normal(size=shape)) * np.sqrt(power)
    first, second = (signal + noise * np.fft.fft2(rng.normal(size=shape)) for _ in range(2))
    product, shift = weight * first * np.conj(second), np.zeros(2)
    frequencies = 2 * np.pi * np.stack([fx, fy])
    for _ in range(4):  # Newton
        turned = product * np.exp(1j * np.tensordot(shift, frequencies, 1))
        slope = -(frequencies * turned.imag).sum(axis=(1, 2))
        curvature = -np.einsum("aij,bij,ij->ab", frequencies, frequencies, turned.real)
        shift = shift - np.linalg.solve(curvature, slope)
    return shift
