"""How good the forecast is against the baselines, said from the numbers: by lead, with intervals.

Metrics are computed by the evaluation; nothing is recomputed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from glacierhpc.report import drawing
from glacierhpc.report.blocks import Block, Note, Picture, interval, number, percent, signed, table, words
from glacierhpc.report.drawing import BLUE, GREEN, INK, ORANGE, PURPLE, SKY
from glacierhpc.report.run_files import RunFiles, shows

BASELINES = ("persistence", "same_season_last_year", "climatology")
NAMES = {"same_season_last_year": "same season last year"}
LOOKS = {
    "persistence": (ORANGE, "s"),
    "same_season_last_year": (GREEN, "^"),
    "climatology": (PURPLE, "D"),
}
METRICS = ("mse", "rmse", "mae", "ssim", "psnr", "iou")


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

    @property
    def word(self) -> str:
        """``better``, ``worse`` or ``undecided``: an interval that holds zero decides nothing."""
        low, high = self.skill.interval
        if not math.isfinite(self.skill.all):
            return "undecided"
        if not (math.isfinite(low) and math.isfinite(high)):
            low = high = self.skill.all
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
        return [Verdict(name, read_score(metrics["skill"][name])) for name in known + others]


def sentences(run: RunFiles) -> list[Block]:
    """Say in words where the model wins and where a baseline does."""
    metrics = run.json("metrics.json", keys=("models", "skill"))
    model = model_name(run)
    blocks: list[Block] = []
    if (metrics.get("audit") or {}).get("ok") is False:
        blocks.append(Note("The split leaks: none of these figures is to be trusted. See the audit.", "bad"))
    drawn = metrics.get("bootstrap") or {}
    if drawn.get("few_blocks"):
        text = "The test period is short: too few independent windows of time to rely on the intervals"
        blocks.append(Note(f"{text} ({drawn.get('windows')}).", "plain"))
    for verdict in verdicts(run):
        blocks.append(
            Note(
                _sentence(model, verdict, metrics),
                {"better": "good", "worse": "bad"}.get(verdict.word, "plain"),
            )
        )
    best = _best(run)
    if best is not None and best != model:
        winner = spoken(best)
        text = f"The smallest mean squared error over all leads is that of {winner}, not of the model: use {winner}."
        blocks.append(Note(text, "bad"))
    return blocks


def charts(run: RunFiles) -> list[Block]:
    """Draw the error by lead of every method, and the skill of the model by lead."""
    errors, model = _scores(run, "mse"), model_name(run)
    found = verdicts(run)

    def paint_error(figure: Figure) -> None:
        axes = figure.add_subplot()
        for index, (name, score) in enumerate(errors.items()):
            colour, marker = (BLUE, "o") if name == model else LOOKS.get(name, (SKY, "v"))
            _by_lead(axes, score, index, len(errors), colour, marker, spoken(name), bold=name == model)
        axes.set(xlabel="lead, composite windows", ylabel="mean squared error", ylim=(0, None))
        _lead_axis(axes, figure)

    def paint_skill(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axhline(0, color=INK, linewidth=1)
        for index, verdict in enumerate(found):
            colour, marker = LOOKS.get(verdict.baseline, (SKY, "v"))
            _by_lead(
                axes, verdict.skill, index, len(found), colour, marker, f"over {spoken(verdict.baseline)}"
            )
        axes.set(xlabel="lead, composite windows", ylabel="skill: 1 − mse / mse of baseline")
        _lead_axis(axes, figure)

    confidence, blocks = _bootstrap(run)
    half = {"width_in": drawing.HALF_IN, "height_in": 3.6}
    bars = f"Bars: {confidence} interval by block bootstrap{blocks}."
    return [
        Picture(drawing.draw(paint_error, **half), "Mean squared error by lead for model and baselines",
                f"Error by lead on the held-out part. Lower is better. {bars}", layout="half"),
        Picture(drawing.draw(paint_skill, **half), "Skill by lead against each baseline",
                f"Skill by lead: above zero the model wins, below it the baseline. {bars}", layout="half"),
    ]  # fmt: skip


def all_metrics(run: RunFiles) -> list[Block]:
    """List every metric of every method."""
    metrics = run.json("metrics.json", keys=("models", "skill"))
    with run.understanding("metrics.json"):
        models = metrics["models"]
        present = [name for name in METRICS if any(name in scores for scores in models.values())]
        rows = []
        for name, scores in models.items():
            cells = [read_score(scores[metric]) if metric in scores else None for metric in present]
            rows.append([spoken(name), *(_cell(score) for score in cells)])
    test = metrics.get("split", "test")
    count = words(metrics.get("n_sequences"))
    caption = f"Every metric over all leads on the {test} split ({count} sequences); below each its interval."
    return [table(caption, ["method", *(_metric_words(run, name) for name in present)], rows)]


def model_name(run: RunFiles) -> str:
    """Return the trained model's name: the one stated, else the one that is no baseline."""
    metrics = run.json("metrics.json", keys=("models",))
    others = [str(name) for name in metrics["models"] if name not in BASELINES]
    return str(metrics.get("model") or (others[0] if others else "model"))


