"""The alignment in words: what was done, what its figures mean on the ground, and the verdicts.

The figures themselves are in `alignment_table` and `alignment_plots`, `closure`, `vectors` and `blink`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from glacierhpc.report.alignment_rows import aligned, alignment_rows, by_reason, metres_per_px, refused
from glacierhpc.report.blocks import Block, Note, Terms, number, plural
from glacierhpc.report.run_files import RunFiles, median, on_stable_ground

DAYS_PER_YEAR = 365.25
ERROR_PX = 0.1  # the misfit of a good alignment of satellite scenes: what the example in the text is about
MOST_REASONS = 4


def intro(run: RunFiles) -> str:
    """Say what was done, and on which ground it was judged."""
    ground = (
        "judged on ground outside the glaciers"
        if on_stable_ground(run)
        else "judged over the whole area, moving ice included"
    )
    return f"Scenes of one place lie up to a few pixels apart. Each is moved onto a common frame, {ground}."


def meaning(run: RunFiles) -> list[Block]:
    """Say in plain words what the figures of this section mean, and what an error would read as."""
    rows = alignment_rows(run)
    ground = "outside the glaciers" if on_stable_ground(run) else "anywhere in the area, moving ice included,"
    terms = [
        ("shift", "How far the scene lay from where all scenes together put it. It was taken out and is no error "
                  "left; down and right count as positive."),
        ("misfit", f"What small windows of the ground {ground} are still apart, the median of their offsets. It "
                   f"holds the measurement's own noise, 0.05 to 0.1 px."),
        ("correlation", "How alike scene and reference look, 1 at most. Snow, shadows and clouds lower it without "
                        "any shift, so a low value alone condemns no scene."),
        ("predicted error", "One standard error of where the scene was put, from how much its parts and its links "
                            "scatter. It says nothing of what they all have in common."),
        ("closure", "Scene A to B and on to C, against A to C directly: what is left over. It shows errors that a good "
                    "fit to one reference hides, but none that belong to one scene, such as its shadows."),
        ("verdict", "Refused scenes are left out of all that follows. Doubtful ones are used: they fit worse than "
                    "before, or a figure of theirs is far above those of the other scenes."),
    ]  # fmt: skip
    return [*_example(rows), Terms("What the figures mean", tuple(terms))]


def verdicts(run: RunFiles) -> list[Block]:
    """Say how many scenes were aligned, refused and doubtful, and the most frequent reasons."""
    rows = alignment_rows(run)
    lost, doubtful = refused(rows), rows[rows["verdict"] == "doubtful"]
    if rows.empty:
        return [Note("There was no scene to align.", "bad")]
    notes: list[Block] = []
    if len(lost) == len(rows):
        notes.append(Note(f"No scene could be aligned: {_reasons(lost['why'])}.", "bad"))
    elif len(lost):
        said = f"{len(lost)} of {plural(len(rows), 'scene')} refused and not used: {_reasons(lost['why'])}."
        notes.append(Note(said, "bad"))
    else:
        said = f"All {len(rows)} scenes" if len(rows) > 1 else "The one scene"
        notes.append(Note(f"{said} could be aligned.", "good"))
    if len(doubtful):
        kinds = _reasons(doubtful["why"].str.split(":").str[0])
        said = f"{plural(len(doubtful), 'scene')} aligned and used, but doubtful: {kinds}."
        notes.append(Note(said))
    unchecked = aligned(rows)
    unchecked = unchecked[unchecked["residual_px"].isna() & unchecked["error_px"].isna()]
    if len(unchecked):
        verb = "has" if len(unchecked) == 1 else "have"
        said = f"{plural(len(unchecked), 'aligned scene')} {verb} no misfit: too little ground with texture in view."
        notes.append(Note(f"{said} Nothing but the correlation speaks for them.", "plain"))
    return notes


def days_between(rows: pd.DataFrame) -> float:
    """Return the median number of days from one aligned scene to the next of another day, NaN for fewer than two."""
    days = np.unique(aligned(rows)["time"].to_numpy("datetime64[D]"))
    return float(np.median(np.diff(days).astype(float))) if len(days) > 1 else float("nan")


def _example(rows: pd.DataFrame) -> list[Block]:
    """Say what an error reads as if it is taken for motion."""
    metres, days = ERROR_PX * metres_per_px(rows), days_between(rows)
    if not np.isfinite(metres) or not np.isfinite(days):
        return []
    per_year = number(metres * DAYS_PER_YEAR / days, 2)
    text = (
        f"What is at stake: an error of {ERROR_PX:g} px is {number(metres, 2)} m on the ground. Between two scenes "
        f"that follow each other, here {plural(round(days), 'day')} apart in the median, it reads as {per_year} m/yr "
        f"of motion where nothing moves; between scenes a year apart, as {number(metres, 2)} m/yr."
    )
    if np.isfinite(typical := median(aligned(rows)["residual_px"])):
        text += f" The median misfit left here is {number(typical, 2)} px."
    return [Note(text)]


def _reasons(reasons: pd.Series) -> str:
    counted = by_reason(reasons)
    said = [f"{reason} ({count})" for reason, count in counted[:MOST_REASONS]]
    others = sum(count for _, count in counted[MOST_REASONS:])
    return "; ".join([*said, *([f"other reasons ({others})"] if others else [])])
