"""Figures of the alignment benchmark, from its details or from its JSON file.

Draw those of an earlier run again::

    python benchmarks/align_plots.py align.json figures
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

INK, GREY = "#222222", "#8a8a8a"
LOOK = {  # colour, marker
    "ours": ("#c8102e", "o"),
    "OpenCV findTransformECC": ("#1f5fa8", "s"),
    "OpenCV findTransformECC, no blur": ("#7fb0de", "D"),
    "OpenCV findTransformECCMultiScale": ("#2a9d6f", "^"),
    "scikit-image phase correlation": ("#b8860b", "v"),
    "AROSICS": ("#7a4fa3", "P"),
}
SHORT = {
    "OpenCV findTransformECC": "OpenCV ECC",
    "OpenCV findTransformECC, no blur": "OpenCV ECC, no blur",
    "OpenCV findTransformECCMultiScale": "OpenCV ECC MultiScale",
    "scikit-image phase correlation": "scikit-image",
}
TIMED = ("translation", "affine", "homography")


def draw_all(details: dict[str, Any], folder: Path) -> list[Path]:
    """Write all figures as SVG and PNG; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in {"speed": speed, "accuracy": errors, "capture": reached}.items():
        figure = draw(details)
        FigureCanvasAgg(figure)
        for suffix in ("svg", "png"):
            path = folder / f"align_{name}.{suffix}"
            figure.savefig(path, dpi=150, bbox_inches="tight", facecolor="white")
            written.append(path)
    return written


def speed(details: dict[str, Any]) -> Figure:
    """Draw seconds against image size, log-log: an iteration above, the whole alignment below."""
    times = details["times"]
    motions = [m for m in TIMED if any(t["motion"] == m for t in times)]
    figure = Figure(figsize=(3.4 * len(motions), 6.2))
    axes = figure.subplots(2, len(motions), sharex=True, sharey="row", squeeze=False)
    titles = {"iteration": "one iteration at full size", "convergence": "from arrays to matrix"}
    for above, (what, title) in zip(axes, titles.items()):
        for axis, motion in zip(above, motions):
            for method in details["methods"]:
                _line(
                    axis,
                    [t for t in times if (t["what"], t["motion"], t["method"]) == (what, motion, method)],
                    method,
                )
            _plain_log(axis, "xy")
            axis.set_title(f"{motion}: {title}", fontsize=9, color=INK)
            axis.yaxis.set_major_formatter(FuncFormatter(_seconds))
        above[0].set_ylabel("time", color=INK)
    sizes = sorted({t["size_px"] for t in times})
    for axis in axes[-1]:
        axis.set_xticks(sizes, [str(s) for s in sizes], rotation=45)
        axis.set_xlabel("image side, px", color=INK)
    _legend(figure, axes.ravel().tolist())
    return figure


def _line(axis: Axes, points: list[dict[str, Any]], method: str) -> None:
    points = sorted(points, key=lambda t: t["size_px"])
    if points:
        colour, marker = LOOK.get(method, (GREY, "x"))
        width = 2.0 if method == "ours" else 1.3
        x, y = [t["size_px"] for t in points], [t["seconds"] for t in points]
        axis.plot(x, y, marker=marker, color=colour, lw=width, ms=5, label=SHORT.get(method, method))


def errors(details: dict[str, Any]) -> Figure:
    """Draw the corner error of each motion and condition beside the bounds, log scale."""
    summaries = details["accuracy"]
    motions = list(dict.fromkeys(s["motion"] for s in summaries))
    cases = list(dict.fromkeys(s["case"] for s in summaries))
    figure = Figure(figsize=(2.5 * len(motions) + 0.6, 3.9))
    axes = figure.subplots(1, len(motions), sharey=True, squeeze=False)[0]
    for axis, motion in zip(axes, motions):
        _bounds(axis, [b for b in details["bounds"] if b["motion"] == motion], cases)
        methods = details["methods"]
        for k, method in enumerate(methods):
            mine = [s for s in summaries if (s["motion"], s["method"]) == (motion, method)]
            offset = (k - (len(methods) - 1) / 2) * 0.15
            _errors_of(axis, mine, method, [cases.index(s["case"]) + offset for s in mine])
        for edge in range(1, len(cases)):
            axis.axvline(edge - 0.5, color="#e3e3e3", lw=0.8, zorder=0)
        axis.set_xlim(-0.5, len(cases) - 0.5)
        axis.set_xticks(range(len(cases)), [c.replace(", ", ",\n") for c in cases], rotation=60, fontsize=8)
        _plain_log(axis, "y")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_title(motion, fontsize=10, color=INK)
    trials = max(s["trials"] for s in summaries)
    axes[0].set_ylabel(f"corner error, px (RMS of {trials} pairs)", color=INK)
    _legend(figure, list(axes))
    return figure


