"""The story of placing a stack: first look, references by season, links, rescue, one adjustment.

The tasks that align pairs are in `stack_tasks`, the adjustment in `network`, what is said about each scene in
`verdicts`. Nothing here looks at a pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from glacierhpc.coreg.descent import finer
from glacierhpc.coreg.georeference import season_links
from glacierhpc.coreg.links import corner_offsets
from glacierhpc.coreg.network import Network, adjust
from glacierhpc.coreg.reference import Blocks, make_medians, reference_blocks, season_groups
from glacierhpc.coreg.sources import ImageSource, Raster, Reference
from glacierhpc.coreg.stack_tasks import (
    HALVED_SIDE_PX,
    MAIN,
    Neighbours,
    Pair,
    StackOptions,
    first_looks,
    link_references,
    link_rescuers,
    link_scenes,
)
from glacierhpc.fanout import Tally, run_all
from glacierhpc.kernels.motions import MOTIONS
from glacierhpc.seasons import DAY, days_apart

CHUNK_SCENES = 6  # of a task: each run of scenes reads one scene more than it has
FIRST_LOOKS = 3
FEW_SCENES = 5  # a median of fewer shows so much of each that any scene fits it
SETTLED_PX = 1.5  # scenes that lay closer make a median sharp enough to find starts with
RESCUERS = 4
POOR_PX = 0.3  # predicted error from which on a scene that only a reference takes is linked to others too
STRANGE_SHARE = 0.1  # on Sverdrup, snow bends 6 of 70 dates; on Jakobshavn 9 of 30 are turned and magnified
OTHER_YEAR_DAYS = 180.0


@dataclass(frozen=True)
class Job:
    """What is to be placed, and where what is made on the way is kept."""

    source: ImageSource
    times: np.ndarray
    """(scenes,) datetime64, ascending."""
    options: StackOptions
    stable: Raster | None
    stored: Callable[[str, np.ndarray], Raster]
    """Keeps an array under a name where workers find it."""
    executor: Executor | None
    tally: Tally

    @property
    def scenes(self) -> list[int]:
        """Positions."""
        return list(range(len(self.times)))

    def run(
        self, task: Callable[..., Any], calls: Sequence[tuple], counts: Sequence[int] = ()
    ) -> Iterator[Any]:
        """Yield the results of tasks in order, counting the scenes of each."""
        results = run_all(self.executor, task, calls)
        for position, result in enumerate(results):
            self.tally.add(counts[position] if counts else 0)
            yield result


@dataclass(frozen=True)
class Placed:
    """A stack with its links adjusted."""

    looks: list[Pair]
    """Every scene against the first reference."""
    seasons: list[str]
    """Name of the reference of each scene's season."""
    references: Mapping[str, Reference]
    """Empty where no scene could be aligned to the first reference."""
    pairs: list[Pair]
    network: Network
    members: int
    """Scenes that the references are made of."""


def steps_of(shape: tuple[int, int], scenes: int) -> int:
    """Return what a job will count in its tally: blocks of references, and every scene in each pass."""
    return (
        FIRST_LOOKS * (len(_look_blocks(shape, scenes)) + scenes)
        + len(reference_blocks(shape, scenes))
        + 2 * scenes
    )


def place(job: Job) -> Placed:
    """Place all scenes of a stack; what the steps are is told in `glacierhpc.coreg.stack.align_stack`."""
    looks = _look(job)
    ok = np.array([pair.result.ok for pair in looks], bool)
    seasons = season_groups(job.times, ok)
    if not ok.any():
        return Placed(looks, seasons, {}, looks, _adjusted(job, looks), 0)
    starts = {int(i): looks[i].result.matrix for i in np.flatnonzero(ok)}
    references = _references(job, seasons, starts)
    seasons = [name if name in references else MAIN for name in seasons]
    pairs = _link(job, references, seasons, starts)
    pairs += _rescue(job, pairs, len(starts))
    pairs += season_links(pairs, job.source.shape)
    return Placed(looks, seasons, references, pairs, _adjusted(job, pairs), len(starts))


