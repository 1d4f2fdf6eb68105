"""What the georeferencing of the scenes says about references: the median of many small errors is nearly none.

How this is weighed against what the images say is in `network`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from glacierhpc.coreg.links import mapped
from glacierhpc.coreg.pair import AlignmentResult
from glacierhpc.coreg.stack_tasks import Pair
from glacierhpc.kernels.motions import centre, shift_matrix

KIND = "georeferencing"
MIN_SCENES = 3
MEDIAN_ERROR = 1.2533  # of the standard error of a mean, for normal errors: the square root of pi / 2
LEAST_ERROR_PX = 0.05  # no season is free of errors that its scenes share


def season_links(pairs: Sequence[Pair], shape: tuple[int, int]) -> list[Pair]:
    """Return links between references of seasons that say: the scenes of both lie right on the average.

    A snowy spring and a bare autumn share little that can be matched, and low sun moves what they share: on real
    series the medians of such seasons were found 0.7 px apart that the georeferencing of their scenes puts within 0.1.
    Every scene was georeferenced by itself; the median shift of a season's scenes against their reference tells
    where that reference lies, with the scatter of the shifts over the square root of their number as its error.
    Where scenes are off by pixels that is worth nothing beside an alignment, and where they are off by tenths it
    is worth more than a poor one. Single scenes are not pulled by it, only seasons as a whole.

    Parameters
    ----------
    pairs : sequence of Pair
        Scenes against references.
    shape : (rows, columns)
    """
    middle = centre(shape)
    shifts: dict[str, list[np.ndarray]] = {}
    for pair in pairs:
        if isinstance(pair.first, str) and isinstance(pair.second, int) and pair.result.ok:
            shifts.setdefault(pair.first, []).append((mapped(pair.result.matrix, middle) - middle[:2])[:, 0])
    seasons = {name: np.array(some) for name, some in sorted(shifts.items()) if len(some) >= MIN_SCENES}
    if len(seasons) < 2:
        return []
    medians = {name: np.median(some, axis=0) for name, some in seasons.items()}
    apart = np.concatenate([some - medians[name] for name, some in seasons.items()])
    # both axes together, as the errors of links are told; the median deviation of normal errors is 0.6745
    scatter_px = float(np.sqrt(2) * np.median(np.abs(apart)) / 0.6745)
    links = []
    for first, second in combinations(seasons, 2):
        x, y = medians[first] - medians[second]
        counts = 1 / len(seasons[first]) + 1 / len(seasons[second])
        error_px = float(np.hypot(MEDIAN_ERROR * scatter_px * np.sqrt(counts), LEAST_ERROR_PX))
        links.append(Pair(first, second, KIND, _told(float(x), float(y), error_px)))
    return links


def _told(x: float, y: float, error_px: float) -> AlignmentResult:
    """Return a shift that no image was looked at for."""
    nan = float("nan")
    return AlignmentResult(
        ok=True,
        reason="",
        matrix=shift_matrix(x, y),
        rho=nan,
        rho_before=nan,
        iterations=0,
        shift_px=float(np.hypot(x, y)),
        shift_row_px=y,
        shift_col_px=x,
        motion="translation",
        overlap_share=nan,
        seconds=0.0,
        error_px=error_px,
    )
