"""The forecast of a whole area from disk to disk: the same as in memory, in memory that does not grow with the area."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from torch import nn

from glacierhpc.cube import Variable, create_cube, finish_cube, open_cube, write_time
from glacierhpc.datasets.climatology import Climatology
from glacierhpc.datasets.composites import ArrayComposites
from glacierhpc.datasets.scene import SceneSequence
from glacierhpc.datasets.sequences import SequencePlan
from glacierhpc.errors import InputError
from glacierhpc.evaluation.predict import predict_scene
from glacierhpc.grid import Grid
from glacierhpc.workflows import products
from glacierhpc.workflows.whole_scene import forecast_scene

STEPS = 10
TIMES = np.datetime64("2015-02-15", "ns") + np.arange(STEPS) * np.timedelta64(91, "D")


class Lean(nn.Module):
    """The last image, pulled towards what is usual and the mean of the tile; dates leave a trace."""

    def forward(self, images, images_valid, *, dates, climatology, climatology_valid):
        usual = torch.where(climatology_valid[:, -2:, None], climatology[:, -2:], 0.0)
        own = images.mean(dim=(1, 2, 3, 4)) + dates[:, -1] / 100
        return (images[:, -1:] + usual) / 2 + own.view(-1, 1, 1, 1, 1)


def write_composite(path: Path, side_px: int) -> None:
    """Write composites of noise, a date at a time, with gaps."""
    grid = Grid("EPSG:32643", (30.0, 0.0, 700005.0, 0.0, -30.0, 3500025.0), (side_px, side_px + 30))
    image, mask = Variable(("time", "band", "y", "x"), "float32"), Variable(("time", "y", "x"), "bool")
    create_cube(path, grid, times=TIMES, bands=["ndsi"], variables={"data": image, "valid": mask})
    for step in range(STEPS):
        rng = np.random.default_rng(step)
        valid = rng.random(grid.shape) < 0.8
        values = rng.random(grid.shape, dtype=np.float32)
        write_time(path, step, {"data": np.where(valid, values, np.nan)[None], "valid": valid})
    finish_cube(path)


def plan_for(side_px: int, size: int = 16) -> SequencePlan:
    shape = (STEPS, side_px, side_px + 30)
    return SequencePlan.build(shape, TIMES, size=size, stride=size, steps_in=3, steps_out=2)


def test_from_disk_to_disk_as_in_memory(tmp_path: Path) -> None:
    write_composite(tmp_path / "composite.zarr", 70)
    composite, plan = open_cube(tmp_path / "composite.zarr"), plan_for(70)
    data, valid = composite.data.values, composite.valid.values
    usual = Climatology.build(data, valid, TIMES, np.arange(STEPS), causal=True)
    whole = predict_scene(
        Lean(),
        data[4:7],
        valid[4:7],
        years=plan.years(np.flatnonzero(plan.starts[:, 0] == 4)[:1])[0],
        climatology=usual.frames(4, steps_in=3, steps=5, rows=slice(None), cols=slice(None)),
        size=16,
    )
    judged = np.ones((2, 70, 100), bool)
    judged[1, :9] = False
    facts = forecast_scene(
        Lean(), composite, plan, 4, prediction=tmp_path / "prediction.zarr", maps=tmp_path / "maps",
        judged=judged, block_px=32,
    )  # fmt: skip
    opened = products.open_prediction(tmp_path / "prediction.zarr")
    np.testing.assert_allclose(opened.prediction.values, whole.values, atol=1e-6)
    np.testing.assert_array_equal(opened.target_valid, valid[7:9] & judged)
    np.testing.assert_array_equal(opened.target[0, 0], np.where(valid[7], data[7, 0], np.nan))
    np.testing.assert_array_equal(opened.inputs.values, data[4:7])
    assert list(opened.lead_time.values) == list(TIMES[7:9]) and np.isfinite(facts.seams + facts.target_seams)
    assert opened.rio.crs.to_epsg() == 32643 if hasattr(opened, "rio") else "spatial_ref" in opened.coords
    with rasterio.open(facts.maps[1]) as raster:
        np.testing.assert_array_equal(raster.read(1), opened.prediction[1, 0])


def test_blocks_are_whole_files(tmp_path: Path) -> None:
    write_composite(tmp_path / "composite.zarr", 40)
    composite = open_cube(tmp_path / "composite.zarr")
    with products.prediction_writer(
        tmp_path / "p.zarr", composite, lead_time=TIMES[:1], input_time=TIMES[1:2]
    ) as writer:
        array = writer.read("prediction")
    assert array.shards == (1, 1, 40, 70) and products.BLOCK_PX % 512 == 0


def test_nothing_is_left_of_a_forecast_that_fails(tmp_path: Path) -> None:
    write_composite(tmp_path / "composite.zarr", 40)
    with pytest.raises(ZeroDivisionError):
        forecast_scene(
            _Broken(), open_cube(tmp_path / "composite.zarr"), plan_for(40), 0,
            prediction=tmp_path / "prediction.zarr", maps=tmp_path / "maps",
        )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["composite.zarr"]


class _Broken(nn.Module):
    def forward(self, images, images_valid, **named):
        raise ZeroDivisionError


def test_a_scene_of_other_composites_is_refused() -> None:
    composites = ArrayComposites.build(
        np.zeros((STEPS, 1, 40, 70), np.float32), np.ones((STEPS, 40, 70), bool)
    )
    with pytest.raises(InputError, match="do not belong to a plan"):
        SceneSequence.of(composites, plan_for(50), 0)
    with pytest.raises(InputError, match="no sequence starts at time step 6: give 0 to 5"):
        SceneSequence.of(composites, plan_for(40), 6)


PROGRAM = """
import resource, sys
from pathlib import Path
import torch
from glacierhpc.cube import open_cube
from glacierhpc.workflows.whole_scene import forecast_scene
from tests.workflows.test_whole_scene import Lean, plan_for
torch.set_num_threads(1)
folder, side_px = Path(sys.argv[1]), int(sys.argv[2])
forecast_scene(
    Lean(), open_cube(folder / f"{side_px}.zarr"), plan_for(side_px, 64), 4,
    prediction=folder / f"p{side_px}.zarr", maps=folder / f"m{side_px}", block_px=512,
    overlap_px=0,
)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_area(tmp_path: Path) -> None:
    peaks_mb = []
    for side_px in (640, 1280):
        write_composite(tmp_path / f"{side_px}.zarr", side_px)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path), str(side_px)],
            capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        peaks_mb.append(int(done.stdout) / 1024)
    # as one block the larger area takes 240 MB more than the smaller
    assert peaks_mb[1] - peaks_mb[0] < 60, peaks_mb
