"""Acquisition over HTTP from a server that fails, slows down, lets tokens expire, and from a killed process."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glacierhpc.errors import GlacierError
from glacierhpc.files import read_table
from glacierhpc.grid import Grid
from glacierhpc.hpc.cluster import make_cluster
from glacierhpc.scenes.acquire import AcquireSummary, acquire
from glacierhpc.scenes.archive import serve
from glacierhpc.scenes.remote import hosts, shared
from glacierhpc.scenes.stac import read_items, search_scenes, write_items
from tests.scenes.rasters import BANDS, GRID, OFFSET, SCALE, SCENES, landsat_item, small_archive
from tests.scenes.remote.scripted import scripted

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

SCALED = [{"scale": SCALE, "offset": OFFSET, "nodata": 0, "data_type": "uint16"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Six small Landsat scenes with QA, indexed."""
    return small_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def reference(folder, tmp_path_factory) -> dict[str, bytes]:
    """The cube of an undisturbed run over plain files."""
    out = tmp_path_factory.mktemp("reference")
    run(read(folder), out)
    return files_of(out)


def read(catalogue: Any) -> list[dict[str, Any]]:
    box = GRID.bounds_lonlat()
    return search_scenes(
        str(catalogue), collections=["landsat-c2-l2"], bbox_lonlat=box, start="2015-01-01", end="2015-12-31"
    ).items


def run(items: list[dict[str, Any]], out: Path, **options: Any) -> AcquireSummary:
    asked: dict[str, Any] = {
        "read_threads": 4,
        "backoff_s": 0.02,
        "timeout_s": 5,
        "signing": "none",
        **options,
    }
    return acquire(
        items,
        GRID,
        out / "cube.zarr",
        bands=list(BANDS),
        manifest=out / "manifest.parquet",
        scenes_table=out / "scenes.parquet",
        **asked,
    )


def files_of(out: Path) -> dict[str, bytes]:
    cube = out / "cube.zarr"
    return {str(path.relative_to(cube)): path.read_bytes() for path in cube.rglob("*") if path.is_file()}


def requests_of(served: Any) -> dict[str, int]:
    return dict(served.statistics().by_path)


def test_failing_servers_are_asked_again_and_the_cube_is_the_same(folder, reference, tmp_path):
    kinds = ("503", "429", "500", "truncate", "html", "reset")
    with serve(folder, fail_rate=0.25, fail_kinds=kinds, seed=3) as served:
        summary = run(read(served.stac_url), tmp_path, max_attempts=10)
        assert sum(served.statistics().faults.values()) >= 5
    assert summary.failed == {} and files_of(tmp_path) == reference
    assert read_table(tmp_path / "manifest.parquet").attempts.max() > 1


def test_silence_is_given_up_and_asked_again(folder, reference, tmp_path):
    with serve(folder, fail_rate=0.2, fail_kinds=("timeout",), hang_s=3, seed=1) as served:
        summary = run(read(served.stac_url), tmp_path, timeout_s=1, read_threads=8, max_attempts=8)
        assert served.statistics().faults
    assert summary.failed == {} and files_of(tmp_path) == reference


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("503", "server failed"),
        ("429", "slow down"),
        ("403", "access refused"),
        ("404", "not there"),
        ("html", "not an image"),
        ("truncate", "the answer was cut short"),
    ],
)
def test_a_scene_that_stays_broken_is_a_row_with_a_reason(folder, tmp_path, kind, reason):
    with serve(folder, always={"*20150103_20200908_02_T1_SR_B5*": kind}) as served:
        items = read(served.stac_url)
        summary = run(items, tmp_path, max_attempts=2, backoff_s=0.01)
        assert summary.kept == SCENES - 1 and len(summary.failed) == 1
        rows = read_table(tmp_path / "scenes.parquet").set_index("state")
        assert re.search(reason, rows.loc["failed"].reason), rows.loc["failed"].reason
        served.set_faults(always={})
        served.reset_statistics()
        again = run(items, tmp_path)
        asked = requests_of(served)
    assert again.assets_read == 1 and again.failed == {}
    assert all("20150103" in path and "SR_B5" in path for path in asked)


