"""Runs on the embedded archive: started again, killed half-way, over two UTM zones, with broken files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from glacierhpc import cli
from glacierhpc.config import load_config
from glacierhpc.cube import open_cube
from glacierhpc.errors import InputError
from glacierhpc.grid import Grid
from glacierhpc.hpc.quota import TOLD
from glacierhpc.hpc.sites import user_file
from glacierhpc.rundir import RunDirectory, read_json, read_table
from glacierhpc.scenes import archive
from glacierhpc.workflows import run_step, run_steps

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

ROOT = Path(__file__).resolve().parents[2]
BANDS = {"green": "SR_B3", "nir08": "SR_B5", "swir16": "SR_B6", "quality": "QA_PIXEL"}
BBOX = [77.6325, 32.095, 77.6675, 32.125]


def write_config(folder: Path, catalogue: object, **sections: Any) -> Path:
    values = {
        "name": "archive",
        "run_dir": str(folder / "run"),
        "area": {"bbox_lonlat": BBOX},
        "period": {"start": "2015-01-01", "end": "2015-12-31"},
        "archive": {
            "catalogue": str(catalogue),
            "collections": ["landsat-c2-l2"],
            "max_cloud_cover_percent": None,
            "signing": "none",
        },
        "acquire": {"bands": ["green", "nir08", "swir16"], "min_valid_share": 0, "max_attempts": 2, "backoff_s": 0.01},
        "sequences": {"size_px": 16, "steps_in": 1, "steps_out": 1},
        "cluster": {"kind": "serial"},
        **sections,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "archive.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def command_line(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run a command in this process; returns its exit code and what it said about errors."""
    before = signal.getsignal(signal.SIGTERM)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main([str(argument) for argument in arguments])
    signal.signal(signal.SIGTERM, before)
    return int(end.value.code or 0), capsys.readouterr().err


def cube_files(run: RunDirectory) -> dict[str, bytes]:
    return {
        str(path.relative_to(run.cube)): path.read_bytes() for path in run.cube.rglob("*") if path.is_file()
    }


@pytest.fixture
def asked(
    archive_server: archive.ServedArchive, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], set[str]]]:
    """Return a function that says which files were asked for since it was called last."""
    # GDAL would remember what this process has read for other tests
    monkeypatch.setenv("CPL_VSIL_CURL_NON_CACHED", "/vsicurl/http")
    counts = dict(archive_server.statistics().by_path)

    def since() -> set[str]:
        nonlocal counts
        before, counts = counts, dict(archive_server.statistics().by_path)
        return {path.rsplit("/", 1)[-1] for path, count in counts.items() if count > before.get(path, 0)}

    yield since
    archive_server.set_faults()


