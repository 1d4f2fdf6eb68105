"""The pairs of a stack that workers align: scenes to references, to their neighbours in time, to their rescuers.

Each task reads the few scenes it needs, one after another. Which tasks there are is decided in `placing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from glacierhpc.coreg.confirm import confirmed
from glacierhpc.coreg.descent import coarser, finer
from glacierhpc.coreg.links import Link, corner_offsets
from glacierhpc.coreg.pair import AlignmentResult, align_pair
from glacierhpc.coreg.prepared import Prepared, prepare
from glacierhpc.coreg.sources import ImageSource, Raster, Reference
from glacierhpc.kernels.motions import shift_matrix
from glacierhpc.kernels.pyramid import halve
from glacierhpc.kernels.warp import warp

HALVED_SIDE_PX = 400  # from this side on, half the resolution finds a matrix within a pixel
MAIN = "all"  # name of the reference that is made of the scenes of all seasons
MAX_LINK_ERROR_PX = 1.0  # of a single pair: the network gives a poor link the little weight it deserves


@dataclass(frozen=True)
class StackOptions:
    """The arguments of `align_stack` that every pair is aligned with."""

    motion: str
    max_shift_px: float
    min_correlation: float
    min_overlap_share: float
    window_px: int

    def pair(self, *, scenes: int = 1) -> dict[str, Any]:
        """Return arguments of `align_pair`; two scenes may each be off by the largest shift."""
        return {
            "motion": self.motion,
            "max_shift_px": scenes * self.max_shift_px,
            "min_correlation": self.min_correlation,
            "min_overlap_share": self.min_overlap_share,
        }


@dataclass(frozen=True)
class Pair:
    """One aligned pair, by positions of scenes and names of references."""

    first: int | str
    second: int | str
    kind: str
    result: AlignmentResult
    valid_share: float = float("nan")
    """Valid pixels of the second image."""

    def link(self, names: Mapping[int | str, str]) -> Link:
        """Return it as a link between named nodes."""
        found = self.result
        return Link(
            names[self.first], names[self.second], found.matrix, found.error_px, self.kind, found.rho, found.reason
        )  # fmt: skip


def first_looks(
    source: ImageSource,
    scenes: Sequence[int],
    reference: Reference,
    starts: Mapping[int, np.ndarray],
    options: StackOptions,
) -> list[Pair]:
    """Align scenes to a first reference."""
    pairs = []
    for scene in scenes:
        moving = _prepared(source, scene, None, None)
        found = _aligned(reference.prepared, moving, starts.get(scene), options.pair())
        pairs.append(
            Pair(MAIN, scene, "reference", found, moving.pixels / (moving.shape[0] * moving.shape[1]))
        )
    return pairs


@dataclass(frozen=True)
class Neighbours:
    """A run of scenes, consecutive in time, and what they are to be linked to."""

    scenes: Sequence[int]
    before: int | None
    """The scene before the first, which is linked to it too."""
    starts: Mapping[int, np.ndarray]
    """(3, 3) of the scenes that are roughly known, frame pixel to scene pixel."""
    seasons: Mapping[int, str]
    """Name of the reference that each scene is tried against first."""


def link_scenes(
    source: ImageSource,
    run: Neighbours,
    references: Mapping[str, Reference],
    stable: Raster | None,
    options: StackOptions,
) -> list[Pair]:
    """Link a run of scenes to their references, and each to the one before it."""
    ground = _loaded(stable)
    pairs: list[Pair] = []
    previous: Prepared | None = None
    known = dict(run.starts)
    if run.before is not None:
        previous = _witness(_prepared(source, run.before, known.get(run.before), ground))
    for scene, before in zip(run.scenes, [run.before, *run.scenes]):
        moving = _prepared(source, scene, known.get(scene), ground)
        names = dict.fromkeys([run.seasons[scene], MAIN])
        for name in names:
            found = _aligned(references[name].prepared, moving, known.get(scene), options.pair())
            pairs.append(Pair(name, scene, "reference", found))
            if found.ok:
                known[scene] = found.matrix
                break
        witness = _witness(moving)
        if previous is not None and before is not None:
            start = _between(known.get(before), known.get(scene))
            found = _neighbours(previous, witness, start, options, halved=witness is not moving)
            pairs.append(Pair(before, scene, "neighbour", found))
        previous = witness
    return pairs


def link_references(
    first: str, second: str, references: Mapping[str, Reference], options: StackOptions
) -> list[Pair]:
    """Link two references, which lie in about the same frame."""
    found = _aligned(references[first].prepared, references[second].prepared, np.eye(3), options.pair())
    return [Pair(first, second, "reference", found)]


def link_rescuers(
    source: ImageSource,
    scene: int,
    rescuers: Mapping[int, np.ndarray],
    stable: Raster | None,
    options: StackOptions,
) -> list[Pair]:
    """Link a scene that no reference takes to placed scenes, given with their matrices."""
    ground = _loaded(stable)
    moving = _prepared(source, scene, None, ground)
    return [
        Pair(
            other,
            scene,
            "rescue",
            align_pair(_prepared(source, other, matrix, ground), moving, **options.pair(scenes=2)),
        )
        for other, matrix in rescuers.items()
    ]


def check_scenes(
    source: ImageSource,
    scenes: Sequence[tuple[int, str, AlignmentResult]],
    references: Mapping[str, Reference],
    stable: Raster | None,
    options: StackOptions,
) -> list[tuple[int, AlignmentResult, dict[str, float]]]:
    """Confirm scenes against the references named, by the residual of windows; matrices start at the reference."""
    ground = _loaded(stable)
    checked = []
    for scene, name, result in scenes:
        image = references[name].raster.load()
        confirmation = confirmed(
            image, source.read(scene), result, ground, options.window_px, options.max_shift_px
        )
        checked.append((scene, *confirmation))
    return checked


def _loaded(stable: Raster | None) -> np.ndarray | None:
    return None if stable is None else stable.load()


def _aligned(
    reference: Prepared, moving: Prepared, start: np.ndarray | None, given: dict[str, Any]
) -> AlignmentResult:
    """Align a pair from a start; where that fails, search as if there were none."""
    given = {"max_error_px": MAX_LINK_ERROR_PX, **given}
    found = align_pair(reference, moving, start=start, **given)
    if found.ok or start is None:
        return found
    again = align_pair(reference, moving, **given)
    return replace(again if again.ok else found, seconds=found.seconds + again.seconds)


def _witness(image: Prepared) -> Prepared:
    """Return what a scene is linked to its neighbour by: large ones at half the resolution.

    The link is to tell whether the links to references are right, at a quarter of their cost; its own error says
    how much it counts.
    """
    return prepare(halve(image.image)) if min(image.shape) >= HALVED_SIDE_PX else image


def _neighbours(
    first: Prepared, second: Prepared, start: np.ndarray | None, options: StackOptions, *, halved: bool
) -> AlignmentResult:
    """Align two scenes as they are witnessed; the result is at full resolution."""
    given = options.pair(scenes=2)
    if not halved:
        return _aligned(first, second, start, given)
    given["max_shift_px"] /= 2
    found = _aligned(first, second, None if start is None else coarser(start, 1), given)
    return replace(found, matrix=finer(found.matrix), error_px=2 * found.error_px)


def _between(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    return None if first is None or second is None else second @ np.linalg.inv(first)


def _prepared(
    source: ImageSource, scene: int, matrix: np.ndarray | None, stable: np.ndarray | None
) -> Prepared:
    """Return a scene prepared, where it is known to lie only its stable ground."""
    image = source.read(scene)
    if stable is not None and matrix is not None:
        image = np.where(_on_scene(stable, matrix), image, np.float32(np.nan))
    return prepare(image)


def _on_scene(stable: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return a mask (y, x) bool of the frame on the pixels of a scene, within a pixel."""
    rows, columns = stable.shape
    x, y = np.clip(np.rint(matrix[:2, 2]).astype(int), [-columns, -rows], [columns, rows])
    shift = shift_matrix(x, y)
    if corner_offsets(matrix, shift, stable.shape).max() > 1:  # type: ignore[arg-type]
        there, _ = warp(stable.astype(np.float32), np.linalg.inv(matrix), kernel="linear")
        return np.asarray(there > 0.5)
    out = np.zeros(stable.shape, bool)
    out[max(0, y) : rows + min(0, y), max(0, x) : columns + min(0, x)] = stable[
        max(0, -y) : rows - max(0, y), max(0, -x) : columns - max(0, x)
    ]
    return out
