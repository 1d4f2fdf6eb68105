"""How good the forecast is against the baselines, said from the numbers: by lead, with intervals.

Metrics are computed by the evaluation; nothing is recomputed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from glacierhpc.report import drawing
from glacierhpc.report.blocks import (
    Block,
    Note,
    Picture,
    interval,
    number,
    percent,
    plural,
    signed,
    table,
    words,
)
from glacierhpc.report.drawing import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SKY
from glacierhpc.report.run_files import RunFiles, shows

BASELINES = ("persistence", "same_season_last_year", "climatology", "blend")
NAMES = {"same_season_last_year": "same season last year", "blend": "blend of older scenes"}
LOOKS = {
    "persistence": (ORANGE, "s"),
    "same_season_last_year": (GREEN, "^"),
    "climatology": (PURPLE, "D"),
    "blend": (SKY, "v"),
}
OTHER_LOOK = (MUTED, "X")
METRICS = ("mse", "rmse", "mae", "ssim", "psnr", "nse", "iou")
LESS_IS_BETTER = ("mse", "rmse", "mae")


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
    # from few windows nothing is green: two of them lie on one side of zero by chance every other time
    tones = {"better": "plain" if drawn.get("few_blocks") else "good", "worse": "bad"}
    for verdict in verdicts(run):
        blocks.append(Note(_sentence(model, verdict), tones.get(verdict.word, "plain")))
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
            colour, marker = (BLUE, "o") if name == model else LOOKS.get(name, OTHER_LOOK)
            by_lead(axes, score, index, len(errors), colour, marker, spoken(name), bold=name == model)
        axes.set(xlabel="lead, composite windows", ylabel="mean squared error", ylim=(0, None))
        lead_axis(axes, figure)

    def paint_skill(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axhline(0, color=INK, linewidth=1)
        for index, verdict in enumerate(found):
            colour, marker = LOOKS.get(verdict.baseline, OTHER_LOOK)
            by_lead(
                axes, verdict.skill, index, len(found), colour, marker, f"over {spoken(verdict.baseline)}"
            )
        axes.set(xlabel="lead, composite windows", ylabel="skill: 1 − mse / mse of baseline")
        lead_axis(axes, figure)

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
        rows = [
            [
                _metric_words(run, metric),
                *(_cell(read_score(each[metric]) if metric in each else None) for each in models.values()),
            ]
            for metric in METRICS
            if any(metric in each for each in models.values())
        ]
    test = metrics.get("split", "test")
    count = words(metrics.get("n_sequences"))
    caption = f"Every metric over all leads on the {test} split ({count} sequences); below each its interval."
    return [table(caption, ["metric", *(spoken(name) for name in models)], rows)]


def every_lead(run: RunFiles) -> list[Block]:
    """List every metric of every method at every lead; the best of each lead is marked."""
    metrics = run.json("metrics.json", keys=("models",))
    rows = []
    count = 0
    with run.understanding("metrics.json"):
        models = metrics["models"]
        for metric in METRICS:
            scores = {name: read_score(each[metric]) for name, each in models.items() if metric in each}
            if not scores:
                continue
            values = np.array([score.by_lead for score in scores.values()])
            count = values.shape[1]
            best = _best_of(values, less=metric in LESS_IS_BETTER)
            for name, given, marks in zip(scores, values, best, strict=True):
                cells = [
                    number(value) + (" *" if mark else "") for value, mark in zip(given, marks, strict=True)
                ]
                rows.append([_metric_words(run, metric), spoken(name), *cells])
    if count < 2:
        return []
    caption = "Every metric at every lead; * is the best of its lead."
    return [table(caption, ["metric", "method", *(f"lead {lead + 1}" for lead in range(count))], rows)]


def _best_of(values: np.ndarray, *, less: bool) -> np.ndarray:
    """Return where each column of (methods, leads) has its best value; nowhere in a column without any."""
    signed_values = np.where(np.isfinite(values), values if less else -values, np.inf)
    return (signed_values == signed_values.min(axis=0)) & np.isfinite(signed_values)


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
    "nse": "nse ↑",
}


def _metric_words(run: RunFiles, metric: str) -> str:
    """Return a metric's heading; the overlap is that of what the index shows."""
    if metric != "iou":
        return _METRIC_WORDS.get(metric, metric)
    covered = shows(run).split(",")[0].split(" (")[0].removesuffix(" cover")
    return f"iou of {covered} ↑"