@pytest.fixture(scope="module")
def whole(
    archive_server: archive.ServedArchive, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunDirectory, dict[str, Any]]:
    """Run from the search to the composites, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    summary = run_steps(load_config(write_config(folder, archive_server.stac_url)), to_step="composite")
    return RunDirectory(folder / "run"), summary


def test_a_finished_run_has_nothing_to_do(
    whole: tuple[RunDirectory, dict[str, Any]], asked: Callable[[], set[str]]
) -> None:
    run, summary = whole
    assert list(summary["steps"]) == ["search", "acquire", "clean", "align", "composite"]
    scenes = len(read_json(run.items)["features"])
    cleaned = read_table(run.clean_table)
    kept = cleaned.scene[cleaned.state != "dropped"].unique()
    assert scenes == 12 and list(read_table(run.alignment).scene) == list(kept)
    assert open_cube(run.composite).sizes["time"] == 4
    stamps = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.name == "zarr.json"}
    again = run_steps(load_config(run.path.parent / "archive.yaml"), to_step="composite")
    assert again["table"] == [["steps", "nothing to do"]] and again["steps"] == {}
    assert stamps and all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert asked() == set()


def test_scenes_picked_by_hand_are_used_and_no_others(
    whole: tuple[RunDirectory, dict[str, Any]], archive_server: archive.ServedArchive, tmp_path: Path
) -> None:
    scenes = [item["id"] for item in read_json(whole[0].items)["features"]]
    picked = {
        "catalogue": archive_server.stac_url, "collections": ["landsat-c2-l2"], "signing": "none",
        "max_cloud_cover_percent": 0, "include": [*scenes[2:7], scenes[9][:-6] + "*"], "exclude": [scenes[4] + "*"],
    }  # fmt: skip
    config = load_config(write_config(tmp_path, archive_server.stac_url, archive=picked))
    run_steps(config, to_step="clean")
    run = RunDirectory(config.run_path)
    used = [scene for scene in scenes[2:7] if scene != scenes[4]]
    assert [item["id"] for item in read_json(run.items)["features"]] == [*used, scenes[9]]
    assert sorted(read_table(run.scenes).scene) == sorted([*used, scenes[9]])
    assert set(open_cube(run.clean)["scene"].values) <= {*used, scenes[9]}


def test_a_purged_piece_is_noticed_and_read_again(
    archive_server: archive.ServedArchive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, archive_server.stac_url)
    config = load_config(path)
    run_steps(config, to_step="acquire")
    run = RunDirectory(config.run_path)
    whole = cube_files(run)
    next(file for file in (run.cube / "valid" / "c").rglob("*") if file.is_file()).unlink()
    code, said = command_line(capsys, "clean", path)
    assert code == 2 and "has lost files (1 of 'valid')" in said and "glacierhpc acquire" in said
    assert command_line(capsys, "acquire", path)[0] == 0
    assert cube_files(run) == whole


def test_killed_half_way_the_command_goes_on_and_reads_nothing_twice(
    whole: tuple[RunDirectory, dict[str, Any]],
    archive_server: archive.ServedArchive,
    asked: Callable[[], set[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_config(tmp_path, archive_server.stac_url)
    assert command_line(capsys, "search", config)[0] == 0
    archive_server.set_faults(delay_s=0.15)
    command = [sys.executable, "-m", "glacierhpc", "acquire", str(config), "acquire.read_threads=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **quiet) as process:
        done = wait_for_receipts(tmp_path / "run", 12, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    run = RunDirectory(tmp_path / "run")
    assert not run.cube.exists() and read_json(run.path / "steps" / "acquire.json")["state"] == "running"
    archive_server.set_faults()
    asked()
    assert command_line(capsys, "acquire", config)[0] == 0
    assert cube_files(run) == cube_files(whole[0])
    read_again = asked()
    assert len(read_again) == 12 * len(BANDS) - len(receipts(run.path) | done)
    for scene, asset in done:
        assert not any(name.startswith(f"{scene}_{BANDS[asset]}") for name in read_again), (scene, asset)


def receipts(run: Path) -> set[tuple[str, str]]:
    """Return the (scene, asset) that the journal of an unfinished acquisition calls done."""
    journal = run / ".parts" / "journal.jsonl"
    lines = journal.read_text().splitlines() if journal.exists() else []
    rows = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return {
        (row["scene"], row["asset"]) for row in rows if row.get("state") == "done" and row["asset"] in BANDS
    }


def wait_for_receipts(run: Path, count: int, process: subprocess.Popen[bytes]) -> set[tuple[str, str]]:
    end = time.monotonic() + 60
    while len(found := receipts(run)) < count:
        assert process.poll() is None and time.monotonic() < end, f"ended or hung after {len(found)} files"
        time.sleep(0.01)
    return found


@pytest.mark.parametrize("kind", ["corrupt", "html"])
def test_a_broken_file_is_listed_and_alone_read_again(
    whole: tuple[RunDirectory, dict[str, Any]],
    archive_server: archive.ServedArchive,
    asked: Callable[[], set[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    scene = read_json(whole[0].items)["features"][5]["id"]
    config = write_config(tmp_path, archive_server.stac_url)
    archive_server.set_faults(always={f"*{scene}_SR_B3.TIF": kind})
    code, told = command_line(capsys, "run", config, "--to", "composite")
    assert code == 1 and "1 of 12 scenes could not be read" in told and f"  {scene}: " in told
    run = RunDirectory(tmp_path / "run")
    rows = read_table(run.scenes).set_index("scene")
    assert rows.state.value_counts().to_dict() == {"kept": 11, "failed": 1} and rows.loc[scene].reason
    assert open_cube(run.cube).sizes["time"] == 11 and not run.clean.exists()
    archive_server.set_faults()
    asked()
    code, told = command_line(capsys, "run", config, "--to", "acquire")
    assert code == 0, told
    assert asked() == {f"{scene}_SR_B3.TIF"}
    assert cube_files(run) == cube_files(whole[0])


def test_a_broken_profile_stops_only_who_asks_for_a_site(
    archive_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the site nothing but the quota is wanted here; what a job script was told of that is not asked again."""
    broken = user_file({"XDG_CONFIG_HOME": str(tmp_path)})
    broken.parent.mkdir()
    broken.write_text("acount: mine\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    period = {"start": "2015-01-01", "end": "2015-06-30"}
    path = write_config(tmp_path, archive_folder, period=period)
    run_steps(load_config(path), to_step="search")
    with pytest.raises(InputError, match="'acount' is not known"):
        run_step("acquire", load_config(path, ["cluster.site=lumi"]))
    run_step("acquire", load_config(path))
    assert "key 'acount' is not known; did you mean 'account'?" in caplog.text
    caplog.clear()
    monkeypatch.setenv(TOLD, "/ 10 0 20 - 5 0 5 -")
    with pytest.raises(InputError, match="your quota has no room"):
        run_steps(load_config(path, [f"run_dir={tmp_path}/another"]), to_step="acquire")
    assert "acount" not in caplog.text


def test_two_utm_zones_become_one_grid(tmp_path: Path) -> None:
    archive.create(
        tmp_path / "zones", seed=3, scenes=6, size_px=128, utm_zones=2, every_days=30, cloud_share=0.0, bands=("nir08",)
    )  # fmt: skip
    config = write_config(
        tmp_path / "work",
        tmp_path / "zones",
        acquire={"bands": ["nir08"], "min_valid_share": 0},
        composite={"index": "nir08"},
    )
    run_steps(load_config(config), to_step="align")
    run = RunDirectory(tmp_path / "work" / "run")
    codes = {item["properties"]["proj:code"] for item in read_json(run.items)["features"]}
    assert len(codes) == 2
    cube = open_cube(run.cube)
    assert Grid.from_dataset(cube).crs == "EPSG:32643" and cube.sizes["time"] == 6
    rows = read_table(run.alignment)
    assert rows.ok.all() and rows.valid_share.min() > 0.8
    # the same ground in both zones: what is left is the known pointing error, not a zone's hundred kilometres
    assert rows.shift_px.max() < 6 and rows.residual_px.median() < 0.3
    assert np.isfinite(open_cube(run.aligned).data.values[:, 0, 40:60, 40:60]).all()
