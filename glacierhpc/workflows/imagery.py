"""From a catalogue to index composites: the steps every task with images begins with.

Read top to bottom as the story of a run; the work itself is done by `scenes`, `coreg` and `mapping`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from glacierhpc.config import Config, config_hash
from glacierhpc.coreg import align_cube
from glacierhpc.cube import open_cube
from glacierhpc.errors import GlacierError, InputError
from glacierhpc.fence import fenced
from glacierhpc.grid import Grid
from glacierhpc.hpc.cluster import make_cluster
from glacierhpc.hpc.quota import quota_left, told_by_job
from glacierhpc.hpc.sites import load_site
from glacierhpc.hpc.surroundings import access_token
from glacierhpc.mapping.outlines import glacier_mask
from glacierhpc.rundir import RunDirectory, atomic_path, write_table
from glacierhpc.scenes.acquire import AcquireSummary, plan_acquisition
from glacierhpc.scenes.acquire import acquire as acquire_scenes
from glacierhpc.scenes.clean import clean_cube
from glacierhpc.scenes.collections import archive_anchor
from glacierhpc.scenes.composite import composite_cube
from glacierhpc.scenes.groups import Group
from glacierhpc.scenes.indices import check_bands
from glacierhpc.scenes.reasons import group_reasons
from glacierhpc.scenes.room import Room
from glacierhpc.scenes.stac import SearchResult, read_items, search_scenes, write_items
from glacierhpc.workflows.groups import gather_groups
from glacierhpc.workflows.tasks import Summary, need
from glacierhpc.workflows.workers import worker_jobs

log = logging.getLogger(__name__)


def search(config: Config, run: RunDirectory) -> Summary:
    """Find the scenes and freeze them, unsigned, in ``items.json``."""
    result = _search(config)
    write_items(run.items, result)
    run.provenance(input_ids=[item["id"] for item in result.items])
    return {"table": _search_table(result.items, result.report), **result.report}


def acquire(config: Config, run: RunDirectory) -> Summary:
    """Read the scenes into ``cube.zarr``; started again, or after tasks of an array, it reads only what is missing."""
    gather_groups(run)
    summary = _read(config, run)
    return {"table": summary.table(), "failed": summary.failed}


def acquire_group(config: Config, base: RunDirectory, group: Group) -> Summary:
    """Read one group of the scenes of a run for its `acquire`, which writes the cube."""
    summary = _read(config, base, group)
    which = ["group", f"{group.number}, counted from 0, of {group.of}"]
    return {
        "table": [which, ["scenes read", summary.kept], *summary.table()[1:]],
        "failed": summary.failed,
    }


def _read(config: Config, run: RunDirectory, group: Group | None = None) -> AcquireSummary:
    items = read_items(need(run.items, "search"))
    with _workers(config, reading=True) as executor:
        summary = acquire_scenes(
            items,
            cube_grid(config, items),
            run.cube,
            manifest=run.manifest,
            scenes_table=run.scenes,
            executor=executor,
            quota=_quota(config, run.path),
            group=group,
            progress=_progress("acquire"),
            **_reading(config),
        )
    failed = summary.failed
    if len(failed) > config.acquire.tolerate_failed_scenes:
        listed = "\n".join(f"  {line}" for line in group_reasons(failed.items()))
        kept = "kept" if group else f"in {run.cube}"
        raise GlacierError(
            f"{len(failed)} of {summary.scenes} scenes could not be read; the others are {kept}. Run again to "
            f"retry only these, or set acquire.tolerate_failed_scenes: {len(failed)}\n{listed}"
        )
    return summary


def plan(config: Config, run: RunDirectory) -> Summary:
    """Say what `acquire` would read and write, without reading a pixel or writing a file."""
    items = read_items(run.items) if run.items.exists() else _search(config).items
    planned = plan_acquisition(items, cube_grid(config, items), bands=config.acquire.bands)
    return {"table": planned.table(), **planned.to_dict()}


def clean(config: Config, run: RunDirectory) -> Summary:
    """Mask clouds, shadows and saturation, fill small holes, mark what was filled: ``clean.zarr``."""
    source = need(run.cube, "acquire")
    with _workers(config) as executor, atomic_path(run.clean) as store:
        rows = clean_cube(
            source,
            store,
            mask=config.clean.mask,
            fill_passes=config.clean.fill_passes,
            min_clear_share=config.clean.min_clear_share,
            executor=executor,
            progress=_progress("clean"),
        )
        # the table is what tells why nothing is left: it is written in any case, the cube only with scenes in it
        write_table(run.clean_table, rows)
        dropped = rows[rows.state == "dropped"]
        done = rows[rows.state != "dropped"]
        if done.empty:
            raise GlacierError(
                f"no scene has enough clear ground, see {run.clean_table}; lower clean.min_clear_share or widen "
                "the period"
            )
    return {
        "table": [
            ["scenes kept", done.scene.nunique()],
            ["scenes dropped", len(dropped)],
            ["empty bands", int((rows.state == "empty").sum())],
            ["clear share, median", f"{done.clear_share.median():.1%}"],
            ["filled share, median", f"{done.filled_share.median():.2%}"],
        ]
    }


def _align_bands(config: Config, bands: list[str]) -> str | tuple[str, str]:
    """Return the band that the alignment compares, or the two whose normalised difference it does."""
    if config.align.image in ("band", "gradient"):
        return config.align.band
    first, second = check_bands(config.align.image, bands)
    return first, second


def align(config: Config, run: RunDirectory) -> Summary:
    """Co-register all scenes together, on stable ground: ``aligned.zarr``."""
    cube = open_cube(need(run.clean, "clean"))
    stable = _stable_ground(config, Grid.from_dataset(cube))
    with _workers(config) as executor, atomic_path(run.aligned) as store:
        rows = align_cube(
            cube,
            store,
            motion=config.align.motion,
            band=_align_bands(config, [str(name) for name in cube["band"].values]),
            gradient=config.align.image == "gradient",
            stable=stable,
            max_shift_px=config.align.max_shift_px,
            min_correlation=config.align.min_correlation,
            kernel=config.align.kernel,
            links=run.alignment_links,
            vectors=run.alignment_vectors,
            executor=executor,
            progress=_progress("align"),
        )
        write_table(run.alignment, rows)
        good = rows[rows.ok]
        for row in rows[~rows.ok].itertuples():
            log.warning("scene %s is not aligned and left out: %s", row.scene, row.reason)
        if good.empty:
            raise GlacierError(f"no scene could be aligned; {run.alignment} gives the reason for each")
    measured = "residual on stable ground" if stable is not None else "residual over the whole area"
    return {
        "table": [
            ["scenes aligned", len(good)],
            ["scenes left out", len(rows) - len(good)],
            ["shift, median", f"{good.shift_px.median():.2f} px = {good.shift_m.median():.1f} m"],
            ["shift, largest", f"{good.shift_px.max():.2f} px"],
            [f"{measured}, before", _median_px(good.residual_before_px)],
            [f"{measured}, after", _median_px(good.residual_px)],
            ["predicted error of a scene, median", _median_px(good.error_px)],
            ["closure of linked scenes, median", _median_px(good.closure_px, "no three images are linked")],
        ]
    }


def composite(config: Config, run: RunDirectory) -> Summary:
    """Combine the looks of each date window into one index image: ``composite.zarr``."""
    source, period = need(run.aligned, "align"), config.source.period
    with _workers(config) as executor, atomic_path(run.composite) as store:
        rows = composite_cube(
            source,
            store,
            index=config.composite.index,
            window_months=config.composite.window_months,
            statistic=config.composite.statistic,
            min_looks=config.composite.min_looks,
            threshold=config.composite.threshold,
            use_filled=config.composite.use_filled,
            start=period.start,
            end=period.end,
            executor=executor,
            progress=_progress("composite"),
        )
        if not rows.valid_share.any():
            raise GlacierError(
                f"none of {len(rows)} windows has a pixel that was seen composite.min_looks="
                f"{config.composite.min_looks} times; lower it, or widen composite.window_months or the period"
            )
    return {
        "table": [
            ["windows", len(rows)],
            ["empty windows", int((rows.looks_mean == 0).sum())],
            ["looks per pixel and window, mean", f"{rows.looks_mean.mean():.1f}"],
        ]
    }


def cube_grid(config: Config, items: Sequence[dict[str, Any]]) -> Grid:
    """Return the one grid of the run, on the archive's own pixel corners where its CRS allows it."""
    area = config.source.area
    grid = Grid.from_bbox(
        area.bbox_lonlat, area.resolution_m, crs=area.crs, allow_distortion=area.allow_distortion
    )
    anchor_m = archive_anchor(items, grid.crs, area.resolution_m, band=config.acquire.bands[0])
    return Grid.from_bbox(
        area.bbox_lonlat, area.resolution_m, crs=grid.crs, anchor_m=anchor_m, allow_distortion=True
    )


