"""Steps left with nothing: the table says why, no empty product takes a place, the run ends with a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glacierhpc.config import Config
from glacierhpc.cube import Variable, create_cube, finish_cube, write_time
from glacierhpc.errors import GlacierError
from glacierhpc.grid import Grid
from glacierhpc.rundir import RunDirectory, read_table
from glacierhpc.scenes.quality import FLAG_ATTRIBUTES, FLAGS
from glacierhpc.workflows import imagery

GRID = Grid("EPSG:32643", (30.0, 0.0, 700005.0, 0.0, -30.0, 3500025.0), (64, 64))
PIXELS = ("time", "y", "x")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config.model_validate(
        {
            "name": "empty",
            "run_dir": str(tmp_path / "run"),
            "area": {"bbox_lonlat": [77.63, 32.09, 77.66, 32.12]},
            "period": {"start": "2020-01-01", "end": "2020-06-30"},
            "archive": {"catalogue": str(tmp_path), "collections": ["landsat-c2-l2"]},
            "cluster": {"kind": "serial"},
        }
    )


def write_cube(path: Path, *, flags: int = 0, valid: bool = True) -> None:
    """Write two scenes without any texture."""
    create_cube(
        path,
        GRID,
        times=np.array(["2020-01-05", "2020-02-05"], "datetime64[ns]"),
        bands=["green", "nir08", "swir16"],
        variables={
            "data": Variable(("time", "band", "y", "x"), "float32"),
            "valid": Variable(PIXELS, "bool", False),
            "filled": Variable(PIXELS, "bool", False),
            "quality": Variable(PIXELS, "uint16", 1, FLAG_ATTRIBUTES),
        },
        coords={"scene": ["first", "second"]},
    )
    arrays = {
        "data": np.full((3, *GRID.shape), 0.25, np.float32),
        "valid": np.full(GRID.shape, valid),
        "filled": np.zeros(GRID.shape, bool),
        "quality": np.full(GRID.shape, flags, np.uint16),
    }
    for index in range(2):
        write_time(path, index, arrays)
    finish_cube(path)


def test_scenes_without_texture_leave_a_table_and_no_cube(config: Config, run: RunDirectory) -> None:
    write_cube(run.clean)
    with pytest.raises(GlacierError, match="no scene could be aligned"):
        imagery.align(config, run)
    table = read_table(run.alignment)
    assert not table.ok.any() and table.reason.str.contains("no contrast").all()
    tables = {"alignment.parquet", "alignment_links.parquet", "alignment_vectors.parquet"}
    assert {path.name for path in run.path.iterdir()} == {"clean.zarr", *tables}


def test_scenes_under_cloud_leave_a_table_and_no_cube(config: Config, run: RunDirectory) -> None:
    write_cube(run.cube, flags=FLAGS["cloud"])
    with pytest.raises(GlacierError, match="no scene has enough clear ground"):
        imagery.clean(config, run)
    table = read_table(run.clean_table)
    assert list(table.state) == ["dropped", "dropped"] and table.reason.str.contains("0.0% of the area").all()
    assert {path.name for path in run.path.iterdir()} == {"cube.zarr", "clean.parquet"}


def test_windows_without_a_look_make_no_composite(config: Config, run: RunDirectory) -> None:
    write_cube(run.aligned, valid=False)
    with pytest.raises(GlacierError, match="none of 2 windows"):
        imagery.composite(config, run)
    assert {path.name for path in run.path.iterdir()} == {"aligned.zarr"}


def test_every_long_step_says_how_far_it_is(
    config: Config, run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    write_cube(run.cube)
    write_cube(run.aligned)
    with caplog.at_level("INFO"):
        imagery.clean(config, run)
        imagery.composite(config, run)
        with pytest.raises(GlacierError):
            imagery.align(config, run)
    last = {record.message.split(":")[0]: record for record in caplog.records if hasattr(record, "done")}
    assert set(last) == {"clean", "composite", "align"}
    assert all(last[step].done == last[step].total for step in ("clean", "composite"))
