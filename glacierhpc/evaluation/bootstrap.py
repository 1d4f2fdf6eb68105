"""Confidence intervals by resampling blocks of dependent sequences; what is measured comes as a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from glacierhpc.errors import InputError

FEW_WINDOWS = 5
"""Under so many windows of time an interval is a hint and not more: so few draws hold hardly any spread."""

GROUND_SIZES = 2
"""Sides of a patch in the side of a square of ground: most of the patches that overlap then share one."""

Measure = Callable[..., np.ndarray]
"""Pooled sums (..., S), one array or several -> a metric, elementwise over leading axes."""


def time_windows(starts: np.ndarray, *, block_steps: int) -> np.ndarray:
    """Return the window of time of each sequence, (n,) int64 from 0.

    The span of first steps is shared out into windows of about `block_steps`, equally long to a step: a short rest
    would count as much as a whole window.
    """
    if block_steps < 1:
        raise InputError(f"windows of {block_steps!r} steps cannot be: give 1 or more")
    first = starts[:, 0] - starts[:, 0].min()
    span = int(first.max()) + 1
    return first * max(1, round(span / block_steps)) // span


def ground_blocks(starts: np.ndarray, *, size: int, block_px: int) -> np.ndarray:
    """Return the square of ground that holds the middle of each sequence's patch, (n,) int64 from 0."""
    if block_px < 1:
        raise InputError(
            f"blocks of {block_px!r} px cannot be: give 1 or more, or nothing for the whole area"
        )
    places = (starts[:, 1:] + size // 2) // block_px
    return np.unique(places, axis=0, return_inverse=True)[1].reshape(-1)


def sequence_blocks(
    starts: np.ndarray, *, block_steps: int, size: int = 1, block_px: int | None = None
) -> np.ndarray:
    """Return the block of each sequence: its window of time, and with `block_px` its square of ground.

    Sequences of the same dates share weather and light, so that their errors are alike wherever their patches
    lie; those whose steps overlap share composites. Neither are independent witnesses, so all of a window go into
    one block. Such intervals answer: what would other years have given, *on this ground*? They hardly spread where
    errors are those of places: of other ground they say nothing.

    With `block_px` windows and squares of ground are two crossed ways to differ, each resampled on its own (see
    `block_bootstrap`): what would other years on other ground of the kind have given? To take the squares of one
    window as so many independent witnesses would be far too narrow wherever an error is common to a date.

    Sequences on both sides of a border still share composites or pixels: intervals are somewhat narrow.

    Parameters
    ----------
    starts : (n, 3) int
        First time step, row and col.
    block_steps : int
        Time steps of a window; those of a sequence, inputs and targets together, or more are sensible.
    size : int
        Edge length of a patch, pixels; with `block_px`, whose square holds the middle of a patch.
    block_px : int, optional
        Edge length of a square of ground; twice a patch's or more is sensible.

    Returns
    -------
    (n,) int64 from 0, or (n, 2) with `block_px`
    """
    windows = time_windows(starts, block_steps=block_steps)
    if block_px is None:
        return windows
    return np.stack([windows, ground_blocks(starts, size=size, block_px=block_px)], axis=1)


@dataclass(frozen=True, eq=False)
class Resampling:
    """How intervals are drawn, the same for all figures of one report: comparisons are paired."""

    blocks: np.ndarray
    """(n,) or (n, 2) int: of the sequences, see `sequence_blocks`."""
    samples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    @property
    def windows(self) -> np.ndarray:
        """The first way in which blocks differ, (n,) int: the window of time."""
        return self.blocks if self.blocks.ndim == 1 else self.blocks[:, 0]

    def with_grounds(self, grounds: np.ndarray) -> Resampling:
        """Return the resampling of windows of time and squares of ground, (n,) int each."""
        return replace(self, blocks=np.stack([self.windows, grounds], axis=1))

    def of(self, rows: np.ndarray) -> Resampling:
        """Return the resampling of some of the sequences; a row may be taken more than once."""
        return replace(self, blocks=self.blocks[rows])

    def interval(self, measure: Measure, *sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return low and high of a measure, see `block_bootstrap`."""
        return block_bootstrap(
            measure, self.blocks, *sums, samples=self.samples, confidence=self.confidence, seed=self.seed
        )


def block_bootstrap(
    metric: Measure,
    blocks: np.ndarray,
    *sums: np.ndarray,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile interval of a metric when whole blocks are drawn with replacement.

    Several arrays of sums (a model's and a reference's) are resampled together: their comparison is paired. Blocks
    of two columns are drawn column by column, and a sequence counts as often as its first times its second block is
    drawn: what is common to a window, or to a place, then varies as a whole. If neither is common to anything the
    interval is too wide, never too narrow. A single block in the second column leaves the first alone.

    Few blocks spread too little, as a deviation from their own mean does: the percentiles are set as much further
    out as Student's t is from the normal distribution. In simulations (see the tests) 6 windows then hold the truth
    in 0.93 of the cases, instead of 0.88.

    Parameters
    ----------
    metric : callable
        Gives the metric, elementwise over leading axes, of sums pooled over sequences.
    blocks : (n,) or (n, 2) int
        Block of each sequence; its own number for each sequence gives the usual (i.i.d.) bootstrap.
    *sums : (n, ...) float
        Additive sums of each sequence.
    samples : int
        Draws.
    confidence : float
        Share of the draws inside the interval, before it is widened for few blocks.
    seed : int
        Of the draws; equal seeds and blocks give equal draws.

    Returns
    -------
    low, high
        Arrays as `metric` gives them; NaN if there are fewer than two blocks (in the first column), which tell
        nothing about spread.

    References
    ----------
    Künsch (1989), Ann. Statist. 17(3), doi:10.1214/aos/1176347265; of crossed factors: Owen (2007), Ann. Appl. Stat.
    1(2), doi:10.1214/07-AOAS122; the percentiles: Hesterberg (2015), Am. Stat. 69(4),
    doi:10.1080/00031305.2015.1089789
    """
    if not 0 < confidence < 1 or samples < 2:
        raise InputError(
            f"a bootstrap of {samples!r} samples at {confidence!r} cannot be: give >= 2 and 0 < confidence < 1"
        )
    factors = [
        np.unique(column, return_inverse=True)[1].reshape(-1)
        for column in np.reshape(blocks, (len(blocks), -1)).T
    ]
    counts = [int(factor.max()) + 1 for factor in factors]
    if counts[0] < 2:
        nothing = np.full(np.shape(metric(*(part.sum(axis=0) for part in sums))), np.nan)
        return nothing, nothing
    random = np.random.default_rng(seed)
    draws = [
        random.multinomial(count, np.full(count, 1 / count), size=samples).astype(np.float64)
        for count in counts
    ]
    values = metric(*(_resampled(part, factors, draws) for part in sums))
    tail = _tail(confidence, min(count for count in counts if count > 1))
    return _quantile(values, tail), _quantile(values, 1 - tail)


def _tail(confidence: float, count: int) -> float:
    """Return the share of the draws beyond either end of the interval, for a number of blocks."""
    reach = stats.t.ppf((1 + confidence) / 2, count - 1) * np.sqrt(count / (count - 1))
    return float(stats.norm.cdf(-reach))


def _resampled(sums: np.ndarray, factors: list[np.ndarray], draws: list[np.ndarray]) -> np.ndarray:
    """Return (samples, ...): the sums of the drawn blocks."""
    flat = sums.reshape(len(sums), -1).astype(np.float64)
    counts = [part.shape[1] for part in draws]
    cells = np.zeros((*counts, flat.shape[1]))
    np.add.at(cells, tuple(factors), flat)
    if len(draws) == 1:
        return (draws[0] @ cells).reshape(-1, *sums.shape[1:])
    total = np.zeros((len(draws[0]), flat.shape[1]))
    for place in range(counts[1]):  # one at a time: memory is that of the result
        total += draws[1][:, place, None] * (draws[0] @ cells[:, place])
    return total.reshape(-1, *sums.shape[1:])


def _quantile(values: np.ndarray, share: float) -> np.ndarray:
    """Return the quantile over the draws whose metric is a number (a draw may hold no valid pixel); NaN if none is."""
    finite = np.where(np.isfinite(values), values, np.nan)
    known = np.isfinite(finite).any(axis=0)
    filled = np.where(known, finite, 0.0)
    return np.where(known, np.nanquantile(filled, share, axis=0), np.nan)
