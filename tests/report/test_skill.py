"""Whether the words about skill follow from its numbers, above all where the model loses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glacierhpc.report import skill, skill_plots, skill_scores, skill_table, write_report
from glacierhpc.report.blocks import Note, Table
from glacierhpc.report.run_files import Damaged, RunFiles


def score(by_lead: list[float], reach: float) -> dict[str, Any]:
    """Return one figure of metrics.json with symmetric intervals."""
    middle = sum(by_lead) / len(by_lead)
    ends = [[value - reach, value + reach] for value in by_lead]
    return {
        "all": middle,
        "interval": [middle - reach, middle + reach],
        "by_lead": by_lead,
        "by_lead_interval": ends,
    }


def run_with(folder: Path, skills: dict[str, Any], errors: dict[str, Any], **more: Any) -> RunFiles:
    models = {name: {"mse": values} for name, values in errors.items()}
    (folder / "metrics.json").write_text(json.dumps({"models": models, "skill": skills, **more}))
    return RunFiles(folder)


def notes(run: RunFiles) -> list[Note]:
    return [block for block in skill.sentences(run) if isinstance(block, Note)]


@pytest.mark.parametrize(
    ("all_leads", "reach", "word", "said"),
    [
        (
            0.3,
            0.1,
            "better",
            "convlstm forecasts better than persistence: skill +0.30, interval [+0.20, +0.40].",
        ),
        (-0.3, 0.1, "worse", "Persistence forecasts better than convlstm"),
        (0.3, 0.5, "undecided", "convlstm and persistence cannot be told apart"),
        (-0.3, 0.5, "undecided", "convlstm and persistence cannot be told apart"),
        (0.3, 0.3, "undecided", "convlstm and persistence cannot be told apart"),
    ],
)
def test_only_an_interval_clear_of_zero_decides(
    tmp_path: Path, all_leads: float, reach: float, word: str, said: str
) -> None:
    run = run_with(
        tmp_path, {"persistence": score([all_leads] * 3, reach)}, {"convlstm": score([0.1] * 3, 0.01)}
    )
    assert skill_scores.verdicts(run)[0].word == word
    assert notes(run)[0].text.startswith(said)
    assert notes(run)[0].tone == {"better": "good", "worse": "bad", "undecided": "plain"}[word]


def test_a_better_baseline_is_named_as_the_one_to_use(tmp_path: Path) -> None:
    errors = {"convlstm": score([0.2, 0.2], 0.01), "climatology": score([0.1, 0.1], 0.01)}
    run = run_with(tmp_path, {"climatology": score([-1.0, -1.0], 0.1)}, errors)
    assert notes(run)[-1].text.endswith("not of the model: use climatology.")
    run = run_with(
        tmp_path, {"climatology": score([0.5, 0.5], 0.1)}, {**errors, "convlstm": score([0.05, 0.05], 0.01)}
    )
    assert not any("use climatology" in note.text for note in notes(run))


def test_leads_at_which_the_baseline_wins_are_named(tmp_path: Path) -> None:
    run = run_with(
        tmp_path, {"persistence": score([0.9, 0.8, -0.5], 0.1)}, {"convlstm": score([0.1] * 3, 0.01)}
    )
    assert notes(run)[0].text.endswith("Persistence is better than convlstm at lead 3.")
    skills = {"climatology": score([-0.9, -0.8, -0.05, 0.5, -0.4], 0.1)}
    run = run_with(tmp_path, skills, {"convlstm": score([0.1] * 5, 0.01)})
    assert notes(run)[0].text.endswith(
        " Climatology is better than convlstm at leads 1–2 and 5. Climatology is ahead at lead 3, within the interval."
    )
    run = run_with(tmp_path, {"climatology": score([-0.9] * 3, 0.1)}, {"convlstm": score([0.1] * 3, 0.01)})
    assert "lead" not in notes(run)[0].text


@pytest.mark.parametrize(
    ("ground", "said"),
    [
        ([0.7, 1.0], "It holds for other ground of the kind, too: [+0.70, +1.00]."),
        ([-0.1, 1.0], "It cannot be said for other ground of the kind, too: [−0.10, +1.00]."),
        ([0.8, 1.0], None),
    ],
)
def test_a_verdict_says_whether_it_holds_on_other_ground(
    tmp_path: Path, ground: list[float], said: str | None
) -> None:
    skill = {**score([0.9], 0.1), "interval": [0.8, 1.0], "ground_interval": ground}
    text = notes(run_with(tmp_path, {"persistence": skill}, {"convlstm": score([0.1], 0.01)}))[0].text
    assert said in text if said else "other ground" not in text


def test_few_windows_of_time_are_said_before_any_skill(tmp_path: Path) -> None:
    scores = ({"persistence": score([0.9], 0.1)}, {"convlstm": score([0.1], 0.01)})
    run = run_with(tmp_path, *scores, bootstrap={"windows": 2, "few_blocks": True})
    assert "too few independent windows of time to rely on the intervals (2)" in notes(run)[0].text
    enough = run_with(tmp_path, *scores, bootstrap={"windows": 9, "few_blocks": False})
    assert not any("too few" in note.text for note in notes(enough))
    better = {"persistence": score([0.9], 0.1)}, {"convlstm": score([0.1], 0.01)}
    few, many = (
        notes(run_with(tmp_path, *better, bootstrap={"windows": n, "few_blocks": n < 5}))[-1] for n in (2, 9)
    )
    assert (few.text, few.tone, many.tone) == (many.text, "plain", "good")


def test_a_leaking_split_is_said_before_any_skill(tmp_path: Path) -> None:
    run = run_with(
        tmp_path,
        {"persistence": score([0.9], 0.1)},
        {"convlstm": score([0.1], 0.01)},
        audit={"ok": False, "leaks": [{}]},
    )
    assert notes(run)[0].text.startswith("The split leaks")
    assert notes(run)[0].tone == "bad"


@pytest.mark.usefixtures("unpainted")
def test_names_from_a_file_cannot_become_markup(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>"
    run_with(tmp_path, {"persistence": score([0.9], 0.1)}, {name: score([0.1], 0.01)})
    assert "<script" not in write_report(tmp_path).read_text()


def test_missing_figures_decide_nothing_and_are_drawn_as_gaps(tmp_path: Path) -> None:
    empty = {
        "all": None,
        "interval": [None, None],
        "by_lead": [None, 0.2],
        "by_lead_interval": [[None, None], [0.1, 0.3]],
    }
    run = run_with(
        tmp_path, {"persistence": empty}, {"convlstm": empty, "persistence": score([0.1, 0.2], 0.01)}
    )
    assert skill_scores.verdicts(run)[0].word == "undecided"
    assert len(skill_plots.charts(run)) == 2
    (table,) = skill_table.all_metrics(run)
    assert isinstance(table, Table)
    assert table.rows[0][1] == "–"


def test_baselines_come_in_a_fixed_order_and_the_model_is_the_one_stated(tmp_path: Path) -> None:
    skills = {name: score([0.1], 0.2) for name in ("climatology", "own_rule", "persistence")}
    run = run_with(tmp_path, skills, {"own_rule": score([0.1], 0.2), "net": score([0.1], 0.2)}, model="net")
    assert [one.baseline for one in skill_scores.verdicts(run)] == ["persistence", "climatology", "own_rule"]
    assert skill_scores.model_name(run) == "net"


def test_intervals_that_do_not_fit_the_leads_are_damage(tmp_path: Path) -> None:
    broken = {**score([0.1, 0.2], 0.1), "by_lead_interval": [[0, 1]]}
    run = run_with(tmp_path, {"persistence": broken}, {})
    with pytest.raises(Damaged, match="metrics.json.*differ in length"):
        skill_scores.verdicts(run)
