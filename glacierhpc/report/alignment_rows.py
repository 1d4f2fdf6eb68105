"""The alignment's tables as the report reads them: every column there may be, and what is noteworthy in a row.

Whether a scene is aligned was decided when it was; here a row is only found noteworthy. How rows look is not here.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from glacierhpc.report.run_files import RunFiles, median

REQUIRED = (
    "scene", "time", "ok", "reason", "shift_px", "shift_m", "shift_row_px", "shift_col_px",
    "residual_before_px", "residual_px",
)  # fmt: skip
NUMBERS = ("rho_before", "rho", "iterations", "seconds", "error_px", "links", "closure_px")
"""Columns that runs of earlier versions lack; unknown there."""
WORDS = ("season", "motion")

SEASONS = {
    "DJF": "Dec to Feb",
    "MAM": "Mar to May",
    "JJA": "Jun to Aug",
    "SON": "Sep to Nov",
    "all": "all seasons",
}
"""How the references are called, by the name in the file."""

NOISE_PX = 0.1  # what the windows of the misfit scatter by themselves, see `glacierhpc.coreg.residual`
FAR = 3.0  # quartile distances beyond the upper quartile: "far out" (Tukey 1977, Exploratory Data Analysis)
MEASURES = {
    "residual_px": "misfit",
    "error_px": "predicted error",
    "closure_px": "closure error",
}
"""What orders scenes from worst to best, the first that is known, and how it is called."""


def alignment_rows(run: RunFiles) -> pd.DataFrame:
    """Return ``alignment.parquet`` by time, with ``verdict`` and ``why`` added.

    Returns
    -------
    pandas.DataFrame
        `REQUIRED`, `NUMBERS` (float64, NaN where the run does not say) and `WORDS` (str, may be empty);
        ``verdict`` is ``refused``, ``doubtful`` or ``aligned``, ``why`` says what made it not ``aligned``.
    """
    rows = run.table("alignment.parquet", columns=REQUIRED)
    with run.understanding("alignment.parquet"):
        for name in [*REQUIRED[4:], *NUMBERS]:
            known = pd.to_numeric(rows[name]).astype(float) if name in rows else np.nan
            rows[name] = np.where(np.isfinite(known), known, np.nan)
        for name in ("scene", "reason", *WORDS):
            rows[name] = rows[name].fillna("").astype(str) if name in rows else ""
        rows["season"] = rows["season"].map(_spoken)
        rows["ok"] = rows["ok"].fillna(False).astype(bool)
    rows = rows.sort_values("time", kind="stable", ignore_index=True)
    rows["why"] = np.where(rows["ok"], _doubts(rows), rows["reason"].replace("", "no reason is stated"))
    rows["verdict"] = np.select([~rows["ok"], rows["why"] != ""], ["refused", "doubtful"], "aligned")
    return rows


def aligned(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the scenes that were aligned and have a date."""
    return rows[rows["ok"] & rows["time"].notna()]


def refused(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the scenes that were refused."""
    return rows[~rows["ok"]]


def metres_per_px(rows: pd.DataFrame) -> float:
    """Return the size of a pixel as the table implies it, NaN if no scene was shifted."""
    return median(rows["shift_m"] / rows["shift_px"].where(rows["shift_px"] > 0))


def worst_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows in the order in which they want to be looked at: refused, doubtful, by misfit."""
    measure = measured_by(rows)
    rank = rows["verdict"].map({"refused": 0, "doubtful": 1, "aligned": 2})
    order = np.lexsort((-rows[measure].fillna(-np.inf), rank))
    return rows.iloc[order]


def measured_by(rows: pd.DataFrame) -> str:
    """Return the column that tells good scenes from bad ones here: the first of `MEASURES` with a value."""
    return next((name for name in MEASURES if rows[name].notna().any()), "shift_px")


def worst_median_best(rows: pd.DataFrame, measure: str = "") -> dict[str, pd.Series]:
    """Return three different rows by a measure, that of the run by default; of two worst and median, of one worst."""
    measure = measure or measured_by(rows)
    ordered = rows[rows[measure].notna()].sort_values(measure, ascending=False, kind="stable")
    places = {len(ordered) - 1: "best", len(ordered) // 2: "median", 0: "worst"}
    return {places[place]: ordered.iloc[place] for place in sorted(places) if 0 <= place < len(ordered)}


def by_reason(reasons: pd.Series) -> list[tuple[str, int]]:
    """Count reasons, most frequent first; reasons that differ in numbers only are one, with those left open."""
    alike = reasons.map(lambda reason: _NUMBER.sub("…", reason))
    counts = [(_in_common(same), len(same)) for _, same in reasons.groupby(alike, sort=True)]
    return sorted(counts, key=lambda one: -one[1])


_NUMBER = re.compile(r"[-\N{MINUS SIGN}]?\d+([.,]\d+)*")


def _in_common(reasons: pd.Series) -> str:
    """Return reasons of the same words as one, with ``…`` for the words in which they differ."""
    return " ".join(
        one[0] if len(set(one)) == 1 else _NUMBER.sub("…", one[0])
        for one in zip(*(reason.split() for reason in reasons.unique()), strict=True)
    )


def _doubts(rows: pd.DataFrame) -> list[str]:
    """Say of each row what is noteworthy about it, empty where nothing is; meant for aligned scenes."""
    good = rows[rows["ok"]]
    limits = {name: max(_fence(good[name]), NOISE_PX) for name in MEASURES}
    return [_doubt(row, limits) for _, row in rows.iterrows()]


def _spoken(season: str) -> str:
    """Return a season in words; those of several are joined by ``+`` in the file."""
    return ", ".join(SEASONS.get(part, part) for part in season.split("+"))


def _fence(values: pd.Series) -> float:
    """Return the value beyond which one is far out among the others; no limit where none is known."""
    known = values.dropna()
    if known.empty:
        return np.inf
    lower, upper = known.quantile([0.25, 0.75])
    return float(upper + FAR * (upper - lower))


def _doubt(row: pd.Series, limits: dict[str, float]) -> str:
    before, after = row["residual_before_px"], row["residual_px"]
    if after > before + NOISE_PX:
        return f"fits worse than before: {after:.2f} px, {before:.2f} px before"
    for name, limit in limits.items():
        if row[name] > limit:
            return f"{MEASURES[name]} far above others: {row[name]:.2f} px"
    return ""
