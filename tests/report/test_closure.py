"""Whether closure errors and links are drawn and counted as the files hold them."""

from __future__ import annotations

from pathlib import Path

import matplotlib.dates as mdates
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from glacierhpc.report import closure
from glacierhpc.report.blocks import Note, Picture, Table
from glacierhpc.report.run_files import RunFiles


def test_bars_count_every_scene_and_what_is_beyond_in_the_last() -> None:
    errors = pd.Series([0.01] * 5 + [0.05] * 3 + [7.0])
    figure = Figure()
    closure.paint_distribution(figure, errors=errors, top=0.1)
    bars = figure.axes[0].patches
    heights = {
        round(bar.get_x() + bar.get_width() / 2, 3): bar.get_height() for bar in bars if bar.get_height()
    }
    assert sorted(heights.values()) == [1, 3, 5]
    assert max(heights) == pytest.approx(0.1, abs=0.1 / closure.BINS)
    assert heights[max(heights)] == 1


def test_axis_ends_at_the_largest_error_unless_it_is_alone() -> None:
    assert closure.closure_top(pd.Series([0.01, 0.02, 0.05])) == pytest.approx(0.05)
    assert closure.closure_top(pd.Series([0.02] * 99 + [9.0])) == pytest.approx(0.06)


def test_each_scene_stands_at_its_date_and_error() -> None:
    times = pd.date_range("2016-01-01", periods=3, freq="16D")
    known = pd.DataFrame({"time": times, "closure_px": [0.02, 0.5, 0.04]})
    figure = Figure()
    closure.paint_by_scene(figure, known=known, top=0.1)
    near, far = (dots for dots in figure.axes[0].collections if not hasattr(dots, "get_segments"))
    days = mdates.date2num(times)
    assert np.asarray(near.get_offsets()) == pytest.approx(np.array([[days[0], 0.02], [days[2], 0.04]]))
    assert np.asarray(far.get_offsets()) == pytest.approx(np.array([[days[1], 0.1]]))


def test_median_and_lonely_scenes_are_said(copied_run: Path) -> None:
    rows = pd.read_parquet(copied_run / "alignment.parquet")
    rows.loc[rows["ok"], "closure_px"] = 0.04
    rows.loc[rows.index[:2], "closure_px"] = np.nan
    rows.to_parquet(copied_run / "alignment.parquet")
    first, second = closure.closure(RunFiles(copied_run))
    assert isinstance(first, Picture) and isinstance(second, Picture)
    assert "median 0.040 px (1.2 m)" in first.caption
    assert "2 aligned scenes without a triangle" in second.caption
    assert first.layout == second.layout == "half"


def test_links_are_counted_by_kind_and_the_unused_by_reason(finished_run: Path) -> None:
    given = pd.read_parquet(finished_run / "alignment_links.parquet")
    kinds, unused = closure.links(RunFiles(finished_run))
    assert isinstance(kinds, Table) and isinstance(unused, Table)
    assert [row[0] for row in kinds.rows] == ["scene to reference", "scene to scene"]
    for row, kind in zip(kinds.rows, ("reference", "neighbour"), strict=True):
        some = given[given["kind"] == kind]
        assert row[1:3] == (str(len(some)), str(some["used"].sum()))
        assert float(row[5]) == pytest.approx(some["misfit_px"].median(), rel=0.01)
        assert float(row[6]) == pytest.approx(some["misfit_px"].max(), rel=0.01)
    assert unused.rows == (
        ("2", "overlap 0.01 is below 0.05"),
        ("1", "correlation 0.11 is under align.min_correlation 0.20"),
    )


def test_unknown_kinds_and_no_links_are_shown_as_they_are(copied_run: Path) -> None:
    given = pd.read_parquet(copied_run / "alignment_links.parquet")
    given.assign(kind="by hand", used=True).to_parquet(copied_run / "alignment_links.parquet")
    (kinds,) = closure.links(RunFiles(copied_run))
    assert isinstance(kinds, Table) and kinds.rows[0][0] == "by hand"
    given.iloc[:0].to_parquet(copied_run / "alignment_links.parquet")
    (note,) = closure.links(RunFiles(copied_run))
    assert isinstance(note, Note)
