"""Regular tilings of an image plane: plan, cut, and stitch with blended overlaps; knows nothing of models or files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from glacierhpc.errors import InputError, unknown_name

EDGES = ("shift", "pad")
RIM_WEIGHT = (
    1e-9  # of a tile's rim: nothing beside another tile's inside, everything where there is no other tile
)


def _flat(size: int) -> np.ndarray:
    return np.ones(size)


def _triangular(size: int) -> np.ndarray:
    centre = (size - 1) / 2
    return 1 - np.abs(np.arange(size) - centre) / (centre + 1)


def _cosine(size: int) -> np.ndarray:
    # sin^2 at pixel centres: never zero, and two neighbours at half a tile's overlap sum to one exactly
    return np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2


BLENDS: dict[str, Callable[[int], np.ndarray]] = {
    "cosine": _cosine,
    "triangular": _triangular,
    "flat": _flat,
}


@dataclass(frozen=True)
class TilePlan:
    """Where the square tiles of an image lie; equal plans cut equal tiles."""

    shape: tuple[int, int]
    """(rows, cols) of the image, pixels."""
    size: int
    """Edge length of a tile, pixels."""
    overlap: int
    """Least number of pixels that neighbouring tiles share (``edge="shift"`` may give some more)."""
    edge: str
    """``"shift"``: tiles are spread evenly inside the image; ``"pad"``: the last one reaches over the rim."""
    rows: tuple[int, ...]
    """First row of each tile row."""
    cols: tuple[int, ...]
    """First column of each tile column."""

    def __len__(self) -> int:
        return len(self.rows) * len(self.cols)

    @property
    def origins(self) -> np.ndarray:
        """(n, 2) int64, first (row, col) of each tile, row by row."""
        rows, cols = np.meshgrid(self.rows, self.cols, indexing="ij")
        return np.stack([rows.ravel(), cols.ravel()], axis=1).astype(np.int64)

    def to_json(self) -> str:
        """Return the plan as one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TilePlan:
        """Return the plan that `to_json` wrote."""
        fields = json.loads(text)
        tuples = {name: tuple(fields[name]) for name in ("shape", "rows", "cols")}
        return cls(**{**fields, **tuples})


def plan(shape: tuple[int, int], size: int, *, overlap: int = 0, edge: str = "shift") -> TilePlan:
    """Lay square tiles over an image so that every pixel is covered.

    Parameters
    ----------
    shape : (rows, cols)
        The image, pixels.
    size : int
        Edge length of a tile, pixels.
    overlap : int, default 0
        Least number of pixels shared by neighbouring tiles, 0 <= overlap < size.
    edge : {"shift", "pad"}
        Where a last tile would reach over the rim, all move closer together; or it is filled up.

    Returns
    -------
    TilePlan

    Raises
    ------
    InputError
        If the sizes are impossible, or the image is smaller than a tile and ``edge="shift"``.
    """
    rows, cols = int(shape[0]), int(shape[1])
    if edge not in EDGES:
        raise unknown_name("tiling edge", edge, EDGES)
    if min(rows, cols, size) < 1 or not 0 <= overlap < size:
        raise InputError(
            f"tiles of size {size!r} with overlap {overlap!r} cannot cover an image of shape {shape!r}: "
            "give positive sizes and 0 <= overlap < size"
        )
    if edge == "shift" and size > min(rows, cols):
        raise InputError(
            f"a tile of {size!r} px does not fit into an image of shape {shape!r}: "
            f"give size <= {min(rows, cols)} or edge='pad'"
        )
    firsts = [_first_pixels(length, size, size - overlap, edge) for length in (rows, cols)]
    return TilePlan((rows, cols), int(size), int(overlap), edge, firsts[0], firsts[1])


