"""One sequence over the whole area, read part by part; sequences of patches are in `samples`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glacierhpc.datasets.climatology import Climatology
from glacierhpc.datasets.composites import Composites, read_steps
from glacierhpc.datasets.sequences import SequencePlan
from glacierhpc.errors import InputError


@dataclass(frozen=True, eq=False)
class SceneSequence:
    """What a forecast of the whole area is made from; reading a part never loads the rest."""

    composites: Composites
    first: int
    """First time step of the inputs."""
    steps_in: int
    steps_out: int
    years: np.ndarray
    """(T + T',) float32, years since 2000."""
    climatology: Climatology | None = None

    @classmethod
    def of(
        cls, composites: Composites, plan: SequencePlan, first: int, *, climatology: Climatology | None = None
    ) -> SceneSequence:
        """Return the sequence of a plan's lengths that starts at a time step.

        Raises
        ------
        InputError
            If the composites are not those of the plan, or no sequence starts there.
        """
        if (composites.shape[0], *composites.shape[2:]) != plan.shape:
            raise InputError(
                f"composites of shape {composites.shape!r} do not belong to a plan for {plan.shape!r}: "
                "run the step sequences again"
            )
        numbers = np.flatnonzero(plan.starts[:, 0] == first)
        if numbers.size == 0:
            raise InputError(
                f"no sequence starts at time step {first!r}: give 0 to {int(plan.starts[:, 0].max())}"
            )
        years = plan.years(numbers[:1])[0]
        return cls(composites, int(first), plan.steps_in, plan.steps_out, years, climatology)

    @property
    def shape(self) -> tuple[int, int]:
        """(Y, X)."""
        return self.composites.shape[2:]

    @property
    def inputs(self) -> np.ndarray:
        """Time steps of the inputs, (T,)."""
        return np.arange(self.first, self.first + self.steps_in)

    @property
    def targets(self) -> np.ndarray:
        """Time steps of the targets, (T',)."""
        return self.inputs[-1] + 1 + np.arange(self.steps_out)

    def read(
        self, rows: slice, cols: slice
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Return inputs and what is usual, with their validity, of a part of the area.

        Returns
        -------
        images : (T, C, h, w) float32, 0 where invalid
        images_valid : (T, h, w) bool
        climatology : (T + T', C, h, w) float32, or None
        climatology_valid : (T + T', h, w) bool, or None
        """
        images = self.read_inputs(rows, cols)
        if self.climatology is None:
            return *images, None, None
        steps = self.steps_in + self.steps_out
        usual = self.climatology.frames(self.first, steps_in=self.steps_in, steps=steps, rows=rows, cols=cols)
        return *images, *usual

    def read_inputs(self, rows: slice, cols: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs (T, C, h, w) float32 and their validity (T, h, w) of a part of the area."""
        return read_steps(self.composites, self.inputs, rows, cols)

    def read_targets(self, rows: slice, cols: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the targets (T', C, h, w) float32 and their validity (T', h, w) of a part of the area."""
        return read_steps(self.composites, self.targets, rows, cols)
