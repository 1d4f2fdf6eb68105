"""What is said about every scene of a placed stack: its matrix, the check against its reference, the reason.

How the scenes are placed is in `placing`, the check itself in `confirm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from glacierhpc.coreg.adjustment import MAX_MISFIT_PX
from glacierhpc.coreg.georeference import KIND as GEOREFERENCING
from glacierhpc.coreg.links import closure, closure_of, mapped
from glacierhpc.coreg.pair import AlignmentResult
from glacierhpc.coreg.placing import FEW_SCENES, Job, Placed, chunked, motion_of_all, node_names
from glacierhpc.coreg.stack_tasks import MAIN, Pair, check_scenes
from glacierhpc.kernels.motions import centre, corners

SCENE_LINKS = ("neighbour", "rescue")
MIN_RESCUE_LINKS = 2  # one pair alone may be a chance match of clouds or snow


@dataclass(frozen=True)
class Scene:
    """What is known of one scene in the end."""

    result: AlignmentResult
    """Its ``matrix`` is that of the adjusted network: pixel of the common frame to pixel of the scene."""
    season: str
    valid_share: float
    error_px: float = float("nan")
    links: int = 0
    closure_px: float = float("nan")
    residuals: Mapping[str, float] = field(default_factory=dict)


def judge(job: Job, placed: Placed) -> list[Scene]:
    """Return what is known of every scene, by position."""
    touching: dict[int | str, list[int]] = {i: [] for i in job.scenes}
    for k, pair in enumerate(placed.pairs):
        for end in {pair.first, pair.second}:
            touching.setdefault(end, []).append(k)
    motion = motion_of_all(placed.pairs)
    scenes = [_summed_up(job, placed, i, touching[i], motion) for i in job.scenes]
    names = node_names(len(job.times), placed.pairs)
    errors = closure_of([names[i] for i in job.scenes], triangles(placed, job.source.shape))
    scenes = [replace(scene, closure_px=errors[names[i]]) for i, scene in enumerate(scenes)]
    return _checked(job, placed, scenes) if placed.references else scenes


def triangles(placed: Placed, shape: tuple[int, int]) -> pd.DataFrame:
    """Return the closure of the used links that were measured in images."""
    names = node_names(len(placed.looks), placed.pairs)
    measured = [
        pair.link(names)
        for pair, used in zip(placed.pairs, placed.network.used)
        if used and pair.kind != GEOREFERENCING
    ]
    return closure(measured, shape)


def _summed_up(job: Job, placed: Placed, scene: int, links: Sequence[int], motion: str) -> Scene:
    """Return the verdict of the links, given by their positions, on one scene."""
    network, pairs = placed.network, placed.pairs
    name = node_names(len(job.times), [])[scene]
    look = placed.looks[scene]
    to_reference = [k for k in links if pairs[k].kind == "reference"]
    used = [k for k in links if network.used[k]]
    best = next((k for k in to_reference if network.used[k]), None)
    shown = best if best is not None else next((k for k in used if pairs[k].second == scene), to_reference[0])
    its_own = {id(pairs[k]): pairs[k].result for k in links if pairs[k].second == scene} | {
        id(look): look.result
    }
    result = replace(
        pairs[shown].result,
        iterations=sum(each.iterations for each in its_own.values()),
        seconds=sum(each.seconds for each in its_own.values()),
        ok=False,
        matrix=np.full((3, 3), np.nan),
        motion=motion,
    )
    close = sum(network.misfit_px[k] <= MAX_MISFIT_PX for k in used)
    if best is None and close < MIN_RESCUE_LINKS:
        result = replace(result, reason=_refusal(placed, to_reference[0]) or network.reasons[name])
    elif not _witnessed(placed, used):
        reason = (
            f"its reference is made of {placed.members} scenes with itself, and no other scene agrees with it"
        )
        result = replace(result, reason=reason)
    else:
        result = _moved(result, network.matrices[name], job.source.shape, job.options.max_shift_px)
    return Scene(
        result,
        season=placed.seasons[scene] if best is None else str(pairs[best].first),
        valid_share=look.valid_share,
        error_px=network.error_px[name] if result.ok else float("nan"),
        links=len(used),
    )


def _witnessed(placed: Placed, used: Sequence[int]) -> bool:
    """Return whether more than a median that a scene is part of speaks for it: links between scenes do.

    Of noise alone every scene fits its median, by its own share in it.
    """
    few = placed.members < FEW_SCENES
    links = used if few else np.flatnonzero(placed.network.used).tolist()
    return placed.members == 1 or any(placed.pairs[k].kind in SCENE_LINKS for k in links)


def _refusal(placed: Placed, link: int) -> str:
    """Return why the link of a scene to its reference does not place it."""
    told = placed.network.link_reasons[link]
    if placed.pairs[link].result.ok:
        return f"its link to the reference is not trusted: {told}"
    return told


def _moved(
    result: AlignmentResult, matrix: np.ndarray, shape: tuple[int, int], max_shift_px: float
) -> AlignmentResult:
    """Return a result with another matrix, refused where that moves a corner further than the limit."""
    points = corners(shape)
    reach = float(np.linalg.norm(mapped(matrix, points) - points[:2], axis=0).max())
    middle = centre(shape)
    x, y = (mapped(matrix, middle) - middle[:2])[:, 0]
    result = replace(result, ok=True, reason="", matrix=matrix)
    result = replace(result, shift_px=float(np.hypot(x, y)), shift_col_px=float(x), shift_row_px=float(y))
    if reach <= max_shift_px:
        return result
    reason = f"a corner moves by {reach:.1f} px, over {max_shift_px:g} px"
    return replace(result, ok=False, reason=reason, matrix=np.full((3, 3), np.nan))


def _checked(job: Job, placed: Placed, scenes: Sequence[Scene]) -> list[Scene]:
    """Check every scene against its reference; a matrix that the check replaces stays in the common frame."""
    at = {name: placed.network.matrices.get(f"reference:{name}") for name in placed.references}
    frames = {name: matrix for name, matrix in at.items() if matrix is not None}
    asked = []
    for i, scene in enumerate(scenes):
        name, relative = scene.season if scene.season in frames else MAIN, scene.result
        if relative.ok:
            relative = replace(relative, matrix=relative.matrix @ np.linalg.inv(frames[name]))
        asked.append((i, name, relative))
    chunks = chunked(job.scenes)
    calls = []
    for chunk in chunks:
        part = [asked[i] for i in chunk]
        given = {name: placed.references[name] for _, name, _ in part}
        calls.append((job.source.only(chunk), part, given, job.stable, job.options))
    checked = list(scenes)
    for answers in job.run(check_scenes, calls, [len(chunk) for chunk in chunks]):
        for i, found, residuals in answers:
            result = scenes[i].result
            if not np.array_equal(found.matrix, asked[i][2].matrix, equal_nan=True):
                result = found
                if found.ok:
                    matrix = found.matrix @ frames[asked[i][1]]
                    result = _moved(found, matrix, job.source.shape, job.options.max_shift_px)
            error_px = scenes[i].error_px if result.ok else float("nan")
            checked[i] = replace(scenes[i], result=result, residuals=residuals, error_px=error_px)
    return checked


def left_vectors(pair: Pair, matrix: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Return a pair's vectors (n, 5) as they are after the adjustment: x, y of the frame, dx, dy, weight.

    Parameters
    ----------
    pair : Pair
        Of a reference and a scene.
    matrix, frame : (3, 3)
        Of the scene and of the reference in the network.
    """
    vectors = np.array(pair.result.vectors, float)
    if not len(vectors):
        return vectors
    at_reference = np.column_stack([vectors[:, :2], np.ones(len(vectors))]).T
    in_frame = np.linalg.inv(frame) @ at_reference
    seen = mapped(pair.result.matrix, at_reference) + vectors[:, 2:4].T
    vectors[:, :2] = (in_frame[:2] / in_frame[2]).T
    vectors[:, 2:4] = (seen - mapped(matrix, in_frame / in_frame[2])).T
    return vectors
