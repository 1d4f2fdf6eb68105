"""Whether the alignment's figures show the right scenes and the right place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from glacierhpc.report import alignment, drawing
from glacierhpc.report.blocks import Note, Picture, Table
from glacierhpc.report.run_files import RunFiles


def test_crop_is_where_the_texture_is_and_all_images_have_data() -> None:
    rng = np.random.default_rng(0)
    image = np.full((300, 400), 0.5, np.float32)
    image[180:280, 250:380] = rng.random((100, 130))
    image[0:90, 0:90] = 3 * rng.random((90, 90))  # more texture, but nearly all of it is hidden in the other
    other = image.copy()
    other[0:90, 8:120] = np.nan
    rows, columns = alignment.best_crop(image, [other], size_px=80)
    assert 150 <= rows.start <= 210
    assert 220 <= columns.start <= 310


def test_crop_of_an_image_smaller_than_it_is_the_image() -> None:
    rows, columns = alignment.best_crop(np.ones((20, 30), np.float32), [np.ones((20, 30), np.float32)])
    assert (rows.start, columns.start) == (0, 0)


@pytest.mark.parametrize(
    ("count", "titles"), [(5, ["worst", "median", "best"]), (2, ["worst", "median"]), (1, ["worst"])]
)
def test_worst_median_best_by_the_residual_left(count: int, titles: list[str]) -> None:
    rows = pd.DataFrame(
        {"scene": list("abcde")[:count], "residual_px": [0.1, 0.5, 0.3, 0.2, 0.4][:count], "shift_px": 1.0}
    )
    chosen = alignment._worst_median_best(rows)
    assert list(chosen) == titles
    if count == 5:
        assert [row.scene for row in chosen.values()] == ["b", "c", "a"]


def test_without_residuals_the_shift_decides() -> None:
    rows = pd.DataFrame({"scene": list("abc"), "residual_px": np.nan, "shift_px": [1.0, 3.0, 2.0]})
    assert [row.scene for row in alignment._worst_median_best(rows).values()] == ["b", "c", "a"]


def test_blink_stands_still_after_alignment_and_not_before(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]], tuple[slice, slice]]] = []

    def remember(reference, pairs, crop, titles, show):  # type: ignore[no-untyped-def]
        seen.append((reference, pairs, crop))
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(alignment, "_blink_frame", remember)
    (picture,) = alignment.blink(RunFiles(finished_run))
    assert isinstance(picture, Picture)
    assert picture.source.startswith("data:image/gif")
    assert picture.still.startswith("data:image/png")
    reference, pairs, crop = seen[0]
    before, after = pairs["worst"]
    assert _likeness(reference, after[crop]) > _likeness(reference, before[crop]) + 0.1


def test_median_shift_is_said_in_pixels_and_metres(finished_run: Path) -> None:
    rows = pd.read_parquet(finished_run / "alignment.parquet")
    middle = rows.loc[rows["ok"], "shift_px"].median()
    first, second = alignment.shifts(RunFiles(finished_run))
    assert isinstance(first, Picture)
    assert f"median {middle:.2f} px ({30 * middle:.1f} m)" in first.caption
    assert first.layout == second.layout == "half"  # type: ignore[union-attr]


def test_nothing_aligned_is_said_and_listed(copied_run: Path) -> None:
    rows = pd.read_parquet(copied_run / "alignment.parquet")
    numbers = rows.select_dtypes("number").columns
    rows[numbers] = np.nan
    rows.assign(ok=False, reason="flat").to_parquet(copied_run / "alignment.parquet")
    run = RunFiles(copied_run)
    for part in (alignment.blink, alignment.shifts, alignment.residuals):
        (note,) = part(run)
        assert isinstance(note, Note)
    (table,) = alignment.rejected(run)
    assert isinstance(table, Table)
    assert len(table.rows) == len(rows)
    assert table.rows[0][2] == "flat"


def test_scene_that_fits_worse_than_before_is_counted(copied_run: Path) -> None:
    rows = pd.read_parquet(copied_run / "alignment.parquet")
    rows.loc[rows.index[rows["ok"]][:2], "residual_px"] = 9.0
    rows.to_parquet(copied_run / "alignment.parquet")
    (picture,) = alignment.residuals(RunFiles(copied_run))
    assert isinstance(picture, Picture)
    assert "2 scenes fit worse than before" in picture.caption


def _likeness(first: np.ndarray, second: np.ndarray) -> float:
    both = np.isfinite(first) & np.isfinite(second)
    return float(np.corrcoef(drawing.stretch(first)[both], drawing.stretch(second)[both])[0, 1])
