"""The linear blend of older scenes: a handful of weights in closed form, the least that a network must beat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from glacierhpc.errors import InputError


class Blend:
    """Forecast each lead as a constant plus a weighted sum of the input composites, pixel by pixel.

    The weights of a lead and band are the same for all pixels and dates: ordinary least squares over the valid
    target pixels of the training sequences. An invalid input takes the pixel's latest valid one before it, else
    the climatology of its step, else its earliest valid one after it; pixels without any valid input are neither
    learned from nor forecast.
    """

    def __init__(self) -> None:
        self._weights: np.ndarray | None = None

    def fit(self, batches: Iterable[Any]) -> Blend:
        """Find the weights in one pass over batches of training sequences, and return the blend.

        Memory is that of one batch: only the sums of the normal equations are kept.

        Raises
        ------
        InputError
            If no batch is given, or a lead has no valid target pixel.
        """
        gram, moment = None, None
        for batch in batches:
            design, usable = _design(batch)
            targets = np.moveaxis(np.asarray(batch.targets, dtype=np.float64), (1, 2), (0, 1))
            learned = np.asarray(batch.targets_valid) & usable[:, None]
            sums = _normal_equations(design, targets, np.moveaxis(learned, 1, 0))
            gram, moment = sums if gram is None else (gram + sums[0], moment + sums[1])
        if gram is None or moment is None:
            raise InputError("no training sequences to fit a blend to: give at least one batch")
        if (count := gram[:, 0, -1, -1]).min() == 0:
            lead = int(count.argmin()) + 1
            raise InputError(
                f"no training target of lead {lead} has a valid pixel: loosen the masks or lower min_valid_share"
            )
        self._weights = np.stack([[_solve(*pair) for pair in zip(*lead)] for lead in zip(gram, moment)])
        return self

    @property
    def weights(self) -> np.ndarray:
        """(T', C, T) float64: of each lead and band, of the inputs from the oldest to the latest."""
        return self._fitted()[..., :-1]

    @property
    def constant(self) -> np.ndarray:
        """(T', C) float64, in the unit of the values."""
        return self._fitted()[..., -1]

    def describe(self) -> dict[str, Any]:
        """Return weights and constants as JSON takes them, indexed by lead, then band, then input (oldest first)."""
        return {"weights": self.weights.tolist(), "constant": self.constant.tolist()}

    def __call__(self, batch: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return forecasts (B, T', C, H, W) float32 and validity (B, T', H, W): where any input was valid."""
        weights = self._fitted()
        design, usable = _design(batch)
        if len(design) != weights.shape[2] or design.shape[1] != weights.shape[1]:
            raise InputError(
                f"a blend of {weights.shape[2] - 1} inputs of {weights.shape[1]} bands cannot forecast from "
                f"{len(design) - 1} inputs of {design.shape[1]}: fit it to sequences of the same lengths and bands"
            )
        values = np.einsum("lck,kcbyx->blcyx", weights, design).astype(np.float32)
        return values, np.repeat(usable[:, None], len(weights), axis=1)

    def _fitted(self) -> np.ndarray:
        if self._weights is None:
            raise InputError("this blend has no weights yet: call fit with the training batches first")
        return self._weights


def _design(batch: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the regressors (T + 1, C, B, H, W) float64, the last one 1, and which pixels have a valid input."""
    valid = np.moveaxis(np.asarray(batch.images_valid), 1, 0)[:, None]
    images = np.moveaxis(np.asarray(batch.images, dtype=np.float64), (1, 2), (0, 1))
    values, known = _carried(np.where(valid, images, 0), valid)
    if batch.climatology is not None and batch.climatology_valid is not None:
        steps = slice(0, len(images))
        usual = np.moveaxis(np.asarray(batch.climatology[:, steps], dtype=np.float64), (1, 2), (0, 1))
        usual_known = np.moveaxis(np.asarray(batch.climatology_valid[:, steps]), 1, 0)[:, None]
        values = np.where(known | ~usual_known, values, np.where(usual_known, usual, 0))
        known = known | usual_known
    values, _ = _carried(values[::-1], known[::-1])
    design = np.concatenate([values[::-1], np.ones_like(values[:1])])
    return design, np.asarray(valid[:, 0].any(axis=0))


def _carried(values: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return values with the unknown ones replaced by the step before, and where that makes them known."""
    values, known = values.copy(), known.copy()
    for step in range(1, len(values)):
        values[step] = np.where(known[step], values[step], values[step - 1])
        known[step] |= known[step - 1]
    return values, known


def _normal_equations(
    design: np.ndarray, targets: np.ndarray, learned: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums X'X (T', C, T + 1, T + 1) and X'y (T', C, T + 1) over the pixels that are learned from.

    Parameters
    ----------
    design : (T + 1, C, B, H, W)
    targets : (T', C, B, H, W)
    learned : (T', B, H, W) bool
    """
    flat = design.reshape(*design.shape[:2], -1)
    gram = np.empty((len(targets), flat.shape[1], len(flat), len(flat)))
    moment = np.empty(gram.shape[:-1])
    for lead, (target, mask) in enumerate(zip(targets, learned)):
        chosen = mask.ravel()
        for band in range(flat.shape[1]):
            regressors = flat[:, band, chosen]
            gram[lead, band] = regressors @ regressors.T
            moment[lead, band] = regressors @ target[band].ravel()[chosen]
    return gram, moment


def _solve(gram: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Return the weights (T + 1,); where the inputs do not decide them, those of the smallest sum of squares."""
    return np.linalg.lstsq(gram, moment, rcond=None)[0]
