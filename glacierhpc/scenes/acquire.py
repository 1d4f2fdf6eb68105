"""From scenes in an archive to one cube on disk: planned, resumable, with a row for everything that happened.

How a file is read is in `readers`, what its numbers mean in `radiometry`; nothing here is masked or filled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from glacierhpc import __version__
from glacierhpc.atomic import remove, remove_leftovers
from glacierhpc.cube import missing_pieces
from glacierhpc.errors import GlacierError
from glacierhpc.files import read_table, write_table
from glacierhpc.grid import Grid
from glacierhpc.scenes import parts
from glacierhpc.scenes.acquisition import Acquisition, left_to_write
from glacierhpc.scenes.bearer import hand_over
from glacierhpc.scenes.collections import Item
from glacierhpc.scenes.groups import Group
from glacierhpc.scenes.journal import JOURNAL, Journal, Receipt
from glacierhpc.scenes.plan import AcquisitionPlan, plan_acquisition
from glacierhpc.scenes.reasons import group_reasons
from glacierhpc.scenes.remote import shared
from glacierhpc.scenes.remote.policy import RetryPolicy
from glacierhpc.scenes.remote.vsi import ignored_settings
from glacierhpc.scenes.room import Room, check_room, free_room
from glacierhpc.scenes.signing import SignerSpec, signer_spec

__all__ = ["AcquireSummary", "AcquisitionPlan", "acquire", "plan_acquisition"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AcquireSummary:
    """What an acquisition did."""

    cube: Path
    """Not written yet, where a group was read."""
    kept: int
    dropped: int
    failed: dict[str, str]
    """Scene and reason."""
    assets_read: int
    """In this run."""
    assets_resumed: int
    """Taken over from earlier runs."""
    bytes: int
    """Size of the pieces on disk."""
    seconds: float

    @property
    def scenes(self) -> int:
        """How many it was about."""
        return self.kept + self.dropped + len(self.failed)

    def table(self) -> list[list[Any]]:
        """Return (label, value) rows for a person."""
        return [
            ["scenes in the cube", self.kept],
            ["scenes dropped", self.dropped],
            ["scenes failed", len(self.failed)],
            ["assets read now", self.assets_read],
            ["assets from earlier runs", self.assets_resumed],
            ["read and stored", f"{self.bytes / 1e6:.0f} MB in {self.seconds:.1f} s"],
        ]


def acquire(
    items: Sequence[Item],
    grid: Grid,
    store: Path,
    *,
    bands: Sequence[str],
    manifest: Path,
    scenes_table: Path,
    loader: str = "odc",
    min_valid_share: float = 0.3,
    min_clear_share: float = 0.0,
    max_attempts: int = 5,
    backoff_s: float = 0.5,
    timeout_s: float = 60.0,
    deadline_s: float = 900.0,
    max_connections: int | None = None,
    requests_per_s: float | None = None,
    signing: str = "auto",
    catalogue: str = "",
    token: str = "",
    resampling: str = "bilinear",
    read_threads: int = 16,
    executor: Executor | None = None,
    threads_per_task: int = 1,
    in_flight: int | None = None,
    quota: Room | None = None,
    group: Group | None = None,
    attrs: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AcquireSummary:
    """Read scenes onto one grid and write them as a cube.

    Every asset that has been read is kept on disk with a line in a journal, so that a killed run goes on where
    it stopped and ends with the same bytes. The quality raster comes first (the first band where there is
    none); scenes with too little data are dropped before the rest of them is read.

    Parameters
    ----------
    items : sequence of STAC items
        Unsigned, with absolute hrefs; URLs are signed at the moment of reading.
    grid : Grid
        Scenes on the same grid are copied exactly, others resampled.
    store : path
        The cube; beside it ``.parts/`` holds the pieces until nothing is missing.
    bands : sequence of str
        Common names.
    manifest, scenes_table : path
        Tables with a row per asset and per scene, rewritten at the end.
    min_valid_share, min_clear_share : float
        Scenes with less, as a share of the grid, are dropped.
    max_attempts, backoff_s, timeout_s, deadline_s, max_connections, requests_per_s
        See `remote.policy.RetryPolicy`.
    signing : str
        See `signing.signer_spec`; `catalogue` is the URL that ``auto`` looks at.
    token : str
        What makes the user known to hosts that ``signing`` names; kept where only the workers find it.
    executor : Executor, optional
        Where tasks run, for example ``client.get_executor()`` of Dask; None runs them in threads of this process.
    read_threads : int
        Reads at the same time without an executor. Reading waits, so there may be many more than cores.
    threads_per_task : int
        With an executor whose workers have one thread each: reads at the same time in each of its tasks.
    in_flight : int, optional
        Submitted tasks at the same time, which bounds the memory; by default twice `read_threads`.
    quota : Room, optional
        What the user may still write there, where the centre says; the file system itself is looked at anyway.
    group : Group, optional
        Read only these scenes, into their own folder, and write neither cube nor tables: `groups.gather` brings the
        pieces to where an acquisition of all scenes takes them over.
    attrs : mapping, optional
        Attributes of the cube.
    progress : callable, optional
        Called with assets finished and assets known to be needed.

    Raises
    ------
    InputError
        If no scene has the bands, their numbers have no known meaning, or there is no room for the cube.
    GlacierError
        If no scene is left, or the disk is full.
    """
    started = time.perf_counter()
    folder = store.parent / parts.FOLDER
    access = folder / shared.FOLDER
    signer = _signer(items, signing, catalogue, timeout_s, access, group)
    plan = plan_acquisition(
        items,
        grid,
        bands=bands,
        loader=loader,
        resampling=resampling,
        folder=group.folder if group else folder,
        signer=signer,
        policy=RetryPolicy(
            max_attempts, backoff_s, timeout_s, deadline_s, max_connections, requests_per_s, access
        ),
    )
    _tell_what_does_not_count(plan, items)
    identity = _identity(plan, {"valid": min_valid_share, "clear": min_clear_share})
    finished = _finished(store, manifest, scenes_table, identity)
    if finished is not None:
        if group is None:
            remove(folder)
        return _summary(store, finished, {}, 0, started)
    with parts.clear_disk_errors(store.parent):
        with (
            _begun(plan, store, group) as journal,
            _let_in(signer, token, plan.folder, access if group else None),
        ):
            own = group.own(plan, folder) if group else plan
            run = Acquisition(own, journal, min_valid_share, min_clear_share, progress)
            run.take_over()
            _check_room(plan, group.written(folder) if group else run.done, store.parent, quota)
            with _pool(executor, read_threads) as pool:
                run.work(pool, batch=threads_per_task, in_flight=in_flight or 2 * read_threads)
        scenes = run.scene_rows()
        if group is None:
            write_table(manifest, run.manifest_rows())
            write_table(scenes_table, scenes)
            _refuse_if_nothing_is_left(scenes)
            _assemble(store, plan, scenes, {**(attrs or {}), "acquisition": identity})
    if group is None and not (scenes.state == "failed").any():
        remove(folder)
    return _summary(store, scenes, journal.receipts, run.read, started)


def _signer(
    items: Sequence[Item], signing: str, catalogue: str, timeout_s: float, access: Path, group: Group | None
) -> SignerSpec:
    """Return how files are signed; what workers tell each other of it lies in `access`, for all groups the same."""
    found = signer_spec(signing, catalogue=catalogue, hrefs=_hrefs(items), timeout_s=timeout_s, shared=access)
    if group and found.hosts:  # a user's own token lives for months, and goes when this process ends
        return replace(found, shared=group.folder / shared.FOLDER)
    return found


@contextmanager
def _begun(plan: AcquisitionPlan, store: Path, group: Group | None) -> Iterator[Journal]:
    """Clear up after an earlier run, and open the journal of the pieces."""
    if group is None:
        remove_leftovers(store.parent, of=store.name)
    parts.remove_leftovers(plan.folder)
    parts.create_template(plan.folder, plan.grid, plan.bands, plan.storage)
    with Journal(plan.folder / JOURNAL, plan.purpose()) as journal:
        yield journal


@contextmanager
def _let_in(signer: SignerSpec, token: str, folder: Path, common: Path | None) -> Iterator[None]:
    """Have the folders in which workers find what archives want to see, `common` being that of all groups."""
    joined = shared.joined_folder(common) if common else nullcontext()
    with joined, shared.private_folder(folder / shared.FOLDER) as private:
        hand_over(signer.hosts, token, private)
        yield


def _tell_what_does_not_count(plan: AcquisitionPlan, items: Sequence[Item]) -> None:
    """Warn of scenes that are left out, and of settings that worked when GDAL itself asked the servers."""
    for line in group_reasons((scene.scene, scene.problem) for scene in plan.scenes if scene.problem):
        log.warning("left out: %s", line)
    if any(href.startswith(("http://", "https://")) for href in _hrefs(items)):
        for name, instead in ignored_settings().items():
            log.warning("%s does not count for files over HTTP; use %s", name, instead)


def _check_room(
    plan: AcquisitionPlan, known: Mapping[tuple[str, str], Receipt], folder: Path, quota: Room | None
) -> None:
    needed_bytes, needed_files = left_to_write(plan, known.values())
    rooms = [free_room(folder), *([quota] if quota else [])]
    check_room(folder, needed_bytes=needed_bytes, needed_files=needed_files, rooms=rooms)


@contextmanager
def _pool(executor: Executor | None, threads: int) -> Iterator[Executor]:
    if executor is not None:
        yield executor
        return
    pool = ThreadPoolExecutor(threads, "read")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _assemble(store: Path, plan: AcquisitionPlan, scenes: pd.DataFrame, attrs: Mapping[str, Any]) -> None:
    kept = scenes[scenes.state == "kept"]
    storage = plan.storage
    radiometry = {"scale": storage.scale, "offset": storage.offset, "source": storage.source}
    names = ("scene", "platform", "collection", "cloud_cover", "valid_share", "level")
    parts.assemble_cube(
        store,
        plan.folder,
        list(kept.key),
        grid=plan.grid,
        times=kept.time.to_numpy("datetime64[ns]"),
        bands=plan.bands,
        storage=storage,
        coords={name: kept[name].to_numpy() for name in names},
        attrs={"radiometry": json.dumps(radiometry), "glacierhpc_version": __version__, **attrs},
    )


def _refuse_if_nothing_is_left(scenes: pd.DataFrame) -> None:
    if (scenes.state == "kept").any():
        return
    listed = "; ".join(group_reasons(zip(scenes.scene, scenes.reason))[:3])
    raise GlacierError(f"none of {len(scenes)} scenes could be used ({listed}); see the scenes table")


def _identity(plan: AcquisitionPlan, limits: Mapping[str, float]) -> str:
    """What decides the bytes of a cube, as a short hash."""
    content = {**plan.purpose(), "scenes": [scene.key for scene in plan.scenes], "limits": dict(limits)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _finished(store: Path, manifest: Path, scenes_table: Path, identity: str) -> pd.DataFrame | None:
    """Return the scenes table of a cube that is complete already, else None."""
    if not all(path.exists() for path in (store / "zarr.json", manifest, scenes_table)):
        return None
    attributes = json.loads((store / "zarr.json").read_text())["attributes"]
    scenes = read_table(scenes_table)
    same = attributes.get("acquisition") == identity and not (scenes.state == "failed").any()
    if same and (lost := missing_pieces(store)):
        log.warning("%s has lost files (%s) and is read again", store, lost)
        return None
    return scenes if same else None


def _summary(
    store: Path, scenes: pd.DataFrame, receipts: Mapping[tuple[str, str], Receipt], read: int, started: float
) -> AcquireSummary:
    done = [receipt for receipt in receipts.values() if receipt.state == "done"]
    counts = scenes.state.value_counts()
    return AcquireSummary(
        cube=store,
        kept=int(counts.get("kept", 0)),
        dropped=int(counts.get("dropped", 0)),
        failed=dict(scenes.loc[scenes.state == "failed", ["scene", "reason"]].to_numpy().tolist()),
        assets_read=read,
        assets_resumed=max(0, sum(receipt.asset != parts.SEALED for receipt in done) - read),
        bytes=sum(receipt.bytes for receipt in done),
        seconds=time.perf_counter() - started,
    )


def _hrefs(items: Sequence[Item]) -> list[str]:
    return [asset["href"] for item in items for asset in item["assets"].values()]