def _search(config: Config) -> SearchResult:
    area, period, archive = config.source
    # a wrong CRS is the user's to mend: say so before the catalogue is asked
    cube_grid(config, [])
    return search_scenes(
        archive.catalogue,
        collections=archive.collections,
        bbox_lonlat=area.bbox_lonlat,
        start=period.start,
        end=period.end,
        months=period.months,
        max_cloud_cover_percent=archive.max_cloud_cover_percent,
        platforms=archive.platforms,
        include=archive.include,
        exclude=archive.exclude,
        max_scenes=archive.max_scenes,
        timeout_s=archive.timeout_s,
        max_attempts=config.acquire.max_attempts,
    )


def _search_table(items: Sequence[dict[str, Any]], report: dict[str, Any]) -> list[list[Any]]:
    clouds = [item["properties"].get("eo:cloud_cover", math.nan) for item in items]
    return [
        ["scenes", len(items)],
        ["left out by filters", len(report.get("dropped", ()))],
        ["first", items[0]["properties"]["datetime"]],
        ["last", items[-1]["properties"]["datetime"]],
        ["cloud cover, median", f"{np.nanmedian(clouds):.0f} %" if np.isfinite(clouds).any() else "unknown"],
    ]


def _reading(config: Config) -> dict[str, Any]:
    acquisition, archive = config.acquire, config.source.archive
    return {
        "bands": acquisition.bands,
        "loader": acquisition.loader,
        "min_valid_share": acquisition.min_valid_share,
        "max_attempts": acquisition.max_attempts,
        "backoff_s": acquisition.backoff_s,
        "deadline_s": acquisition.deadline_s,
        "timeout_s": archive.timeout_s,
        "max_connections": archive.max_connections,
        "requests_per_s": archive.requests_per_s,
        "signing": archive.signing,
        "token": access_token(),
        "catalogue": archive.catalogue,
        "attrs": {"config_hash": config_hash(config)},
        "in_flight": 2 * acquisition.read_threads,
    }


