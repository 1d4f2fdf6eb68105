"""The examples make cubes that `input.cube` takes, from the real series they are about."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from glacierhpc.config import load_config
from glacierhpc.rundir import read_json
from glacierhpc.workflows import run_steps
from glacierhpc.workflows.given import read_given
from tests.conftest import ROOT

QUICK = {
    "model": {"parameters": {"hidden": [4], "head": 4}},
    "train": {"epochs": 1, "batch_size": 32},
    "evaluate": {"bootstrap_samples": 10, "control": False},
}


def write(*arguments: object) -> None:
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "cubes.py"), *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, text=True)


def test_pictures_of_two_glaciers_lie_apart(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    images = real_data("greenland-fronts-landsat") / "images"
    write("pictures", images / "Jakobshavn", tmp_path / "j.zarr", "--months", 3)
    write("pictures", images / "Sverdrup", tmp_path / "s.zarr", "--easting", 597_000, "--months", 12)
    one, other = (read_given(tmp_path / name) for name in ("j.zarr", "s.zarr"))
    assert one.sizes["time"] == 33 and np.isfinite(one.data).any(("band", "y", "x")).sum() == 13
    assert other.sizes["time"] == 31 and float(other.x.min()) > float(one.x.max())


def test_clouds_are_left_out_of_a_series_of_ndvi(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    write(
        "ndvi", real_data("slovenia-sentinel2-timeseries") / "ndvi_cloudmask_68dates.npz", tmp_path / "n.zarr"
    )
    cube = read_given(tmp_path / "n.zarr")
    assert cube.sizes["time"] == 68 and 0.55 < float(np.isfinite(cube.data).mean()) < 0.65


def test_measured_velocity_is_forecast_with_its_gaps(
    real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    write("velocity", real_data("kaskawulsh-velocity-series"), tmp_path / "v.zarr")
    settings = {
        "name": "velocity",
        "run_dir": "run",
        "input": {"cube": "v.zarr"},
        "sequences": {"size_px": 32, "stride_px": 32, "steps_in": 2, "steps_out": 1, "min_valid_share": 0.3},
        "split": {"method": "block"},
        **QUICK,
    }
    (tmp_path / "v.yaml").write_text(yaml.safe_dump(settings))
    run_steps(load_config(tmp_path / "v.yaml"), to_step="evaluate")
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert metrics["shows"] == "measured ice velocity, east and north" and metrics["common_share"] > 0.5
    # two months hold no season of another year
    assert set(metrics["models"]) == {"convlstm", "persistence", "blend"}
    errors = {name: scores["mae"]["all"] for name, scores in metrics["models"].items()}
    assert all(5 < error < 200 for error in errors.values()), errors  # meters a year


@pytest.mark.parametrize("kind", ["pictures", "ndvi", "velocity"])
def test_each_kind_is_told(kind: str) -> None:
    assert f"examples/cubes.py {kind} " in (ROOT / "examples" / "cubes.py").read_text(encoding="utf-8")
