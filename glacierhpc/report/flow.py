"""Apparent motion of the index image in target and prediction, beside the control of no motion at all.

This is never ice velocity: that is measured from image pairs, in metres per year, elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from glacierhpc.report import drawing
from glacierhpc.report.blocks import Block, Note, Picture, number, table
from glacierhpc.report.run_files import RunFiles

SHOWS = "apparent motion of the index image, not ice velocity"
ARROWS = 12  # along the longer side
SIDE_PX = 320
MOST_LEADS = 4
FIELDS = ("u_target", "v_target", "u_prediction", "v_prediction")


def fields(run: RunFiles) -> list[Block]:
    """Draw the motion fields of target and prediction by lead: speed as colour, direction as arrows."""
    cube = run.cube("flow.zarr", variables=FIELDS)
    read = {name: run.pixels("flow.zarr", cube[name], max_side_px=SIDE_PX) for name in FIELDS}
    count = len(read["u_target"])
    if count == 0:
        return [Note("There is no motion field: the forecast has no lead.", "bad")]
    leads = np.unique(np.linspace(0, count - 1, min(count, MOST_LEADS)).round().astype(int))
    speeds = [np.hypot(read[f"u_{kind}"], read[f"v_{kind}"]) for kind in ("target", "prediction")]
    top = max(0.1, drawing.robust_range(speeds, high=98)[1])
    panel_in, width = drawing.panels(len(leads))

    def paint(figure: Figure) -> None:
        figure.set_layout_engine("compressed")  # images keep their shape: draw them together
        grid = figure.subplots(2, len(leads), squeeze=False)
        for row, kind in enumerate(("target", "prediction")):
            for column, lead in enumerate(leads):
                axes = grid[row, column]
                drawing.raster(axes, speeds[row][lead], cmap="viridis", vmin=0, vmax=top)
                _arrows(axes, read[f"u_{kind}"][lead], read[f"v_{kind}"][lead], top)
            grid[row, 0].set_ylabel("observed" if kind == "target" else "predicted")
        for column, lead in enumerate(leads):
            grid[0, column].set_title(f"to lead {lead + 1}")
        drawing.colour_bar(
            figure, grid[0, 0].images[0], list(grid.flat), "apparent motion, px", fraction=0.02
        )

    aspect = speeds[0].shape[1] / speeds[0].shape[2]
    height = 2 * panel_in * aspect + 0.5
    caption = (
        f"Dense flow from each pixel's latest input to each lead: {SHOWS}. Colour: length, px over all the windows "
        "between them, so more of them at later leads; arrows: direction. "
        "A retreating snow line shows as motion although nothing moved."
    )
    alt = "Apparent motion fields of observed and predicted images"
    return [Picture(drawing.draw(paint, width_in=width, height_in=height), alt, caption)]


def control(run: RunFiles) -> list[Block]:
    """Compare the predicted motion with assuming none."""
    flow = run.json("flow.json", keys=("leads",))
    with run.understanding("flow.json"):
        rows = [_row(lead) for lead in flow["leads"]]
        losing = [str(lead["lead"]) for lead in flow["leads"] if not _wins(lead)]
    if not rows:
        return [Note("No lead has a motion field.", "bad")]
    columns = (
        "lead", "median motion observed, px", "median motion predicted, px",
        "end-point error, px", "end-point error of no motion, px", "verdict",
    )  # fmt: skip
    said = (
        Note(
            f"At lead {', '.join(losing)} assuming no motion at all is at least as good as the predicted motion.",
            "bad",
        )
        if losing
        else Note(
            "At every lead the predicted motion is closer to the observed one than no motion at all.", "good"
        )
    )
    return [said, table(f"The control: {SHOWS}.", columns, rows)]


def _row(lead: dict[str, Any]) -> tuple[str, ...]:
    names = ("median_px_target", "median_px_prediction", "epe_px", "epe_zero_flow_px")
    verdict = "better than no motion" if _wins(lead) else "no better than no motion"
    return (str(lead["lead"]), *(number(_value(lead[name])) for name in names), verdict)


def _wins(lead: dict[str, Any]) -> bool:
    return _value(lead["epe_px"]) < _value(lead["epe_zero_flow_px"])


def _value(given: Any) -> float:
    return float("nan") if given is None else float(given)


def _arrows(axes: Any, u: np.ndarray, v: np.ndarray, top: float) -> None:
    """Draw arrows on a coarse grid; v grows downwards, as rows do."""
    step = max(1, max(u.shape) // ARROWS)
    rows, columns = np.mgrid[step // 2 : u.shape[0] : step, step // 2 : u.shape[1] : step]
    axes.quiver(
        columns, rows, u[rows, columns], v[rows, columns], angles="xy", scale_units="xy", scale=top / (1.3 * step),
        color="white", width=0.011, headwidth=3.6, edgecolor=drawing.PANEL, linewidth=0.7,
    )  # fmt: skip