def _quota(config: Config, folder: Path) -> Room | None:
    left = quota_left(folder, command=_quota_command(config) if told_by_job() is None else None)
    return Room(left.bytes, left.files, "your quota") if left else None


def _quota_command(config: Config) -> str | None:
    """Return what a site is asked for quotas by; no reason to stop where no site was asked for."""
    try:
        return load_site(config.cluster.site).site.quota_command
    except InputError as err:
        if config.cluster.site != "generic":
            raise
        log.warning("by what to ask for the quota is not known: %s", err)
        return None


def _median_px(values: pd.Series, otherwise: str = "too little ground with texture") -> str:
    measured = values.dropna()
    return f"not measured: {otherwise}" if measured.empty else f"{measured.median():.3f} px"


def _progress(step: str) -> Callable[[int, int], None]:
    """Return what a long step calls with what is done and what there is to do: a log record that moves the bar."""

    def show(done: int, total: int) -> None:
        if done == total or done % max(1, total // 20) == 0:
            log.info("%s: %d of %d", step, done, total, extra={"done": done, "total": total})

    return show


def _workers(config: Config, *, reading: bool = False) -> AbstractContextManager[Executor | None]:
    """Start this step's workers; a step that reads gets threads for waiting, apart from the cores."""
    cluster = config.cluster
    cores = (
        math.ceil(config.acquire.read_threads / cluster.workers) if reading else cluster.threads_per_worker
    )
    jobs = worker_jobs(config, reading=reading)
    made = make_cluster(
        cluster.kind, workers=cluster.workers, cores=cores, memory_gb=cluster.memory_gb, jobs=jobs
    )
    return _fenced(made, config.run_path)


@contextmanager
def _fenced(made: AbstractContextManager[Executor | None], folder: Path) -> Iterator[Executor | None]:
    """Let workers write only for as long as this command has the folder."""
    with made as executor:
        yield fenced(executor, folder)


def _stable_ground(config: Config, grid: Grid) -> np.ndarray | None:
    outlines = config.source.area.outlines
    if not config.align.stable_ground or outlines is None:
        return None
    return ~glacier_mask(outlines, grid)
