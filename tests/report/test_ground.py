"""Whether the glaciers lie where they are on the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glacierhpc.report import ground
from glacierhpc.report.run_files import RunFiles


def test_outlines_stand_on_the_grid_of_the_images(finished_run: Path) -> None:
    run = RunFiles(finished_run)
    cube = run.cube("clean.zarr")
    rows, columns = cube.sizes["y"], cube.sizes["x"]
    rings = ground.glacier_rings(run, cube)
    outer, hole = sorted(rings, key=lambda ring: -np.ptp(ring[:, 0]))
    # the fixture's glacier: around 77.55 E, 32.052 N in a box of 77.52 to 77.58 E, 32.030 to 32.075 N
    assert hole.mean(axis=0) == pytest.approx([columns / 2, (32.075 - 32.052) / 0.045 * rows], abs=3)
    assert np.ptp(outer[:, 0]) / np.ptp(hole[:, 0]) == pytest.approx(6, rel=0.1)
    to_north, to_south = hole[:, 1].mean() - outer[:, 1].min(), outer[:, 1].max() - hole[:, 1].mean()
    assert to_south > 1.3 * to_north  # it reaches further south, and rows grow southwards


def test_holes_of_a_glacier_are_not_inside() -> None:
    outer = np.array([[10, 5], [30, 5], [30, 45], [10, 45], [10, 5]], float)
    hole = np.array([[15, 20], [20, 20], [20, 30], [15, 30], [15, 20]], float)
    ice = ground.inside([outer, hole], (50, 40))
    assert ice.shape == (50, 40)
    assert ice[10, 12] and ice[40, 28]
    assert not ice[25, 17] and not ice[2, 20] and not ice[20, 35]
    assert ice.sum() == pytest.approx(20 * 40 - 5 * 10, rel=0.1)


def test_without_outlines_there_are_none(copied_run: Path) -> None:
    (copied_run / "outlines.geojson").unlink()
    run = RunFiles(copied_run)
    assert ground.glacier_rings(run, run.cube("clean.zarr")) == []
    assert not ground.inside([], (4, 5)).any()
