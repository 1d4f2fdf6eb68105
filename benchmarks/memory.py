"""How much memory the steps from `acquire` to `composite` take: driver and workers together, at the peak.

Run it on a machine with a few GB of free disk::

    python benchmarks/memory.py
    python benchmarks/memory.py --scenes 200 --size-px 2000 --json

The scenes are random texture in local COGs; the steps are the real ones, on a local Dask cluster of two workers. What
is counted is the resident memory of every process of the run, added up: pages shared between processes count in each.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from cogs import CRS, PIXEL_M, cog, grid_of
from harness import arguments, machine
from rich.console import Console
from rich.table import Table

STEPS = ("search", "acquire", "clean", "align", "composite")
BANDS = {
    "coastal": "SR_B1",
    "blue": "SR_B2",
    "green": "SR_B3",
    "red": "SR_B4",
    "nir08": "SR_B5",
    "swir16": "SR_B6",
    "swir22": "SR_B7",
}
MARGIN_PX = 8  # scenes reach beyond the area on every side
CLEAR, CLOUD = 21824, 22280  # QA_PIXEL of Landsat Collection 2: clear; cloud with high confidence
LIMIT_GB = 4.0


@dataclass
class Peak:
    """The highest sums seen, bytes."""

    total: int = 0
    driver: int = 0
    worker: int = 0
    """The largest single process but the driver."""


def write_scene(number: int, folder: Path, size_px: int) -> None:
    """Write the bands and the quality raster of one scene: the same ground, shifted, noisy, a tenth under cloud."""
    import rasterio

    ground = np.random.default_rng(0).normal(size=(size_px // 4 + 1, size_px // 4 + 1))
    ground = np.kron(ground, np.ones((4, 4)))[:size_px, :size_px]
    rng = np.random.default_rng(number + 1)
    shifted = np.roll(ground, rng.integers(-3, 4, 2), axis=(0, 1))
    quality = np.full((size_px, size_px), CLEAR, np.uint16)
    top, left = rng.integers(0, size_px // 2, 2)
    quality[top : top + size_px // 3, left : left + size_px // 3] = CLOUD
    quality[rng.random(quality.shape) < 0.002] = CLOUD
    day = np.datetime64("2015-01-05") + 16 * number
    stem = f"LC08_L2SP_147038_{str(day).replace('-', '')}_20200908_02_T1"
    profile = cog(size_px, compress="NONE", blocksize=512)
    for position, name in enumerate(BANDS.values()):
        values = 12000 + 900 * position + 800 * shifted + rng.normal(scale=150, size=ground.shape)
        with rasterio.open(folder / f"{stem}_{name}.TIF", "w", nodata=0, **profile) as target:
            target.write(values.astype(np.uint16), 1)
    with rasterio.open(folder / f"{stem}_QA_PIXEL.TIF", "w", nodata=1, **profile) as target:
        target.write(quality, 1)


def write_archive(folder: Path, *, scenes: int, size_px: int) -> None:
    """Write all scenes and their catalogue in processes of their own, whose memory is not that of the run."""
    folder.mkdir()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(write_scene, folder=folder, size_px=size_px + 2 * MARGIN_PX), range(scenes)))
        pool.submit(_index, folder).result()


def _index(folder: Path) -> None:
    from glacierhpc.scenes.archive.index import index

    index(folder, collection="bench")


def configuration(folder: Path, *, scenes: int, size_px: int) -> Any:
    """Return the configuration of a run on the archive in the folder."""
    import yaml

    from glacierhpc.config import load_config

    inner = grid_of(size_px, offset_px=MARGIN_PX)
    end = max(np.datetime64("2018-01-01"), np.datetime64("2015-01-05") + 16 * scenes)
    content = {
        "name": "memory",
        "run_dir": str(folder / "run"),
        "area": {"bbox_lonlat": list(inner.bounds_lonlat()), "crs": CRS, "resolution_m": PIXEL_M},
        "period": {"start": "2015-01-01", "end": str(end)},
        "archive": {"catalogue": str(folder / "archive"), "collections": ["bench"], "signing": "none"},
        "acquire": {"bands": list(BANDS)},
        "align": {"max_shift_px": 8},
        "cluster": {"kind": "local", "workers": 2},
    }
    path = folder / "memory.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_config(path, [])


@contextmanager
def watched(every_s: float = 0.05) -> Iterator[Peak]:
    """Sample the memory of this process and all below it while the block runs."""
    peak, ended, me = Peak(), threading.Event(), psutil.Process()

    def sample() -> None:
        while not ended.wait(every_s):
            below = [_resident(process) for process in me.children(recursive=True)]
            own = _resident(me)
            peak.total = max(peak.total, own + sum(below))
            peak.driver, peak.worker = max(peak.driver, own), max([peak.worker, *below])

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:  # it ended between the listing and the question
        return 0


def measure(*, scenes: int, size_px: int) -> dict[str, dict[str, float]]:
    """Return GB at the peak and seconds of every step."""
    from glacierhpc.workflows import run_step

    with tempfile.TemporaryDirectory(prefix="glacierhpc-memory-") as name:
        folder = Path(name)
        write_archive(folder / "archive", scenes=scenes, size_px=size_px)
        config = configuration(folder, scenes=scenes, size_px=size_px)
        found = {}
        for step in STEPS:
            started = time.perf_counter()
            with watched() as peak:
                summary = run_step(step, config)
            found[step] = {
                "seconds": time.perf_counter() - started,
                "total_gb": peak.total / 1e9,
                "driver_gb": peak.driver / 1e9,
                "largest_worker_gb": peak.worker / 1e9,
                "table": summary["table"],
            }
        return found


def main() -> None:
    """Measure and print a table, or one JSON object with ``--json``; exit 1 if the limit is passed."""
    parser = arguments(__doc__)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--size-px", type=int, default=1000, help="rows and columns of the cube")
    asked = parser.parse_args()
    scenes, size_px = (4, 128) if asked.quick else (asked.scenes, asked.size_px)
    found = measure(scenes=scenes, size_px=size_px)
    highest = max(step["total_gb"] for step in found.values())
    conditions = f"{scenes} scenes x {len(BANDS)} bands x {size_px} x {size_px} px, two workers"
    show(conditions, found, highest, asked)
    raise SystemExit(highest > LIMIT_GB)


def show(
    conditions: str, found: dict[str, dict[str, float]], highest: float, asked: argparse.Namespace
) -> None:
    """Print the steps."""
    told = {
        "benchmark": "memory",
        "conditions": conditions,
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "command": "glacierhpc bench memory",
        "peak_gb": highest,
        "limit_gb": LIMIT_GB,
        "steps": found,
    }
    if asked.output:
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        asked.output.write_text(json.dumps(told, default=str) + "\n", encoding="utf-8")
    if asked.json:
        print(json.dumps(told, default=str))
        return
    table = Table("step", "GB in all", "driver", "largest worker", "seconds", title=conditions)
    for name, step in found.items():
        figures = [step[key] for key in ("total_gb", "driver_gb", "largest_worker_gb", "seconds")]
        table.add_row(name, *(f"{value:.2f}" for value in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
