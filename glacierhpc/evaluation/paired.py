"""Is one forecaster better than another on the same targets? By the difference of their errors, block by block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from glacierhpc.errors import unknown_name
from glacierhpc.evaluation.bootstrap import Resampling
from glacierhpc.evaluation.entries import lead_entry
from glacierhpc.evaluation.metrics import SUMS

EXACT_MOST = 50
"""Up to so many windows the signed-rank test counts all orders; beyond, its normal approximation is as good."""


def paired(sums: Mapping[str, np.ndarray], resampling: Resampling, *, model: str) -> dict[str, Any]:
    """Return the comparison of a model with every other forecaster.

    Windows of time are the witnesses of the tests, as their errors share neither composites nor weather: squares of
    ground under one sky do not count as several. Fewer than six windows cannot give p < 0.05 in a two-sided sign
    test whatever happens.

    Parameters
    ----------
    sums : mapping
        Forecaster -> (n, T', S).
    resampling : Resampling
    model : str

    Returns
    -------
    dict
        Other -> ``mse_difference`` (model minus other, overall and by lead with intervals; below zero the model
        is better), ``windows``, ``won`` (share of them where the model's error is smaller; a draw counts half),
        ``sign_p`` and ``wilcoxon_p`` (two-sided; None with fewer than two windows), and, where blocks of ground are
        told apart, ``grounds`` and ``won_grounds``.

    References
    ----------
    Diebold & Mariano (1995), J. Bus. Econ. Stat. 13(3), doi:10.1080/07350015.1995.10524599; Wilcoxon (1945), Biom.
    Bull. 1(6), doi:10.2307/3001968
    """
    if model not in sums:
        raise unknown_name("forecaster", model, sums)
    return {
        name: compare_pair(sums[model], other, resampling) for name, other in sums.items() if name != model
    }


def compare_pair(own: np.ndarray, other: np.ndarray, resampling: Resampling) -> dict[str, Any]:
    """Return the comparison of two forecasters' sums (n, T', S) on the same sequences, see `paired`."""
    difference = block_differences(own, other, resampling.windows)
    found = {
        "mse_difference": lead_entry(mse_difference, resampling, own, other),
        "windows": len(difference),
        "won": _won(difference),
        **_tests(difference),
    }
    if resampling.blocks.ndim == 2:
        grounds = block_differences(own, other, resampling.blocks[:, 1])
        found |= {"grounds": len(grounds), "won_grounds": _won(grounds)}
    return found


def mse_difference(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return MSE minus the other's MSE of pooled sums (..., S) over the same pixels."""
    squared, count = SUMS.index("squared"), SUMS.index("count")
    with np.errstate(divide="ignore", invalid="ignore"):
        return (own[..., squared] - other[..., squared]) / own[..., count]


def block_differences(own: np.ndarray, other: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Return the difference of the MSE in each block that holds a valid pixel, (k,) float64."""
    names, members = np.unique(blocks, return_inverse=True)
    pooled = []
    for part in (own, other):
        total = np.zeros((len(names), part.shape[-1]))
        np.add.at(total, members.reshape(-1), part.sum(axis=1))
        pooled.append(total)
    difference = mse_difference(*pooled)
    return difference[np.isfinite(difference)]


def _won(difference: np.ndarray) -> float | None:
    if len(difference) == 0:
        return None
    return float(np.mean(difference < 0) + np.mean(difference == 0) / 2)


def _tests(difference: np.ndarray) -> dict[str, float | None]:
    """Return the p values of the sign test and the signed-rank test, draws left out."""
    if len(difference) < 2:
        return {"sign_p": None, "wilcoxon_p": None}
    told = difference[difference != 0]
    if len(told) == 0:
        return {"sign_p": 1.0, "wilcoxon_p": 1.0}
    ties = len(np.unique(np.abs(told))) < len(told)
    method = "exact" if len(told) <= EXACT_MOST and not ties else "approx"
    return {
        "sign_p": float(stats.binomtest(int((told < 0).sum()), len(told)).pvalue),
        "wilcoxon_p": float(stats.wilcoxon(told, method=method).pvalue),
    }
