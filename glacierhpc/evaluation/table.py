"""Error sums as a table, ``scores.parquet``, from which all metrics and comparisons of runs can be made again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from glacierhpc.errors import InputError
from glacierhpc.evaluation.groups import season_names
from glacierhpc.evaluation.metrics import SUMS
from glacierhpc.evaluation.score import Scores

_FACTS = ("model", "data_range", "threshold", "common_share", "size", "steps_in", "steps_out", "block_px")
_KEYS = ("sequence", "time_index", "row", "col", "first_date", "target_date", "season", "lead", "forecaster")


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores with the place and time of every sequence."""

    scores: Scores
    model: str
    """Which of the forecasters is the trained one."""
    numbers: np.ndarray
    """(n,) int64, number of the sequence in its plan."""
    starts: np.ndarray
    """(n, 3) int64: first time step, row and col."""
    first_dates: np.ndarray
    """(n,) datetime64[ns] of the first input."""
    target_times: np.ndarray
    """(n, T') datetime64[ns]."""
    size: int
    """Edge length of a patch, pixels."""
    steps_in: int
    block_px: int | None = None
    """Edge length of a block of ground, where intervals were drawn from such."""

    @property
    def steps(self) -> int:
        """Composites that a sequence covers."""
        return self.steps_in + self.target_times.shape[1]


def to_table(scored: Scored) -> pd.DataFrame:
    """Return a row for each forecaster, sequence and lead, with the sums of `metrics.SUMS`.

    Columns: sequence, time_index, row, col, first_date (of the first input), target_date, season, lead (from 1),
    forecaster, and the sums. What rows cannot hold is in ``table.attrs``, which pandas' Parquet writer keeps; sums by
    glacier are not kept.
    """
    sums, leads = scored.scores.sums, scored.target_times.shape[1]
    count, times = len(scored.numbers), scored.target_times.astype("datetime64[ns]")
    for name, part in sums.items():
        if part.shape != (count, leads, len(SUMS)):
            raise InputError(
                f"sums of {name!r} of shape {part.shape!r} do not belong to {count} sequences of {leads} leads: give "
                f"the starts and target times of the sequences that were scored"
            )
    once = {
        "sequence": np.repeat(scored.numbers, leads),
        **{
            name: np.repeat(scored.starts[:, axis], leads)
            for axis, name in enumerate(("time_index", "row", "col"))
        },
        "first_date": np.repeat(scored.first_dates.astype("datetime64[ns]"), leads),
        "target_date": times.reshape(-1),
        "season": season_names(times).reshape(-1),
        "lead": np.tile(np.arange(1, leads + 1), count),
    }
    frame = pd.DataFrame({name: np.tile(values, len(sums)) for name, values in once.items()})
    names = np.repeat(np.arange(len(sums)), count * leads)
    frame["forecaster"] = pd.Categorical.from_codes(names.tolist(), categories=list(sums))
    frame["season"] = frame["season"].astype("category")
    values = np.concatenate([part.reshape(-1, len(SUMS)) for part in sums.values()])
    frame[list(SUMS)] = values
    threshold = float(scored.scores.threshold)
    frame.attrs["scores"] = {
        "model": scored.model,
        "data_range": float(scored.scores.data_range),
        "threshold": threshold if np.isfinite(threshold) else None,
        "common_share": float(scored.scores.common_share),
        "size": int(scored.size),
        "steps_in": int(scored.steps_in),
        "steps_out": leads,
        "block_px": None if scored.block_px is None else int(scored.block_px),
    }
    return frame


def from_table(table: pd.DataFrame, *, name: str = "scores.parquet") -> Scored:
    """Return what `to_table` wrote, whatever the order of its rows.

    Parameters
    ----------
    table : DataFrame
    name : str
        Of the file, for the errors.

    Raises
    ------
    InputError
        If the table is not one of scores, or not whole.
    """
    facts = table.attrs.get("scores", {})
    missing = [key for key in (*_KEYS, *SUMS) if key not in table] + [
        key for key in _FACTS if key not in facts
    ]
    if missing:
        raise InputError(
            f"{name} lacks {', '.join(missing)}: it was written by something else, or by an older version; run the "
            "step “evaluate” again"
        )
    leads, names = int(facts["steps_out"]), [str(each) for each in table["forecaster"].unique()]
    ordered = {each: table[table["forecaster"] == each].sort_values(["sequence", "lead"]) for each in names}
    one = ordered[names[0]]
    count = len(one) // leads
    if any(len(part) != count * leads for part in ordered.values()) or count == 0:
        raise InputError(
            f"{name} does not hold every sequence at {leads} leads for each of {', '.join(names)}: run the step "
            "“evaluate” again"
        )
    first = one.iloc[::leads]
    sums = {
        each: part[list(SUMS)].to_numpy(float).reshape(count, leads, -1) for each, part in ordered.items()
    }
    threshold = np.nan if facts["threshold"] is None else float(facts["threshold"])
    return Scored(
        Scores(sums, facts["data_range"], threshold, facts["common_share"]),
        str(facts["model"]),
        first["sequence"].to_numpy(np.int64),
        first[["time_index", "row", "col"]].to_numpy(np.int64),
        first["first_date"].to_numpy("datetime64[ns]"),
        one["target_date"].to_numpy("datetime64[ns]").reshape(count, leads),
        int(facts["size"]),
        int(facts["steps_in"]),
        facts["block_px"],
    )
