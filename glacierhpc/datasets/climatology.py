"""What is usual at a place and season, from composites of other years; how sequences are cut is in `sequences`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glacierhpc.datasets.composites import ArrayComposites, Composites
from glacierhpc.datasets.sequences import SequencePlan
from glacierhpc.errors import InputError
from glacierhpc.kernels.patches import GatherPlan, gather
from glacierhpc.seasons import days_apart, tolerance_days

EVERYTHING = slice(None)


@dataclass(frozen=True, eq=False)
class Climatology:
    """Each pixel's mean of a season over the composites that may be known."""

    composites: Composites
    times: np.ndarray
    """(T,) datetime64."""
    known: np.ndarray
    """(k,) int: time steps it may use."""
    causal: bool
    """Use only steps up to the last input: for what is evaluated; training may look at its other years."""

    @classmethod
    def build(
        cls, data: np.ndarray, valid: np.ndarray, times: np.ndarray, known: np.ndarray, *, causal: bool
    ) -> Climatology:
        """Return the climatology of a cube in memory.

        For training, `known` are the steps of training samples, and not causal: the other years before *and*
        after a sequence stand in for the years that a forecast of today looks back on. For what is evaluated
        or forecast, all steps, and causal.

        Raises
        ------
        InputError
            If the shapes do not fit.
        """
        if len(times) != len(data):
            raise InputError(
                f"data {data.shape!r} and {len(times)} times do not belong together: give (T, C, Y, X) and (T,)"
            )
        return cls.of(ArrayComposites.build(data, valid), times, known, causal=causal)

    @classmethod
    def of(cls, composites: Composites, times: np.ndarray, known: np.ndarray, *, causal: bool) -> Climatology:
        """Return the climatology of composites wherever they lie; as `build` otherwise."""
        return cls(composites, np.asarray(times), np.asarray(known, dtype=np.int64), causal)

    def frames(
        self, first: int, *, steps_in: int, steps: int, rows: slice, cols: slice
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what is usual at each step of a sequence.

        Never from its targets: a mean that holds its target would be learned as if it were always so good. Nor
        are its inputs in what is usual at an input, so that their anomalies are whole; in what is usual at a
        target a year after an input they count like every other year.

        Parameters
        ----------
        first : int
            First time step of the sequence.
        steps_in, steps : int
            Inputs, and inputs and targets together.
        rows, cols : slice
            The patch.

        Returns
        -------
        values : (steps, C, H, W) float32, 0 where not valid
        valid : (steps, H, W) bool
        """
        return self._means(self.weights(first, steps_in=steps_in, steps=steps), rows, cols)

    def weights(self, first: int, *, steps_in: int, steps: int) -> np.ndarray:
        """Return (steps, T) bool: which composites make the mean of each step of a sequence."""
        number, last_input = first + np.arange(steps), first + steps_in - 1
        apart = days_apart(self.times[number][:, None], self.times[self.known][None])
        near = apart <= tolerance_days(self.times)
        targets = number > last_input
        near &= ~np.isin(self.known, number[targets])
        near[~targets] &= ~np.isin(self.known, number)
        if self.causal:
            near &= self.known <= last_input
        weights = np.zeros((steps, len(self.times)), dtype=bool)
        weights[:, self.known] = near
        return weights

    def _means(self, weights: np.ndarray, rows: slice, cols: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return means (k, C, H, W) and validity (k, H, W) for weights (k, T); each composite is read once."""
        bands, height, width = self.composites.shape[1:]
        window = (len(range(height)[rows]), len(range(width)[cols]))
        total = np.zeros((len(weights), bands, *window), np.float32)
        count = np.zeros((len(weights), *window), np.uint16)
        for step in np.flatnonzero(weights.any(axis=0)):
            values, valid = self.composites.read(int(step), rows, cols)
            for mean in np.flatnonzero(weights[:, step]):
                total[mean] += values
                count[mean] += valid
        for summed, often in zip(total, count):
            summed /= np.maximum(often, 1)
        return total, count > 0


class UsualFrames:
    """What is usual at the steps of many sequences, as whole images made once: a batch is then cut, not computed.

    Sequences share most of their means (nearly one per time step), so that these need about the memory of the cube;
    computing each patch anew took twenty times as long as reading it.
    """

    def __init__(self, climatology: Climatology, plan: SequencePlan, indices: np.ndarray) -> None:
        self._plan = plan
        firsts = np.unique(plan.starts[indices, 0])
        parts = [climatology.weights(int(f), steps_in=plan.steps_in, steps=plan.steps) for f in firsts]
        needed = np.concatenate(parts) if parts else np.zeros((0, plan.shape[0]), bool)
        weights, which = np.unique(needed, axis=0, return_inverse=True)
        self._firsts, self._which = firsts, which.reshape(len(firsts), plan.steps)
        values, valid = climatology._means(weights, EVERYTHING, EVERYTHING)
        values.swapaxes(0, 1)[:, ~valid] = np.nan  # validity travels with the pixels
        self._values = values

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what is usual for some of the sequences: (n, T + T', C, H, W) float32, (n, T + T', H, W) bool."""
        plan, starts = self._plan, self._plan.starts[indices]
        frames = self._which[np.searchsorted(self._firsts, starts[:, 0])]
        places = np.concatenate(
            [frames[..., None], np.repeat(starts[:, None, 1:], plan.steps, axis=1)], axis=-1
        )
        values, valid = gather(self._values, GatherPlan(places.reshape(-1, 3), 1, plan.size))
        lead = (len(indices), plan.steps)
        return values.reshape(*lead, *values.shape[2:]), valid.reshape(*lead, *valid.shape[2:])
