"""Whether the shifts and misfits stand in the drawing where the table says."""

from __future__ import annotations

from pathlib import Path

import matplotlib.dates as mdates
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from glacierhpc.report import alignment_plots, drawing
from glacierhpc.report.alignment_rows import aligned, alignment_rows, metres_per_px, refused
from glacierhpc.report.blocks import Note, Picture
from glacierhpc.report.run_files import RunFiles


def test_dots_stand_at_the_shifts_and_bars_reach_the_predicted_error(finished_run: Path) -> None:
    figure, good, _ = _shifts(finished_run)
    for axes, name in zip(figure.axes, ("shift_row_px", "shift_col_px"), strict=False):
        places = _dots(axes, drawing.BLUE)
        assert places[:, 0] == pytest.approx(mdates.date2num(good["time"]))
        assert places[:, 1] == pytest.approx(good[name].to_numpy())
        (bars,) = (lines for lines in axes.collections if hasattr(lines, "get_segments"))
        ends = np.array(bars.get_segments())
        assert ends[:, :, 1].mean(axis=1) == pytest.approx(good[name].to_numpy())
        assert np.diff(ends[:, :, 1], axis=1)[:, 0] == pytest.approx(2 * good["error_px"].to_numpy())
    target = _dots(figure.axes[2], drawing.BLUE)
    assert target == pytest.approx(good[["shift_col_px", "shift_row_px"]].to_numpy())


def test_refused_scenes_stand_at_the_upper_edge(finished_run: Path) -> None:
    figure, _, lost = _shifts(finished_run)
    axes = figure.axes[0]
    (place,) = _dots(axes, drawing.RED)
    bottom, top = axes.get_ylim()
    assert top < 0 < bottom  # downwards is down
    assert place == pytest.approx((mdates.date2num(lost["time"])[0], top))
    assert figure.legends[0].get_texts()[0].get_text() == "refused (1)"


def test_metres_stand_beside_pixels(finished_run: Path) -> None:
    figure, _, _ = _shifts(finished_run)
    figure.canvas.draw()
    (right,) = figure.axes[0].child_axes
    assert right.get_ylim() == pytest.approx(30 * np.array(figure.axes[0].get_ylim()))


def test_one_scene_far_off_does_not_flatten_the_others(copied_run: Path) -> None:
    rows = pd.read_parquet(copied_run / "alignment.parquet")
    rows.loc[rows.index[0], ["shift_row_px", "shift_px"]] = -400.0
    rows.to_parquet(copied_run / "alignment.parquet")
    figure, good, _ = _shifts(copied_run)
    axes = figure.axes[0]
    assert 0 > axes.get_ylim()[1] > -12
    (cross,) = _dots(axes, drawing.ORANGE)
    assert cross == pytest.approx((mdates.date2num(good["time"])[0], axes.get_ylim()[1]))
    (picture,) = alignment_plots.shifts(RunFiles(copied_run))
    assert isinstance(picture, Picture) and "Crosses at the edge: 1 scene" in picture.caption


def test_median_shift_is_said_in_pixels_and_metres(finished_run: Path) -> None:
    rows = pd.read_parquet(finished_run / "alignment.parquet")
    middle = rows.loc[rows["ok"], "shift_px"].median()
    (picture,) = alignment_plots.shifts(RunFiles(finished_run))
    assert isinstance(picture, Picture)
    assert f"median length {middle:.2f} px ({30 * middle:.1f} m)" in picture.caption
    assert "1 scene refused" in picture.caption


def test_misfits_before_and_after_stand_over_one_another(finished_run: Path) -> None:
    rows = aligned(alignment_rows(RunFiles(finished_run)))
    figure = Figure()
    alignment_plots.paint_residuals(figure, rows=rows, stable=True)
    (axes,) = figure.axes
    before, after = (places for places in axes.collections if not hasattr(places, "get_segments"))
    assert np.asarray(before.get_offsets())[:, 1] == pytest.approx(rows["residual_before_px"].to_numpy())
    assert np.asarray(after.get_offsets())[:, 1] == pytest.approx(rows["residual_px"].to_numpy())
    assert axes.get_yscale() == "log"  # 0.03 to 3 px
    assert axes.get_ylabel() == "misfit on stable ground, px"


def test_misfit_of_nothing_is_drawn_too(copied_run: Path) -> None:
    rows = aligned(alignment_rows(RunFiles(copied_run)))
    rows["residual_px"] = 0.0
    figure = Figure()
    alignment_plots.paint_residuals(figure, rows=rows, stable=False)
    assert _dots(figure.axes[0], drawing.BLUE)[:, 1] == pytest.approx(alignment_plots.FLOOR_PX)


def test_scene_that_fits_worse_than_before_is_counted(copied_run: Path) -> None:
    rows = pd.read_parquet(copied_run / "alignment.parquet")
    first, second, third = rows.index[rows["ok"]][:3]
    rows.loc[[first, second], "residual_px"] = 9.0
    rows.loc[third, "residual_px"] = rows.loc[third, "residual_before_px"] + 0.05  # within the noise
    rows.to_parquet(copied_run / "alignment.parquet")
    (picture,) = alignment_plots.residuals(RunFiles(copied_run))
    assert isinstance(picture, Picture)
    assert "2 scenes fit worse than before" in picture.caption


def test_misfits_that_were_not_measured_are_said(copied_run: Path) -> None:
    rows = pd.read_parquet(copied_run / "alignment.parquet")
    rows.assign(residual_px=np.nan, residual_before_px=np.nan).to_parquet(copied_run / "alignment.parquet")
    (note,) = alignment_plots.residuals(RunFiles(copied_run))
    assert isinstance(note, Note)


def _shifts(run: Path) -> tuple[Figure, pd.DataFrame, pd.DataFrame]:
    rows = alignment_rows(RunFiles(run))
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    good, lost = aligned(rows), refused(rows)
    alignment_plots.paint_shifts(figure, good=good, lost=lost, metres=metres_per_px(rows))
    return figure, good, lost


def _dots(axes: Axes, colour: str) -> np.ndarray:
    """Return the places (n, 2) of the axes' dots of a colour."""
    found = [
        dots.get_offsets()
        for dots in axes.collections
        if not hasattr(dots, "get_segments")
        and len(dots.get_facecolor())
        and np.allclose(dots.get_facecolor()[0][:3], to_rgba(colour)[:3])
    ]
    return np.concatenate([np.asarray(places) for places in found])
