"""What is usual at a place and season, from composites of other years; how sequences are cut is in `sequences`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glacierhpc.errors import InputError
from glacierhpc.seasons import days_apart, tolerance_days


@dataclass(frozen=True, eq=False)
class Climatology:
    """Each pixel's mean of a season over the composites that may be known."""

    data: np.ndarray
    """(T, C, Y, X) float32, 0 where invalid."""
    valid: np.ndarray
    """(T, Y, X) bool."""
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
        known = np.asarray(known, dtype=np.int64)
        if data.ndim != 4 or valid.shape != (len(times), *data.shape[2:]) or len(times) != len(data):
            raise InputError(
                f"data {data.shape!r}, valid {valid.shape!r} and {len(times)} times do not belong together: "
                "give (T, C, Y, X), (T, Y, X) and (T,)"
            )
        usable = valid & np.isfinite(data).all(axis=1)
        return cls(np.where(usable[:, None], data, 0).astype(np.float32), usable, times, known, causal)

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
        weights = self._weights(first + np.arange(steps), last_input=first + steps_in - 1)
        used = np.flatnonzero(weights.any(axis=0))
        values, valid = self.data[used, :, rows, cols], self.valid[used, rows, cols].astype(np.float32)
        weights = weights[:, used].astype(np.float32)
        total, count = np.tensordot(weights, values, axes=1), np.tensordot(weights, valid, axes=1)
        return total / np.maximum(count, 1)[:, None], count > 0

    def _weights(self, steps: np.ndarray, *, last_input: int) -> np.ndarray:
        """Return (steps, T) bool: which composites make the mean of each step of a sequence."""
        apart = days_apart(self.times[steps][:, None], self.times[self.known][None])
        near = apart <= tolerance_days(self.times)
        targets = steps > last_input
        near &= ~np.isin(self.known, steps[targets])
        near[~targets] &= ~np.isin(self.known, steps)
        if self.causal:
            near &= self.known <= last_input
        weights = np.zeros((len(steps), len(self.times)), dtype=bool)
        weights[:, self.known] = near
        return weights
