"""Regular tilings of an image plane: plan, cut, and stitch with blended overlaps; knows nothing of models or files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np

from glacierhpc.errors import InputError, unknown_name

EDGES = ("shift", "pad")


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
    """Adds tiles one batch at a time, so that a scene needs the memory of one scene, not of all its tiles."""

    def __init__(self, plan: TilePlan, leading: tuple[int, ...] = (), *, blend: str = "cosine") -> None:
        if blend not in BLENDS:
            raise unknown_name("tile blend", blend, BLENDS)
        profile = BLENDS[blend](plan.size)
        self._plan = plan
        self._origins = plan.origins
        self._window = profile[:, None] * profile[None, :]
        self._total = np.zeros((*leading, *plan.shape))
        self._weight = np.zeros(plan.shape)

    def add(self, numbers: Iterable[int], tiles: np.ndarray, valid: np.ndarray | None = None) -> None:
        """Add tiles (k, ..., size, size) that stand at ``plan.origins[numbers]``; `valid` is (k, size, size)."""
        for position, number in enumerate(numbers):
            row, col = self._origins[number]
            tile, window = tiles[position], self._window
            if valid is not None:
                window = window * valid[position]
                tile = np.where(valid[position], tile, 0)
            height = min(self._plan.size, self._plan.shape[0] - row)
            width = min(self._plan.size, self._plan.shape[1] - col)
            place = (..., slice(row, row + height), slice(col, col + width))
            self._total[place] += (tile * window)[..., :height, :width]
            self._weight[place] += window[:height, :width]

    def result(self) -> np.ndarray:
        """Return the blended image (..., rows, cols) float64, NaN where no tile had weight."""
        weight = np.where(self._weight > 0, self._weight, np.nan)
        return self._total / weight


def seam_ratio(image: np.ndarray, plan: TilePlan, *, valid: np.ndarray | None = None) -> float:
    """Return the mean absolute gradient across tile borders over that everywhere else.

    1 means that tile borders cannot be seen; pasted tiles of a forecast reach 2 to 6. Compare with the ratio
    of the target on the same borders, since a scene may by chance have an edge there.

    Parameters
    ----------
    image : (..., rows, cols) float
        NaN is invalid.
    valid : (rows, cols) bool, optional
        Pixels to use besides.

    Returns
    -------
    float
        NaN when there is no border inside the image or nothing valid.
    """
    _check_plane(image.shape[-2:], plan)
    image = np.where(valid, image, np.nan) if valid is not None else image
    on, off = [], []
    for axis, firsts in zip((-2, -1), _axes(plan)):
        steps = np.moveaxis(np.abs(np.diff(image, axis=axis)), axis, 0)
        seams = np.zeros(len(steps), dtype=bool)
        edges = np.array([e for first in firsts for e in (first, first + plan.size)])
        seams[edges[(edges > 0) & (edges <= len(steps))] - 1] = True
        on.append(steps[seams].ravel())
        off.append(steps[~seams].ravel())
    across, inside = (_finite_mean(np.concatenate(parts)) for parts in (on, off))
    return across / inside if inside > 0 else float("nan")


def _finite_mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def _axes(plan: TilePlan) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return plan.rows, plan.cols


def _check_plane(shape: tuple[int, ...], plan: TilePlan) -> None:
    if tuple(shape) != plan.shape:
        raise InputError(
            f"an array of {tuple(shape)!r} pixels does not belong to a plan for {plan.shape!r}: "
            "plan the tiles for this array's shape"
        )
