"""Whether the alignment's words and tables say what its files hold, worst first, and what they do not hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from glacierhpc.report import (
    alignment,
    alignment_plots,
    alignment_table,
    blink,
    closure,
    vectors,
    write_report,
)
from glacierhpc.report.alignment_rows import (
    NUMBERS,
    WORDS,
    alignment_rows,
    by_reason,
    worst_first,
    worst_median_best,
)
from glacierhpc.report.blocks import Note, Table, Terms
from glacierhpc.report.run_files import RunFiles

PARTS = (
    alignment.verdicts, alignment_table.first_looks, alignment.meaning, blink.blink, alignment_plots.shifts,
    alignment_plots.residuals, vectors.vectors, closure.closure, closure.links, alignment_table.every_scene,
)  # fmt: skip
MADE_LATELY = [*NUMBERS, "season"]


def test_every_figure_of_a_scene_is_in_its_row(finished_run: Path) -> None:
    (table,) = alignment_table.every_scene(RunFiles(finished_run))
    rows = pd.read_parquet(finished_run / "alignment.parquet")
    assert isinstance(table, Table)
    assert len(table.rows) == len(rows)
    for row in rows[rows["ok"]].itertuples():
        cells = next(cells for cells in table.rows if cells[-1] == row.scene)
        assert cells[:2] == (f"{row.time:%Y-%m-%d}", "aligned")
        numbers = [float(cell.replace("\N{MINUS SIGN}", "-")) for cell in cells[2:12]]
        expected = [
            row.shift_row_px, row.shift_col_px, row.shift_px, row.shift_m, row.rho_before, row.rho,
            row.residual_before_px, row.residual_px, row.error_px, row.links,
        ]  # fmt: skip
        assert numbers == pytest.approx(expected, abs=0.051)
        assert cells[12] == f"{row.closure_px:.3f}"
        assert cells[13:16] == (row.season, "12", "0.25")


def test_columns_have_their_group_above_them(finished_run: Path) -> None:
    (table,) = alignment_table.every_scene(RunFiles(finished_run))
    assert isinstance(table, Table)
    assert sum(count for _, count in table.groups) == len(table.columns) == len(table.rows[0])
    above = [title for title, count in table.groups for _ in range(count)]
    assert ("shift, m", "length") in zip(above, table.columns, strict=True)
    assert ("misfit, px", "after") in zip(above, table.columns, strict=True)
    numeric = dict(zip(zip(above, table.columns, strict=True), table.numeric, strict=True))
    assert numeric["shift, px", "row"] and not numeric["", "scene"] and not numeric["reference", "season"]


def test_refused_scenes_come_first_with_their_reason(copied_run: Path) -> None:
    _change(copied_run, ok=False, reason="flat", at=[2, 4])
    (table,) = alignment_table.every_scene(RunFiles(copied_run))
    (first,) = alignment_table.first_looks(RunFiles(copied_run))
    assert isinstance(table, Table) and isinstance(first, Table)
    why = table.columns.index("why refused or doubtful")
    verdicts = [(row[1], row[why]) for row in table.rows]
    assert sorted(verdicts[:3]) == [
        ("refused", "correlation 0.11 is under align.min_correlation 0.20"), ("refused", "flat"), ("refused", "flat"),
    ]  # fmt: skip
    assert {verdict for verdict, _ in verdicts[3:]} == {"aligned"}
    assert [row[1:3] for row in first.rows] == verdicts[:3]
    assert not first.folded
    misfits = [float(row[table.columns.index("after", 7)]) for row in table.rows[3:]]
    assert misfits == sorted(misfits, reverse=True)


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("residual_px", 9.0, "fits worse than before: 9.00 px"),
        ("closure_px", 0.8, "closure error far above others: 0.80 px"),
        ("error_px", 0.4, "predicted error far above others: 0.40 px"),
    ],
)
def test_scene_that_stands_out_is_doubtful_and_stays_used(
    copied_run: Path, column: str, value: float, why: str
) -> None:
    _change(copied_run, at=[0], **{column: value})
    rows = alignment_rows(RunFiles(copied_run))
    doubtful = rows[rows["verdict"] == "doubtful"]
    assert len(doubtful) == 1
    assert doubtful["why"].iloc[0].startswith(why)
    (table,) = alignment_table.first_looks(RunFiles(copied_run))
    assert isinstance(table, Table)
    assert [row[1] for row in table.rows] == ["refused", "doubtful"]
    notes = [block.text for block in alignment.verdicts(RunFiles(copied_run)) if isinstance(block, Note)]
    assert f"1 scene aligned and used, but doubtful: {why.split(':')[0]} (1)." in notes


def test_misfit_within_its_own_noise_is_no_doubt(copied_run: Path) -> None:
    _change(copied_run, at=[0, 1], residual_before_px=0.02, residual_px=0.09)
    assert "doubtful" not in set(alignment_rows(RunFiles(copied_run))["verdict"])


def test_many_bad_scenes_are_counted_and_the_first_of_them_shown(copied_run: Path) -> None:
    rows = pd.read_parquet(copied_run / "alignment.parquet")
    many = pd.concat([rows.assign(ok=False, reason=f"correlation 0.{n}1 is below 0.2") for n in range(2)])
    many.to_parquet(copied_run / "alignment.parquet")
    run = RunFiles(copied_run)
    (first,) = alignment_table.first_looks(run)
    assert isinstance(first, Table)
    assert len(first.rows) == 12
    assert first.more == f"{len(many) - 12} more, and all figures, are in the table below."
    (note,) = alignment.verdicts(run)
    assert isinstance(note, Note)
    assert note.text == f"No scene could be aligned: correlation … is below 0.2 ({len(many)})."


def test_archive_is_cut_at_the_better_end(copied_run: Path) -> None:
    rows = pd.read_parquet(copied_run / "alignment.parquet")
    pd.concat([rows.assign(scene=rows["scene"] + f"-{n}") for n in range(40)]).to_parquet(
        copied_run / "alignment.parquet"
    )
    (table,) = alignment_table.every_scene(RunFiles(copied_run))
    assert isinstance(table, Table) and table.folded
    assert table.caption.startswith(f"The 400 worst of {40 * len(rows)} scenes")
    assert [row[1] for row in table.rows[:40]] == ["refused"] * 40
    assert table.more == f"{40 * len(rows) - 400} more rows are in alignment.parquet."


def test_scenes_beyond_the_outer_fence_of_the_others_are_doubtful(copied_run: Path) -> None:
    rows = pd.read_parquet(copied_run / "alignment.parquet").query("ok")
    rows["closure_px"] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 2.8, 2.9][: len(rows)]
    rows.to_parquet(copied_run / "alignment.parquet")
    lower, upper = np.quantile(rows["closure_px"], [0.25, 0.75])
    beyond = rows["closure_px"] > upper + 3 * (upper - lower)
    assert 0 < beyond.sum() < 3
    found = alignment_rows(RunFiles(copied_run)).set_index("scene")
    assert set(found.index[found["verdict"] == "doubtful"]) == set(rows.loc[beyond, "scene"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("JJA", "Jun to Aug"),
        ("all", "all seasons"),
        ("DJF+MAM", "Dec to Feb, Mar to May"),
        ("dry", "dry"),
        ("", ""),
    ],
)
def test_seasons_are_said_in_words(copied_run: Path, name: str, words: str) -> None:
    _change(copied_run, at=[0], season=name)
    assert alignment_rows(RunFiles(copied_run))["season"].iloc[0] == words


def test_reasons_are_counted_without_the_numbers_in_which_they_differ() -> None:
    reasons = pd.Series(["overlap 0.01 is below 0.05", "overlap 0.03 is below 0.05", "flat", "over 8 px"])
    signs = pd.Series(["correlation -0.01 is below 0.2", "correlation 0.15 is below 0.2"])
    assert by_reason(signs) == [("correlation … is below 0.2", 2)]
    assert by_reason(reasons) == [("overlap … is below 0.05", 2), ("flat", 1), ("over 8 px", 1)]


@pytest.mark.parametrize(("every_days", "per_year"), [(16, "68"), (8, "137"), (61, "18")])
def test_error_is_said_as_the_motion_it_would_read_as(
    copied_run: Path, every_days: int, per_year: str
) -> None:
    rows = pd.read_parquet(copied_run / "alignment.parquet")
    times = pd.date_range("2016-01-01", periods=len(rows), freq=f"{every_days}D", tz="UTC")
    rows.assign(time=times, ok=True).to_parquet(copied_run / "alignment.parquet")
    note, terms = alignment.meaning(RunFiles(copied_run))
    assert isinstance(note, Note) and isinstance(terms, Terms)
    assert (
        f"an error of 0.1 px is 3.0 m on the ground. Between two scenes that follow each other, here {every_days} "
        in note.text
    )
    assert f"it reads as {per_year} m/yr" in note.text
    assert [name for name, _ in terms.pairs][:2] == ["shift", "misfit"]


@pytest.mark.parametrize(
    ("count", "titles"), [(5, ["worst", "median", "best"]), (2, ["worst", "median"]), (1, ["worst"]), (0, [])]
)
def test_worst_median_best_by_the_misfit_left(count: int, titles: list[str]) -> None:
    rows = _rows(residual_px=[0.1, 0.5, 0.3, 0.2, 0.4]).head(count)
    chosen = worst_median_best(rows)
    assert list(chosen) == titles
    if count == 5:
        assert [row["scene"] for row in chosen.values()] == ["b", "c", "a"]


def test_without_misfits_the_predicted_error_decides_then_closure_then_the_shift() -> None:
    for name in ("error_px", "closure_px", "shift_px"):
        rows = _rows(**{name: [1.0, 5.0, 3.0, 2.0, 4.0]})
        assert [row["scene"] for row in worst_median_best(rows).values()] == ["b", "c", "a"]
        assert worst_first(rows.assign(verdict="aligned"))["scene"].tolist()[0] == "b"


@pytest.mark.usefixtures("unpainted")
def test_run_of_an_earlier_version_shows_what_it_has(copied_run: Path) -> None:
    rows = pd.read_parquet(copied_run / "alignment.parquet")
    rows.drop(columns=MADE_LATELY).to_parquet(copied_run / "alignment.parquet")
    for name in ("alignment_links.parquet", "alignment_vectors.parquet"):
        (copied_run / name).unlink()
    html = write_report(copied_run).read_text()
    for name in ("alignment_links.parquet", "alignment_vectors.parquet"):
        assert f"{name} is not there yet: the step “align” makes it." in html
    (table,) = alignment_table.every_scene(RunFiles(copied_run))
    assert isinstance(table, Table)
    assert "closure, px" not in table.columns and "iterations" not in table.columns
    assert "length" in table.columns
    (note,) = closure.closure(RunFiles(copied_run))
    assert isinstance(note, Note) and note.tone == "missing"


@pytest.mark.parametrize("keep_files", [True, False])
def test_nothing_aligned_is_said_by_every_part_and_listed(copied_run: Path, keep_files: bool) -> None:
    rows = pd.read_parquet(copied_run / "alignment.parquet")
    rows[rows.select_dtypes("number").columns] = np.nan
    rows.assign(ok=False, reason="flat").to_parquet(copied_run / "alignment.parquet")
    if not keep_files:
        empty = pd.read_parquet(copied_run / "alignment_vectors.parquet").iloc[:0]
        empty.to_parquet(copied_run / "alignment_vectors.parquet")
        empty = pd.read_parquet(copied_run / "alignment_links.parquet").iloc[:0]
        empty.to_parquet(copied_run / "alignment_links.parquet")
    run = RunFiles(copied_run)
    for part in (blink.blink, alignment_plots.residuals, vectors.vectors, closure.closure):
        assert part(run) == []
    (note,) = alignment_plots.shifts(run)
    assert isinstance(note, Note) and note.text.endswith("no scene was aligned.")
    (table,) = alignment_table.every_scene(run)
    assert isinstance(table, Table)
    assert len(table.rows) == len(rows)
    assert (
        table.columns == ("date", "verdict", "why refused or doubtful", "scene") or "season" in table.columns
    )
    assert alignment.verdicts(run)[0] == Note(f"No scene could be aligned: flat ({len(rows)}).", "bad")


@pytest.mark.parametrize(
    ("numbers", "count"), [(np.nan, 0), (np.nan, 1), (np.nan, 13), (np.inf, 2), (0.0, 2), (1e9, 3)]
)
def test_any_numbers_in_any_count_of_scenes_give_a_section(
    copied_run: Path, numbers: float, count: int
) -> None:
    rows = pd.read_parquet(copied_run / "alignment.parquet").query("ok").head(count)
    names = rows.select_dtypes("number").columns
    rows[names] = rows[names].astype(float) * 0 + numbers
    rows.to_parquet(copied_run / "alignment.parquet")
    given = pd.read_parquet(copied_run / "alignment_vectors.parquet")
    given.assign(dx_px=numbers, weight=numbers).to_parquet(copied_run / "alignment_vectors.parquet")
    run = RunFiles(copied_run)
    silent = {part.__name__ for part in PARTS if not part(run)}
    if count:
        assert silent <= {"first_looks"}
    else:
        assert alignment.verdicts(run) == [Note("There was no scene to align.", "bad")]


def test_scenes_without_misfit_or_error_are_said_to_be_unchecked(copied_run: Path) -> None:
    _change(copied_run, at=[1, 2], residual_px=np.nan, error_px=np.nan)
    texts = [block.text for block in alignment.verdicts(RunFiles(copied_run)) if isinstance(block, Note)]
    assert any(text.startswith("2 aligned scenes have no misfit") for text in texts)


def test_all_aligned_is_said(copied_run: Path) -> None:
    rows = pd.read_parquet(copied_run / "alignment.parquet").query("ok")
    rows.to_parquet(copied_run / "alignment.parquet")
    (note,) = [block for block in alignment.verdicts(RunFiles(copied_run)) if isinstance(block, Note)][:1]
    assert note == Note(f"All {len(rows)} scenes could be aligned.", "good")
    assert alignment_table.first_looks(RunFiles(copied_run)) == []


def _rows(**columns: list[float]) -> pd.DataFrame:
    given = dict.fromkeys(("residual_px", "error_px", "closure_px"), [np.nan] * 5) | columns
    return pd.DataFrame({"scene": list("abcde"), "shift_px": 1.0, **dict.fromkeys(WORDS, ""), **given})


def _change(run: Path, *, at: list[int], **values: object) -> None:
    """Give some rows of the alignment's table other values."""
    rows = pd.read_parquet(run / "alignment.parquet")
    for name, value in values.items():
        rows.loc[rows.index[at], name] = value
    rows.to_parquet(run / "alignment.parquet")
