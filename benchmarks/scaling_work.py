"""The steps whose scaling is measured: what each reads, what it does on workers, and how much of it there is.

The steps are the package's own (`acquire`, `align_cube`, `materialise`); how long they take, `scaling_watch` notes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from cogs import cog, grid_of
from pairs import stack_images

from glacierhpc.coreg import align_cube
from glacierhpc.cube import open_cube
from glacierhpc.datasets.samples import materialise
from glacierhpc.datasets.sequences import SequencePlan
from glacierhpc.errors import GlacierError
from glacierhpc.fanout import run_all
from glacierhpc.grid import Grid
from glacierhpc.scenes.acquire import acquire
from glacierhpc.scenes.archive import serve
from glacierhpc.scenes.archive.index import index
from glacierhpc.scenes.stac import search_scenes

BANDS = ("green", "nir08", "swir16")
FIRST_DAY, EVERY_DAYS = np.datetime64("2015-01-05"), 16
PIECE = 64
"""Sequences to a piece of the step `sequences`."""
SEQUENCE_SCENES = 8
"""Of the cube that all pieces are cut from."""


@dataclass(frozen=True)
class Material:
    """What the steps read."""

    folder: Path
    """Where they write; all workers see it."""
    items: tuple[dict[str, Any], ...]
    """Scenes, in the order of their dates."""
    grid: Grid
    cubes: dict[int, Path]
    """By the number of scenes, for the steps that read a cube."""
    scene_bytes: float
    """Of the files of a scene, mean."""


@dataclass(frozen=True)
class Work:
    """One step: what it is counted in, and how some of it is done on workers."""

    unit: str
    run: Callable[[Executor, Material, int, int], None]
    """(workers, what there is to read, how much of it, number of this run)"""


@contextmanager
def material(
    folder: Path, works: Mapping[str, Sequence[int]], *, size_px: int, delay_s: float | None
) -> Iterator[Material]:
    """Write scenes for every amount of work, and cubes for the steps that read these; serve the scenes.

    Parameters
    ----------
    works : mapping of str to sequence of int
        Amounts of work that will be asked for, by step.
    delay_s : float, optional
        Of the archive on this machine before each answer; without it scenes are read as files.
    """
    archive = folder / "archive"
    archive.mkdir(parents=True)
    cubes = set(works.get("align", ())) | ({SEQUENCE_SCENES} if "sequences" in works else set())
    scenes = max(*cubes, *works.get("acquire", ()), 1)
    write_scenes(archive, scenes=scenes, size_px=size_px)
    grid = grid_of(size_px)
    files = _items(str(archive), grid)
    written = {count: _cube(folder / f"cube-{count}", files[:count], grid) for count in sorted(cubes)}
    size = sum(path.stat().st_size for path in archive.glob("*.TIF")) / scenes
    with ExitStack() as stack:
        if delay_s is not None and "acquire" in works:
            served = stack.enter_context(serve(archive, delay_s=delay_s))
            files = _items(served.stac_url, grid)
        yield Material(folder, files, grid, written, size)


def write_scenes(folder: Path, *, scenes: int, size_px: int) -> None:
    """Write COGs of one landscape, each scene moved, noisy and clouded in its own way, and their catalogue."""
    images, valid, _ = stack_images(scenes, size_px, motion="translation")
    profile = cog(size_px, nodata=0, compress="DEFLATE", predictor="YES", blocksize=256)
    for number, (image, mask) in enumerate(zip(images, valid)):
        day = str(FIRST_DAY + EVERY_DAYS * number).replace("-", "")
        for band, name in enumerate(("B3", "B5", "B6")):
            reflectance = np.clip(8000 + (10000 + 1000 * band) * image, 1, 65000).astype(np.uint16)
            path = folder / f"LC08_L2SP_147038_{day}_20200908_02_T1_SR_{name}.TIF"
            with rasterio.open(path, "w", **profile) as target:
                target.write(np.where(mask, reflectance, 0).astype(np.uint16), 1)
    index(folder, collection="bench")


def _items(catalogue: str, grid: Grid) -> tuple[dict[str, Any], ...]:
    found = search_scenes(
        catalogue,
        collections=["bench"],
        bbox_lonlat=grid.bounds_lonlat(),
        start="2010-01-01",
        end="2060-01-01",
    )
    return tuple(sorted(found.items, key=lambda item: str(item["properties"]["datetime"])))


def _cube(folder: Path, items: Sequence[dict[str, Any]], grid: Grid) -> Path:
    folder.mkdir()
    _acquire(folder, items, grid)
    return folder / "cube.zarr"


def _acquire(folder: Path, items: Sequence[dict[str, Any]], grid: Grid, **how: Any) -> None:
    done = acquire(
        items,
        grid,
        folder / "cube.zarr",
        bands=BANDS,
        manifest=folder / "manifest.parquet",
        scenes_table=folder / "scenes.parquet",
        min_valid_share=0.0,
        **how,
    )
    if done.failed or done.kept != len(items):
        raise GlacierError(
            f"of {len(items)} scenes {done.kept} were acquired; of the others: {done.failed}; nothing can be measured"
        )


def _acquire_step(executor: Executor, has: Material, scenes: int, run: int) -> None:
    folder = _fresh(has.folder / "acquire")
    in_flight = max(16, 4 * scenes)
    _acquire(folder, _asked_anew(has.items[:scenes], run), has.grid, executor=executor, in_flight=in_flight)


def _asked_anew(items: Sequence[dict[str, Any]], run: int) -> list[dict[str, Any]]:
    """Return the scenes under other addresses: a worker remembers what it has read of an address."""
    return [
        {**item, "assets": {name: _with_run(asset, run) for name, asset in item["assets"].items()}}
        for item in items
    ]


def _with_run(asset: dict[str, Any], run: int) -> dict[str, Any]:
    href = str(asset["href"])
    return {**asset, "href": f"{href}?run={run}"} if href.startswith("http") else asset


def _align_step(executor: Executor, has: Material, scenes: int, run: int) -> None:
    store = _fresh(has.folder / "align") / "aligned.zarr"
    table = align_cube(has.cubes[scenes], store, executor=executor)
    if not table.ok.any():
        raise GlacierError(f"none of {scenes} scenes could be aligned: {table.reason.iloc[0]}")


def _sequences_step(executor: Executor, has: Material, pieces: int, run: int) -> None:
    folder = _fresh(has.folder / "sequences")
    path = has.cubes[SEQUENCE_SCENES]
    with open_cube(path) as cube:
        valid, times = cube["valid"].values, cube["time"].values
    plan = SequencePlan.build(
        valid.shape, times, size=min(32, valid.shape[1]), stride=4, steps_in=2, steps_out=1
    )
    if len(plan) < pieces * PIECE:
        raise GlacierError(f"the cube holds {len(plan)} sequences, not {pieces} pieces of {PIECE}")
    plan.valid_share(valid)
    calls = [(path, folder / f"{piece}.zarr", _piece(plan, piece)) for piece in range(pieces)]
    for _ in run_all(executor, cut_piece, calls):
        pass


def _piece(plan: SequencePlan, number: int) -> SequencePlan:
    return replace(plan, starts=plan.starts[number * PIECE : (number + 1) * PIECE])


def cut_piece(source: Path, target: Path, plan: SequencePlan) -> None:
    """Read the images, cut the sequences of a plan and write them as one shard."""
    with open_cube(source) as cube:
        materialise(
            target, cube["data"].values.astype("float32"), cube["valid"].values, plan, shard_sequences=64
        )


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


WORKS = {
    "acquire": Work("scenes", _acquire_step),
    "align": Work("scenes", _align_step),
    "sequences": Work("pieces", _sequences_step),
}
"""The steps that workers do; training is done by ranks, see `scaling_train`."""
