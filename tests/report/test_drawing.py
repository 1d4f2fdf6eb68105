"""Scales, maps' arithmetic and the light and dark twins of figures."""

from __future__ import annotations

import base64

import numpy as np
import pyproj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from glacierhpc.report import blocks, drawing, maps


def test_figure_follows_light_and_dark_pages() -> None:
    def paint(figure: Figure) -> None:
        figure.add_subplot().set_title("snow")

    source = drawing.draw(paint, width_in=2, height_in=1)
    svg = base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode()
    assert "@media (prefers-color-scheme:dark)" in svg
    style, rest = svg.split("</style>", 1)
    assert drawing.INK in style
    assert drawing.INK not in rest
    assert "var(--c0)" in rest


def test_gaps_are_hatched_and_not_coloured() -> None:
    def paint(figure: Figure) -> None:
        drawing.raster(figure.add_subplot(), np.array([[0.0, np.nan]]), cmap="cividis")

    frame = drawing.frame(paint, width_in=2, height_in=1)
    grey = np.array([0xC5, 0xCB, 0xD1])
    assert (np.abs(frame.astype(int) - grey).max(axis=-1) < 3).sum() > 500


def test_many_marks_become_one_picture() -> None:
    def size(count: int) -> int:
        def paint(figure: Figure) -> None:
            axes = figure.add_subplot()
            axes.scatter(np.linspace(0, 1, count), np.linspace(0, 1, count) ** 2)
            drawing.flatten_many(axes, count)

        return len(drawing.draw(paint, width_in=4, height_in=3))

    assert size(5 * drawing.MANY_MARKS) < size(drawing.MANY_MARKS)


def test_range_ignores_gaps_and_never_collapses() -> None:
    assert drawing.robust_range([np.array([np.nan, 0.31, 0.58])]) == (pytest.approx(0.3), pytest.approx(0.6))
    assert drawing.robust_range([np.full(4, np.nan)]) == (0.0, 1.0)
    low, high = drawing.robust_range([np.full(4, 0.5)])
    assert high > low
    assert drawing.symmetric_limit([np.array([-0.44, 0.1])]) == pytest.approx(0.5)


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-6, 1e7))
def test_nice_lengths_are_short_and_round(length: float) -> None:
    nice = drawing.nice(length)
    assert 0.39 * length <= nice <= length * (1 + 1e-6)
    assert f"{nice:.0e}"[0] in "125"


@settings(max_examples=40, deadline=None)
@given(st.floats(-180, 180), st.floats(-180, 180))
def test_longitudes_near_a_centre_differ_by_whole_turns(longitude: float, centre: float) -> None:
    (moved,) = maps._near(np.array([longitude]), centre)
    assert abs(moved - centre) <= 180 + 1e-9
    assert (moved - longitude) / 360 == pytest.approx(round((moved - longitude) / 360), abs=1e-9)


def test_true_north_leans_as_the_meridians_do() -> None:
    zone = pyproj.CRS.from_epsg(32643)  # central meridian 75 degrees east
    assert maps._convergence(zone, 500_000, 3_500_000) == pytest.approx(0, abs=1e-6)
    # East of the central meridian grid north lies east of true north by (lon - 75) sin(lat).
    angle = maps._convergence(zone, 737_000, 3_547_000)
    assert np.degrees(angle) == pytest.approx(-2.51 * np.sin(np.radians(32.03)), abs=0.05)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0983, "0.0983"),
        (-12.34, "\N{MINUS SIGN}12.3"),
        (1234.5, "1234"),
        (0.0, "0"),
        (float("nan"), "–"),
        (None, "–"),
        (3.2e-9, "3.20e\N{MINUS SIGN}09"),
    ],
)
def test_numbers_are_worded(value: float | None, text: str) -> None:
    assert blocks.number(value) == text


def test_long_tables_are_cut_and_say_so() -> None:
    table = blocks.table("caption", ["a"], [[index] for index in range(1000)], source="scenes.parquet")
    assert len(table.rows) == blocks.MAX_ROWS
    assert table.more == "600 more rows are in scenes.parquet."
    assert table.folded
