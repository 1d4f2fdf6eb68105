"""Synthetic image pairs with a known matrix between them, for the tests of alignment and motion.

They come from the benchmark's generator, with a smoother landscape.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))  # scripts, with bare names

import pairs as generator
import world as landscapes
from pairs import apply, corner_rms, rotation

__all__ = ["apply", "corner_rms", "generator", "landscapes", "make_pair", "rotation", "texture"]


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
