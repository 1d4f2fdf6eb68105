"""Several runs judged on the same targets: one table with intervals, and the spread over repeated runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from glacierhpc.errors import InputError
from glacierhpc.evaluation.bootstrap import (
    FEW_WINDOWS,
    GROUND_SIZES,
    Resampling,
    ground_blocks,
    sequence_blocks,
)
from glacierhpc.evaluation.entries import lead_entry, metric_entries, on_other_ground
from glacierhpc.evaluation.metrics import SUMS, skill_of
from glacierhpc.evaluation.paired import compare_pair, mse_difference
from glacierhpc.evaluation.table import Scored


def compare(
    runs: Mapping[str, Scored],
    *,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    block_px: int | None = None,
) -> dict[str, Any]:
    """Return the comparison of runs whose models were judged on the same targets.

    Parameters
    ----------
    runs : mapping
        Label (``zero-shot``, ``fine-tuned``, ``mixed``, ``from scratch``, or the run's name) -> its scores, see
        `table.from_table`. The first one is what the others are compared with.
    samples, confidence, seed
        Of the bootstrap, the same draws for all.
    block_px : int, optional
        Edge length of a block of ground, by default what the first run was judged with. Without one, differences and
        skills have a ``ground_interval`` beside their ``interval``, wider by what other ground of the kind would give.

    Returns
    -------
    dict
        ``first``, ``n_sequences``, ``leads``, ``bootstrap``; ``runs``: label -> ``model``, ``metrics``, ``skill``
        (against each of its baselines) and ``paired`` (with the first run, None for itself); ``baselines``: name ->
        ``metrics``; one that is not the same in all runs, such as a fitted blend, is named with its run.

    Raises
    ------
    InputError
        If there are fewer than two runs, or they were not judged on the same targets and pixels.
    """
    if len(runs) < 2:
        raise InputError(
            f"{len(runs)} run cannot be compared with itself: give the folders of two or more runs"
        )
    aligned = _aligned(runs)
    first, one = next(iter(aligned.items()))
    squares = one.block_px if block_px is None else block_px
    blocks = sequence_blocks(one.starts, block_steps=one.steps, size=one.size, block_px=squares)
    resampling = Resampling(blocks, samples, confidence, seed)
    grounds = ground_blocks(one.starts, size=one.size, block_px=squares or GROUND_SIZES * one.size)
    wider = resampling.with_grounds(grounds)
    windows = int(len(np.unique(resampling.windows)))
    return {
        "first": first,
        "n_sequences": len(one.numbers),
        "leads": list(range(1, one.target_times.shape[1] + 1)),
        "bootstrap": {
            "samples": samples,
            "confidence": confidence,
            "blocks": int(len(np.unique(blocks, axis=0))),
            "windows": windows,
            "grounds": int(len(np.unique(grounds))),
            "few_blocks": windows < FEW_WINDOWS,
        },
        "runs": {
            label: _run(run, None if run is one else one, resampling, wider) for label, run in aligned.items()
        },
        "baselines": {
            name: metric_entries(sums, resampling, data_range=one.scores.data_range)
            for name, sums in _baselines(aligned).items()
        },
    }


def comparison_rows(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the comparison as a table: a row for each run, then for each baseline; None where it does not apply."""
    rows = []
    for label, run in comparison["runs"].items():
        row = {"run": label, "forecaster": run["model"], **_figures(run["metrics"])}
        for name, entry in run["skill"].items():
            row[f"skill_{name}"] = entry["all"]
            row[f"skill_{name}_low"], row[f"skill_{name}_high"] = entry["interval"]
        if run["paired"] is not None:
            difference = run["paired"]["mse_difference"]
            row["mse_difference"] = difference["all"]
            row["mse_difference_low"], row["mse_difference_high"] = difference["interval"]
            row["won"], row["wilcoxon_p"] = run["paired"]["won"], run["paired"]["wilcoxon_p"]
        rows.append(row)
    for name, metrics in comparison["baselines"].items():
        rows.append({"run": None, "forecaster": name, **_figures(metrics)})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return [{key: row.get(key) for key in columns} for row in rows]


def spread(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return mean, standard deviation, least and largest of each figure over repeated runs.

    Parameters
    ----------
    rows : sequence of mappings
        Figure -> number, one mapping for each run (a seed of a sweep); what is no number is left out.

    Returns
    -------
    dict
        Figure -> ``mean``, ``std`` (of a sample, ``n - 1``; None for one run), ``min``, ``max``, ``n``.
    """
    found = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        values = np.array([float(row[name]) for row in rows if _is_number(row.get(name))])
        if len(values):
            found[name] = {
                "mean": float(values.mean()),
                "std": float(values.std(ddof=1)) if len(values) > 1 else None,
                "min": float(values.min()),
                "max": float(values.max()),
                "n": len(values),
            }
    return found


def _run(run: Scored, first: Scored | None, resampling: Resampling, wider: Resampling) -> dict[str, Any]:
    sums = run.scores.sums
    own = sums[run.model]
    return {
        "model": run.model,
        "metrics": metric_entries(own, resampling, data_range=run.scores.data_range),
        "skill": {
            name: on_other_ground(lead_entry(skill_of, resampling, own, part), skill_of, wider, own, part)
            for name, part in sums.items()
            if name != run.model
        },
        "paired": None if first is None else _paired(own, first.scores.sums[first.model], resampling, wider),
    }


def _paired(own: np.ndarray, other: np.ndarray, resampling: Resampling, wider: Resampling) -> dict[str, Any]:
    found = compare_pair(own, other, resampling)
    difference = on_other_ground(found["mse_difference"], mse_difference, wider, own, other)
    return found | {"mse_difference": difference}


def _figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    figures = {}
    for name in ("mse", "mae", "ssim"):
        figures[name] = metrics[name]["all"]
        figures[f"{name}_low"], figures[f"{name}_high"] = metrics[name]["interval"]
    return figures


def _baselines(runs: Mapping[str, Scored]) -> dict[str, np.ndarray]:
    """Return the sums of all baselines, once where they are the same in all runs."""
    found: dict[str, np.ndarray] = {}
    squared = SUMS.index("squared")
    for label, run in runs.items():
        for name, sums in run.scores.sums.items():
            if name == run.model:
                continue
            same = name in found and np.allclose(found[name][..., squared], sums[..., squared], rtol=1e-5)
            if not same:
                found[name if name not in found else f"{name} ({label})"] = sums
    return found


def _aligned(runs: Mapping[str, Scored]) -> dict[str, Scored]:
    """Return the runs with their sequences in one order; refuse those of other targets."""
    sorted_runs = {label: _sorted(run) for label, run in runs.items()}
    first, one = next(iter(sorted_runs.items()))
    for label, other in sorted_runs.items():
        fault = _difference(one, other)
        if fault:
            raise InputError(
                f"the runs {first!r} and {label!r} were not judged on the same targets: {fault}; compare runs of one "
                "area, period, composites, sequences and split, evaluated against the same baselines"
            )
    return sorted_runs


def _sorted(run: Scored) -> Scored:
    order = np.lexsort((run.starts[:, 2], run.starts[:, 1], run.first_dates))
    sums = {name: part[order] for name, part in run.scores.sums.items()}
    return replace(
        run,
        scores=replace(run.scores, sums=sums, parts=None),
        **{name: getattr(run, name)[order] for name in ("numbers", "starts", "first_dates", "target_times")},
    )


def _difference(one: Scored, other: Scored) -> str:
    """Say in what the targets of two sorted runs differ, or nothing."""
    sizes = [(len(run.numbers), run.target_times.shape[1], run.size) for run in (one, other)]
    if sizes[0] != sizes[1]:
        told = ["{} sequences of {} leads and {} px".format(*size) for size in sizes]
        return f"{told[0]} and {told[1]}"
    if one.scores.data_range != other.scores.data_range:
        return f"values range over {one.scores.data_range:g} and {other.scores.data_range:g}"
    if not np.array_equal(one.starts[:, 1:], other.starts[:, 1:]):
        return "their patches lie elsewhere (row, col)"
    if not np.array_equal(one.target_times, other.target_times):
        return "the dates of the targets differ"
    own, others = (run.scores.sums[run.model] for run in (one, other))
    count = SUMS.index("count")
    unequal = int((own[..., count] != others[..., count]).any(axis=1).sum())
    if unequal:
        return f"in {unequal} of {len(own)} sequences other pixels counted"
    for name in ("observed", "observed_squared"):
        place = SUMS.index(name)
        if not np.allclose(own[..., place], others[..., place], rtol=1e-5, atol=1e-6):
            return "the observed values differ: other composites"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
