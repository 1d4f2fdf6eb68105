"""How fast scenes are read: local COGs against plain rasterio, remote windows against stackstac and odc-stac.

Run it on an idle machine::

    python benchmarks/acquire.py
    python benchmarks/acquire.py --json --repeats 3

Every measurement runs in a process of its own, because GDAL remembers remote files for the life of a process; imports
are not counted. The remote archive is `archive serve` on this machine with a delay before each answer.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from cogs import CRS, PIXEL_M, cog, grid_of
from harness import Result, Row, arguments, report
from rasterio.windows import Window

from glacierhpc.grid import Grid
from glacierhpc.scenes.acquire import acquire, plan_acquisition
from glacierhpc.scenes.archive.index import index
from glacierhpc.scenes.bearer import PlainSigner
from glacierhpc.scenes.readers import read_with_retries
from glacierhpc.scenes.remote.policy import RetryPolicy
from glacierhpc.scenes.stac import read_items, search_scenes, write_items

BANDS = ("B3", "B5", "B6")
NAMES = ("green", "nir08", "swir16")
REMOTE_WINDOW_PX = 512
Layout = dict[str, Any]
COMPRESSED: Layout = {"compress": "DEFLATE", "predictor": "YES", "blocksize": 512, "overviews": "AUTO"}
RAW: dict[str, Layout] = {
    "raw tiles of 256": {"driver": "GTiff", "tiled": True, "blockxsize": 256, "blockysize": 256},
    "raw strips": {"driver": "GTiff", "tiled": False},
}


def write_scenes(folder: Path, *, scenes: int, size_px: int, layout: Layout = COMPRESSED) -> None:
    """Write scenes with a texture that compresses like reflectance does, and their catalogue; COGs by default."""
    profile = {**cog(size_px, nodata=0), **layout}
    if profile["driver"] != "COG":
        del profile["overviews"]
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size_px, :size_px]
    relief = 9000 * (2 + np.sin(x / 97) * np.cos(y / 61))
    for scene in range(scenes):
        for band, name in enumerate(BANDS):
            values = relief * (1 + 0.1 * band) + rng.normal(0, 60, relief.shape) + scene * 20
            stem = f"LC08_L2SP_147038_{20150101 + scene}_20200908_02_T1_SR_{name}"
            with rasterio.open(folder / f"{stem}.TIF", "w", **profile) as target:
                target.write(values.astype(np.uint16), 1)
    index(folder, collection="bench")


def hrefs(items: list[dict[str, Any]]) -> list[str]:
    """Return the files of all scenes and bands."""
    return [item["assets"][f"SR_{band}"]["href"] for item in items for band in BANDS]


def plain(items: list[dict[str, Any]], grid: Grid, threads: int, offset_px: int) -> None:
    """Read with rasterio and nothing else."""
    window = Window(offset_px, offset_px, grid.shape[1], grid.shape[0])

    def read(href: str) -> None:
        with rasterio.open(href) as source:
            source.read(1, window=window)

    with ThreadPoolExecutor(threads) as pool, rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
        list(pool.map(read, hrefs(items)))


def ours_reading(items: list[dict[str, Any]], grid: Grid, threads: int, offset_px: int) -> None:
    """Read as `acquire` reads, without writing."""
    tasks = [task for scene in plan_acquisition(items, grid, bands=NAMES).scenes for task in scene.tasks]
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(
            lambda task: read_with_retries(task.request, PlainSigner(), RetryPolicy())[1], tasks
        ):
            pass


def ours(items: list[dict[str, Any]], grid: Grid, threads: int, offset_px: int) -> None:
    """Acquire: read, mask, compress, write, checksum, journal, assemble the cube."""
    folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
    acquire(
        items,
        grid,
        folder / "cube.zarr",
        bands=NAMES,
        manifest=folder / "manifest.parquet",
        scenes_table=folder / "scenes.parquet",
        read_threads=threads,
    )


def stackstac_default(items: list[dict[str, Any]], grid: Grid, threads: int, offset_px: int) -> None:
    """Run stackstac as its documentation does: as many threads as cores."""
    import stackstac

    left, bottom, right, top = grid.bounds
    epsg = int(CRS.split(":")[1])
    old = [{**item, "properties": {**item["properties"], "proj:epsg": epsg}} for item in items]
    stack = stackstac.stack(
        old,
        assets=[f"SR_{band}" for band in BANDS],
        epsg=epsg,
        resolution=PIXEL_M,
        bounds=(left, bottom, right, top),
        snap_bounds=False,
        dtype=np.dtype("uint16"),
        fill_value=np.uint16(0),
        rescale=False,
        chunksize=grid.shape[0],
    )
    stack.compute()


def odc_default(items: list[dict[str, Any]], grid: Grid, threads: int, offset_px: int) -> None:
    """Run odc-stac with whole-image chunks on Dask's default threads, as many as cores."""
    import odc.stac
    import pystac

    opened = [pystac.Item.from_dict(item) for item in items]
    whole = {"x": grid.shape[1], "y": grid.shape[0]}
    odc.stac.load(opened, bands=[f"SR_{b}" for b in BANDS], geobox=grid.geobox, chunks=whole).compute()


