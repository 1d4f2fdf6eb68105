"""Which scenes and images are not used, at which step they were lost, and why.

Read from the tables that the steps wrote; nothing is judged again here.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from glacierhpc.report.blocks import OPEN_ROWS, Block, Note, table, words
from glacierhpc.report.run_files import RunFiles

_ORDER = ("search", "acquire", "clean", "align")
Row = tuple[str, str, str, str, str]


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


def losses(run: RunFiles) -> list[Block]:
    """List every scene or image that is not used, failures first, each with its reason; many also by reason."""
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
    blocks: list[Block] = []
    if len(rows) > OPEN_ROWS:
        blocks.append(_by_reason(rows))
    caption = "What is not used, and why. Failures come first; what was dropped fell to a stated limit."
    columns = ("state", "step", "scene", "date", "reason")
    source = "scenes.parquet, manifest.parquet, clean.parquet and alignment.parquet"
    return [*blocks, table(caption, columns, rows, source=source)]


def _by_reason(rows: list[Row]) -> Block:
    """Count the losses by reason, with the numbers in a reason left open."""
    counts: dict[tuple[str, str, str], int] = {}
    for state, step, _, _, reason in rows:
        key = (state, step, re.sub(r"\d+([.,]\d+)*", "…", reason))
        counts[key] = counts.get(key, 0) + 1
    cells = [(state, step, count, reason) for (state, step, reason), count in counts.items()]
    cells.sort(key=lambda cell: (cell[0] != "failed", -cell[2]))
    return table("Losses by reason.", ("state", "step", "count", "reason"), cells)


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
