"""The first screen: what was run, and its verdicts in a few tiles.

Each verdict is told in full by its own section.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from glacierhpc.report.blocks import Tile, interval, number, plural, signed
from glacierhpc.report.losses import fates
from glacierhpc.report.run_files import (
    Damaged,
    NotMade,
    RunFiles,
    cube_crs,
    median,
    on_stable_ground,
    setting,
    shows,
)
from glacierhpc.report.skill_scores import model_name, spoken, verdicts


def facts(run: RunFiles, settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what was asked for, as pairs of name and value."""
    box = setting(settings, "area.bbox_lonlat")
    period = [str(setting(settings, f"period.{end}", "")) for end in ("start", "end")]
    collections = setting(settings, "archive.collections", [])
    pairs = [
        ("task", str(setting(settings, "task", ""))),
        ("area", _area(box) if isinstance(box, list) and len(box) == 4 else ""),
        ("period", " to ".join(part for part in period if part)),
        ("imagery", ", ".join(map(str, collections)) if isinstance(collections, list) else str(collections)),
        ("images of", str(setting(settings, "input.cube", ""))),
        ("catalogue", str(setting(settings, "archive.catalogue", ""))),
        ("grid", _grid(run)),
    ]
    return [(name, value) for name, value in pairs if value]


def tiles(run: RunFiles) -> list[Tile]:
    """Return the verdicts that can be given so far; what has no file yet has no tile."""
    found: list[Tile] = []
    makers: tuple[Callable[[RunFiles], list[Tile]], ...] = (_scenes, _alignment, _audit, _skill)
    for maker in makers:
        try:
            found += maker(run)
        except NotMade:
            continue
        except Damaged:
            found.append(Tile("damaged", "!", "see below", "bad"))
    return [*found, Tile("the figures show", shows(run), tone="shows")]


def _scenes(run: RunFiles) -> list[Tile]:
    states = fates(run)["state"]
    used, dropped, failed = (int((states == name).sum()) for name in ("used", "dropped", "failed"))
    detail = f"of {plural(len(states), 'scene')} found; {dropped} dropped, {failed} failed"
    return [Tile("scenes used", str(used), detail, "bad" if failed or not used else "good")]


def _alignment(run: RunFiles) -> list[Tile]:
    columns = ("ok", "shift_px", "shift_m", "residual_before_px", "residual_px")
    rows = run.table("alignment.parquet", columns=columns)
    good = rows[rows["ok"].astype(bool)]
    if good.empty:
        return [Tile("alignment", "none", f"of {plural(len(rows), 'scene')} could be aligned", "bad")]
    before, after = median(good["residual_before_px"]), median(good["residual_px"])
    shift = Tile(
        "median shift corrected",
        f"{number(median(good['shift_px']))} px",
        f"{number(median(good['shift_m']))} m; {len(good)} of {plural(len(rows), 'scene')} aligned",
    )
    title = "misfit on stable ground" if on_stable_ground(run) else "misfit to the reference"
    if math.isnan(after):
        return [shift, Tile(title, "unknown", "was not measured")]
    tone = "bad" if after > before else "good"
    misfit = Tile(
        title,
        f"{number(after, 2)} px",
        f"median after alignment; {number(before, 2)} px before",
        tone,
    )
    return [shift, misfit]


def _audit(run: RunFiles) -> list[Tile]:
    audit = run.json("split.json").get("audit") or {}
    if not audit:
        return [Tile("leakage audit", "not done", "", "bad")]
    leaks = len(audit.get("leaks") or [])
    return [
        Tile(
            "leakage audit",
            "passed" if audit.get("ok") else "failed",
            plural(leaks, "leak"),
            "good" if audit.get("ok") else "bad",
        )
    ]


def _skill(run: RunFiles) -> list[Tile]:
    model = model_name(run)
    tones = {"better": "good", "worse": "bad", "undecided": "plain"}
    said = {
        "better": f"{model} is better",
        "worse": "the baseline is better",
        "undecided": "cannot be told apart",
    }
    return [
        Tile(
            f"skill over {spoken(one.baseline)}",
            signed(one.skill.all),
            f"{interval(one.skill.interval)} {said[one.word]}".strip(),
            tones[one.word],
        )
        for one in verdicts(run)
    ]


def _area(box: list[Any]) -> str:
    west, south, east, north = (float(value) for value in box)
    return f"{_degrees(west, 'EW')} to {_degrees(east, 'EW')}, {_degrees(south, 'NS')} to {_degrees(north, 'NS')}"


def _degrees(value: float, letters: str) -> str:
    return f"{abs(value):.3f}° {letters[0] if value >= 0 else letters[1]}"


def _grid(run: RunFiles) -> str:
    name = next(
        (name for name in ("composite.zarr", "aligned.zarr", "clean.zarr", "cube.zarr") if run.has(name)),
        None,
    )
    if name is None:
        return ""
    try:
        cube = run.cube(name)
    except Damaged:
        return ""
    crs, x = cube_crs(cube), cube["x"].values
    size = f"{cube.sizes['x']} × {cube.sizes['y']} px"
    pixel = f" of {abs(float(x[1] - x[0])):g} m" if len(x) > 1 else ""
    return f"{size}{pixel}{f', {crs.name}' if crs else ''}"
