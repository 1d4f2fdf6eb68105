"""Gauss-Newton over a graph of links: the arithmetic of the adjustment, on arrays.

What is asked and what comes of it is in `network`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix, csc_matrix
from scipy.sparse.linalg import splu

from glacierhpc.coreg.links import Link, mapped
from glacierhpc.kernels.motions import corners

FLOOR_PX = 0.02  # no link is believed to better than this: what all scenes of a pair share is in no error
UNKNOWN_PX = 0.2  # error of a link that tells none
MAX_MISFIT_PX = 1.0  # neighbours of other seasons disagree by tenths of a pixel, wrong matches by pixels
MAX_MISFIT_ERRORS = 4.0  # a link that knows itself to be poor may be further off
HUBER = 1.345  # in units of the scatter: 95 % efficient with normal errors (Huber 1981)
REDESCENT = 4.0
SETTLED_PX = 1e-7
MAX_STEPS = 60

_TURN, _ZOOM = [[0, -1, 0], [1, 0, 0], [0, 0, 0]], [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def _unit(row: int, column: int) -> np.ndarray:
    return np.outer(np.eye(3)[row], np.eye(3)[column])


_SHIFTS = [_unit(0, 2), _unit(1, 2)]
_LINEAR = [_unit(0, 0), _unit(0, 1), _unit(1, 0), _unit(1, 1)]
GENERATORS = {
    "translation": np.array(_SHIFTS),
    "euclidean": np.array([*_SHIFTS, _TURN]),
    "similarity": np.array([*_SHIFTS, _TURN, _ZOOM]),
    "affine": np.array([*_SHIFTS, *_LINEAR]),
    "homography": np.array([*_SHIFTS, *_LINEAR, _unit(2, 0), _unit(2, 1)]),
}
"""Bases of the Lie algebra of each motion, in coordinates centred on the grid and scaled to about 1."""


@dataclass(frozen=True)
class Graph:
    """The found links as arrays, sorted: what is computed does not depend on how they came."""

    nodes: int
    main: int
    ends: np.ndarray
    """(links, 2) int, positions of first and second."""
    matrices: np.ndarray
    """(links, 3, 3)."""
    errors: np.ndarray
    """(links,) standard errors, px, with the floor."""
    points: np.ndarray
    """(3, 4) corners."""
    generators: np.ndarray
    """(parameters, 3, 3), px of displacement at about the corners."""

    @classmethod
    def of(cls, names: list[str], links: list[Link], shape: tuple[int, int], motion: str, main: str) -> Graph:
        """Return the graph of found links in the order given."""
        place = {name: i for i, name in enumerate(names)}
        errors = np.array([link.error_px for link in links], float)
        return cls(
            nodes=len(names),
            main=place[main],
            ends=np.array([(place[link.first], place[link.second]) for link in links], int).reshape(-1, 2),
            matrices=np.array([link.matrix for link in links], float).reshape(-1, 3, 3),
            errors=np.hypot(np.where(np.isfinite(errors), errors, UNKNOWN_PX), FLOOR_PX),
            points=corners(shape),
            generators=_in_pixels(GENERATORS[motion], shape),
        )

    def residuals(self, matrices: np.ndarray) -> np.ndarray:
        """Return ``M G_first - G_second`` (links, 2, 4) at the corners, px."""
        there = self.matrices @ matrices[self.ends[:, 0]]
        return mapped(there, self.points) - mapped(matrices[self.ends[:, 1]], self.points)

    def misfits(self, matrices: np.ndarray) -> np.ndarray:
        """Return the RMS length (links,) of the residuals over the corners, px."""
        return np.asarray(np.sqrt((self.residuals(matrices) ** 2).sum(axis=1).mean(axis=1)))

    def limits(self) -> np.ndarray:
        """Return the largest misfit (links,) with which a link is used, px."""
        return np.maximum(MAX_MISFIT_PX, MAX_MISFIT_ERRORS * self.errors)


def huber(relative: np.ndarray) -> np.ndarray:
    """Return weights by misfit in units of the scatter: convex, so that any start leads to the one answer."""
    return 1.0 / np.maximum(1.0, relative / HUBER)


def geman_mcclure(relative: np.ndarray) -> np.ndarray:
    """Return weights that fall with the fourth power of the misfit: what is far off has no say."""
    return 1.0 / (1.0 + (relative / REDESCENT) ** 2) ** 2


def iterate(
    graph: Graph,
    matrices: np.ndarray,
    kept: np.ndarray,
    placed: np.ndarray,
    weigh: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Return matrices for which the weights by misfit and the weighted least squares agree."""
    live = kept & placed[graph.ends].all(axis=1)
    free = np.flatnonzero(placed & (np.arange(graph.nodes) != graph.main))
    if not free.size:
        return matrices
    for _ in range(MAX_STEPS):
        relative = graph.misfits(matrices) / graph.errors
        # links that hold a node alone fit exactly and say nothing about the scatter
        loose = relative[live & (relative > 1e-3)]
        spread = max(1.0, float(np.median(loose))) if loose.size else 1.0
        weights = np.where(live, weigh(relative / spread) / graph.errors**2, 0.0)
        steps = _step(graph, matrices, weights, free)
        matrices = matrices.copy()
        matrices[free] = scaled(matrices[free] @ _exponential(np.tensordot(steps, graph.generators, 1)))
        if np.abs(steps).max() < SETTLED_PX:
            break
    return matrices


