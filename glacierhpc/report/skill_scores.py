"""The scores of ``metrics.json``, read: figures with their intervals, by lead, and what the interval of a skill says.

Metrics are computed by the evaluation; nothing is recomputed here. The words for them are in `skill`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from glacierhpc.report.run_files import RunFiles

BASELINES = ("persistence", "same_season_last_year", "climatology", "blend")
NAMES = {"same_season_last_year": "same season last year", "blend": "blend of older scenes"}


@dataclass(frozen=True)
class Score:
    """One figure with its interval, over all leads and by lead; NaN where it is not known."""

    all: float
    interval: tuple[float, float]
    by_lead: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Verdict:
    """What the interval of a skill says."""

    baseline: str
    skill: Score
    ground: tuple[float, float] = (math.nan, math.nan)
    """Interval of other years on other ground, too; NaN where it is not known."""

    @property
    def word(self) -> str:
        """``better``, ``worse`` or ``undecided``: an interval that holds zero, or none at all, decides nothing."""
        low, high = self.skill.interval
        return "better" if low > 0 else "worse" if high < 0 else "undecided"


def read_score(given: Mapping[str, Any]) -> Score:
    """Return a score of ``metrics.json``; nulls become NaN."""
    by_lead = _floats(given["by_lead"])
    bounds = given.get("by_lead_interval") or [[None, None]] * len(by_lead)
    low, high = _floats([pair[0] for pair in bounds]), _floats([pair[1] for pair in bounds])
    if not len(low) == len(high) == len(by_lead):
        raise ValueError("by_lead and by_lead_interval differ in length")
    ends = _floats(given.get("interval") or [None, None])
    return Score(float(_floats([given["all"]])[0]), (float(ends[0]), float(ends[1])), by_lead, low, high)


def verdicts(run: RunFiles) -> list[Verdict]:
    """Return the skill against each baseline, in the order of the baselines."""
    metrics = run.json("metrics.json", keys=("models", "skill"))
    with run.understanding("metrics.json"):
        known = [name for name in BASELINES if name in metrics["skill"]]
        others = [name for name in metrics["skill"] if name not in BASELINES]
        return [_verdict(name, metrics["skill"][name]) for name in known + others]


def _verdict(name: str, given: Mapping[str, Any]) -> Verdict:
    low, high = _floats(given.get("ground_interval") or [None, None])
    return Verdict(name, read_score(given), (float(low), float(high)))


def scores(run: RunFiles, metric: str) -> dict[str, Score]:
    """Return the scores of every method by one metric."""
    metrics = run.json("metrics.json", keys=("models",))
    with run.understanding("metrics.json"):
        return {
            str(name): read_score(scores[metric])
            for name, scores in metrics["models"].items()
            if metric in scores
        }


def model_name(run: RunFiles) -> str:
    """Return the trained model's name: the one stated, else the one that is no baseline."""
    metrics = run.json("metrics.json", keys=("models",))
    others = [str(name) for name in metrics["models"] if name not in BASELINES]
    return str(metrics.get("model") or (others[0] if others else "model"))


def spoken(name: str) -> str:
    """Return a method's name as it is said."""
    return NAMES.get(name, name)


def _floats(values: Any) -> np.ndarray:
    return np.array([math.nan if value is None else float(value) for value in values], float)
