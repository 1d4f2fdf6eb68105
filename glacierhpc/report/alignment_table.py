"""The alignment scene by scene: what to look at first, then every scene with every figure, worst first.

Which scenes are noteworthy is found in `alignment_rows`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

import pandas as pd

from glacierhpc.report.alignment_rows import alignment_rows, worst_first
from glacierhpc.report.blocks import MAX_ROWS, OPEN_ROWS, Block, Table, plural
from glacierhpc.report.losses import day
from glacierhpc.report.run_files import RunFiles

Column = tuple[str, str, int | None]
"""Column of the file, heading, and decimals (None: words)."""
GROUPS: tuple[tuple[str, tuple[Column, ...]], ...] = (
    ("", (("day", "date", None), ("verdict", "verdict", None))),
    ("shift, px", (("shift_row_px", "row", 2), ("shift_col_px", "column", 2), ("shift_px", "length", 2))),
    ("shift, m", (("shift_m", "length", 1),)),
    ("correlation", (("rho_before", "before", 3), ("rho", "after", 3))),
    ("misfit, px", (("residual_before_px", "before", 3), ("residual_px", "after", 3))),
    ("predicted", (("error_px", "error, px", 3),)),
    ("links", (("links", "used", 0), ("closure_px", "closure, px", 3))),
    ("reference", (("season", "season", None),)),
    ("effort", (("iterations", "iterations", 0), ("seconds", "time, s", 2))),
    ("", (("why", "why refused or doubtful", None), ("scene", "scene", None))),
)  # fmt: skip
SIGNED = ("shift_row_px", "shift_col_px")


def first_looks(run: RunFiles) -> list[Block]:
    """List the scenes that were refused or are doubtful, with the reason; nothing where there is none."""
    rows = alignment_rows(run)
    bad = worst_first(rows[rows["verdict"] != "aligned"])
    if bad.empty:
        return []
    shown = bad.head(OPEN_ROWS)
    rest = len(bad) - len(shown)
    more = f"{rest} more, and all figures, are in the table below." if rest else ""
    groups = (("", 3), ("shift", 2), ("misfit, px", 2), ("", 1))
    headings = ("date", "verdict", "why", "px", "m", "before", "after", "scene")
    cells = [
        (
            day(row.time),
            row.verdict,
            row.why,
            _fixed(row.shift_px, 2),
            _fixed(row.shift_m, 1),
            _fixed(row.residual_before_px, 2),
            _fixed(row.residual_px, 2),
            row.scene,
        )
        for row in shown.itertuples()
    ]
    caption = f"Look at these first: {plural(len(bad), 'scene')} refused or doubtful, worst first."
    return [Table(caption, headings, tuple(cells), more, groups=groups)]


def every_scene(run: RunFiles) -> list[Block]:
    """List all figures of every scene, worst first; a column that no row has a value in is left out."""
    rows = worst_first(alignment_rows(run))
    if rows.empty:
        return []
    rows = rows.assign(day=rows["time"].map(day))
    groups = [
        (title, [column for column in columns if _has_values(rows[column[0]])]) for title, columns in GROUPS
    ]
    columns = [column for _, inside in groups for column in inside]
    shown = rows.head(MAX_ROWS).to_dict("records")
    cells = tuple(tuple(_cell(row, column) for column in columns) for row in shown)
    left_out = len(rows) - len(shown)
    which = f"The {len(shown)} worst of {len(rows)} scenes" if left_out else "Every scene, worst first"
    caption = f"{which}: shift and misfit before and after alignment, predicted error, verdict."
    return [
        Table(
            caption,
            tuple(heading for _, heading, _ in columns),
            cells,
            f"{left_out} more rows are in alignment.parquet." if left_out else "",
            folded=len(rows) > OPEN_ROWS,
            groups=tuple((title, len(inside)) for title, inside in groups if inside),
        )
    ]


def _has_values(values: pd.Series) -> bool:
    return bool(values.notna().any() and (values != "").any())


def _cell(row: dict[Hashable, object], column: Column) -> str:
    name, _, places = column
    value = row[name]
    if places is None:
        return str(value) or "–"
    return _fixed(float(value), places, sign=name in SIGNED)  # type: ignore[arg-type]


def _fixed(value: float, places: int, *, sign: bool = False) -> str:
    """Return a number with a fixed count of decimals, so that a column can be read down."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:{'+' if sign else ''}.{places}f}"
    return text.replace("-", "\N{MINUS SIGN}")
