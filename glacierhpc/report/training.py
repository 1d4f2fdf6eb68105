"""How the model was trained, and on which dates: history, split and audit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from glacierhpc.report import drawing
from glacierhpc.report.blocks import Block, Note, Picture, number, plural, table, words
from glacierhpc.report.drawing import BLUE, GREEN, ORANGE
from glacierhpc.report.run_files import RunFiles, utc

SPLITS = {"train": BLUE, "validation": ORANGE, "test": GREEN}


def history(run: RunFiles) -> list[Block]:
    """Draw the losses over the epochs and mark the best one."""
    rows = run.table("history.csv", columns=("epoch",))
    losses = [name for name in rows.columns if "loss" in name and pd.api.types.is_numeric_dtype(rows[name])]
    if rows.empty or not losses:
        return [Note("The training history holds no losses.", "bad")]
    rows["epoch"] += 1 - min(1, rows["epoch"].min())  # the file may count from 0, readers do not
    watched = next((name for name in losses if name.startswith("val")), losses[0])
    best = int(rows[watched].idxmin()) if rows[watched].notna().any() else 0
    least, most = rows[losses].min().min(), rows[losses].max().max()
    logarithmic = bool(0 < least < most / 10)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for name, colour, style in zip(
            losses, (BLUE, ORANGE, GREEN) * len(losses), ("-", "--", ":") * len(losses), strict=False
        ):
            axes.plot(
                rows["epoch"], rows[name], style, color=colour, marker="o", markersize=3, label=_words(name)
            )
        axes.axvline(rows["epoch"][best], color=drawing.MUTED, linewidth=1, linestyle=":")
        axes.set(xlabel="epoch", ylabel="loss", yscale="log" if logarithmic else "linear")
        if logarithmic:
            drawing.plain_log_axis(axes)
        drawing.count_axis(axes)
        axes.grid(True, axis="y")
        figure.legend(loc="outside upper left", ncols=3)

    seconds = f", {number(float(rows['seconds'].sum()))} s in all" if "seconds" in rows else ""
    skipped = int(rows["skipped_steps"].sum()) if "skipped_steps" in rows else 0
    left_out = f"; {plural(skipped, 'step')} left out, as loss or gradient was not finite" if skipped else ""
    caption = (
        f"{plural(len(rows), 'epoch')}{seconds}; smallest {_words(watched)} {number(float(rows[watched][best]))} "
        f"in epoch {int(rows['epoch'][best])} (dotted line){left_out}."
    )
    return [Picture(drawing.draw(paint, height_in=2.9), "Training and validation loss by epoch", caption)]


def split(run: RunFiles) -> list[Block]:
    """Draw which dates each split uses, and say what the audit found."""
    given = run.json("split.json", keys=("method",))
    with run.understanding("split.json"):
        counts = [(name, int(given[name]["count"])) for name in SPLITS if name in given]
        audit = given.get("audit") or {}
        blocks: list[Block] = [_audit(audit)]
    if run.has("sequences.parquet"):
        blocks += _calendar(run)
    caption = f"Sequences by split; method “{given['method']}”, gap of {_steps(given.get('gap_steps'))}."
    blocks.append(table(caption, ("split", "sequences"), counts))
    leaks = [leak if isinstance(leak, dict) else {"leak": words(leak)} for leak in audit.get("leaks") or []]
    if leaks:
        blocks.append(
            table(
                "Leaks found.", tuple(leaks[0]), [tuple(leak.values()) for leak in leaks], source="split.json"
            )
        )
    return blocks


def _audit(audit: dict[str, Any]) -> Note:
    if not audit:
        return Note("The split was not audited for leakage.", "bad")
    checked = audit.get("checked")
    compared = (
        f" ({checked:,} target pixels and dates looked at)"
        if isinstance(checked, int) and not isinstance(checked, bool)
        else ""
    )
    if audit.get("ok"):
        return Note(
            f"Audit passed{compared}: no pixel and date of a validation or test target occurs in a training sample.",
            "good",
        )
    leaks = audit.get("leaks") or []
    return Note(
        f"Audit failed{compared}: {plural(len(leaks), 'leak')}. The skill is not to be trusted.", "bad"
    )


def _calendar(run: RunFiles) -> list[Block]:
    """Draw, for each start date, the span of the inputs and of the targets."""
    columns = ["split", "time_index", "first_input", "last_input", "first_target", "last_target"]
    rows = _dates(run)
    rows = rows[rows["split"].isin(SPLITS)].drop_duplicates(columns).sort_values(["time_index", "split"])
    if rows.empty:
        return []
    rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), 60)).round().astype(int))]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for height, row in enumerate(rows.itertuples()):
            colour = SPLITS[row.split]
            axes.hlines(height, row.first_input, row.last_input, color=colour, alpha=0.35, linewidth=4)
            axes.hlines(height, row.first_target, row.last_target, color=colour, linewidth=4)
        axes.set(yticks=[], ylabel="start dates", ylim=(len(rows), -1))
        axes.grid(True, axis="x")
        drawing.date_axis(axes)
        figure.legend(
            handles=[Patch(color=SPLITS[name], label=name) for name in SPLITS if (rows["split"] == name).any()],
            loc="outside upper left", ncols=3,
        )  # fmt: skip

    caption = "Dates used by each split, one line per start date: pale the inputs, full the targets."
    alt = "Calendar of input and target dates by split"
    return [Picture(drawing.draw(paint, height_in=min(4.2, 1.3 + 0.09 * len(rows))), alt, caption)]


def _dates(run: RunFiles) -> pd.DataFrame:
    rows = run.table("sequences.parquet", columns=("split", "time_index"))
    for name in ("first_input", "last_input", "first_target", "last_target"):
        source = next((column for column in (name, f"{name}_date", f"{name}_time") if column in rows), None)
        with run.understanding("sequences.parquet"):
            if source is None:
                raise ValueError(f"columns missing: {name}_date")
            rows[name] = utc(rows[source])
    return rows


def _steps(gap: object) -> str:
    return plural(gap, "step") if isinstance(gap, int) else "no stated number of steps"


def _words(name: str) -> str:
    return name.replace("_", " ").replace("valid ", "validation ").replace("val ", "validation ")
