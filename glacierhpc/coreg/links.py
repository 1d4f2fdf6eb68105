"""Links between images, and their closure: from A to B to C against from A to C.

A link says where the pixels of one image lie in another. How all links together place every image is in `network`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from glacierhpc.kernels.motions import corners


@dataclass(frozen=True)
class Link:
    """One measured relation between two images."""

    first: str
    second: str
    matrix: np.ndarray
    """(3, 3) float64, pixel (x, y, 1) of the first image to pixel of the second; NaN where none was found."""
    error_px: float
    """Predicted standard error at the corners, px; NaN where it is not known."""
    kind: str
    """``reference``, ``neighbour``, ``rescue`` or ``georeferencing``."""
    rho: float = float("nan")
    """Correlation coefficient of the pair."""
    reason: str = ""
    """Why there is no matrix; empty where there is one."""

    @property
    def found(self) -> bool:
        """Whether there is a matrix."""
        return not self.reason and bool(np.isfinite(self.matrix).all())


def mapped(matrices: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the places (..., 2, n) to which matrices (..., 3, 3) send points (3, n), homogeneous with 1."""
    places = matrices @ points
    return np.asarray(places[..., :2, :] / places[..., 2:, :])


def corner_offsets(first: np.ndarray, second: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the distances (..., 4) between where two sets of matrices (..., 3, 3) send the corners, px."""
    points = corners(shape)
    return np.asarray(np.linalg.norm(mapped(first, points) - mapped(second, points), axis=-2))


def closure(links: Sequence[Link], shape: tuple[int, int]) -> pd.DataFrame:
    """Return how well the links of every triangle of images agree.

    Around a triangle the matrices must compose to nothing; what is left is error that no single pair shows. A
    bias that is a property of each image (its own shadows, say) cancels around a triangle and is not seen.

    Parameters
    ----------
    links : sequence of Link
        In any order and direction; of several between the same two images the one with the smallest error counts.
    shape : (rows, columns)
        Of the grid at whose corners the error is measured.

    Returns
    -------
    DataFrame
        A row per triangle, each once: ``first``, ``second``, ``third`` (sorted), ``median_px`` and ``rms_px`` of
        the distance between first > second > third and first > third at the corners.
    """
    best = _between(links)
    neighbours: dict[str, set[str]] = {}
    for first, second in best:
        neighbours.setdefault(first, set()).add(second)
    triangles = [
        (first, second, third)
        for first in sorted(neighbours)
        for second, third in combinations(sorted(neighbours[first]), 2)
        if (second, third) in best
    ]
    table = pd.DataFrame(triangles, columns=["first", "second", "third"], dtype=object)
    if not triangles:
        return table.assign(median_px=np.empty(0), rms_px=np.empty(0))
    around = np.array([best[second, third] @ best[first, second] for first, second, third in triangles])
    direct = np.array([best[first, third] for first, _, third in triangles])
    error = corner_offsets(around, direct, shape)
    return table.assign(median_px=np.median(error, axis=1), rms_px=np.sqrt((error**2).mean(axis=1)))


def closure_of(nodes: Sequence[str], triangles: pd.DataFrame) -> dict[str, float]:
    """Return the median closure error of the triangles that each node is in, px; NaN without one."""
    errors: dict[str, list[float]] = {node: [] for node in nodes}
    for *names, error in triangles[["first", "second", "third", "rms_px"]].itertuples(index=False):
        for name in names:
            if name in errors:
                errors[name].append(error)
    return {node: float(np.median(values)) if values else float("nan") for node, values in errors.items()}


def _between(links: Sequence[Link]) -> Mapping[tuple[str, str], np.ndarray]:
    """Return one matrix for each linked pair of names, the smaller name first."""
    best: dict[tuple[str, str], np.ndarray] = {}
    for link in sorted((link for link in links if link.found), key=strength):
        turned = link.second < link.first
        pair = (link.second, link.first) if turned else (link.first, link.second)
        if pair not in best and link.first != link.second:
            best[pair] = np.linalg.inv(link.matrix) if turned else link.matrix
    return best


def strength(link: Link) -> tuple[float, str, str, str, bytes]:
    """Return what sorts links by their error, and equal ones in a way that no order of the input changes."""
    error = link.error_px if np.isfinite(link.error_px) else np.inf
    return (
        error,
        link.first,
        link.second,
        link.kind,
        np.ascontiguousarray(link.matrix, np.float64).tobytes(),
    )
