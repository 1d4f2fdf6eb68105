"""Compile the kernels of a small forecast, so that the image brings them: run in %post, with NUMBA_CACHE_DIR set.

The steps themselves are run, on 30 synthetic scenes: they know best with which types they call their kernels. What
is left out is compiled where it is first needed.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np

from glacierhpc.config import load_config
from glacierhpc.config.presets import preset_path
from glacierhpc.coreg import align_pair
from glacierhpc.kernels.motions import MOTIONS, shift_matrix
from glacierhpc.kernels.warp import KERNELS, warp
from glacierhpc.scenes import archive
from glacierhpc.workflows import run_steps

SMALL = (
    "cluster.kind=serial", "sequences.size_px=32", "sequences.stride_px=32",
    "sequences.steps_in=2", "train.epochs=1", "evaluate.bootstrap_samples=10",
)  # fmt: skip


def forecast(folder: Path) -> None:
    """Run all steps on scenes of five years."""
    scenes = folder / "scenes"
    archive.create(scenes, scenes=30, every_days=64, size_px=96, cloud_share=0.0)
    with archive.serve(scenes) as served:
        own = {
            "run_dir": folder / "run",
            "archive.catalogue": served.stac_url,
            "area.outlines": scenes / "outlines.gpkg",
        }
        run_steps(
            load_config(preset_path("demo"), [*SMALL, *(f"{key}={value}" for key, value in own.items())])
        )


def alignments() -> None:
    """Align and resample in every way that may be asked for."""
    random = np.random.default_rng(0)
    image = random.normal(size=(128, 128)).cumsum(axis=0).cumsum(axis=1).astype(np.float32)
    moved = np.roll(image, 1, axis=1)
    for motion, mask in itertools.product(MOTIONS, (None, np.ones(image.shape, bool))):
        align_pair(image, moved, motion=motion, reference_valid=mask, moving_valid=mask, stable=mask)
    for kernel, matrix in itertools.product(KERNELS, (shift_matrix(0.4, 0.3), np.eye(3))):
        warp(image, matrix, kernel=kernel)


if __name__ == "__main__":
    forecast(Path(sys.argv[1]))
    alignments()
