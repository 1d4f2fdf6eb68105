"""The record credits what was really used."""

from __future__ import annotations

import json
from pathlib import Path

from glacierhpc.report import record
from glacierhpc.report.run_files import RunFiles


def test_synthetic_scenes_are_not_credited_to_an_agency(copied_run: Path) -> None:
    path = copied_run / "items.json"
    assert "U.S. Geological Survey" in str(record.citation(RunFiles(copied_run)))
    items = json.loads(path.read_text())
    for item in items["features"]:
        item.setdefault("properties", {})["glacierhpc:synthetic"] = True
    path.write_text(json.dumps(items))
    said = str(record.citation(RunFiles(copied_run)))
    assert "U.S. Geological Survey" not in said and "synthetic scenes" in said
