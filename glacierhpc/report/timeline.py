"""Every scene on the time axis: what became of it, its clouds, and how much of the area it shows.

Why scenes were lost is listed by losses.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from glacierhpc.report import drawing
from glacierhpc.report.blocks import Block, Note, Picture, plural
from glacierhpc.report.drawing import BLUE, ORANGE, RED
from glacierhpc.report.losses import fates
from glacierhpc.report.run_files import RunFiles

# Colour and shape both carry the state: either alone is enough.
STATES = {"used": (BLUE, "o"), "dropped": (ORANGE, "X"), "failed": (RED, "^")}
UNKNOWN_CLOUD = -8.0  # below the axis: no cloud cover is stated


def scenes(run: RunFiles) -> list[Block]:
    """Draw every scene found on the time axis, with its cloud cover and what became of it."""
    found = fates(run)
    if found.empty:
        return [Note("The search found no scenes.", "bad")]
    cover = found["cloud_cover"].astype(float)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for state, (colour, marker) in STATES.items():
            chosen = found["state"] == state
            if chosen.any():
                height = cover[chosen].fillna(UNKNOWN_CLOUD)
                label = f"{state} ({int(chosen.sum())})"
                axes.scatter(
                    found["time"][chosen],
                    height,
                    s=34,
                    c=colour,
                    marker=marker,
                    alpha=0.85,
                    linewidths=0,
                    label=label,
                )
        ticks = [0, 20, 40, 60, 80, 100]
        if cover.isna().any():
            axes.set_yticks([UNKNOWN_CLOUD, *ticks], ["not stated", *map(str, ticks)])
        axes.set(ylabel="cloud cover of the whole scene, %", ylim=(-12 if cover.isna().any() else -4, 104))
        axes.grid(True, axis="y")
        drawing.date_axis(axes)
        figure.legend(loc="outside upper left", ncols=3)

    counts = {state: int((found["state"] == state).sum()) for state in STATES}
    said = ", ".join(f"{count} {state}" for state, count in counts.items())
    caption = (
        f"{plural(len(found), 'scene')} found: {said}. Cloud cover is the catalogue's, not that of the area."
    )
    alt = f"Scenes over time by cloud cover: {said}"
    return [Picture(drawing.draw(paint, height_in=2.9), alt, caption)]


def quality(run: RunFiles) -> list[Block]:
    """Draw how much of the area each scene covers, and how much of it is clear."""
    found = run.table("scenes.parquet", columns=("scene", "time", "state", "valid_share"))
    found = found[found["valid_share"].notna()].sort_values("time")
    if found.empty:
        return [Note("No scene was read far enough to know its valid share.", "missing")]
    clear = found["clear_share"].astype(float) if "clear_share" in found else None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        when = found["time"]
        axes.scatter(
            when,
            100 * found["valid_share"],
            s=26,
            c="none",
            marker="o",
            edgecolors=BLUE,
            linewidths=1.3,
            label="has data",
        )
        if clear is not None:
            axes.vlines(
                when, 100 * clear, 100 * found["valid_share"], color=drawing.RULE, linewidth=1.2, zorder=0
            )
            axes.scatter(
                when, 100 * clear, s=26, c=BLUE, marker="o", linewidths=0, label="has data and is clear"
            )
        axes.set(ylabel="share of the area, %", ylim=(-4, 104))
        axes.grid(True, axis="y")
        drawing.date_axis(axes)
        figure.legend(loc="outside upper left", ncols=2)

    middle = float(found["valid_share"].median())
    caption = (
        f"Share of the area with data in each scene (median {100 * middle:.0f} %) and, below it, the share left "
        "without clouds and shadows. A long line is a cloudy scene."
    )
    return [Picture(drawing.draw(paint, height_in=2.6), "Valid and clear share per scene over time", caption)]
