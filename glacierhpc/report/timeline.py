"""Which scenes there were, which were used, and why the others were not.

The alignment's own verdicts are told with the alignment; here they only appear in the list of losses.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from glacierhpc.report import drawing
from glacierhpc.report.blocks import Block, Note, Picture, plural, table, words
from glacierhpc.report.drawing import BLUE, ORANGE, RED
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


def fates(run: RunFiles) -> pd.DataFrame:
    """Return the scenes table with ``state`` as far as the steps have come: used, dropped or failed.

    A scene that was read but found too cloudy later is dropped, one that could not be aligned has failed.
    """
    found = run.table("scenes.parquet", columns=("scene", "time", "state", "cloud_cover"))
    state = found["state"].replace({"kept": "used"})
    for row in _clean_losses(run):
        if row[0] == "dropped":
            state[found["scene"] == row[2]] = "dropped"
    for row in _align_losses(run):
        state[found["scene"] == row[2]] = "failed"
    return found.assign(state=state)


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


def losses(run: RunFiles) -> list[Block]:
    """List every scene or image that is not used, by step, failures first, each with its reason."""
    rows = (
        _search_losses(run)
        + _scene_losses(run)
        + _asset_losses(run)
        + _clean_losses(run)
        + _align_losses(run)
    )
    if not rows:
        return [Note("Nothing was dropped and nothing failed.", "good")]
    rows.sort(key=lambda row: (row[0] != "failed", _ORDER.index(row[1]), row[2]))
    caption = "What is not used, and why. Failures come first; what was dropped fell to a stated limit."
    columns = ("state", "step", "scene", "date", "reason")
    return [table(caption, columns, rows, source="scenes.parquet, manifest.parquet and alignment.parquet")]


_ORDER = ("search", "acquire", "clean", "align")
Row = tuple[str, str, str, str, str]


def _search_losses(run: RunFiles) -> list[Row]:
    if not run.has("items.json"):
        return []
    dropped = run.json("items.json").get("search", {}).get("dropped", [])
    with run.understanding("items.json"):
        return [("dropped", "search", str(row["scene"]), "", words(row.get("reason"))) for row in dropped]


def _scene_losses(run: RunFiles) -> list[Row]:
    if not run.has("scenes.parquet"):
        return []
    found = run.table("scenes.parquet", columns=("scene", "time", "state", "reason"))
    lost = found[found["state"] != "kept"]
    return [(r.state, "acquire", r.scene, day(r.time), words(r.reason)) for r in lost.itertuples()]


def _asset_losses(run: RunFiles) -> list[Row]:
    if not run.has("manifest.parquet"):
        return []
    manifest = run.table("manifest.parquet", columns=("scene", "asset", "state", "reason"))
    lost = manifest[manifest["state"] == "failed"]
    return [("failed", "acquire", f"{r.scene}, {r.asset}", "", words(r.reason)) for r in lost.itertuples()]


def _clean_losses(run: RunFiles) -> list[Row]:
    if not run.has("clean.parquet"):
        return []
    clean = run.table("clean.parquet", columns=("scene", "state", "reason"))
    lost = clean[clean["state"] != "done"].drop_duplicates(["scene", "state", "reason"])
    return [(str(r.state), "clean", str(r.scene), "", words(r.reason)) for r in lost.itertuples()]


def _align_losses(run: RunFiles) -> list[Row]:
    if not run.has("alignment.parquet"):
        return []
    rows = run.table("alignment.parquet", columns=("scene", "time", "ok", "reason"))
    lost = rows[~rows["ok"].astype(bool)]
    return [("failed", "align", r.scene, day(r.time), words(r.reason)) for r in lost.itertuples()]


def day(time: object) -> str:
    """Return a time as its date."""
    return "–" if pd.isna(time) else np.datetime_as_string(np.datetime64(pd.Timestamp(time)), unit="D")
