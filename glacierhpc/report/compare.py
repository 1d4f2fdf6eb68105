"""Several runs on one page: which is better, by how much, and whether that can be told; one table and one figure.

What is compared was computed by the evaluation.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import glacierhpc
from glacierhpc.files import atomic_path
from glacierhpc.report import drawing
from glacierhpc.report.blocks import (
    Block,
    Note,
    Picture,
    Table,
    Tile,
    interval,
    number,
    percent,
    plural,
    signed,
    table,
)
from glacierhpc.report.drawing import BLUE, GREEN, MUTED, ORANGE, PURPLE, RED, SKY
from glacierhpc.report.page import Section, template
from glacierhpc.report.skill import capital, leads, other_ground
from glacierhpc.report.skill_plots import LOOKS, OTHER_LOOK, by_lead, lead_axis
from glacierhpc.report.skill_scores import read_score, spoken

log = logging.getLogger(__name__)

RUN_LOOKS = ((BLUE, "o"), (RED, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "v"), (SKY, "P"))


def write_comparison(path: Path, comparison: Mapping[str, Any], *, title: str | None = None) -> Path:
    """Write the comparison of runs as one self-contained page.

    Parameters
    ----------
    path : Path
        The HTML file; replaced if it exists.
    comparison : mapping
        As `evaluation.compare.compare` gives it.
    title : str, optional
        Default: how many runs there are.

    Returns
    -------
    Path
        `path`.
    """
    path = Path(path)
    page = template().render(
        title=title or f"Comparison of {plural(len(comparison['runs']), 'run')}",
        facts=_facts(comparison),
        tiles=_tiles(comparison),
        sections=[(Section("comparison", "Comparison", "", ()), comparison_blocks(comparison))],
        version=glacierhpc.__version__,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    log.info("wrote %s", path)
    return path


def comparison_blocks(comparison: Mapping[str, Any]) -> list[Block]:
    """Return what is said, drawn and listed of a comparison."""
    return [*_sentences(comparison), _figure(comparison), _scores(comparison), *_skills(comparison)]


def _facts(comparison: Mapping[str, Any]) -> list[tuple[str, str]]:
    drawn = comparison["bootstrap"]
    return [
        ("judged on", f"{plural(comparison['n_sequences'], 'sequence')} of the same targets"),
        ("leads", str(len(comparison["leads"]))),
        ("independent windows of time", str(drawn["windows"])),
    ]


def _tiles(comparison: Mapping[str, Any]) -> list[Tile]:
    best = _best_run(comparison)
    return [
        Tile(
            f"mse of {label}",
            number(run["metrics"]["mse"]["all"]),
            _difference(run, comparison["first"]) or f"{run['model']}; the others are compared with it",
            "good" if label == best else "plain",
        )
        for label, run in comparison["runs"].items()
    ]


def _best_run(comparison: Mapping[str, Any]) -> str:
    runs = comparison["runs"]
    return str(min(runs, key=lambda label: _value(runs[label]["metrics"]["mse"]["all"], math.inf)))


def _sentences(comparison: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    few = bool(comparison["bootstrap"].get("few_blocks"))
    if few:
        windows = comparison["bootstrap"]["windows"]
        blocks.append(Note(f"Too few independent windows of time to rely on the intervals ({windows})."))
    first = comparison["first"]
    for label, run in comparison["runs"].items():
        if run["paired"] is not None:
            note = _against_first(label, run, first)
            blocks.append(replace(note, tone="plain") if few else note)  # two windows agree by chance
    for label, run in comparison["runs"].items():
        lost = _baselines_ahead(run)
        if lost:
            blocks.append(Note(f"{capital(label)}: {'; '.join(lost)}.", "bad"))
    return blocks


def _against_first(label: str, run: Mapping[str, Any], first: str) -> Note:
    low, high = (_value(end) for end in run["paired"]["mse_difference"]["interval"])
    told = _difference(run, first)
    if high < 0 or low > 0:
        winner, loser = (label, first) if high < 0 else (first, label)
        holds = _on_other_ground(run["paired"]["mse_difference"])
        return Note(
            f"{capital(winner)} forecasts better than {loser}: {told}.{holds}", "good" if high < 0 else "bad"
        )
    return Note(f"{capital(label)} and {first} cannot be told apart: {told}.")


def _on_other_ground(entry: Mapping[str, Any]) -> str:
    own_low, own_high = (_value(end) for end in entry["interval"])
    low, high = (_value(end) for end in entry.get("ground_interval") or (None, None))
    told = f"[{_plus(low)}, {_plus(high)}]"
    return other_ground((low, high), (own_low, own_high), told, holds=low > 0 or high < 0)


def _difference(run: Mapping[str, Any], first: str) -> str:
    """Say how the error of a run differs from that of the first; nothing for the first itself."""
    if run["paired"] is None:
        return ""
    entry = run["paired"]["mse_difference"]
    low, high = (_value(end) for end in entry["interval"])
    ends = f" [{_plus(low)}, {_plus(high)}]" if math.isfinite(low) and math.isfinite(high) else ""
    return f"mse {_plus(_value(entry['all']))}{ends} against {first}"


def _baselines_ahead(run: Mapping[str, Any]) -> list[str]:
    """Say which baselines are better than a run beyond doubt, over all leads or at some."""
    said = []
    for name, entry in run["skill"].items():
        score = read_score(entry)
        losing = [lead + 1 for lead, high in enumerate(score.high) if high < 0]
        if score.interval[1] < 0:
            said.append(f"{spoken(name)} is better ({signed(score.all)} {interval(score.interval)})")
        elif losing:
            said.append(f"{spoken(name)} is better at {leads(losing)}")
    return said


def _figure(comparison: Mapping[str, Any]) -> Picture:
    runs, baselines = comparison["runs"], comparison["baselines"]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        count = len(runs) + len(baselines)
        for index, (label, run) in enumerate(runs.items()):
            colour, marker = RUN_LOOKS[index % len(RUN_LOOKS)]
            score = read_score(run["metrics"]["mse"])
            by_lead(axes, score, index, count, colour, marker, label, bold=True)
        for index, (name, metrics) in enumerate(baselines.items()):
            _, marker = LOOKS.get(name, OTHER_LOOK)
            by_lead(axes, read_score(metrics["mse"]), len(runs) + index, count, MUTED, marker, spoken(name))
        axes.set(xlabel="lead, composite windows", ylabel="mean squared error", ylim=(0, None))
        lead_axis(axes, figure)

    drawn = comparison["bootstrap"]
    caption = (
        "Mean squared error by lead; lower is better. Coloured the runs, grey the baselines. Bars: "
        f"{percent(drawn['confidence'])} interval by block bootstrap over {drawn['blocks']} blocks. All are judged on "
        "the same targets, so that runs may differ beyond doubt although their bars overlap."
    )
    alt = "Mean squared error by lead of every run and baseline"
    return Picture(drawing.draw(paint, height_in=4.4), alt, caption)


def _scores(comparison: Mapping[str, Any]) -> Table:
    """Return the table of errors, runs first, then baselines."""
    first = comparison["first"]
    rows = [
        [f"{label}\n{run['model']}", *_errors(run["metrics"], _change(run))]
        for label, run in comparison["runs"].items()
    ]
    rows += [[spoken(name), *_errors(metrics, "–")] for name, metrics in comparison["baselines"].items()]
    caption = (
        f"Every run and baseline over all leads, below each figure its interval. Difference: mean squared error less "
        f"that of {first} on the same pixels, and the share of the windows of time that the run wins."
    )
    return table(caption, ["run", "mse ↓", f"difference to {first}", "mae ↓", "ssim ↑"], rows, folded=False)


def _errors(metrics: Mapping[str, Any], change: str) -> list[str]:
    return [_cell(metrics, "mse"), change, _cell(metrics, "mae"), _cell(metrics, "ssim")]


def _skills(comparison: Mapping[str, Any]) -> list[Table]:
    """Return the table of the runs' skill over each baseline, where there are any."""
    runs = comparison["runs"]
    known = list(dict.fromkeys(name for run in runs.values() for name in run["skill"]))
    rows = [[label, *(_skill(run["skill"].get(name)) for name in known)] for label, run in runs.items()]
    caption = "Skill of every run over each baseline: the share of its mean squared error that the run saves."
    heads = ["run", *(spoken(name) for name in known)]
    return [table(caption, heads, rows, folded=False)] if known else []


def _cell(metrics: Mapping[str, Any], name: str) -> str:
    low, high = (_value(end) for end in metrics[name]["interval"])
    ends = f"\n{number(low)} to {number(high)}" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{number(_value(metrics[name]['all']))}{ends}"


def _skill(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    return f"{signed(_value(entry['all']))}\n{interval(entry['interval'])}".strip()


def _change(run: Mapping[str, Any]) -> str:
    if run["paired"] is None:
        return "–"
    paired = run["paired"]
    low, high = (_value(end) for end in paired["mse_difference"]["interval"])
    ends = f"\n[{_plus(low)}, {_plus(high)}]" if math.isfinite(low) and math.isfinite(high) else ""
    won = f"\nwins {percent(_value(paired['won']))} of {paired['windows']}"
    return f"{_plus(_value(paired['mse_difference']['all']))}{ends}{won}"


def _plus(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


def _value(value: Any, missing: float = math.nan) -> float:
    return missing if value is None else float(value)