def _bounds(axis: Axes, bounds: list[dict[str, Any]], cases: list[str]) -> None:
    for bound in bounds:
        at = cases.index(bound["case"])
        low, high = bound["known_signal_px"], bound["unknown_signal_px"]
        label = "Cramer-Rao bound, landscape known to only spectrum known"
        axis.fill_between([at - 0.46, at + 0.46], low, high, color="#bdbdbd", lw=0, label=label, zorder=1)
        axis.plot([at - 0.46, at + 0.46], [high, high], color=INK, lw=1.0, zorder=2)


def _errors_of(axis: Axes, summaries: list[dict[str, Any]], method: str, at: list[float]) -> None:
    colour, marker = LOOK.get(method, (GREY, "x"))
    for x, summary in zip(at, summaries):
        if summary["corner_rms_px"] is None:
            continue
        share = summary["failures"] / summary["trials"]
        face = colour if share == 0 else "white"  # hollow: some trials failed
        name = SHORT.get(method, method)
        axis.plot(x, summary["corner_rms_px"], marker, color=colour, mfc=face, ms=5.5, label=name, zorder=3)


def reached(details: dict[str, Any]) -> Figure:
    """Draw from how far away the methods with a start of their own arrive, and how exactly, as a table."""
    summaries = details["captures"]
    cases = list(dict.fromkeys(s["case"] for s in summaries))
    methods = [m for m in details["methods"] if any(s["method"] == m for s in summaries)]
    figure = Figure(figsize=(0.85 * len(cases) + 1.8, 0.55 * len(methods) + 1.1))
    axis = figure.subplots()
    for summary in summaries:
        _cell(axis, cases.index(summary["case"]), methods.index(summary["method"]), summary)
    axis.set_xlim(-0.5, len(cases) - 0.5)
    axis.set_ylim(len(methods) - 0.5, -0.5)
    axis.set_xticks(range(len(cases)), [c.replace(", ", ",\n") for c in cases])
    axis.set_yticks(range(len(methods)), [SHORT.get(m, m) for m in methods])
    axis.tick_params(colors=INK, labelsize=8, length=0)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.set_title(
        "pairs aligned to within 1 px, and the corner error of those, px", fontsize=9, color=INK, loc="left"
    )
    figure.tight_layout()
    return figure


def _cell(axis: Axes, column: int, line: int, summary: dict[str, Any]) -> None:
    good = summary["trials"] - summary["failures"]
    share, error = good / summary["trials"], summary["corner_rms_px"]
    shade = (1 - 0.75 * share, 1 - 0.35 * share, 1 - 0.55 * share)
    axis.fill_between([column - 0.48, column + 0.48], line - 0.46, line + 0.46, color=shade, lw=0)
    told = f"{good} of {summary['trials']}" + (f"\n{error:.3f}" if error is not None else "")
    axis.text(column, line, told, ha="center", va="center", fontsize=8, color=INK)


def _plain_log(axis: Axes, which: str) -> None:
    for letter in which:
        getattr(axis, f"set_{letter}scale")("log")
        getattr(axis, f"{letter}axis").set_minor_formatter(NullFormatter())
    if "x" in which:
        axis.minorticks_off()
    axis.grid(axis="y", which="major", color="#e3e3e3", lw=0.8)
    _quiet(axis)


def _quiet(axis: Axes) -> None:
    axis.set_axisbelow(True)
    axis.tick_params(colors=INK, labelsize=8, length=3)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _seconds(value: float, _: Any) -> str:
    return f"{value:g} s" if value >= 1 else f"{1e3 * value:g} ms"


def _legend(figure: Figure, axes: list[Axes]) -> None:
    """Put one legend over all panels, every name once."""
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    figure.tight_layout()
    names = sorted(handles, key=lambda name: "bound" in name)
    figure.legend(
        [handles[n] for n in names],
        names,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=min(len(names), 6),
        frameon=False,
        fontsize=8,
    )


if __name__ == "__main__":
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for made in draw_all(told["details"], Path(sys.argv[2])):
        print(made)
