"""The figure of the forecast benchmark: skill of every model against every baseline, with intervals.

Draw that of an earlier run again::

    python benchmarks/forecast_plots.py forecast.json docs/forecast_skill.png
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, GREY = "#1c2833", "#ccd4db"
# Okabe & Ito (2008), "Color Universal Design"
LOOK = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#e69f00", "v"))


def draw_skill(models: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Write the skill of each model against each baseline, a panel each, as SVG or PNG; return its path."""
    others = list(dict.fromkeys(other for told in models.values() for other in told["skill"]))
    figure = Figure(figsize=(2.5 * len(others) + 1.2, 0.42 * len(models) + 1.3))
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(others), sharey=True, squeeze=False)[0]
    for axis, other in zip(axes, others):
        for place, told in enumerate(models.values()):
            if other in told["skill"]:
                _mark(axis, place, told["skill"][other], LOOK[place % len(LOOK)])
        axis.axvline(0, color=INK, lw=1)
        axis.set_title(f"against {other.replace('_', ' ')}", fontsize=9, color=INK, loc="left")
        axis.set_xlim(left=min(-0.1, axis.get_xlim()[0]), right=1)
        axis.grid(axis="x", color=GREY, lw=0.7)
        axis.set_axisbelow(True)
        axis.tick_params(colors=INK, labelsize=8, length=0)
        axis.spines[["top", "right", "left"]].set_visible(False)
    axes[0].set_yticks(range(len(models)), [name.replace("_", " ") for name in models])
    axes[0].set_ylim(len(models) - 0.5, -0.5)
    figure.supxlabel(
        "skill: 1 is perfect, right of 0 is better than the baseline; 95 % interval over windows of held-out time",
        fontsize=8.5,
        color=INK,
    )
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, facecolor="white")
    return path


def _mark(axis: Any, place: int, skill: Mapping[str, Any], look: tuple[str, str]) -> None:
    colour, marker = look
    low, high = skill["interval"]
    if low is not None:
        axis.plot([low, high], [place, place], color=colour, lw=2.2, solid_capstyle="butt")
    axis.plot([skill["all"]], [place], color=colour, marker=marker, ms=7)


if __name__ == "__main__":
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(draw_skill(told["details"]["models"], Path(sys.argv[2])))