def spoken(name: str) -> str:
    """Return a method's name as it is said."""
    return NAMES.get(name, name)


_METRIC_WORDS = {
    "mse": "mse ↓",
    "rmse": "rmse ↓",
    "mae": "mae ↓",
    "ssim": "ssim ↑",
    "psnr": "psnr, dB ↑",
}


def _metric_words(run: RunFiles, metric: str) -> str:
    """Return a metric's heading; the overlap is that of what the index shows."""
    if metric != "iou":
        return _METRIC_WORDS.get(metric, metric)
    covered = shows(run).split(",")[0].split(" (")[0].removesuffix(" cover")
    return f"iou of {covered} ↑"


def _sentence(model: str, verdict: Verdict, metrics: Mapping[str, Any]) -> str:
    name, skill = spoken(verdict.baseline), verdict.skill
    ends = interval(skill.interval)
    figure = f"skill {signed(skill.all)}{f', interval {ends}' if ends else ''}"
    if verdict.word == "better":
        text = f"{model} forecasts better than {name}: {figure}."
    elif verdict.word == "worse":
        text = f"{name.capitalize()} forecasts better than {model}: {figure}."
    else:
        text = f"{model} and {name} cannot be told apart: {figure} holds zero."
    losing = [str(lead + 1) for lead, high in enumerate(skill.high) if high < 0]
    if losing and verdict.word != "worse":
        text += f" At lead {', '.join(losing)} {name} is better."
    return text


def _best(run: RunFiles) -> str | None:
    scores = {name: score.all for name, score in _scores(run, "mse").items() if math.isfinite(score.all)}
    return min(scores, key=lambda name: scores[name]) if scores else None


def _scores(run: RunFiles, metric: str) -> dict[str, Score]:
    metrics = run.json("metrics.json", keys=("models",))
    with run.understanding("metrics.json"):
        return {
            str(name): read_score(scores[metric])
            for name, scores in metrics["models"].items()
            if metric in scores
        }


def _by_lead(
    axes: Any,
    score: Score,
    index: int,
    count: int,
    colour: str,
    marker: str,
    label: str,
    *,
    bold: bool = False,
) -> None:
    leads = np.arange(1, len(score.by_lead) + 1) + (index - (count - 1) / 2) * 0.09
    reach = np.abs(np.stack([score.by_lead - score.low, score.high - score.by_lead]))
    axes.errorbar(
        leads, score.by_lead, np.nan_to_num(reach), color=colour, marker=marker, markersize=5.5 if bold else 4.5,
        linewidth=2.2 if bold else 1.3, elinewidth=1, capsize=2, label=label, zorder=3 if bold else 2,
    )  # fmt: skip


def _lead_axis(axes: Any, figure: Figure) -> None:
    drawing.count_axis(axes)
    axes.grid(True, axis="y")
    figure.legend(loc="outside upper left", ncols=2)


def _bootstrap(run: RunFiles) -> tuple[str, str]:
    given = run.json("metrics.json").get("bootstrap") or {}
    confidence = given.get("confidence")
    blocks = given.get("blocks")
    return (
        percent(float(confidence)) if isinstance(confidence, int | float) else "confidence",
        f" over {blocks} blocks" if isinstance(blocks, int) else "",
    )


def _cell(score: Score | None) -> str:
    if score is None:
        return "–"
    low, high = score.interval
    return (
        f"{number(score.all)}\n{number(low)} to {number(high)}" if math.isfinite(low) else number(score.all)
    )


def _floats(values: Any) -> np.ndarray:
    return np.array([math.nan if value is None else float(value) for value in values], float)
