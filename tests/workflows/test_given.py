"""Cubes made elsewhere: what is taken over, what is refused and with which advice, and the whole task on one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from glacierhpc.cube import open_cube
from glacierhpc.errors import InputError
from glacierhpc.grid import Grid
from glacierhpc.rundir import RunDirectory, read_json
from glacierhpc.workflows import run_step, run_steps
from glacierhpc.workflows.given import read_given
from tests.workflows.cubes import given_config, given_cube, store

Change = Callable[[xr.Dataset], xr.Dataset]


def test_the_whole_task_on_a_cube_of_ones_own(tmp_path: Path) -> None:
    config = given_config(
        tmp_path / "run", store(given_cube(), tmp_path / "mine.zarr"), evaluate={"control": True}
    )
    told = run_steps(config)
    assert list(told["steps"]) == ["composite", "sequences", "train", "evaluate", "predict", "flow", "report"]
    assert told["table"][0][0] == "search, acquire, clean, align" and "skipped" in told["table"][0][1]
    run = RunDirectory(tmp_path / "run")
    metrics = read_json(run.metrics)
    baselines = {"persistence", "same_season_last_year", "climatology", "blend"}
    assert set(metrics["models"]) == {"convlstm", *baselines} and set(metrics["skill"]) == baselines
    assert metrics["shows"] == "greenness (NDVI values), not ice motion" and metrics["threshold"] is None
    assert metrics["control"]["verdict"] in ("passes", "fails", "undecided")
    assert set(metrics["by_season"]) == {"DJF", "MAM", "JJA", "SON"} and set(metrics["by_glacier"]) == {"all"}
    assert len(metrics["blend"]["weights"]) == 2 and run.scores.is_file()
    assert read_json(run.model / "model.json")["units"] == "1"
    page = run.report.read_text(encoding="utf-8")
    assert 'id="skill"' in page and 'id="alignment"' not in page and str(tmp_path / "mine.zarr") in page
    assert "greenness" in page and "damaged" not in page.split("<body")[1]
    again = run_steps(config)
    assert again["steps"] == {} and ["steps", "nothing to do"] in again["table"]
    with pytest.raises(InputError, match="begin with: glacierhpc composite"):
        run_step("align", config)


def test_a_series_of_months_is_judged_without_what_needs_years(tmp_path: Path) -> None:
    cube = given_cube().isel(time=slice(0, 7))
    days = np.arange(7) * 30 * np.timedelta64(1, "D")
    cube = cube.assign_coords(time=np.datetime64("2018-03-01", "ns") + days)
    split = {"method": "block", "validation_share": 0.2, "test_share": 0.2}
    config = given_config(
        tmp_path / "run", store(cube, tmp_path / "short.zarr"), split=split, sequences={"stride_px": 4}
    )
    told = run_steps(config)["steps"]["evaluate"]["table"]
    metrics = read_json(RunDirectory(config.run_path).metrics)
    assert set(metrics["left_out"]) == {"same_season_last_year", "climatology"}
    assert set(metrics["skill"]) == {"persistence", "blend"}
    assert any(label == "without climatology" and "too short" in why for label, why in told)


def test_values_dates_and_place_are_taken_over(tmp_path: Path) -> None:
    cube = given_cube()
    cube["valid"] = (("time", "y", "x"), np.ones((40, 24, 24), bool))
    cube["valid"][3, 10, :] = False
    upside_down = cube.isel(y=slice(None, None, -1), x=slice(None, None, -1))
    for number, given in enumerate((cube, upside_down)):
        config = given_config(
            tmp_path / f"run{number}", store(given, tmp_path / f"{number}.zarr", zarr_format=2 + number)
        )
        told = dict(map(tuple, run_step("composite", config)["table"]))
        taken = open_cube(RunDirectory(config.run_path).composite)
        expected = cube["data"].where(cube["valid"])
        assert np.array_equal(taken["data"].values, expected.values, equal_nan=True)
        assert np.array_equal(taken["valid"].values, np.isfinite(expected.values[:, 0]))
        assert np.array_equal(taken["time"].values, cube["time"].values)
        grid = Grid.from_dataset(taken)
        assert grid.crs == "EPSG:32643" and grid.transform == (30, 0, 500000, 0, -30, 3600000)
        assert (
            told["bands"] == "ndvi" and told["outside of the range of values"] == "0.00% of the valid pixels"
        )


def test_numbers_beyond_the_range_of_values_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = given_config(
        tmp_path / "run",
        store(given_cube(), tmp_path / "a.zarr"),
        input={"value_range": [-0.1, 0.1], "units": "m"},
    )
    told = dict(map(tuple, run_step("composite", config)["table"]))
    assert float(told["outside of the range of values"].split("%")[0]) > 30
    assert "pixels lie outside input.value_range [-0.1, 0.1]" in caplog.text
    assert open_cube(RunDirectory(config.run_path).composite).attrs["units"] == "m"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda cube: cube.rename(data="ndvi"), "it holds ndvi and no 'data'"),
        (lambda cube: cube.squeeze("band", drop=True), "use expand_dims"),
        (lambda cube: cube.transpose("time", "band", "x", "y"), "not ('time', 'band', 'y', 'x')"),
        (lambda cube: cube.drop_vars("band"), "the axes band have no coordinates"),
        (lambda cube: cube.isel(time=[1, 0, 2]), "do not ascend"),
        (lambda cube: cube.isel(time=[0, 0, 2]), "stands there twice"),
        (lambda cube: cube.assign_coords(time=np.arange(40)), "write datetime64"),
        (lambda cube: cube.isel(x=[0, 1, 3, 9, 10, 11, 12, 13, 14, 15]), "x is not regular"),
        (lambda cube: cube.isel(x=slice(None, None, 2)), "not square"),
        (lambda cube: cube.drop_vars("spatial_ref"), "write_crs('EPSG:32643')"),
        (lambda cube: _in_degrees(cube), "does not count in metres"),
        (lambda cube: cube.assign(valid=cube["data"][:, 0]), "write bool of (time, y, x)"),
    ],
)
def test_each_fault_says_what_to_write(tmp_path: Path, change: Change, words: str) -> None:
    with pytest.raises(InputError) as said:
        read_given(store(change(given_cube()), tmp_path / "bad.zarr"))
    assert words in str(said.value) and "bad.zarr" in str(said.value)


def _in_degrees(cube: xr.Dataset) -> xr.Dataset:
    cube["spatial_ref"].attrs = {"crs_code": "EPSG:4326"}
    return cube


def test_what_is_no_cube_and_what_says_too_little(tmp_path: Path) -> None:
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(InputError, match="is not a Zarr group"):
        read_given(tmp_path / "empty.zarr")
    cube = given_cube()
    del cube["data"].attrs["valid_range"]
    config = given_config(tmp_path / "run", store(cube, tmp_path / "a.zarr"))
    with pytest.raises(InputError, match="the images lie between -0.*write input.value_range"):
        run_step("composite", config)
    cube["data"][:] = np.nan
    nothing = given_config(tmp_path / "none", store(cube, tmp_path / "b.zarr"), input={"value_range": [0, 1]})
    with pytest.raises(InputError, match="has no valid pixel"):
        run_step("composite", nothing)
    assert not RunDirectory(nothing.run_path).composite.exists()