def test_tokens_are_renewed_in_mid_acquisition_and_never_logged(folder, reference, tmp_path, caplog):
    # each answer takes a third of a second and two are read at a time, so the tokens run out on the way
    with (
        caplog.at_level(logging.DEBUG),
        serve(folder, token_lifetime_s=2, delay_s=0.12, fail_rate=0.05, fail_kinds=("html",)) as served,
    ):
        items = read(served.stac_url)
        assert "sig=" not in json.dumps(items)
        started = time.monotonic()
        summary = run(items, tmp_path, signing=served.token_url, read_threads=2, max_attempts=6)
        took_s = time.monotonic() - started
        issued = served.statistics().tokens_issued
    assert summary.failed == {} and files_of(tmp_path) == reference
    # a token is renewed 0.6 s before its end at the earliest: the time is no limit, it counts the windows
    assert 2 <= issued <= 1 + took_s / 1.4
    assert "sig=" not in caplog.text
    assert "sig=" not in " ".join(read_table(tmp_path / "manifest.parquet").href)


def test_worker_processes_share_one_token_that_nobody_else_can_read(folder, reference, tmp_path):
    access = tmp_path / ".parts" / shared.FOLDER
    modes: set[int] = set()

    def look(*_: int) -> None:
        modes.update(path.stat().st_mode & 0o077 for path in [access, *access.iterdir()])
        assert any(path.name.startswith("token-") for path in access.iterdir())

    with (
        serve(folder, token_lifetime_s=3600, delay_s=0.02) as served,
        make_cluster("local", workers=2, cores=4) as executor,
    ):
        items = read(served.stac_url)
        summary = run(items, tmp_path, signing=served.token_url, executor=executor, progress=look)
        issued = served.statistics().tokens_issued
    assert summary.failed == {} and files_of(tmp_path) == reference
    assert issued == 1 and modes == {0}
    assert not (tmp_path / ".parts").exists()


def test_tokens_are_removed_when_a_run_fails(folder, tmp_path):
    with (
        serve(folder, token_lifetime_s=3600, always={"*SR_B5*": "404"}) as served,
        pytest.raises(GlacierError, match="none of 6 scenes .*6 scenes: the file is not there"),
    ):
        run(read(served.stac_url), tmp_path, signing=served.token_url)
    assert (tmp_path / ".parts").is_dir() and not (tmp_path / ".parts" / shared.FOLDER).exists()
    assert "sig=" not in (tmp_path / ".parts" / "journal.jsonl").read_text()


