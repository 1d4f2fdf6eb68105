"""One picture of a run for a README, a slide or a poster: the area, what was observed, forecast, and the error."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from glacierhpc.files import atomic_path
from glacierhpc.report import drawing
from glacierhpc.report.forecast import read_sequence
from glacierhpc.report.maps import paint_clearest
from glacierhpc.report.run_files import RunFiles


def write_picture(run_path: Path, path: Path) -> Path:
    """Write the first lead of a run's forecast beside a picture of its area, as PNG.

    Parameters
    ----------
    run_path : path
        A run directory with a forecast.
    path : path
        The PNG.

    Raises
    ------
    GlacierError
        If the run has no forecast, or a file of it is damaged.
    """
    run = RunFiles(run_path)
    shown = read_sequence(run)
    with drawing.styled():
        figure = Figure(figsize=(11.0, 2.7), layout="compressed", dpi=130)
        canvas = FigureCanvasAgg(figure)
        area, *panels = figure.subplots(1, 4)
        area.set_title(paint_clearest(area, run).replace("false colour", "area").split(" (")[0])
        titles = (f"observed, {shown.lead_days[0]}", "forecast", "error")
        images = (shown.targets[0], shown.predictions[0], shown.errors[0])
        scales = [{"cmap": "cividis", "vmin": shown.low, "vmax": shown.high}] * 2
        scales.append({"cmap": "RdBu", "vmin": -shown.limit, "vmax": shown.limit})
        for axes, image, title, scale in zip(panels, images, titles, scales, strict=True):
            drawing.raster(axes, image, **scale)
            axes.set_title(title)
        drawing.colour_bar(figure, panels[1].images[0], panels[:2], shown.band, fraction=0.03)
        drawing.colour_bar(figure, panels[2].images[0], panels[2], "forecast minus observed", fraction=0.06)
        canvas.draw()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, facecolor="white")
    return path
