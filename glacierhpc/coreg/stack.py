"""Alignment of a whole stack of images in memory, and the tables that say what came of it.

The story is told in `placing`; cubes on disk are in `cube`, one pair is in `pair`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from glacierhpc.coreg.pair import MOTION_CHOICES
from glacierhpc.coreg.placing import Job, Placed, node_names, place, steps_of
from glacierhpc.coreg.sources import ArrayImages, Raster
from glacierhpc.coreg.stack_tasks import StackOptions
from glacierhpc.coreg.verdicts import Scene, judge, left_vectors, triangles
from glacierhpc.errors import InputError, unknown_name
from glacierhpc.fanout import Progress, Tally

MATRIX = [f"m{i}{j}" for i in range(3) for j in range(3)]
COLUMNS = [
    *("scene", "time", "ok", "reason", "motion", *MATRIX, "rho_before", "rho", "iterations"),
    *("shift_px", "shift_m", "shift_row_px", "shift_col_px", "residual_before_px", "residual_px", "error_px"),
    *("season", "links", "closure_px", "valid_share", "overlap_share", "seconds"),
]
LINK_COLUMNS = ["first", "second", "kind", "used", "reason", *MATRIX, "rho", "error_px", "misfit_px"]
VECTOR_COLUMNS = ["scene", "x", "y", "dx_px", "dy_px", "weight"]


@dataclass(frozen=True)
class StackResult:
    """A placed stack as tables."""

    table: pd.DataFrame
    """A row per scene, in the order given: see `align_stack`."""
    links: pd.DataFrame
    """A row per link: first, second (scene or ``reference:<season>``), kind, used, reason, m00 .. m22 (first pixel to
    second pixel), rho, error_px, misfit_px (RMS distance at the corners from the adjusted network)."""
    vectors: pd.DataFrame
    """A row per block of each scene: scene, x, y (frame pixel of its centre), dx_px, dy_px (offset left), weight."""
    closure: pd.DataFrame
    """A row per triangle of used links: first, second, third, median_px, rms_px."""


def align_stack(
    images: np.ndarray | Sequence[np.ndarray],
    valid: np.ndarray | Sequence[np.ndarray] | None,
    times: np.ndarray | Sequence[np.datetime64],
    *,
    ids: Sequence[str] | None = None,
    stable: np.ndarray | None = None,
    motion: str = "translation",
    max_shift_px: float = 16.0,
    min_correlation: float = 0.2,
    min_overlap_share: float = 0.05,
    window_px: int = 48,
    resolution_m: float = float("nan"),
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> StackResult:
    """Align all images of a stack at once.

    1. Every scene is aligned to the temporal median of all as they are, at half the resolution where they are large;
       again to the median of the aligned ones where they were far apart.
    2. References are made of the scenes so placed: the median of each season that has enough of them, and the median
       of these medians.
    3. Every scene is linked to the reference of its season (to that of all where this fails) and to the scene
       before it, large ones at half the resolution; every reference to every other. A scene that no reference
       takes, or only poorly, is linked to placed scenes near it in time and in season. References are linked by
       the georeferencing of their scenes too (see `glacierhpc.coreg.georeference`).
    4. One adjustment of all links places every scene and every reference (see `adjust`); the frame is put where
       the median shift of the scenes is zero, the best guess of the true place that the scenes themselves allow.
    5. Every scene is checked against its reference by the residual of small windows, which knows nothing of how it
       was placed. Where this says that an ice front was followed, the median offset of the windows takes its place.

    A scene that no reference takes must be held by two links that agree; links between scenes must show that the
    references are more than the scenes' own shares in them. With "auto" all matrices are of one motion, the
    simplest that holds nine scenes of ten; what it does not hold is refused.

    The result does not depend on the order of the scenes.

    Parameters
    ----------
    images : (time, y, x) or sequence of (y, x)
        NaN is invalid, and what a masked array masks.
    valid : like images, bool, or None
    times : (time,) datetime64
    ids : sequence of str, optional
        Names of the scenes; their times by default.
    stable : (y, x) bool, optional
        Ground that does not move; all of it by default.
    motion : {"translation", "euclidean", "similarity", "affine", "homography", "auto"}
    max_shift_px, min_correlation, min_overlap_share
        As in `align_pair`, for scenes against references.
    window_px : int
        Windows of the residuals, see `local_offsets`.
    resolution_m : float, optional
        Size of a pixel, for ``shift_m``.
    executor : concurrent.futures.Executor, optional
        Runs the pairs. Threads share the images, and the kernels let them run at the same time; other processes
        are sent copies of what each task looks at.
    progress : callable, optional
        Called with what is done and what there is to do.

    Returns
    -------
    StackResult
        Its ``table`` has a row per scene: scene, time, ok, reason, motion, m00 .. m22 (frame pixel to scene pixel),
        rho_before, rho (with the reference), iterations, shift_px, shift_m, shift_row_px, shift_col_px,
        residual_before_px, residual_px (median length of window offsets on stable ground), error_px (predicted by the
        adjustment), season (of its reference), links (used), closure_px (median of its triangles), valid_share,
        overlap_share, seconds.

    Raises
    ------
    InputError
        For an unknown motion, or arrays that do not fit together.
    """
    count = len(images)
    check_motion(motion, "motion")
    if not count or len(times) != count or (valid is not None and len(valid) != count):
        raise InputError(
            f"{count} images, {len(times)} times and {count if valid is None else len(valid)} masks; give as many "
            "of each, at least one"
        )
    if ids is not None and len(ids) != count:
        raise InputError(f"{count} images and {len(ids)} ids; give one for each")
    shapes = {image.shape for image in images} | {mask.shape for mask in ([] if valid is None else valid)}
    shape = next(iter(shapes))
    if len(shapes) > 1 or len(shape) != 2:
        raise InputError(f"images and masks have shapes {sorted(shapes)}; all must be (y, x) of one grid")
    check_stable(stable, shape)
    times = np.asarray(times, "datetime64[ns]")
    names = [str(name) for name in (times if ids is None else ids)]
    order = sorted(range(count), key=lambda i: (times[i], names[i]))
    masks = {} if valid is None else {k: np.asarray(valid[i], bool) for k, i in enumerate(order)}
    job = Job(
        source=ArrayImages({k: np.asanyarray(images[i]) for k, i in enumerate(order)}, masks),
        times=times[order],
        options=StackOptions(motion, max_shift_px, min_correlation, min_overlap_share, window_px),
        stable=None if stable is None else Raster(np.asarray(stable, bool), shape, "bool"),
        stored=lambda _, image: Raster(image, image.shape, str(image.dtype)),
        executor=executor,
        tally=Tally(steps_of(shape, count), progress),
    )
    placed = place(job)
    return tables(job, placed, judge(job, placed), [names[i] for i in order], order, resolution_m)


def check_motion(motion: str, what: str) -> None:
    """Refuse a motion that is not known."""
    if motion not in MOTION_CHOICES:
        raise unknown_name(what, motion, MOTION_CHOICES)


def check_stable(stable: np.ndarray | None, shape: tuple[int, ...]) -> None:
    """Refuse stable ground that is on another grid, or nowhere."""
    if stable is None:
        return
    if stable.shape != shape:
        raise InputError(f"`stable` has shape {stable.shape}, the images {shape}; rasterise it on the grid")
    if not stable.any():
        raise InputError("`stable` is False everywhere: without stable ground nothing can be aligned to it")


def tables(
    job: Job,
    placed: Placed,
    scenes: Sequence[Scene],
    names: Sequence[str],
    order: Sequence[int],
    resolution_m: float,
) -> StackResult:
    """Return what came of a job as tables; `order` tells where each position was in what the caller gave."""
    rows = [_row(scene) for scene in scenes]
    table = pd.DataFrame(rows).assign(scene=list(names), time=job.times)
    table["shift_m"] = table["shift_px"] * resolution_m
    table = table.reindex(columns=COLUMNS).iloc[np.argsort(order)].reset_index(drop=True)
    links, around = _link_table(job, placed, names)
    return StackResult(table, links, _vector_table(placed, scenes, names), around)


def _row(scene: Scene) -> dict[str, object]:
    values = {
        key: value
        for key, value in asdict(scene.result).items()
        if key not in ("matrix", "vectors", "error_px")
    }
    entries = dict(zip(MATRIX, scene.result.matrix.ravel().tolist(), strict=True))
    told = {
        "season": scene.season,
        "error_px": scene.error_px,
        "links": scene.links,
        "closure_px": scene.closure_px,
        "valid_share": scene.valid_share,
    }
    return {
        **values,
        **entries,
        "residual_before_px": np.nan,
        "residual_px": np.nan,
        **scene.residuals,
        **told,
    }


def _link_table(job: Job, placed: Placed, names: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of links and of triangles, with the scenes' own names."""
    nodes = node_names(len(names), placed.pairs)
    shown = {node: names[key] if isinstance(key, int) else node for key, node in nodes.items()}
    network = placed.network
    links = [pair.link(nodes) for pair in placed.pairs]
    rows = []
    for k, link in enumerate(links):
        row = {
            "first": shown[link.first],
            "second": shown[link.second],
            "kind": link.kind,
            "used": bool(network.used[k]),
            "reason": network.link_reasons[k],
            "rho": link.rho,
            "error_px": link.error_px,
            "misfit_px": network.misfit_px[k],
        }
        rows.append(row | dict(zip(MATRIX, link.matrix.ravel().tolist(), strict=True)))
    around = triangles(placed, job.source.shape)
    for column in ("first", "second", "third"):
        around[column] = around[column].map(shown)
    return pd.DataFrame(rows, columns=LINK_COLUMNS), around


def _vector_table(placed: Placed, scenes: Sequence[Scene], names: Sequence[str]) -> pd.DataFrame:
    """Return the offsets left after the adjustment in the blocks of every aligned scene."""
    parts, of, counts = [np.empty((0, 5))], [], []
    for pair in placed.pairs:
        frame = placed.network.matrices.get(f"reference:{pair.first}")
        if (
            pair.kind != "reference"
            or not isinstance(pair.second, int)
            or not pair.result.ok
            or frame is None
        ):
            continue
        if scenes[pair.second].result.ok:
            parts.append(left_vectors(pair, scenes[pair.second].result.matrix, frame).reshape(-1, 5))
            of.append(names[pair.second])
            counts.append(len(parts[-1]))
    table = pd.DataFrame(np.concatenate(parts), columns=VECTOR_COLUMNS[1:])
    table.insert(0, "scene", np.repeat(np.array(of, object), np.array(counts, int)))
    return table