def test_settings_of_gdals_own_client_are_said_not_to_count(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("GDAL_HTTP_BEARER", "secret")
    with serve(folder) as served:
        run(read(served.stac_url), tmp_path)
    said = [record.getMessage() for record in caplog.records if "GDAL_HTTP" in record.getMessage()]
    assert said == [
        "GDAL_HTTP_BEARER does not count for files over HTTP; use hrefs that begin with /vsicurl/"
    ]
    caplog.clear()
    run(read(folder), tmp_path / "near")
    assert "GDAL_HTTP" not in caplog.text


def test_a_dead_host_is_not_waited_for_scene_by_scene(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "DEAD_AFTER_S", 0.4)
    monkeypatch.setattr(hosts, "FIRST_COOLING_S", 0.1)
    with scripted(b"", lambda _: "reset") as told:
        items = []
        for day in range(1, 29):
            item = landsat_item(tmp_path / "in", f"S{day}", f"2015-01-{day:02}", {})
            assets = {
                band: {"href": told.href, "type": "image/tiff", "raster:bands": SCALED} for band in BANDS
            }
            items.append({**item, "assets": assets})
        with pytest.raises(GlacierError, match="none of 28 scenes") as caught:
            run(items, tmp_path, max_attempts=3, backoff_s=0.01)
    assert "has not answered" in str(caught.value)
    assert len(told.asked) < 28 * 3 / 2


KILLED = """
import json, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from glacierhpc.grid import Grid
from glacierhpc.scenes.acquire import acquire
from glacierhpc.scenes.stac import read_items
out = Path(sys.argv[1])
acquire(
    read_items(out / "items.json"), Grid.from_dict(json.loads(sys.argv[2])), out / "cube.zarr",
    bands=sys.argv[3].split(","), manifest=out / "manifest.parquet", scenes_table=out / "scenes.parquet",
    read_threads=2, backoff_s=0.02, signing="none", progress=lambda done, total: print(done, flush=True),
)
"""


def start(out: Path) -> subprocess.Popen[str]:
    grid = json.dumps(GRID.to_dict())
    line = [sys.executable, "-c", KILLED, str(out), grid, ",".join(BANDS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment)


def lines(process: subprocess.Popen[str]) -> Iterator[int]:
    assert process.stdout is not None
    for line in process.stdout:
        yield int(line)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.parametrize("kill_after", [1, 9, 20])
def test_killed_and_started_again_gives_the_same_bytes_and_reads_nothing_twice(
    folder, reference, tmp_path, kill_after
):
    with serve(folder, delay_s=0.01) as served:
        items = read(served.stac_url)
        write_items(tmp_path / "items.json", type("Result", (), {"items": items, "report": {}})())
        process = start(tmp_path)
        for done in lines(process):
            if done >= kill_after:
                break
        time.sleep(0.013 * (kill_after % 4))
        kill(process)
        assert not (tmp_path / "cube.zarr").exists()
        time.sleep(0.05)
        journal = (tmp_path / ".parts" / "journal.jsonl").read_text().splitlines()
        receipts = [json.loads(line) for line in journal if line.strip()]
        done = {(row["scene"], row["asset"]) for row in receipts if row.get("state") == "done"}
        served.reset_statistics()
        summary = run(read_items(tmp_path / "items.json"), tmp_path)
        asked = requests_of(served)
    assert files_of(tmp_path) == reference
    assert summary.assets_resumed == len({pair for pair in done if pair[1] != "sealed"})
    names = {"quality": "QA_PIXEL", **{band: f"SR_{name}" for band, name in BANDS.items()}}
    for scene, asset in done:
        if asset in names:
            assert not any(f"{scene}_{names[asset]}" in path for path in asked), (scene, asset)
    assert len(asked) == 4 * SCENES - summary.assets_resumed


def test_a_torn_last_line_of_the_journal_is_ignored(folder, reference, tmp_path):
    items = read_items_of(folder, tmp_path)
    process = start(tmp_path)
    for done in lines(process):
        if done >= 5:
            break
    kill(process)
    with (tmp_path / ".parts" / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"scene": "LC08_L2SP_147038_20150101_20200908_02_T1", "asset": "gre')
    run(items, tmp_path)
    assert files_of(tmp_path) == reference


def read_items_of(folder: Path, out: Path) -> list[dict[str, Any]]:
    items = read(folder)
    write_items(out / "items.json", type("Result", (), {"items": items, "report": {}})())
    return items


def test_a_full_quota_is_one_line_and_going_on_works(folder, reference, tmp_path):
    """A real limit of the operating system: no file may grow beyond 2 kB."""
    read_items_of(folder, tmp_path)
    script = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n" + KILLED
    line = [sys.executable, "-c", script, str(tmp_path), json.dumps(GRID.to_dict()), ",".join(BANDS)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0 and "GlacierError" in last and "free some space" in last, done.stderr[-600:]
    assert not (tmp_path / "cube.zarr").exists()
    run(read(folder), tmp_path)
    assert files_of(tmp_path) == reference


def test_a_grid_elsewhere_reads_nothing_into_the_cube(folder, tmp_path):
    far = Grid(GRID.crs, (30.0, 0.0, 400005.0, 0.0, -30.0, 3340005.0), GRID.shape)
    with pytest.raises(GlacierError, match="none of 6 scenes"):
        acquire(
            read(folder),
            far,
            tmp_path / "cube.zarr",
            bands=["green"],
            manifest=tmp_path / "m.parquet",
            scenes_table=tmp_path / "s.parquet",
        )
