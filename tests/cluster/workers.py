"""What the tests of workers share with their workers and drivers: imports no torch, which takes them half a minute."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from glacierhpc.grid import Grid
from glacierhpc.hpc.cluster import WorkerJobs
from glacierhpc.hpc.site import Site
from glacierhpc.scenes.acquire import AcquireSummary, acquire
from glacierhpc.scenes.stac import search_scenes
from tests.scenes.rasters import BANDS, GRID

JOBS = WorkerJobs(site=Site(interface="lo"), hours=0.2, look_s=1.0, first_wait_s=0.5)


def items_of(catalogue: str) -> list[dict[str, Any]]:
    box = GRID.bounds_lonlat()
    return search_scenes(
        catalogue, collections=["landsat-c2-l2"], bbox_lonlat=box, start="2015-01-01", end="2015-12-31"
    ).items


def read(
    items: list[dict[str, Any]], out: Path, executor: Executor | None = None, **more: Any
) -> AcquireSummary:
    return acquire(
        items, Grid.from_dict(GRID.to_dict()), out / "cube.zarr", bands=list(BANDS), manifest=out / "manifest.parquet",
        scenes_table=out / "scenes.parquet", backoff_s=0.05, signing="none", executor=executor, in_flight=8, **more,
    )  # fmt: skip


def files_of(out: Path) -> dict[str, bytes]:
    cube = out / "cube.zarr"
    return {str(path.relative_to(cube)): path.read_bytes() for path in cube.rglob("*") if path.is_file()}


def told(*command: str) -> str:
    """Run a command that must succeed and return what it says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def own_jobs() -> list[str]:
    """The numbers of this user's jobs."""
    return told("squeue", "--me", "--noheader", "--format=%A").split()


def reached(condition: Callable[[], bool], timeout_s: float = 200) -> None:
    """Wait until something holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.3)


def as_other(file: Path) -> str:
    """Let the test cluster's second user run a script, and return what it says: containers/testcluster/inside.sh."""
    pipe = Path(os.environ["GLACIERHPC_TESTCLUSTER"]) / "run" / "control"
    pipe.write_text(f"as-other {file}\n")
    code = file.with_name(file.name + ".code")
    reached(lambda: code.exists() and code.read_text().strip() != "")
    return file.with_name(file.name + ".said").read_text()