def _sentence(model: str, verdict: Verdict) -> str:
    name, skill = spoken(verdict.baseline), verdict.skill
    ends = interval(skill.interval)
    figure = f"skill {signed(skill.all)}{f', interval {ends}' if ends else ''}"
    if verdict.word == "better":
        text = f"{model} forecasts better than {name}: {figure}."
    elif verdict.word == "worse":
        text = f"{capital(name)} forecasts better than {model}: {figure}."
    elif ends:
        text = f"{model} and {name} cannot be told apart: {figure} holds zero."
    else:
        text = f"{model} and {name} cannot be told apart: {figure}, without an interval."
    return text + _on_other_ground(verdict) + _by_leads(model, name, skill)


def _on_other_ground(verdict: Verdict) -> str:
    if verdict.word == "undecided":
        return ""
    low, high = verdict.ground
    holds = low > 0 if verdict.word == "better" else high < 0
    return other_ground(verdict.ground, verdict.skill.interval, interval(verdict.ground), holds=holds)


def other_ground(ground: tuple[float, float], own: tuple[float, float], told: str, *, holds: bool) -> str:
    """Say whether a verdict would hold on other ground, where that was asked apart from the verdict's own interval."""
    if not math.isfinite(ground[0]) or ground == own:
        return ""
    return f" {'It holds' if holds else 'It cannot be said'} for other ground of the kind, too: {told}."


def _by_leads(model: str, name: str, skill: Score) -> str:
    """Say at which leads the baseline wins, beyond doubt or by the figure alone, where not all leads are alike."""
    lost = [lead + 1 for lead, high in enumerate(skill.high) if high < 0]
    if len(skill.by_lead) < 2 or len(lost) == len(skill.by_lead):
        return ""
    behind = [lead + 1 for lead, value in enumerate(skill.by_lead) if value < 0 and lead + 1 not in lost]
    text = ""
    if lost:
        text += f" {capital(name)} is better than {model} at {leads(lost)}."
    if behind:
        text += f" {capital(name)} is ahead at {leads(behind)}, within the interval."
    return text


def leads(numbers: Sequence[int]) -> str:
    """Return ``lead 2``, or ``leads 1–3 and 6``."""
    runs: list[list[int]] = []
    for lead in numbers:
        if runs and lead == runs[-1][-1] + 1:
            runs[-1].append(lead)
        else:
            runs.append([lead])
    said = [f"{run[0]}" if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs]
    text = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    return f"lead{'s' if len(numbers) > 1 else ''} {text}"


def capital(name: str) -> str:
    """Return a name as it begins a sentence."""
    return name[:1].upper() + name[1:]


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


def by_lead(
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
    """Draw one of `count` scores by lead with its intervals, beside the others."""
    leads = np.arange(1, len(score.by_lead) + 1) + (index - (count - 1) / 2) * 0.09
    reach = np.abs(np.stack([score.by_lead - score.low, score.high - score.by_lead]))
    axes.errorbar(
        leads, score.by_lead, np.nan_to_num(reach), color=colour, marker=marker, markersize=5.5 if bold else 4.5,
        linewidth=2.2 if bold else 1.3, elinewidth=1, capsize=2, label=label, zorder=3 if bold else 2,
    )  # fmt: skip


def lead_axis(axes: Any, figure: Figure) -> None:
    """Label x with leads and say above what each line is."""
    drawing.count_axis(axes)
    axes.grid(True, axis="y")
    figure.legend(loc="outside upper left", ncols=2)


def _bootstrap(run: RunFiles) -> tuple[str, str]:
    given = run.json("metrics.json").get("bootstrap") or {}
    confidence = given.get("confidence")
    blocks, windows = given.get("blocks"), given.get("windows")
    if isinstance(windows, int):
        of_time = f" over {plural(windows, 'window')} of time"
        crossed = blocks != windows
        told = (
            f"{of_time} and {plural(int(given.get('grounds', 0)), 'block')} of ground" if crossed else of_time
        )
    else:
        told = f" over {blocks} blocks" if isinstance(blocks, int) else ""
    return percent(float(confidence)) if isinstance(confidence, int | float) else "confidence", told


def _cell(score: Score | None) -> str:
    if score is None:
        return "–"
    low, high = score.interval
    return (
        f"{number(score.all)}\n{number(low)} to {number(high)}" if math.isfinite(low) else number(score.all)
    )


def _floats(values: Any) -> np.ndarray:
    return np.array([math.nan if value is None else float(value) for value in values], float)