def _look(job: Job) -> list[Pair]:
    """Align all scenes to their median, at half the resolution where that is enough."""
    if not _halved(job.source.shape):
        return _look_at(job)
    options = replace(job.options, max_shift_px=job.options.max_shift_px / 2)
    small = replace(job, source=job.source.halved(job.executor), stable=_halved_ground(job), options=options)
    return [
        replace(pair, result=replace(pair.result, matrix=finer(pair.result.matrix)))
        for pair in _look_at(small)
    ]


def _look_at(job: Job) -> list[Pair]:
    """Align all scenes to their median, again where they were so far apart that it was blurred."""
    starts = {i: np.eye(3) for i in job.scenes}
    chunks, blocks = chunked(job.scenes), reference_blocks(job.source.shape, len(job.times))
    for look in range(FIRST_LOOKS):
        image = _medians(job, {MAIN: list(starts)}, starts)[MAIN]
        known = starts if look else {}
        calls = [
            (job.source.only(chunk), chunk, image, {i: known[i] for i in chunk if i in known}, job.options)
            for chunk in chunks
        ]
        parts = job.run(first_looks, calls, [len(chunk) for chunk in chunks])
        looks = [pair for part in parts for pair in part]
        found = {pair.second: pair.result.matrix for pair in looks if pair.result.ok}
        moves = [corner_offsets(found[i], starts[i], job.source.shape).max() for i in found if i in starts]
        if not found or np.median(moves) < SETTLED_PX:
            job.tally.add((FIRST_LOOKS - 1 - look) * (len(blocks) + len(job.times)))
            break
        starts = found
    return looks


def _medians(
    job: Job, members: Mapping[str, Sequence[int]], matrices: Mapping[int, np.ndarray]
) -> dict[str, Reference]:
    """Make references of groups of scenes and one of all, of stable ground only where it is known."""
    blocks = reference_blocks(job.source.shape, len(job.times))
    overall = "" if MAIN in members else MAIN
    made = make_medians(
        job.source, members, matrices, blocks, overall=overall, executor=job.executor, tally=job.tally
    )
    if job.stable is not None:
        ground = job.stable.load()
        for image in made.values():
            image[~ground] = np.nan
    return {name: Reference(job.stored(name, image)) for name, image in made.items()}


