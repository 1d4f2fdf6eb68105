"""Whether the arrows stand where the offsets were measured, point the right way and have the length they state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given as cases
from hypothesis import settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver, QuiverKey

from glacierhpc.report import vectors
from glacierhpc.report.alignment_rows import aligned, alignment_rows
from glacierhpc.report.blocks import Note, Picture
from glacierhpc.report.run_files import RunFiles
from glacierhpc.report.vectors import Field

SHAPE = (160, 200)


def test_arrows_stand_at_their_places_and_point_along_the_offset() -> None:
    arrows = _arrows([(50, 40, 0.2, 0.0, 1.0), (150, 120, 0.0, 0.1, 0.5)])
    _, quiver = _painted(Field("one", arrows))
    assert np.array_equal(quiver.XY, [[50, 40], [150, 120]])
    assert np.array_equal([quiver.U, quiver.V], [[0.2, 0.0], [0.0, 0.1]])
    directions = [_drawn(quiver, index) for index in range(2)]
    assert directions[0][0] > 0 and directions[0][1] == pytest.approx(0, abs=1e-6)
    assert directions[1][1] < 0 and directions[1][0] == pytest.approx(0, abs=1e-6)  # downwards, as rows grow
    assert np.hypot(*directions[0]) == pytest.approx(2 * np.hypot(*directions[1]), rel=1e-3)
    assert quiver.get_facecolor()[:, 3] == pytest.approx([1.0, 0.5])


def test_scale_arrow_is_as_long_as_the_offset_it_names() -> None:
    axes, quiver = _painted(Field("one", _arrows([(50, 40, 0.2, 0.0, 1.0)] * 3)))
    (key,) = (artist for artist in axes.get_children() if isinstance(artist, QuiverKey))
    assert key.text.get_text() == "0.2 px = 6.0 m"
    assert key.U == 0.2
    named = np.ptp(np.asarray(key.vector.get_paths()[0].vertices)[:, 0])
    drawn = np.ptp(np.asarray(quiver.get_paths()[0].vertices)[:, 0])
    assert named == pytest.approx(drawn, rel=1e-3)


def test_arrow_too_long_for_its_panel_is_cut_and_orange() -> None:
    arrows = _arrows([(x, 40, 0.1, 0.0, 1.0) for x in range(10, 200, 10)] + [(50, 90, 30.0, 40.0, 0.0)])
    field = Field("one", arrows)
    _, quiver = _painted(field)
    assert field.scale_px == pytest.approx(0.1)
    assert np.hypot(quiver.U[-1], quiver.V[-1]) == pytest.approx(vectors.LONGEST * 0.1)
    assert quiver.V[-1] / quiver.U[-1] == pytest.approx(4 / 3)
    colours = quiver.get_facecolor()
    assert colours[-1][0] > 0.8 > colours[0][0]
    assert colours[-1][3] == pytest.approx(vectors.FAINTEST)


def test_many_offsets_become_one_weighted_median_per_cell() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 200, 4000), rng.uniform(0, 160, 4000)
    offsets = {"dx_px": 0.01 * x, "dy_px": np.full(4000, -0.3), "weight": np.ones(4000)}
    wild = pd.DataFrame({"x": x, "y": y, "dx_px": 50.0, "dy_px": 50.0, "weight": 0.0})
    few = vectors.thinned(pd.concat([pd.DataFrame({"x": x, "y": y, **offsets}), wild]), SHAPE)
    assert len(few) == 16 * 13
    assert few["dx_px"].to_numpy() == pytest.approx(0.01 * few["x"].to_numpy(), abs=0.05)
    assert few["dy_px"].to_numpy() == pytest.approx(-0.3)
    assert few["weight"].to_numpy() == pytest.approx(0.5)


@settings(max_examples=50, deadline=None)
@cases(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(0.1, 10))
def test_equal_weights_give_the_plain_median(values: list[float], weight: float) -> None:
    found = vectors.weighted_quantile(np.array(values), np.full(len(values), weight), 0.5)
    assert found == pytest.approx(np.median(values), abs=1e-9)
    assert vectors.weighted_quantile(np.array(values), np.zeros(len(values)), 0.5) == pytest.approx(found)


def test_panels_are_worst_median_best_and_the_median_of_all(finished_run: Path) -> None:
    given = pd.read_parquet(finished_run / "alignment_vectors.parquet").assign(weight=1.0)
    rows = aligned(alignment_rows(RunFiles(finished_run)))
    fields = vectors.chosen_fields(rows, given, SHAPE)
    lengths = np.hypot(given["dx_px"], given["dy_px"]).groupby(given["scene"]).median().sort_values()
    assert [field.title.split(":")[0].split("\n")[0] for field in fields] == [
        "worst", "median", "best", f"median of {len(rows)} scenes",
    ]  # fmt: skip
    for field, place in zip(fields, (-1, (len(lengths) - 1) // 2, 0), strict=False):
        chosen = rows.set_index("scene").loc[lengths.index[place]]
        assert (
            field.title
            == f"{field.title.split(':')[0]}: {chosen['time']:%Y-%m-%d}\n{lengths.iloc[place]:#.2g} px in the median"
        )
        own = given[given["scene"] == lengths.index[place]]
        assert sorted(field.arrows["dx_px"]) == pytest.approx(sorted(own["dx_px"]))
    assert np.median(fields[3].lengths) < np.median(fields[2].lengths)  # the scenes' noise averages out


def test_scene_with_hardly_an_arrow_is_not_the_worst(finished_run: Path) -> None:
    given = pd.read_parquet(finished_run / "alignment_vectors.parquet").assign(weight=1.0)
    rows = aligned(alignment_rows(RunFiles(finished_run)))
    of_first = given["scene"] == rows["scene"].iloc[0]
    given.loc[of_first, ["dx_px", "weight"]] = (9.0, 0.0)
    given.loc[given.index[of_first][:3], "weight"] = 1.0
    fields = vectors.chosen_fields(rows, given, SHAPE)
    assert f"{rows['time'].iloc[0]:%Y-%m-%d}" not in "".join(field.title for field in fields)
    given["weight"] = 0.0  # nobody is heard: nobody is ranked, and all is still shown together
    assert [field.title[:9] for field in vectors.chosen_fields(rows, given, SHAPE)] == ["median of"]


def test_arrows_without_weight_are_left_out() -> None:
    arrows = _arrows([(10, 10, 0.1, 0.0, 1.0), (90, 90, 5.0, 5.0, 0.0)])
    assert vectors.thinned(arrows, SHAPE)["x"].tolist() == [10]


def test_without_outlines_or_cubes_the_arrows_are_still_drawn(copied_run: Path) -> None:
    for name in ("clean.zarr", "aligned.zarr"):
        (copied_run / name).rename(copied_run / f"away-{name}")
    (picture,) = vectors.vectors(RunFiles(copied_run))
    assert isinstance(picture, Picture)
    assert "glacier outlines" not in picture.caption
    assert picture.alt.startswith("Offsets left on stable ground as arrows: worst: ")


@pytest.mark.parametrize("change", [{"scene": "of another run"}, {"dx_px": np.nan}, {"x": -50.0}])
def test_no_usable_vector_is_said(copied_run: Path, change: dict[str, object]) -> None:
    given = pd.read_parquet(copied_run / "alignment_vectors.parquet")
    given.assign(**change).to_parquet(copied_run / "alignment_vectors.parquet")
    (note,) = vectors.vectors(RunFiles(copied_run))
    assert isinstance(note, Note) and note.text.startswith("There are no residual vectors")


def _arrows(rows: list[tuple[float, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(vectors.VECTOR_COLUMNS[1:]), dtype=float)


def _painted(field: Field) -> tuple[object, Quiver]:
    figure = Figure(figsize=(9, 3), layout="constrained")
    FigureCanvasAgg(figure)
    vectors.paint_fields(figure, fields=[field], shape=SHAPE, rings=[], metres=30.0)
    figure.canvas.draw()
    axes = figure.axes[0]
    (quiver,) = (artist for artist in axes.get_children() if isinstance(artist, Quiver))
    return axes, quiver


def _drawn(quiver: Quiver, index: int) -> np.ndarray:
    """Return from where to where an arrow goes on the canvas, (x to the right, y upwards)."""
    corners = np.asarray(quiver.get_paths()[index].vertices)
    return corners[np.argmax(np.hypot(*corners.T))]
