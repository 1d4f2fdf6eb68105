"""Variations and repeats of the training: what each gave on the test sequences, and how much the seeds scatter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from glacierhpc.report import drawing
from glacierhpc.report.blocks import Block, Note, Picture, number, plural, table
from glacierhpc.report.drawing import BLUE, INK
from glacierhpc.report.run_files import RunFiles

COLUMNS = ("variation", "seed", "loss", "best_loss", "mse")


def trials(run: RunFiles) -> list[Block]:
    """Draw every trial of a sweep, and list mean and spread; nothing where there was no sweep."""
    if not run.has("sweep.parquet"):
        return []
    rows = run.table("sweep.parquet", columns=COLUMNS)
    rows = rows[np.isfinite(rows["mse"].astype(float))]
    if rows.empty:
        return [Note("No trial of the sweep has a score.", "bad")]
    order = [str(name) for name in dict.fromkeys(rows["variation"])]
    return [_picture(rows, order), _table(rows, order), Note(_choice(rows, order))]


def _picture(rows: pd.DataFrame, order: list[str]) -> Picture:
    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for height, name in enumerate(order):
            values = rows.loc[rows["variation"] == name, "mse"].to_numpy(float)
            axes.plot(values, np.full(len(values), height), "o", color=BLUE, alpha=0.6, markersize=5)
            axes.plot([values.mean()] * 2, [height - 0.25, height + 0.25], color=INK, linewidth=2)
        axes.set(
            yticks=range(len(order)),
            yticklabels=[_short(name) for name in order],
            xlabel="mean squared error",
        )
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.grid(True, axis="x")

    caption = (
        f"{plural(len(rows), 'trial')}: a dot for each seed, a bar for the mean of each variation, on the test "
        "sequences. What seeds scatter is what a difference between variations must exceed."
    )
    height_in = min(6.0, 1.1 + 0.35 * len(order))
    return Picture(drawing.draw(paint, height_in=height_in), "Error of every trial by variation", caption)


def _table(rows: pd.DataFrame, order: list[str]) -> Any:
    skills = [name for name in rows if name.startswith("skill_")]
    figures = ["best_loss", "mse", *skills]
    cells = []
    for name in order:
        group = rows[rows["variation"] == name]
        cells.append([name, len(group), *(_spread(group[figure]) for figure in figures)])
    words = [figure.replace("best_loss", "validation loss").replace("skill_", "skill over ").replace("_", " ")
             for figure in figures]  # fmt: skip
    caption = "Mean and standard deviation over the seeds."
    return table(caption, ("variation", "seeds", *words), cells, source="sweep.parquet")


def _spread(values: pd.Series) -> str:
    known = values.astype(float).dropna()
    if len(known) < 2:
        return number(float(known.mean())) if len(known) else "–"
    return f"{number(float(known.mean()))} ± {number(float(known.std()), 2)}"


def _choice(rows: pd.DataFrame, order: list[str]) -> str:
    """Say which variation the validation prefers: to choose by the test would make the test part of the training."""
    if rows["loss"].nunique() > 1:
        return "The variations were trained with different losses, so that no validation loss tells which is best."
    means = {name: float(rows.loc[rows["variation"] == name, "best_loss"].mean()) for name in order}
    best = min(means, key=lambda name: means[name])
    return f"Smallest mean validation loss: {best} ({number(means[best])}). The test decided nothing."


def _short(name: str) -> str:
    return name if len(name) <= 48 else f"{name[:47]}…"
