"""Synthetic image pairs with a known matrix, clouds and moving ice, for the tests of alignment and motion.

They come from the benchmark's generator, with a smoother landscape.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))  # scripts, with bare names

import numpy as np
import pairs as generator
import world as landscapes
from pairs import apply, corner_rms, rotation
from scipy.ndimage import gaussian_filter

from glacierhpc.kernels.motions import MOTIONS

__all__ = [
    "ALL_MOTIONS",
    "MIDDLE",
    "SMALL",
    "TARGETS",
    "apply",
    "cloudy",
    "clouds",
    "corner_rms",
    "generator",
    "glacier_of",
    "ice_pair",
    "landscapes",
    "make_pair",
    "rms",
    "rotation",
    "shift",
    "texture",
]

MIDDLE = (400, 420)
SMALL = (240, 260)
ALL_MOTIONS = (*MOTIONS, "auto")
# corner RMS, px, at 3 % noise and 800 x 800; measured 0.0031, 0.0037, 0.0050, 0.0086, 0.0118
TARGETS = {"translation": 0.01, "euclidean": 0.01, "similarity": 0.015, "affine": 0.02, "homography": 0.04}


def texture(shape, *, seed=0, margin=80):
    """Return a landscape-like texture (detail of 1.5 to 20 px, unit deviation) with a margin around."""
    size = (shape[0] + 2 * margin, shape[1] + 2 * margin)
    return landscapes.World(size, seed=seed, spectrum=landscapes.smooth).image(size).astype(float)


def make_pair(shape, matrix, *, noise=0.03, seed=0, margin=80):
    """Return (reference, moving) with reference(x) = moving(matrix x), float32 in about [0, 1].

    `noise` is the deviation of independent noise on both, as a share of the range of values (6 deviations).
    """
    pair = generator.make(shape, matrix, noise=noise, seed=seed, margin=margin, spectrum=landscapes.smooth)
    return pair.reference, pair.moving


def shift(x, y):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def clouds(shape, share, *, seed=0, size_px=20):
    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape), size_px)
    return field > np.quantile(field, 1 - share)


def cloudy(image, covered):
    """Return an image with bright, rough cloud where `covered` is True."""
    bright = gaussian_filter(np.random.default_rng(6).normal(size=image.shape), 2)
    return np.where(covered, 0.9 + 0.5 * bright, image).astype(np.float32)


def glacier_of(shape, share):
    """Return a diagonal band of the scene."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    across = np.abs(x - y - 10)
    return across < np.quantile(across, share)


def ice_pair(motion, *, seed=4, share=0.2, shape=MIDDLE):
    """Return a pair without ice, its truth, the glacier, and the moving image with ice that moved by 6 px."""
    truth = generator.random_matrix(motion, shape, np.random.default_rng(seed), reach_px=3.0)
    reference, ground = make_pair(shape, truth, seed=seed)
    ice = make_pair(shape, shift(4.8, -3.6) @ truth, seed=seed)[1]
    glacier = glacier_of(shape, share)
    return reference, ground, truth, glacier, np.where(glacier, ice, ground).astype(np.float32)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))