METHODS: dict[str, Callable[[list[dict[str, Any]], Grid, int, int], None]] = {
    "plain rasterio": plain,
    "ours, reading": ours_reading,
    "ours, in all": ours,
    "stackstac, default threads": stackstac_default,
    "odc-stac, default threads": odc_default,
}


def measure(method: str, items_file: Path, size_px: int, offset_px: int, threads: int) -> float:
    """Run one method in this process; return seconds."""
    items, grid = read_items(items_file), grid_of(size_px, offset_px=offset_px)
    started = time.perf_counter()
    METHODS[method](items, grid, threads, offset_px)
    return time.perf_counter() - started


def in_fresh_process(repeats: int, *arguments: Any) -> float:
    """Return the median of some measurements, each in a process of its own."""
    line = [sys.executable, str(Path(__file__).resolve()), "--measure", *map(str, arguments)]
    seconds = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as scratch:  # removing what was written is not measured
            done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=scratch)
        if done.returncode:
            raise SystemExit(f"{arguments[0]} failed:\n{done.stderr[-2000:]}")
        seconds.append(float(done.stdout.strip().splitlines()[-1]))
    return statistics.median(seconds)


LOCAL = ("plain rasterio", "ours, reading", "ours, in all")


def local(
    *, scenes: int, size_px: int, threads: int, repeats: int, methods: tuple[str, ...] = LOCAL
) -> dict[str, float]:
    """Measure local COGs, seconds by method."""
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder), scenes=scenes, size_px=size_px)
        found = items_of(str(Path(folder)), Path(folder) / "items.json")
        return {name: in_fresh_process(repeats, name, found, size_px, 0, threads) for name in methods}


def remote(*, scenes: int, delay_s: float, threads: int, repeats: int) -> dict[str, float]:
    """Measure windows of remote COGs, seconds by method."""
    from glacierhpc.scenes.archive import serve

    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder), scenes=scenes, size_px=4 * REMOTE_WINDOW_PX)
        with serve(folder, delay_s=delay_s) as served:
            found = items_of(served.stac_url, Path(folder) / "items.json")
            common = (found, REMOTE_WINDOW_PX, REMOTE_WINDOW_PX)
            return {
                "one after another": in_fresh_process(1, "plain rasterio", *common, 1),
                "stackstac, default threads": in_fresh_process(
                    repeats, "stackstac, default threads", *common, 0
                ),
                "odc-stac, default threads": in_fresh_process(
                    repeats, "odc-stac, default threads", *common, 0
                ),
                "plain rasterio, same threads": in_fresh_process(repeats, "plain rasterio", *common, threads),
                "ours, reading": in_fresh_process(repeats, "ours, reading", *common, threads),
                "ours, in all": in_fresh_process(repeats, "ours, in all", *common, threads),
            }