def _first_pixels(length: int, size: int, step: int, edge: str) -> tuple[int, ...]:
    count = max(1, -(-(length - size) // step) + 1)
    if edge == "pad" or count == 1:
        return tuple(index * step for index in range(count))
    # spread evenly: moving only the last tile makes two nearly coincide, and their blend steep at the rim
    return tuple(round(index * (length - size) / (count - 1)) for index in range(count))


@dataclass(frozen=True)
class Block:
    """A part of an image that is put together on its own, and the tiles that it needs."""

    rows: slice
    cols: slice
    numbers: tuple[int, ...]
    """Tiles that touch it, in the order of ``plan.origins``."""
    reach_rows: slice
    """Rows of the image that these tiles cover."""
    reach_cols: slice


def blocks(plan: TilePlan, size_px: int) -> Iterator[Block]:
    """Yield the blocks of an image, row by row; a tile on the border of blocks belongs to each of them.

    Parameters
    ----------
    size_px : int
        Edge length of a block, pixels; the last ones of a row or column are smaller.
    """
    columns = len(plan.cols)
    for rows, tile_rows, reach_rows in _spans(plan.rows, plan.shape[0], plan.size, size_px):
        for cols, tile_cols, reach_cols in _spans(plan.cols, plan.shape[1], plan.size, size_px):
            numbers = tuple(row * columns + col for row in tile_rows for col in tile_cols)
            yield Block(rows, cols, numbers, reach_rows, reach_cols)


def _spans(
    firsts: tuple[int, ...], length: int, size: int, size_px: int
) -> Iterator[tuple[slice, list[int], slice]]:
    if size_px < 1:
        raise InputError(f"blocks of {size_px!r} px cannot cover an image: give 1 or more")
    for start in range(0, length, size_px):
        stop = min(start + size_px, length)
        touching = [i for i, first in enumerate(firsts) if first < stop and first + size > start]
        reach = slice(firsts[touching[0]], min(firsts[touching[-1]] + size, length))
        yield slice(start, stop), touching, reach


def cut(array: np.ndarray, plan: TilePlan, *, fill: float | bool = 0) -> np.ndarray:
    """Return the tiles of an array, (n, ..., size, size), in the order of ``plan.origins``.

    Parameters
    ----------
    array : (..., rows, cols)
        Any dtype, any leading axes.
    fill : scalar, default 0
        Value of the pixels beyond the rim (``edge="pad"`` only).

    Raises
    ------
    InputError
        If the array's last two axes are not the plan's shape.
    """
    _check_plane(array.shape[-2:], plan)
    beyond = [(0, max(0, firsts[-1] + plan.size - length)) for firsts, length in zip(_axes(plan), plan.shape)]
    padded = np.pad(array, [(0, 0)] * (array.ndim - 2) + beyond, constant_values=fill)
    return np.stack([padded[..., r : r + plan.size, c : c + plan.size] for r, c in plan.origins])


def stitch(
    tiles: np.ndarray, plan: TilePlan, *, blend: str = "cosine", valid: np.ndarray | None = None
) -> np.ndarray:
    """Put tiles back together, overlaps blended; the inverse of `cut`.

    Parameters
    ----------
    tiles : (n, ..., size, size) float
        In the order of ``plan.origins``.
    blend : {"cosine", "triangular", "flat"}
        Weight of a tile's pixel by its distance from the tile's rim.
    valid : (n, size, size) bool, optional
        False gives a tile's pixel no weight; a pixel without any weight becomes NaN.

    Returns
    -------
    (..., rows, cols) of the tiles' dtype
    """
    if len(tiles) != len(plan):
        raise InputError(
            f"{len(tiles)} tiles given, but the plan has {len(plan)}: cut and stitch with one plan"
        )
    mosaic = Mosaic(plan, tiles.shape[1:-2], blend=blend)
    mosaic.add(range(len(plan)), tiles, valid)
    return mosaic.result().astype(tiles.dtype)


class Mosaic:
    """Adds tiles one batch at a time, so that memory holds the blended part of a scene, not all its tiles.

    Parameters
    ----------
    leading : tuple of int
        Axes of a tile before its rows and columns.
    blend : str
        Name in `BLENDS`.
    rim_px : int
        Width of the rim of a tile that counts only where no other tile has its inside.
    rows, cols : slice, optional
        The part of the image that is put together; all of it by default.
    """

    def __init__(
        self,
        plan: TilePlan,
        leading: tuple[int, ...] = (),
        *,
        blend: str = "cosine",
        rim_px: int = 0,
        rows: slice = slice(None),
        cols: slice = slice(None),
    ) -> None:
        self._plan, self._origins = plan, plan.origins
        self._window = _window(plan.size, blend, rim_px)
        self._first = (rows.start or 0, cols.start or 0)
        shape = tuple(len(range(length)[part]) for length, part in zip(plan.shape, (rows, cols)))
        self._total = np.zeros((*leading, *shape))
        self._weight = np.zeros(shape)

    def add(self, numbers: Iterable[int], tiles: np.ndarray, valid: np.ndarray | None = None) -> None:
        """Add tiles (k, ..., size, size) that stand at ``plan.origins[numbers]``; `valid` is (k, size, size)."""
        for position, number in enumerate(numbers):
            tile, window = tiles[position], self._window
            if valid is not None:
                window = window * valid[position]
                tile = np.where(valid[position], tile, 0)
            spans = [
                _meeting(int(at) - first, self._plan.size, length)
                for at, first, length in zip(self._origins[number], self._first, self._weight.shape)
            ]
            place, inside = (tuple(span[side] for span in spans) for side in (0, 1))
            self._total[..., place[0], place[1]] += (tile * window)[..., inside[0], inside[1]]
            self._weight[place] += window[inside]

    def result(self) -> np.ndarray:
        """Return the blended image (..., rows, cols) float64, NaN where no tile had weight."""
        weight = np.where(self._weight > 0, self._weight, np.nan)
        return self._total / weight


def _window(size: int, blend: str, rim_px: int) -> np.ndarray:
    """Return the weights of a tile's pixels (size, size)."""
    if blend not in BLENDS:
        raise unknown_name("tile blend", blend, BLENDS)
    if not 0 <= 2 * rim_px < size:
        raise InputError(
            f"a rim of {rim_px!r} px leaves nothing of a tile of {size} px: give less than half the size"
        )
    inner = BLENDS[blend](size - 2 * rim_px)
    profile = np.pad(inner, rim_px, constant_values=RIM_WEIGHT * inner.min())
    return profile[:, None] * profile[None, :]


def _meeting(start: int, size: int, length: int) -> tuple[slice, slice]:
    """Return where a tile at `start` lies within `length` pixels, and which part of the tile that is."""
    low, high = max(start, 0), max(min(start + size, length), 0)
    return slice(low, high), slice(low - start, max(high - start, low - start))


def seam_ratio(
    image: np.ndarray, plan: TilePlan, *, valid: np.ndarray | None = None, window_px: int = 512
) -> float:
    """Return the mean absolute gradient across tile borders over that everywhere else.

    1 means that tile borders cannot be seen; pasted tiles of a forecast reach 2 to 6. Compare with the ratio
    of the target on the same borders, since a scene may by chance have an edge there.

    Parameters
    ----------
    image : (..., rows, cols) float
        NaN is invalid. Anything that is sliced like an array will do, such as one on disk.
    valid : (rows, cols) bool, optional
        Pixels to use besides.
    window_px : int
        The image is read in windows of this size.

    Returns
    -------
    float
        NaN when there is no border inside the image or nothing valid.
    """
    _check_plane(image.shape[-2:], plan)
    sums = np.zeros((2, 2))  # on borders and off: sum and count
    for row in range(0, plan.shape[0], window_px):
        for col in range(0, plan.shape[1], window_px):
            # one pixel more than the window: the steps to the next one
            place = (slice(row, row + window_px + 1), slice(col, col + window_px + 1))
            part = np.asarray(image[..., place[0], place[1]])
            if valid is not None:
                part = np.where(valid[place], part, np.nan)
            sums += _steps_on_and_off(part, plan, (row, col), window_px)
    (on, n_on), (off, n_off) = sums
    return float((on / n_on) / (off / n_off)) if n_on and n_off and off > 0 else float("nan")


def _steps_on_and_off(part: np.ndarray, plan: TilePlan, at: tuple[int, int], window_px: int) -> np.ndarray:
    """Return sum and count of the absolute steps on tile borders and off them, (2, 2)."""
    sums = np.zeros((2, 2))
    for axis, firsts, start in zip((-2, -1), _axes(plan), at):
        other = -1 if axis == -2 else -2
        mine = part.take(range(min(window_px, part.shape[other])), axis=other)
        steps = np.moveaxis(np.abs(np.diff(mine.astype(np.float64), axis=axis)), axis, 0)
        edges = np.array([e for first in firsts for e in (first, first + plan.size)])
        seams = np.isin(np.arange(start, start + len(steps)), edges[edges > 0] - 1)
        for side, chosen in enumerate((steps[seams], steps[~seams])):
            known = np.isfinite(chosen)
            sums[side] += chosen[known].sum(), known.sum()
    return sums


def _axes(plan: TilePlan) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return plan.rows, plan.cols


def _check_plane(shape: tuple[int, ...], plan: TilePlan) -> None:
    if tuple(shape) != plan.shape:
        raise InputError(
            f"an array of {tuple(shape)!r} pixels does not belong to a plan for {plan.shape!r}: "
            "plan the tiles for this array's shape"
        )
