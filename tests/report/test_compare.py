"""The page of several runs: what is said follows from the numbers, baselines that win are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glacierhpc.report.blocks import Note
from glacierhpc.report.compare import comparison_blocks, write_comparison


def score(by_lead: list[float], reach: float) -> dict[str, Any]:
    middle = sum(by_lead) / len(by_lead)
    ends = [[value - reach, value + reach] for value in by_lead]
    return {
        "all": middle,
        "interval": [middle - reach, middle + reach],
        "by_lead": by_lead,
        "by_lead_interval": ends,
    }


def metrics(mse: list[float]) -> dict[str, Any]:
    return {name: score(mse, 0.01) for name in ("mse", "mae", "ssim")}


def paired(difference: float, reach: float) -> dict[str, Any]:
    return {"mse_difference": score([difference] * 2, reach), "won": 0.25, "windows": 8, "wilcoxon_p": 0.1}


@pytest.fixture
def comparison() -> dict[str, Any]:
    """A comparison as the evaluation gives it."""
    runs = {
        "fine-tuned": {
            "metrics": metrics([0.1, 0.2]),
            "skill": {"climatology": score([0.3, -0.3], 0.1)},
            "paired": None,
        },
        "zero-shot": {
            "metrics": metrics([0.2, 0.3]),
            "skill": {"climatology": score([-0.5, -0.5], 0.1)},
            "paired": paired(0.1, 0.02),
        },
        "mixed": {"metrics": metrics([0.1, 0.21]), "skill": {}, "paired": paired(0.005, 0.02)},
    }
    return {
        "first": "fine-tuned",
        "n_sequences": 300,
        "leads": [1, 2],
        "bootstrap": {"samples": 100, "confidence": 0.95, "blocks": 8, "windows": 8, "few_blocks": False},
        "runs": {label: {"model": "convlstm", **run} for label, run in runs.items()},
        "baselines": {"climatology": metrics([0.15, 0.15])},
    }


def notes(comparison: dict[str, Any]) -> list[Note]:
    return [block for block in comparison_blocks(comparison) if isinstance(block, Note)]


def test_differences_are_said_with_their_intervals(comparison: dict[str, Any]) -> None:
    first, second, *_ = notes(comparison)
    assert first.text.startswith("Fine-tuned forecasts better than zero-shot: mse +0.100 [+0.0800, +0.120]")
    assert second.text.startswith("Mixed and fine-tuned cannot be told apart")
    comparison["runs"]["mixed"]["paired"] = paired(-0.1, 0.02)
    assert notes(comparison)[1].text.startswith("Mixed forecasts better than fine-tuned")
    comparison["bootstrap"]["few_blocks"] = True
    few, *rest = notes(comparison)
    assert few.text.startswith("Too few independent windows")
    assert [note.tone for note in rest[:2]] == ["plain", "plain"]


def test_baselines_that_win_are_named(comparison: dict[str, Any]) -> None:
    said = [note.text for note in notes(comparison) if note.tone == "bad"]
    assert "Fine-tuned: climatology is better at lead 2." in said
    assert any(text.startswith("Zero-shot: climatology is better (−0.50") for text in said)


def test_the_page_stands_alone(comparison: dict[str, Any], tmp_path: Path) -> None:
    comparison["runs"]["<b>bold</b>"] = comparison["runs"].pop("mixed")
    path = write_comparison(tmp_path / "new" / "comparison.html", comparison)
    page = path.read_text()
    assert "Comparison of 3 runs" in page and "wins 25" in page
    assert page.count("data:image/svg+xml") == 1
    assert "<b>bold" not in page and "http://" not in page.replace("http://www.w3.org", "")


def test_a_difference_is_said_of_other_ground_too(comparison: dict[str, Any]) -> None:
    entry = comparison["runs"]["zero-shot"]["paired"]["mse_difference"]
    entry["ground_interval"] = [0.01, 0.2]
    assert any(
        "It holds for other ground of the kind, too: [+0.0100, +0.200]" in note.text
        for note in notes(comparison)
    )
    entry["ground_interval"] = [-0.01, 0.2]
    assert any("It cannot be said for other ground" in note.text for note in notes(comparison))
