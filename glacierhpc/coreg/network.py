"""The adjustment of a graph of links: one matrix per image that agrees best with all links at once.

What a link is, and the closure of triangles, is in `links`; the arithmetic of a step is in `adjustment`. No image is
looked at here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from glacierhpc.coreg.adjustment import (
    GENERATORS,
    Graph,
    geman_mcclure,
    grown,
    huber,
    iterate,
    scaled,
    standard_errors,
)
from glacierhpc.coreg.links import Link, mapped, strength
from glacierhpc.errors import InputError, unknown_name
from glacierhpc.kernels.motions import centre


@dataclass(frozen=True)
class Network:
    """Where every image lies, and what became of every link."""

    matrices: dict[str, np.ndarray]
    """(3, 3) float64 of each placed node: pixel of the common frame to pixel of the node."""
    error_px: dict[str, float]
    """Predicted standard error of the corners of each placed node against the main one, px."""
    reasons: dict[str, str]
    """Why each of the other nodes is not placed."""
    used: np.ndarray
    """(links,) bool, in the order of the links given."""
    link_reasons: list[str]
    """Why a link is not used; empty where it is."""
    misfit_px: np.ndarray
    """(links,) RMS distance at the corners between a link and the network; NaN where an end is not placed."""


def adjust(
    nodes: Iterable[str],
    links: Sequence[Link],
    *,
    shape: tuple[int, int],
    motion: str,
    main: str,
    level: Collection[str] = (),
) -> Network:
    """Place all images of a link graph by robust least squares over the links.

    Every link says ``M``, first pixel to second pixel; every node has ``G``, pixel of a common frame to its own;
    the sum over links of the squared distance between ``M G_first`` and ``G_second`` at the corners of the frame,
    over the link's squared error, is made smallest. Matrices change by factors ``exp`` of the motion's Lie algebra
    (Govindu 2004), so that they stay what they are; for translations one step is exact. Links that disagree lose
    weight, by Huber's function first and by Geman and McClure's then, which no far link can pull; what is still further
    off than a pixel (and four of its errors) is taken out one link per node at a time, the worst first.

    Nothing in the graph knows where the ground is: all matrices may be moved together. The georeferencing of
    every scene is an independent measurement of it, right on the average, and the median is pulled by none that is
    far off. So the frame is put where the median displacement of the `level` nodes is zero in x and in y. It
    stays the same, within the scatter of a median, whatever scenes take part and whichever image is the main one; the
    mean would follow each scene that is off.

    Parameters
    ----------
    nodes : iterable of str
    links : sequence of Link
        The result does not depend on the order of nodes and links.
    shape : (rows, columns)
        Of the common frame.
    motion : {"translation", "euclidean", "similarity", "affine", "homography"}
        What the matrices of the links are, at most.
    main : str
        The node from which all must be reached; it carries the frame until it is put in its place.
    level : collection of str
        Nodes whose median displacement at the centre is zero in the result; without them `main` has the identity.

    Returns
    -------
    Network
        Nodes without a path of used links to `main` are not placed, with a reason.

    Raises
    ------
    InputError
        For an unknown motion, or if `main` or an end of a link is not among the nodes.

    References
    ----------
    Govindu (2004), CVPR, doi:10.1109/CVPR.2004.1315098; Huber (1981), doi:10.1002/0471725250; Geman & McClure (1987),
    Bull. Int. Stat. Inst. 52(4); removal of one observation at a time: Baarda (1968), Netherlands Geodetic Commission.
    """
    names = sorted(set(nodes))
    _check(names, links, motion, main)
    order = sorted((k for k, link in enumerate(links) if link.found), key=lambda k: strength(links[k]))
    graph = Graph.of(names, [links[k] for k in order], shape, motion, main)
    matrices, kept, placed = _settle(graph)
    misfit = np.full(len(links), np.nan)
    used = np.zeros(len(links), bool)
    both = placed[graph.ends].all(axis=1)
    misfit[np.array(order, int)[both]] = graph.misfits(matrices)[both]
    used[np.array(order, int)[kept & both]] = True
    errors = standard_errors(graph, matrices, kept & both, placed)
    if level:
        matrices = _levelled(
            matrices, [i for i, name in enumerate(names) if name in level and placed[i]], shape
        )
    return Network(
        matrices={name: matrices[i] for i, name in enumerate(names) if placed[i]},
        error_px={name: float(errors[i]) for i, name in enumerate(names) if placed[i]},
        reasons=_node_reasons(names, links, placed),
        used=used,
        link_reasons=[_link_reason(link, u, m) for link, u, m in zip(links, used, misfit)],
        misfit_px=misfit,
    )


def _settle(graph: Graph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return matrices (nodes, 3, 3), links kept (links,) and nodes placed (nodes,)."""
    kept = np.ones(len(graph.ends), bool)
    matrices, placed = grown(graph, kept)
    matrices = iterate(graph, matrices, kept, placed, huber)
    while True:
        matrices = iterate(graph, matrices, kept, placed, geman_mcclure)
        worst = _worst(graph, matrices, kept & placed[graph.ends].all(axis=1))
        if not worst.size:
            return matrices, kept, placed
        kept[worst] = False
        # who is cut off goes; the others stay where they have come to
        placed &= grown(graph, kept)[1]


def _worst(graph: Graph, matrices: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return the links to take out now: the furthest off, none of which shares a node but the main one."""
    misfits = graph.misfits(matrices)
    far = kept & (misfits > graph.limits())
    touched: set[int] = set()
    worst: list[int] = []
    for k in np.argsort(-misfits / graph.errors, kind="stable"):
        ends = set(graph.ends[k].tolist()) - {graph.main}
        if far[k] and not ends & touched:
            worst.append(int(k))
            touched |= ends
    return np.array(worst, int)


def _levelled(matrices: np.ndarray, level: Sequence[int], shape: tuple[int, int]) -> np.ndarray:
    """Return matrices of the frame in which the median displacement at the centre is zero."""
    if not len(level):
        return matrices
    middle = centre(shape)
    move = np.eye(3)
    # with turns the median of the displacements moves a little less than the frame
    for _ in range(5):
        shifts = mapped(matrices[list(level)] @ move, middle)[:, :, 0] - middle[:2, 0]
        move[:2, 2] -= np.median(shifts, axis=0)
    return scaled(matrices @ move)


def _check(names: list[str], links: Sequence[Link], motion: str, main: str) -> None:
    if motion not in GENERATORS:
        raise unknown_name("motion", motion, GENERATORS)
    if main not in names:
        raise InputError(f"the main node {main!r} is not among the {len(names)} nodes")
    strangers = sorted({end for link in links for end in (link.first, link.second)} - set(names))
    if strangers:
        raise InputError(f"links end at {strangers[0]!r}, which is not among the nodes; give all nodes")


def _node_reasons(names: list[str], links: Sequence[Link], placed: np.ndarray) -> dict[str, str]:
    linked = {end for link in links if link.found for end in (link.first, link.second)}
    return {
        name: "no path of links leads from it to the others" if name in linked else "no link to it was found"
        for name, there in zip(names, placed)
        if not there
    }


def _link_reason(link: Link, used: bool, misfit_px: float) -> str:
    if used:
        return ""
    if not link.found:
        return link.reason or "no matrix was found"
    if not np.isfinite(misfit_px):
        return "no path of links leads from it to the others"
    return f"it is {misfit_px:.1f} px off the other links"
