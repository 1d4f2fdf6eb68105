"""The skill apart by season of the target and by glacier, as the evaluation has it.

Over all of them together it is told by skill.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from glacierhpc.report.blocks import Block, Note, interval, number, plural, signed, table
from glacierhpc.report.run_files import RunFiles
from glacierhpc.report.skill import capital
from glacierhpc.report.skill_scores import model_name, spoken

MONTHS = {
    "DJF": "December to February",
    "MAM": "March to May",
    "JJA": "June to August",
    "SON": "September to November",
}


def seasons(run: RunFiles) -> list[Block]:
    """Tell the scores by season of the target."""
    return _groups(run, "by_season", "season of the target")


def glaciers(run: RunFiles) -> list[Block]:
    """Tell the scores by glacier, where there is more than one group."""
    groups = run.json("metrics.json").get("by_glacier") or {}
    return _groups(run, "by_glacier", "glacier") if len(groups) > 1 else []


def _groups(run: RunFiles, key: str, what: str) -> list[Block]:
    groups = run.json("metrics.json").get(key) or {}
    if not groups:
        return []
    model = model_name(run)
    with run.understanding("metrics.json"):
        methods = list(next(iter(groups.values()))["models"])
        others = [name for name in methods if name != model]
        rows = [
            [
                f"{MONTHS.get(name, name)}\n{_witnesses(group)}",
                number(_value(group["models"][model]["mse"]["all"])),
                *(_against(group, other) for other in others),
            ]
            for name, group in groups.items()
        ]
        lost = _lost(groups, others)
    caption = f"By {what}: mean squared error, and under that of each baseline the skill of {model} over it."
    heads = [what, model, *(spoken(other) for other in others)]
    listed = table(caption, heads, rows, source="metrics.json")
    close = replace(listed, groups=(("", 2), ("baselines", len(others)))) if others else listed
    blocks: list[Block] = [close]
    if lost:
        blocks.insert(0, Note(f"Where a baseline is better than {model}: {'; '.join(lost)}.", "bad"))
    return blocks


def _witnesses(group: Mapping[str, Any]) -> str:
    return f"{plural(group['sequences'], 'sequence')}, {plural(group['windows'], 'window')}"


def _against(group: Mapping[str, Any], other: str) -> str:
    entry = group["skill"][other]
    ends = interval(entry["interval"])
    skill = f"{signed(_value(entry['all']))} {ends}".strip()
    return f"{number(_value(group['models'][other]['mse']['all']))}\n{skill}"


def _lost(groups: Mapping[str, Any], others: list[str]) -> list[str]:
    """Return, for each group in which a baseline is better beyond doubt, which those are."""
    found = []
    for name, group in groups.items():
        better = [
            spoken(other)
            for other in others
            if (high := group["skill"][other]["interval"][1]) is not None and high < 0
        ]
        if better:
            found.append(f"{MONTHS.get(name, capital(name))}: {', '.join(better)}")
    return found


def _value(value: Any) -> float:
    return math.nan if value is None else float(value)
