"""The error of each method and the skill of the model, drawn by lead with their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from glacierhpc.report import drawing
from glacierhpc.report.blocks import Block, Picture, percent, plural
from glacierhpc.report.drawing import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SKY
from glacierhpc.report.run_files import RunFiles
from glacierhpc.report.skill_scores import Score, model_name, scores, spoken, verdicts

LOOKS = {
    "persistence": (ORANGE, "s"),
    "same_season_last_year": (GREEN, "^"),
    "climatology": (PURPLE, "D"),
    "blend": (SKY, "v"),
}
OTHER_LOOK = (MUTED, "X")


def charts(run: RunFiles) -> list[Block]:
    """Draw the error by lead of every method, and the skill of the model by lead."""
    errors, model = scores(run, "mse"), model_name(run)
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
