"""What is said of the skill's worth: control, pairs, widths, seasons, glaciers; nothing where there is nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glacierhpc.evaluation.bootstrap import Resampling, sequence_blocks
from glacierhpc.evaluation.control import permuted_control
from glacierhpc.evaluation.groups import Glaciers
from glacierhpc.evaluation.score import score, summarise
from glacierhpc.report import skill, skill_groups, skill_scores, skill_table, skill_trust, write_report
from glacierhpc.report.blocks import Note, Table
from glacierhpc.report.run_files import Damaged, RunFiles
from tests.evaluation.conftest import World, climatology, informed, persistence


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    """metrics.json as the evaluation writes it, of a small world; the model is better than both baselines."""
    world = World()
    labels = np.zeros((16, 16), int)
    labels[:, 8:] = 4
    forecasters = {"net": informed, "persistence": persistence, "climatology": climatology}
    scores = score(forecasters, world, glaciers=Glaciers(labels, {4: "Parvati"}), starts=world.starts)
    blocks = sequence_blocks(world.starts, block_steps=4, size=world.size, block_px=8)
    audit = {"ok": True, "checked": 1234}
    found = summarise(scores, blocks, model="net", samples=100, audit=audit, target_times=world.target_times)
    steps = {"steps_in": world.steps_in, "steps_out": world.steps_out}
    draws = Resampling(blocks, 100)
    found["control"] = permuted_control(forecasters, world, world.starts, draws, model="net", **steps)
    return found


def run_of(folder: Path, metrics: dict[str, Any], **changes: Any) -> RunFiles:
    (folder / "metrics.json").write_text(json.dumps({**metrics, **changes}))
    return RunFiles(folder)


def test_all_of_it_comes_on_the_page(tmp_path: Path, metrics: dict[str, Any]) -> None:
    run_of(tmp_path, metrics)
    page = write_report(tmp_path).read_text()
    for words in (
        "The control passes",
        "1,234 target pixels and dates were looked for",
        "Every metric at every lead",
        "June to August",
        "Parvati",
        "other ground",
        "signed-rank p",
        "with a 95",
        "single sequences",
    ):
        assert words in page


def test_an_old_run_is_told_as_far_as_it_goes(tmp_path: Path, metrics: dict[str, Any]) -> None:
    new = ("control", "paired", "paper", "by_season", "by_glacier", "audit")
    old = {name: value for name, value in metrics.items() if name not in new}
    run = run_of(tmp_path, old)
    parts = (
        *(skill_trust.audit, skill_trust.control, skill_trust.paired, skill_trust.widths),
        *(skill_groups.seasons, skill_groups.glaciers),
    )
    assert [part(run) for part in parts] == [[]] * len(parts)
    assert len(skill.sentences(run)) == 2


@pytest.mark.parametrize(
    ("verdict", "tone", "said"),
    [
        ("passes", "good", "loses skill (over climatology"),
        ("fails", "bad", "Its skill does not come from the time it is shown"),
        ("undecided", "plain", "too few windows of time"),
    ],
)
def test_the_control_is_said_in_plain_words(
    tmp_path: Path, metrics: dict[str, Any], verdict: str, tone: str, said: str
) -> None:
    run = run_of(tmp_path, metrics, control={**metrics["control"], "verdict": verdict})
    note, listed = skill_trust.control(run)
    assert isinstance(note, Note) and isinstance(listed, Table)
    assert note.tone == tone and said in note.text
    assert [row[0] for row in listed.rows] == ["persistence", "climatology"]


def test_what_a_model_keeps_on_another_time_is_named(tmp_path: Path, metrics: dict[str, Any]) -> None:
    destroyed = {"persistence": False, "climatology": True}
    run = run_of(tmp_path, metrics, control={**metrics["control"], "destroyed": destroyed})
    note = skill_trust.control(run)[0]
    assert isinstance(note, Note) and "It still beats persistence then" in note.text


def test_a_control_that_could_not_be_made_says_why(tmp_path: Path, metrics: dict[str, Any]) -> None:
    run = run_of(tmp_path, metrics, control={"verdict": "undecided", "reason": "the test period is short"})
    (note,) = skill_trust.control(run)
    assert isinstance(note, Note) and note.text.endswith("no answer: the test period is short.")


def test_a_season_in_which_a_baseline_wins_is_named(tmp_path: Path, metrics: dict[str, Any]) -> None:
    (listed,) = skill_groups.seasons(run_of(tmp_path, metrics))
    assert isinstance(listed, Table) and len(listed.rows) == 4
    seasons = json.loads(json.dumps(metrics["by_season"]))
    seasons["JJA"]["skill"]["climatology"] = {"all": -0.5, "interval": [-0.8, -0.1]}
    note, _ = skill_groups.seasons(run_of(tmp_path, metrics, by_season=seasons))
    assert isinstance(note, Note)
    assert note.text == "Where a baseline is better than net: June to August: climatology."


def test_one_glacier_needs_no_table(tmp_path: Path, metrics: dict[str, Any]) -> None:
    one = {"all": metrics["by_glacier"]["Parvati"]}
    assert skill_groups.glaciers(run_of(tmp_path, metrics, by_glacier=one)) == []


def test_both_widths_stand_side_by_side(tmp_path: Path, metrics: dict[str, Any]) -> None:
    (listed,) = skill_trust.widths(run_of(tmp_path, metrics))
    assert isinstance(listed, Table) and len(listed.rows) == 6
    mse = metrics["paper"]["models"]["net"]["mse"]
    assert listed.rows[0][:2] == ("net", "mse")
    assert float(listed.rows[0][4]) == pytest.approx(mse["iid_width"], rel=0.01)
    assert float(listed.rows[0][6]) == pytest.approx(mse["block_width"], rel=0.01)


def test_the_best_of_each_lead_is_marked(tmp_path: Path, metrics: dict[str, Any]) -> None:
    (listed,) = skill_table.every_lead(run_of(tmp_path, metrics))
    assert isinstance(listed, Table)
    marked = {(row[0], row[1]) for row in listed.rows if row[2].endswith("*")}
    assert {("mse ↓", "net"), ("psnr, dB ↑", "net"), ("nse ↑", "net")} <= marked
    assert all(
        sum(row[0] == metric and row[2].endswith("*") for row in listed.rows) >= 1 for metric in ("mae ↓",)
    )


def test_without_windows_there_are_no_intervals_and_no_verdict(
    tmp_path: Path, metrics: dict[str, Any]
) -> None:
    changed = json.loads(json.dumps(metrics["skill"]))
    for entry in changed.values():
        entry["interval"] = [None, None]
    run = run_of(tmp_path, metrics, skill=changed)
    assert {one.word for one in skill_scores.verdicts(run)} == {"undecided"}
    assert any(
        isinstance(block, Note) and "without an interval" in block.text for block in skill.sentences(run)
    )


def test_a_control_cut_short_is_damage(tmp_path: Path, metrics: dict[str, Any]) -> None:
    control = {name: value for name, value in metrics["control"].items() if name != "permuted_skill"}
    with pytest.raises(Damaged, match="permuted_skill"):
        skill_trust.control(run_of(tmp_path, metrics, control=control))
