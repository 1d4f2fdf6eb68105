"""Room on the disk: refused before the start where it is too little, and a clean end where it runs out.

On small file systems in memory, which only root may mount.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.files import read_table
from glacierhpc.grid import Grid
from glacierhpc.scenes import acquire as acquiring
from glacierhpc.scenes.acquire import acquire, plan_acquisition
from glacierhpc.scenes.reasons import group_reasons
from glacierhpc.scenes.room import Room, check_room, free_room
from tests.scenes.rasters import landsat_item, numbers

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

GRID = Grid("EPSG:32643", (30.0, 0.0, 600015.0, 0.0, -30.0, 3540015.0), (200, 250))
BANDS = ["green", "swir16"]


@pytest.fixture(scope="module")
def items(tmp_path_factory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("in")
    return [
        landsat_item(
            folder,
            f"S{day}",
            f"2015-01-0{day}",
            {band: numbers(day, GRID.shape) for band in BANDS},
            grid=GRID,
        )
        for day in (1, 2, 3)
    ]


@pytest.fixture(scope="module")
def reference(items, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("reference")
    run(items, folder)
    return files_of(folder)


Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path) -> Iterator[Mount]:
    """Return what mounts a file system in memory with given options."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root; run the tests as root")
    with ExitStack() as stack:

        def make(options: str) -> Path:
            place = tmp_path / "small"
            place.mkdir()
            line = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
            done = subprocess.run(line, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
            stack.callback(subprocess.run, ["umount", "-l", str(place)], check=True)
            return place

        yield make


def run(items: list[dict[str, Any]], folder: Path, **options: Any) -> Any:
    return acquire(
        items,
        GRID,
        folder / "cube.zarr",
        bands=BANDS,
        manifest=folder / "manifest.parquet",
        scenes_table=folder / "scenes.parquet",
        **{"read_threads": 1, "signing": "none", **options},
    )


def files_of(folder: Path) -> dict[str, bytes]:
    cube = folder / "cube.zarr"
    return {str(path.relative_to(cube)): path.read_bytes() for path in cube.rglob("*") if path.is_file()}


def inodes(folder: Path) -> int:
    """How many inodes the files and folders below hold, while others come and go."""
    found = set()
    for place, folders, files in os.walk(folder):  # rglob ends with an error when a folder goes
        for name in [*folders, *files]:
            with suppress(FileNotFoundError):
                found.add(os.stat(os.path.join(place, name)).st_ino)
    return len(found)


def grow(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


@pytest.fixture
def unchecked(monkeypatch) -> None:
    """Start although there is no room: what another user writes meanwhile cannot be foreseen."""
    monkeypatch.setattr(acquiring, "check_room", lambda *_, **__: None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("size=200k", r"takes about 0.\d MB, and 0.\d MB are free"),
        ("size=50m,nr_inodes=40", "files and folders, and"),
    ],
)
def test_too_little_room_is_refused_before_the_start(items, mount, options, says):
    place = mount(options)
    with pytest.raises(InputError, match=says) as caught:
        run(items, place)
    assert "run_dir=" in str(caught.value) and not (place / "cube.zarr").exists()
    assert not list(place.glob(".parts/S*"))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("small", "large"),
    [("size=400k", "size=50m"), ("size=50m,nr_inodes=60", "size=50m,nr_inodes=10000")],
)
def test_a_disk_that_runs_full_ends_the_run_cleanly_and_it_goes_on(items, reference, mount, small, large):
    place = mount(small)
    with pytest.raises(GlacierError, match="free some space") as caught:
        run(items, place)
    assert caught.value.exit_code == 1 and not (place / "cube.zarr").exists()
    done = [path for path in place.glob(".parts/S*/*") if not path.name.startswith(".")]
    assert done
    grow(place, large)
    summary = run(items, place)
    assert files_of(place) == reference and summary.assets_resumed >= 1


@pytest.mark.usefixtures("unchecked")
def test_a_folder_that_turns_read_only_ends_the_run_cleanly(items, reference, tmp_path, mount):
    mount("size=1m")  # skips where nothing can be mounted
    out = tmp_path / "out"
    second = out / ".parts" / "S2"

    def forbid(done: int, _: int) -> None:
        if done == 1:
            second.mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(second)], check=True)

    try:
        with pytest.raises(GlacierError, match="Read-only file system; make it writable"):
            run(items, out, progress=forbid, in_flight=1)
        assert not (out / "cube.zarr").exists()
    finally:
        subprocess.run(["umount", str(second)], check=True)
    assert run(items, out).assets_resumed >= 1
    assert files_of(out) == reference


def test_the_files_that_were_planned_are_those_that_come(items, tmp_path):
    plan = plan_acquisition(items, GRID, bands=BANDS)
    counts: list[int] = []
    run(items, tmp_path, progress=lambda done, total: counts.append(inodes(tmp_path)))
    counts.append(inodes(tmp_path))
    assert max(counts) <= plan.inodes < 4 * max(counts)


def test_quotas_count_beside_the_file_system(items, tmp_path):
    with pytest.raises(InputError, match="your quota has no room.*files and folders, and 10 are free"):
        run(items, tmp_path, quota=Room(files=10, where="your quota"))
    with pytest.raises(InputError, match="your quota .*MB, and 0.0 MB are free"):
        run(items, tmp_path, quota=Room(bytes=1000, where="your quota"))
    assert run(items, tmp_path, quota=Room(where="your quota")).kept == 3


def test_what_is_there_already_needs_no_room(items, tmp_path):
    broken = [{**item, "assets": {**item["assets"], "swir16": {**item["assets"]["swir16"], "href": "/no.tif"}}}
              for item in items[:1]]  # fmt: skip
    run([*broken, *items[1:]], tmp_path)
    assert read_table(tmp_path / "scenes.parquet").state.tolist().count("failed") == 1
    plan = plan_acquisition(items, GRID, bands=BANDS)
    half = Room(bytes=round(plan.cube_bytes * 0.4), files=plan.inodes // 2, where="your quota")
    with pytest.raises(InputError, match="your quota"):
        run(items, tmp_path / "new", quota=half)
    assert run(items, tmp_path, quota=half).failed == {}


def test_a_folder_that_does_not_exist_yet_is_on_the_file_system_above_it(tmp_path):
    assert free_room(tmp_path / "a" / "b").bytes > 0
    check_room(tmp_path, needed_bytes=10**30, needed_files=10**30, rooms=[Room()])


def test_equal_reasons_are_told_once():
    failed = [
        (f"S{n}", f"green: the server failed (HTTP 503) [http://h/S{n}.tif line {n}]") for n in range(5)
    ]
    failed += [
        ("T", "scene 'T' has no band 'blue'"),
        ("U", "scene 'U' has no band 'blue'"),
        ("V", "else: https://h/v"),
    ]
    assert group_reasons(failed) == [
        "5 scenes: the server failed (HTTP 503) (S0, S1, S2 and 2 more)",
        "2 scenes: scene '...' has no band 'blue' (T, U)",
        "V: else: https://h/v",
    ]
