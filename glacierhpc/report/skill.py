"""How good the forecast is against the baselines, in sentences made from the numbers.

Its figures are drawn in `skill_plots`, its tables are in `skill_table`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from glacierhpc.report.blocks import Block, Note, interval, signed
from glacierhpc.report.run_files import RunFiles
from glacierhpc.report.skill_scores import Score, Verdict, model_name, scores, spoken, verdicts


def sentences(run: RunFiles) -> list[Block]:
    """Say in words where the model wins and where a baseline does."""
    metrics = run.json("metrics.json", keys=("models", "skill"))
    model = model_name(run)
    blocks: list[Block] = []
    if (metrics.get("audit") or {}).get("ok") is False:
        blocks.append(Note("The split leaks: none of these figures is to be trusted. See the audit.", "bad"))
    drawn = metrics.get("bootstrap") or {}
    if drawn.get("few_blocks"):
        text = "The test period is short: too few independent windows of time to rely on the intervals"
        blocks.append(Note(f"{text} ({drawn.get('windows')}).", "plain"))
    # from few windows nothing is green: two of them lie on one side of zero by chance every other time
    tones = {"better": "plain" if drawn.get("few_blocks") else "good", "worse": "bad"}
    for verdict in verdicts(run):
        blocks.append(Note(_sentence(model, verdict), tones.get(verdict.word, "plain")))
    best = _best(run)
    if best is not None and best != model:
        winner = spoken(best)
        text = f"The smallest mean squared error over all leads is that of {winner}, not of the model: use {winner}."
        blocks.append(Note(text, "bad"))
    return blocks


def _best(run: RunFiles) -> str | None:
    errors = {name: score.all for name, score in scores(run, "mse").items() if math.isfinite(score.all)}
    return min(errors, key=lambda name: errors[name]) if errors else None


def _sentence(model: str, verdict: Verdict) -> str:
    name, skill = spoken(verdict.baseline), verdict.skill
    ends = interval(skill.interval)
    figure = f"skill {signed(skill.all)}{f', interval {ends}' if ends else ''}"
    if verdict.word == "better":
        text = f"{model} forecasts better than {name}: {figure}."
    elif verdict.word == "worse":
        text = f"{capital(name)} forecasts better than {model}: {figure}."
    elif ends:
        text = f"{model} and {name} cannot be told apart: {figure} holds zero."
    else:
        text = f"{model} and {name} cannot be told apart: {figure}, without an interval."
    return text + _on_other_ground(verdict) + _by_leads(model, name, skill)


def _on_other_ground(verdict: Verdict) -> str:
    if verdict.word == "undecided":
        return ""
    low, high = verdict.ground
    holds = low > 0 if verdict.word == "better" else high < 0
    return other_ground(verdict.ground, verdict.skill.interval, interval(verdict.ground), holds=holds)


def other_ground(ground: tuple[float, float], own: tuple[float, float], told: str, *, holds: bool) -> str:
    """Say whether a verdict would hold on other ground, where that was asked apart from the verdict's own interval."""
    if not math.isfinite(ground[0]) or ground == own:
        return ""
    return f" {'It holds' if holds else 'It cannot be said'} for other ground of the kind, too: {told}."


def _by_leads(model: str, name: str, skill: Score) -> str:
    """Say at which leads the baseline wins, beyond doubt or by the figure alone, where not all leads are alike."""
    lost = [lead + 1 for lead, high in enumerate(skill.high) if high < 0]
    if len(skill.by_lead) < 2 or len(lost) == len(skill.by_lead):
        return ""
    behind = [lead + 1 for lead, value in enumerate(skill.by_lead) if value < 0 and lead + 1 not in lost]
    text = ""
    if lost:
        text += f" {capital(name)} is better than {model} at {leads(lost)}."
    if behind:
        text += f" {capital(name)} is ahead at {leads(behind)}, within the interval."
    return text


def leads(numbers: Sequence[int]) -> str:
    """Return ``lead 2``, or ``leads 1–3 and 6``."""
    runs: list[list[int]] = []
    for lead in numbers:
        if runs and lead == runs[-1][-1] + 1:
            runs[-1].append(lead)
        else:
            runs.append([lead])
    said = [f"{run[0]}" if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs]
    text = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    return f"lead{'s' if len(numbers) > 1 else ''} {text}"


def capital(name: str) -> str:
    """Return a name as it begins a sentence."""
    return name[:1].upper() + name[1:]
