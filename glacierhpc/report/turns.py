"""Observed and predicted images that take turns in one place, where the eye sees every difference.

The same side by side, with inputs and errors, is in `forecast`.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from glacierhpc.report import animation, drawing
from glacierhpc.report.blocks import Block, Picture
from glacierhpc.report.forecast import Sequence, read_sequence
from glacierhpc.report.run_files import RunFiles, shows

TURNS = 2
SECONDS = 0.7


def turns(run: RunFiles) -> list[Block]:
    """Animate observed and predicted image of each lead in turn, with nothing else that changes."""
    shown = read_sequence(run)
    if len(shown.targets) == 0:
        return []
    # only what both know: gaps of the observation that come and go would be all that is seen
    pairs = [np.where(np.isfinite(t) & np.isfinite(p), (t, p), np.nan) for t, p in _pairs(shown)]
    frames = [
        _frame(shown, f"lead {lead + 1}: {shown.lead_days[lead]}, {name}", image)
        for lead, pair in enumerate(pairs)
        for name, image in list(zip(("observed", "predicted"), pair, strict=True)) * TURNS
    ]
    caption = (
        f"Observed and predicted {shown.band} of each lead take turns in one place: what jumps differs. "
        f"Shown: {shows(run)}. Hatched grey: not known in one of the two."
    )
    return [
        Picture(
            animation.gif(frames, seconds=SECONDS, palette=animation.palette("cividis")),
            f"Observed and predicted {shown.band} in turn",
            caption,
            still=animation.still(frames[-1]),
        )
    ]


def _pairs(shown: Sequence) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(shown.targets, shown.predictions, strict=True))


def _frame(shown: Sequence, title: str, image: np.ndarray) -> np.ndarray:
    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        drawn = drawing.raster(axes, image, cmap="cividis", vmin=shown.low, vmax=shown.high)
        axes.set_title(title)
        drawing.colour_bar(figure, drawn, axes, shown.band)

    aspect = shown.targets.shape[1] / shown.targets.shape[2]
    return drawing.frame(paint, width_in=5.6, height_in=min(6.0, 4.4 * aspect + 0.5))