def one_reader(*, scenes: int, delay_s: float, repeats: int) -> dict[str, dict[str, float]]:
    """Measure windows of raw remote files that one thread reads, seconds by layout and method.

    GDAL asks for all rows of tiles at the same time.
    """
    from glacierhpc.scenes.archive import serve

    seconds: dict[str, dict[str, float]] = {}
    for name, layout in RAW.items():
        with tempfile.TemporaryDirectory() as folder:
            write_scenes(Path(folder), scenes=scenes, size_px=4 * REMOTE_WINDOW_PX, layout=layout)
            with serve(folder, delay_s=delay_s) as served:
                found = items_of(served.stac_url, Path(folder) / "items.json")
                seconds[name] = {
                    method: in_fresh_process(repeats, method, found, REMOTE_WINDOW_PX, REMOTE_WINDOW_PX, 1)
                    for method in ("plain rasterio", "ours, reading")
                }
    return seconds


def items_of(catalogue: str, path: Path) -> Path:
    """Search the catalogue and freeze what it has."""
    box = grid_of(512).bounds_lonlat()
    result = search_scenes(
        catalogue, collections=["bench"], bbox_lonlat=box, start="2010-01-01", end="2030-01-01"
    )
    write_items(path, result)
    return path


def rows_of(seconds: dict[str, float], what: str, *, ours: str, shown: tuple[str, ...]) -> list[Row]:
    """Return one of our ways of reading beside all that are not ours."""
    return [
        Row(what, seconds[ours], peer, value, "s", in_readme=peer in shown)
        for peer, value in seconds.items()
        if not peer.startswith("ours")
    ]


def main() -> None:
    """Measure everything and print a table, or one JSON object with ``--json``."""
    parser = arguments(__doc__)
    parser.set_defaults(repeats=3)
    parser.add_argument("--scenes", type=int, default=24, help="scenes of three bands each")
    parser.add_argument("--size-px", type=int, default=2048, help="of the local scenes")
    parser.add_argument("--local-threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--remote-threads", type=int, default=32)
    parser.add_argument("--delay-s", type=float, default=0.05, help="before each answer of the server")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        warnings.simplefilter("ignore")
        method, items_file, size_px, offset_px, threads = asked.measure
        print(measure(method, Path(items_file), int(size_px), int(offset_px), int(threads)))
        return
    report(quickly() if asked.quick else fully(asked), asked)


def quickly() -> Result:
    """Measure the reading of one small local scene, without a server."""
    seconds = local(scenes=1, size_px=64, threads=1, repeats=1, methods=LOCAL[:2])
    return Result("acquire", "1 scene x 3 bands x 64^2", _local_rows(seconds), {"local": seconds})


def fully(asked: argparse.Namespace) -> Result:
    """Measure local files and remote windows."""
    near = local(
        scenes=asked.scenes, size_px=asked.size_px, threads=asked.local_threads, repeats=asked.repeats
    )
    far = remote(
        scenes=asked.scenes, delay_s=asked.delay_s, threads=asked.remote_threads, repeats=asked.repeats
    )
    alone = one_reader(scenes=min(asked.scenes, 4), delay_s=asked.delay_s, repeats=asked.repeats)
    conditions = (
        f"local: {asked.scenes} scenes x 3 bands x {asked.size_px}^2, {asked.local_threads} threads; "
        f"remote: {3 * asked.scenes} windows of {REMOTE_WINDOW_PX}^2, {1e3 * asked.delay_s:.0f} ms delay, "
        f"{asked.remote_threads} threads; {asked.repeats} repeats"
    )
    shown = ("stackstac, default threads", "odc-stac, default threads", "plain rasterio, same threads")
    return Result(
        "acquire",
        conditions,
        [
            *_local_rows(near),
            *rows_of(far, "acquire remote windows, cube written", ours="ours, in all", shown=shown),
            *(
                row
                for layout, seconds in alone.items()
                for row in rows_of(
                    seconds, f"read remote {layout}, one thread", ours="ours, reading", shown=()
                )
            ),
        ],
        {"local": near, "remote": far, "one reader": alone},
    )


def _local_rows(seconds: dict[str, float]) -> list[Row]:
    rows = rows_of(seconds, "read local COGs", ours="ours, reading", shown=("plain rasterio",))
    if "ours, in all" in seconds:
        rows += rows_of(seconds, "acquire local COGs, cube written", ours="ours, in all", shown=())
    return rows


if __name__ == "__main__":
    main()
