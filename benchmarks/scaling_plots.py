"""The figures of the scaling benchmark, from the details of its JSON; what they stand beside is the page's business."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from scaling_laws import LAWS
from scaling_points import MODES, PARTS

from glacierhpc.report.drawing import BLUE, FULL_IN, GREEN, INK, MUTED, ORANGE, PURPLE, RED, RULE, SKY, draw

Details = Mapping[str, Any]
COLOURS = {"acquire": BLUE, "align": RED, "sequences": GREEN, "train": PURPLE}
STYLES = {"Amdahl": "--", "Gustafson": "-.", "USL": ":"}
PART_COLOURS = {"compute": BLUE, "communication": ORANGE, "data_wait": SKY, "idle": RULE}
PART_WORDS = {
    "compute": "computing",
    "communication": "communication",
    "data_wait": "in a task, off the processor",
    "idle": "waiting for work or for others",
}


def scaling(details: Details) -> str:
    """Draw speed-up over workers, a panel for each step and mode."""
    points = details["points"]
    steps, modes = _names(points, "step"), [mode for mode in MODES if mode in _names(points, "mode")]

    def paint(figure: Figure) -> None:
        axes = figure.subplots(len(modes), len(steps), squeeze=False, sharex=True, sharey=True)
        for row, mode in zip(axes, modes):
            for axis, step in zip(row, steps):
                own = [p for p in points if (p["step"], p["mode"]) == (step, mode)]
                _ideal(axis, own)
                _laws(axis, [f for f in details["fits"] if (f["step"], f["mode"]) == (step, mode)], own)
                _points(axis, own, COLOURS[step])
                axis.set_title(f"{step}, {mode}")
                _by_powers(axis, sorted({p["workers"] for p in points}))
            row[0].set_ylabel("speed-up" if mode == "strong" else "scaled speed-up")
        for axis, step in zip(axes[-1], steps):
            axis.set_xlabel("ranks" if step == "train" else "workers")
        handles = {label: h for axis in axes.flat for h, label in zip(*axis.get_legend_handles_labels())}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)

    return draw(paint, height_in=0.6 + 2.2 * len(modes))


def _ideal(axis: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    counts = [p["workers"] for p in points]
    axis.plot(counts, [n / min(counts) for n in counts], color=RULE, lw=1, label="ideal", zorder=0)


def _points(axis: Axes, points: Sequence[Mapping[str, Any]], colour: str) -> None:
    for beyond in (False, True):
        some = [p for p in points if p["oversubscribed"] == beyond]
        if not some:
            continue
        x, gain = [p["workers"] for p in some], [p["speed_up"] for p in some]
        y = [g["value"] for g in gain]
        error = [[g["value"] - g["low"] for g in gain], [g["high"] - g["value"] for g in gain]]
        label = "more workers than cores" if beyond else "measured, with its interval"
        axis.errorbar(
            x, y, error, fmt="D" if beyond else "o", ms=5, lw=1, color=MUTED if beyond else colour,
            mfc="none" if beyond else colour, capsize=2, label=label,
        )  # fmt: skip


def _laws(axis: Axes, fits: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]]) -> None:
    """Draw each law over the counts it was fitted to, and nowhere else."""
    base = min(points, key=lambda p: p["workers"]) if points else None
    for fit in fits:
        law = next(law for law in LAWS if law.name == fit["law"])
        n = np.geomspace(fit["workers"][0], fit["workers"][-1], 50)
        values = [parameter["value"] for parameter in fit["parameters"].values()]
        seconds = fit["one_worker_s"] * law.shape(n, *values)
        more = n / base["workers"] if base and fit["mode"] == "weak" else 1.0
        label = f"{fit['law']}, as far as measured"
        axis.plot(n, seconds[0] / seconds * more, STYLES[fit["law"]], color=INK, lw=1, label=label)


def _by_powers(axis: Axes, counts: Sequence[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        one.set_minor_formatter(NullFormatter())
        one.set_minor_locator(NullLocator())
    axis.xaxis.set_major_locator(FixedLocator(list(counts)))
    axis.grid(axis="y")


def split(details: Details) -> str:
    """Draw where the time of workers goes, a bar for each point."""
    points = details["points"]

    def paint(figure: Figure) -> None:
        axis = figure.subplots()
        labels = [
            f"{p['step']}, {p['mode']}, {p['workers']}" + (" *" if p["oversubscribed"] else "")
            for p in points
        ]
        left = np.zeros(len(points))
        for part in PARTS:
            shares = np.array([100 * p["split"].get(part, 0.0) for p in points])
            axis.barh(
                labels, shares, left=left, color=PART_COLOURS[part], label=PART_WORDS[part], height=0.72
            )
            left += shares
        axis.invert_yaxis()
        axis.set_xlim(0, 100)
        axis.set_xlabel("share of the workers' time, %; * more workers than cores")
        axis.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper center", ncols=4)

    return draw(paint, height_in=0.9 + 0.2 * len(points))


def model(details: Details) -> str:
    """Draw the model beside what was measured, as ratios with their intervals."""
    rows = details["validation"]

    def paint(figure: Figure) -> None:
        axis = figure.subplots()
        for k, row in enumerate(rows):
            one = row["measured_s"]
            axis.plot([row["measured_low_s"] / one, row["measured_high_s"] / one], [k, k], color=MUTED, lw=6, alpha=0.5,
                      solid_capstyle="butt", label="measured, interval of the median")  # fmt: skip
            colour = INK if row["calibrated_on"] else COLOURS[row["step"]]
            low, high = row["model_low_s"] / one, row["model_high_s"] / one
            axis.plot([low, high], [k, k], color=colour, lw=1.5)
            label = "model, where it was calibrated" if row["calibrated_on"] else "model, new to it"
            axis.plot(row["model_s"] / one, k, "o", ms=5, color=colour, mfc="none" if row["oversubscribed"] else colour,
                      label=label)  # fmt: skip
        axis.axvline(1, color=RULE, lw=1, zorder=0)
        axis.set_yticks(range(len(rows)), [f"{r['step']}, {r['mode']}, {r['workers']}" for r in rows])
        axis.invert_yaxis()
        axis.set_xlabel("time over the measured median; hollow: more workers than cores")
        handles = dict(zip(*axis.get_legend_handles_labels()[::-1]))
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3)

    return draw(paint, height_in=0.9 + 0.2 * len(rows))


def projection(details: Details) -> str:
    """Draw the projected efficiency over workers; the word stands in the figure itself."""
    rows = details["projection"]["rows"]
    modes = [mode for mode in MODES if mode in _names(rows, "mode")]

    def paint(figure: Figure) -> None:
        axes = figure.subplots(1, len(modes), squeeze=False, sharey=True)[0]
        for axis, mode in zip(axes, modes):
            for step in _names(rows, "step"):
                own = [r for r in rows if (r["step"], r["mode"]) == (step, mode)]
                if own:
                    x, y = [r["workers"] for r in own], [100 * r["efficiency"] for r in own]
                    axis.plot(x, y, "--o", ms=3.5, mfc="none", color=COLOURS[step], lw=1.2, label=step)
            axis.set_xscale("log")
            axis.set_title(f"PROJECTION, {MODES[mode]}")
            axis.set_xlabel("workers or ranks, none of them measured")
            axis.grid(axis="y")
            axis.text(0.5, 0.5, "projection", transform=axis.transAxes, ha="center", va="center", rotation=25,
                      fontsize=30, color=RULE, zorder=0, alpha=0.6)  # fmt: skip
        axes[0].set_ylim(bottom=0)  # after all is drawn, or what is drawn later would be cut off above
        axes[0].set_ylabel("projected efficiency, %")
        handles = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels())}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)

    return draw(paint, height_in=3.1)


def comparison(details: Details) -> str:
    """Draw the ratio of this run to an earlier one with its interval, a line for each point."""
    rows = details["comparison"]["rows"]
    colours = {"slower beyond doubt": RED, "faster beyond doubt": GREEN, "not told apart": MUTED}

    def paint(figure: Figure) -> None:
        axis = figure.subplots()
        for k, row in enumerate(rows):
            colour = colours[row["verdict"]]
            axis.plot([row["low"], row["high"]], [k, k], color=colour, lw=1.5)
            axis.plot(row["ratio"], k, "o", ms=5, color=colour, label=row["verdict"])
        axis.axvline(1, color=RULE, lw=1, zorder=0)
        axis.set_yticks(range(len(rows)), [f"{r['step']}, {r['mode']}, {r['workers']}" for r in rows])
        axis.invert_yaxis()
        axis.set_xlabel("time over that of the earlier run")
        handles = dict(zip(*axis.get_legend_handles_labels()[::-1]))
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3)

    return draw(paint, width_in=FULL_IN, height_in=0.9 + 0.2 * len(rows))


FIGURES: dict[str, Callable[[Details], str]] = {
    "scaling": scaling,
    "split": split,
    "model": model,
    "projection": projection,
    "comparison": comparison,
}
"""By the name of the file and of the place on the page."""


def draw_all(details: Details) -> dict[str, str]:
    """Return all figures that there is something for, as data addresses of SVG."""
    there = {
        "scaling": bool(details["points"]),
        "split": bool(details["points"]),
        "model": bool(details["validation"]),
        "projection": bool(details["projection"]["rows"]),
        "comparison": bool(details["comparison"] and details["comparison"]["rows"]),
    }
    return {name: paint(details) for name, paint in FIGURES.items() if there[name]}


def svg_of(address: str) -> bytes:
    """Return the file in a data address."""
    return base64.b64decode(address.partition("base64,")[2])


def _names(rows: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))