def _halved_ground(job: Job) -> Raster | None:
    if job.stable is None:
        return None
    rows, columns = (size // 2 for size in job.source.shape)
    pixels = job.stable.load()[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2)
    return job.stored("stable-halved", np.asarray(pixels.all(axis=(1, 3))))


def _halved(shape: tuple[int, int]) -> bool:
    """Return whether a first look is at half the resolution."""
    return min(shape) >= HALVED_SIDE_PX


def _look_blocks(shape: tuple[int, int], scenes: int) -> Blocks:
    factor = 2 if _halved(shape) else 1
    return reference_blocks((shape[0] // factor, shape[1] // factor), scenes)


def _references(job: Job, seasons: list[str], starts: Mapping[int, np.ndarray]) -> dict[str, Reference]:
    """Make the medians of each season, through the matrices of the first look."""
    members = {name: [i for i in starts if seasons[i] == name] for name in sorted(set(seasons))}
    return _medians(job, {name: some for name, some in members.items() if some}, starts)


def _link(
    job: Job, references: Mapping[str, Reference], seasons: list[str], starts: Mapping[int, np.ndarray]
) -> list[Pair]:
    """Link references to each other, scenes to their references and to the scenes before them."""
    ends = [(a, b, references, job.options) for a, b in combinations(sorted(references), 2)]
    pairs = [pair for part in job.run(link_references, ends) for pair in part]
    chunks = chunked(job.scenes)
    calls = []
    for chunk in chunks:
        before = chunk[0] - 1 if chunk[0] else None
        seen = chunk if before is None else [before, *chunk]
        run = Neighbours(
            chunk, before, {i: starts[i] for i in seen if i in starts}, {i: seasons[i] for i in chunk}
        )
        needed = {MAIN, *run.seasons.values()}
        given = {name: reference for name, reference in references.items() if name in needed}
        calls.append((job.source.only(seen), run, given, job.stable, job.options))
    for part in job.run(link_scenes, calls, [len(chunk) for chunk in chunks]):
        pairs += part
    return pairs


def _rescue(job: Job, pairs: Sequence[Pair], members: int) -> list[Pair]:
    """Link scenes that no reference takes to placed ones near in time and near in season.

    So are scenes without a neighbour that only a reference takes, if it takes them poorly or is made of so few that
    it may do so for their own part in it.
    """
    taken = {pair.second: pair.result for pair in pairs if pair.kind == "reference" and pair.result.ok}
    met: dict[int | str, set[int | str]] = {i: {i} for i in job.scenes}
    held: set[int | str] = set()
    for pair in pairs:
        if pair.kind == "neighbour":
            met[pair.first].add(pair.second)
            met[pair.second].add(pair.first)
            held |= {pair.first, pair.second} if pair.result.ok else set()
    doubtful = 1 < members < FEW_SCENES or not held
    calls = []
    for scene in job.scenes:
        if scene in taken and (scene in held or not (doubtful or taken[scene].error_px > POOR_PX)):
            continue
        others = [i for i in job.scenes if i in taken and i not in met[scene]]
        rescuers = {i: taken[i].matrix for i in nearest(job.times, scene, others)}
        calls.append((job.source.only([scene, *rescuers]), scene, rescuers, job.stable, job.options))
    return [pair for part in job.run(link_rescuers, calls) for pair in part]


def nearest(times: np.ndarray, scene: int, others: Sequence[int]) -> list[int]:
    """Return scenes to link one to: half of them nearest in time, half of the same season of other years."""
    if not others:
        return []
    there = np.array(others)
    apart = np.abs((times[there] - times[scene]) / DAY)
    chosen = list(there[np.argsort(apart, kind="stable")][: RESCUERS // 2])
    season = (
        days_apart(times[there], times[scene]) + np.where(apart < OTHER_YEAR_DAYS, 1e3, 0.0) + apart * 1e-6
    )
    for i in [*there[np.argsort(season, kind="stable")], *there[np.argsort(apart, kind="stable")]]:
        if len(chosen) < RESCUERS and i not in chosen:
            chosen.append(i)
    return [int(i) for i in chosen]


def node_names(scenes: int, pairs: Sequence[Pair]) -> dict[int | str, str]:
    """Return the nodes' names in the network: positions for scenes, which no two share."""
    references = sorted(
        {MAIN} | {end for pair in pairs for end in (pair.first, pair.second) if isinstance(end, str)}
    )
    return {**{i: f"{i:06d}" for i in range(scenes)}, **{name: f"reference:{name}" for name in references}}


def _adjusted(job: Job, pairs: Sequence[Pair]) -> Network:
    names = node_names(len(job.times), pairs)
    return adjust(
        names.values(),
        [pair.link(names) for pair in pairs],
        shape=job.source.shape,
        motion=motion_of_all(pairs),
        main=names[MAIN],
        level=[names[i] for i in job.scenes],
    )


def motion_of_all(pairs: Sequence[Pair]) -> str:
    """Return the fewest-parameter motion that holds the scenes: of a scene's links the simplest, of scenes the highest.

    Links that took more parameters than their scene needs do not stretch all: scenes with a single link are not
    asked, unless all have no more, and a tenth of the scenes may be strange.
    """
    taken: dict[int, list[int]] = {}
    for pair in pairs:
        for end in {pair.first, pair.second}:
            if pair.result.ok and isinstance(end, int):
                taken.setdefault(end, []).append(MOTIONS.index(pair.result.motion))
    sure = [some for some in taken.values() if len(some) > 1] or list(taken.values())
    needs = sorted(min(some) for some in sure)
    return MOTIONS[needs[len(needs) - 1 - int(STRANGE_SHARE * len(needs))] if needs else 0]


def chunked(scenes: Sequence[int]) -> list[list[int]]:
    """Return runs of consecutive scenes of about equal length."""
    count = -(-len(scenes) // CHUNK_SCENES)
    return [part.tolist() for part in np.array_split(np.array(scenes, int), max(count, 1))]
