"""What the skill is worth: split audit, permuted-time control, paired comparison, and both kinds of intervals.

Nothing is computed here: the evaluation has done it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from glacierhpc.report.blocks import Block, Note, interval, number, percent, signed, table, words
from glacierhpc.report.run_files import RunFiles
from glacierhpc.report.skill_scores import model_name, spoken


def audit(run: RunFiles) -> list[Block]:
    """Say whether the split was proven free of leakage, where it was; skill says first where it was not."""
    found = run.json("metrics.json").get("audit") or {}
    if found.get("ok") is not True:
        return []
    checked = found.get("checked")
    how_many = f"{checked:,} target pixels and dates" if isinstance(checked, int) else "the targets"
    text = f"Split audit: {how_many} were looked for in the training samples; none was found there."
    return [Note(text, "good")]


def control(run: RunFiles) -> list[Block]:
    """Say what became of the skill when the model was shown another time."""
    found = run.json("metrics.json").get("control") or {}
    if not found:
        return []
    model, verdict = model_name(run), found.get("verdict")
    with run.understanding("metrics.json"):
        if "difference" not in found:
            why = f": {found['reason']}" if found.get("reason") else ""
            return [Note(f"Control with another time: no answer{why}.")]
        rows = [
            [
                spoken(name),
                _entry(found["skill"][name]),
                _entry(found["permuted_skill"][name]),
                _entry(lost),
            ]
            for name, lost in found["difference"].items()
        ]
        note = Note(_verdict(model, found), {"passes": "good", "fails": "bad"}.get(str(verdict), "plain"))
        caption = (
            f"Control: the skill in {words(found['sequences'])} sequences on their own targets, with inputs, masks, "
            f"dates and climatology of their own time, and of another time at the same place{_sharing(found)}."
        )
    heads = ["skill over", "own time", "another time", "lost"]
    return [note, table(caption, heads, rows)]


def paired(run: RunFiles) -> list[Block]:
    """Compare the model with each baseline on the same targets."""
    found = run.json("metrics.json").get("paired") or {}
    if not found:
        return []
    model = model_name(run)
    with run.understanding("metrics.json"):
        grounds = any("won_grounds" in each for each in found.values())
        rows = [[spoken(name), *_paired_cells(each, grounds)] for name, each in found.items()]
    heads = ["compared with", "difference of mse", "windows of time won", "sign test p", "signed-rank p"]
    caption = (
        f"{model} against each baseline on the same pixels: its mean squared error minus the baseline's (below zero "
        "the model is better), the share of the independent windows of time it wins, and two-sided tests over them."
    )
    return [table(caption, [*heads, *(["blocks of ground won"] if grounds else [])], rows)]


def widths(run: RunFiles) -> list[Block]:
    """Set the published kind of interval beside that of blocks."""
    found = run.json("metrics.json").get("paper") or {}
    if not found:
        return []
    with run.understanding("metrics.json"):
        rows = [
            [
                spoken(name),
                metric,
                number(float(each["value"]), 4),
                _range(each["iid_interval"]),
                number(float(each["iid_width"])),
                _range(each["block_interval"]),
                "–" if each["block_width"] is None else number(float(each["block_width"])),
                "–" if each["ratio"] is None else f"{number(float(each['ratio']), 2)} ×",
            ]
            for name, metrics in found["models"].items()
            for metric, each in metrics.items()
        ]
        batch, draws, confidence = found["batch"], found["draws"], float(found["confidence"])
    caption = (
        f"As published scripts print it: the mean over batches of {batch}, with a {percent(confidence)} interval "
        f"of {draws} draws of single sequences. They overlap in space and time, so that this interval is too sure; "
        "beside it the one of whole blocks, and how many times as wide it is."
    )
    heads = ["method", "metric", "value", "of sequences", "width", "of blocks", "width", "ratio"]
    return [table(caption, heads, rows, folded=True)]


def _verdict(model: str, found: Mapping[str, Any]) -> str:
    verdict = found["verdict"]
    best = max(found["difference"], key=lambda name: -(found["skill"][name]["all"] or 0))
    own, left = (signed(_value(found[key][best]["all"])) for key in ("skill", "permuted_skill"))
    change = f"over {spoken(best)} {own} on its own time, {left} on another"
    if verdict == "passes":
        text = f"The control passes: shown another time, {model} loses skill ({change}); it depends on the time shown."
        kept = [spoken(name) for name, gone in (found.get("destroyed") or {}).items() if gone is False]
        if kept:
            text += (
                f" It still beats {' and '.join(kept)} then: that part has nothing to do with the time shown."
            )
        return text
    if verdict == "fails":
        return (
            f"The control fails: shown another time, {model} is not worse beyond doubt ({change}). Its skill does not "
            "come from the time it is shown: look for targets that reach it by another way before trusting it."
        )
    return f"The control decides nothing: there are too few windows of time for an interval ({change})."


def _sharing(found: Mapping[str, Any]) -> str:
    share = found.get("sharing")
    if not isinstance(share, int | float) or share == 0:
        return ""
    return f"; {percent(float(share))} of them share composites with that other time, and lose less"


def _paired_cells(each: Mapping[str, Any], grounds: bool) -> list[str]:
    difference = each["mse_difference"]
    ends = difference["interval"]
    known = all(end is not None for end in ends)
    spread = f"\n[{_signed_number(ends[0])}, {_signed_number(ends[1])}]" if known else ""
    cells = [
        f"{_signed_number(difference['all'])}{spread}",
        f"{percent(_value(each['won']))} of {words(each['windows'])}",
        number(_value(each["sign_p"]), 2),
        number(_value(each["wilcoxon_p"]), 2),
    ]
    if grounds:
        cells.append(f"{percent(_value(each.get('won_grounds')))} of {words(each.get('grounds'))}")
    return cells


def _signed_number(value: float | None) -> str:
    text = number(_value(value))
    return f"+{text}" if value is not None and value > 0 else text


def _entry(entry: Mapping[str, Any]) -> str:
    return f"{signed(_value(entry['all']))} {interval(entry['interval'])}".strip()


def _range(ends: list[float | None]) -> str:
    low, high = (_value(end) for end in ends)
    return f"{number(low, 4)} to {number(high, 4)}" if math.isfinite(low) and math.isfinite(high) else "–"


def _value(value: Any) -> float:
    return math.nan if value is None else float(value)