def _step(graph: Graph, matrices: np.ndarray, weights: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Return the Gauss-Newton step (free nodes, parameters), px."""
    normal, right = _normal_equations(graph, matrices, weights, free)
    return np.asarray(splu(normal).solve(right)).reshape(len(free), -1)


def _normal_equations(
    graph: Graph, matrices: np.ndarray, weights: np.ndarray, free: np.ndarray
) -> tuple[csc_matrix, np.ndarray]:
    """Return the sparse normal matrix and the right-hand side of all free nodes' parameters."""
    count = len(graph.generators)
    place = np.full(graph.nodes, -1)
    place[free] = np.arange(len(free))
    sides = _derivatives(graph, matrices)
    residuals = graph.residuals(matrices)
    used = weights > 0
    right = np.zeros((len(free), count))
    rows, columns, values = [], [], []
    for i, a in enumerate(sides):
        at = place[graph.ends[:, i]]
        here = used & (at >= 0)
        gradient = -np.einsum("l,lkcp,lcp->lk", weights / 4, a, residuals)
        np.add.at(right, at[here], gradient[here])
        for j, b in enumerate(sides):
            to = place[graph.ends[:, j]]
            both = here & (to >= 0)
            blocks = np.einsum("l,lkcp,lmcp->lkm", weights[both] / 4, a[both], b[both])
            row, column = np.broadcast_arrays(
                at[both, None, None] * count + np.arange(count)[:, None],
                to[both, None, None] * count + np.arange(count),
            )
            rows.append(row.ravel())
            columns.append(column.ravel())
            values.append(blocks.ravel())
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return coo_matrix(entries, shape=(right.size, right.size)).tocsc(), right.ravel()


def _derivatives(graph: Graph, matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the residuals' derivatives (links, parameters, 2, 4) by the first and by the second node."""
    first = _field(graph.matrices @ matrices[graph.ends[:, 0]], graph)
    return first, -_field(matrices[graph.ends[:, 1]], graph)


def _field(matrices: np.ndarray, graph: Graph) -> np.ndarray:
    """Return how the images of the corners move, (n, parameters, 2, 4), when generators act before matrices."""
    places = matrices @ graph.points
    moves = matrices[:, None] @ (graph.generators @ graph.points)
    at = places[:, None, :2] / places[:, None, 2:]
    return np.asarray((moves[:, :, :2] - at * moves[:, :, 2:]) / places[:, None, 2:])


def _exponential(x: np.ndarray) -> np.ndarray:
    """Return exp of small matrices (n, 3, 3) by its series; a pure shift is exact after two terms."""
    out = term = np.broadcast_to(np.eye(3), x.shape)
    for k in range(1, 13):
        term = term @ x / k
        out = out + term
    return out


def standard_errors(graph: Graph, matrices: np.ndarray, used: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """Return the standard error (nodes,) of each placed node's corners against the main one, px."""
    errors = np.zeros(graph.nodes)
    free = np.flatnonzero(placed & (np.arange(graph.nodes) != graph.main))
    if not free.size:
        return errors
    relative = np.where(used, graph.misfits(matrices) / graph.errors, 0.0)
    weights = np.where(used, geman_mcclure(relative / max(1.0, float(np.median(relative[used])))), 0.0)
    redundancy = used.sum() - len(free)
    # more scatter than the links' errors predict says that these are too small; less proves nothing
    scale = max(1.0, float((weights * relative**2).sum() / redundancy)) if redundancy > 0 else 1.0
    normal, _ = _normal_equations(graph, matrices, weights / graph.errors**2, free)
    count = len(graph.generators)
    factors = splu(normal)
    fields = _field(matrices[free], graph)
    for start in range(0, len(free), 64):  # some columns of the inverse at a time
        chunk = np.arange(start, min(start + 64, len(free)))
        columns = (chunk[:, None] * count + np.arange(count)).ravel()
        unit = np.zeros((normal.shape[0], columns.size))
        unit[columns, np.arange(columns.size)] = 1.0
        inverse = factors.solve(unit).reshape(len(free), count, len(chunk), count)
        blocks = inverse[chunk, :, np.arange(len(chunk)), :]
        variance = np.einsum("nkcp,nkm,nmcp->n", fields[chunk], blocks, fields[chunk]) / 4
        # a link's error is the RMS over the corners of what all its parameters do together
        errors[free[chunk]] = np.sqrt(scale * variance / count)
    return errors


def scaled(matrices: np.ndarray) -> np.ndarray:
    """Return matrices (..., 3, 3) with 1 in the last corner."""
    return np.asarray(matrices / matrices[..., 2:, 2:])


def _in_pixels(generators: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return generators in pixel coordinates, each scaled to move corners by about one pixel."""
    scale = max(shape) / 2
    x, y = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    to_unit = np.array([[1 / scale, 0, -x / scale], [0, 1 / scale, -y / scale], [0, 0, 1]])
    return np.asarray(np.linalg.inv(to_unit) @ (generators / scale) @ to_unit)


def grown(graph: Graph, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return first matrices, composed along the paths of smallest error from the main node, and who is reached."""
    around: list[list[int]] = [[] for _ in range(graph.nodes)]
    for k in np.flatnonzero(kept).tolist():
        for end in graph.ends[k].tolist():
            around[end].append(k)
    matrices = np.broadcast_to(np.eye(3), (graph.nodes, 3, 3)).copy()
    placed = np.zeros(graph.nodes, bool)
    queue: list[tuple[float, int, int, int]] = [(0.0, graph.main, -1, -1)]
    while queue:
        variance, node, origin, k = heapq.heappop(queue)
        if placed[node]:
            continue
        placed[node] = True
        if k >= 0:
            forward = graph.ends[k, 1] == node
            step = graph.matrices[k] if forward else np.linalg.inv(graph.matrices[k])
            matrices[node] = scaled(step @ matrices[origin])
        for k in around[node]:
            other = int(graph.ends[k].sum() - node)
            if not placed[other]:
                heapq.heappush(queue, (variance + float(graph.errors[k]) ** 2, other, node, k))
    return matrices, placed
