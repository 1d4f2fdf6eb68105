"""Runs side by side: their scores on the same targets as one table and, where asked for, one page with one figure.

Zero-shot, fine-tuned, mixed and from-scratch runs are compared here as any others: what they are is told by labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from glacierhpc.errors import InputError
from glacierhpc.evaluation.compare import compare, comparison_rows
from glacierhpc.evaluation.table import Scored, from_table
from glacierhpc.report.compare import write_comparison
from glacierhpc.rundir import RunDirectory, read_table, write_json, write_table
from glacierhpc.workflows.tasks import Summary, need

PAGE, TABLE, FIGURES = "comparison.html", "comparison.parquet", "comparison.json"


def compare_runs(given: Sequence[str], output: Path | None = None) -> Summary:
    """Compare runs that were judged on the same test sequences; the first is what the others are compared with.

    Parameters
    ----------
    given : sequence of str
        ``RUN`` or ``LABEL=RUN`` each, RUN the folder of a run that has been evaluated; without a label it is called by
        the name of its folder.
    output : path, optional
        Folder for ``comparison.html``, ``comparison.parquet`` and ``comparison.json``; nothing is written without it.

    Raises
    ------
    InputError
        If a folder is no evaluated run, two have the same label, or they were not judged on the same targets.
    """
    runs: dict[str, Scored] = {}
    for text in given:
        label, folder = _labelled(text)
        if label in runs:
            raise InputError(f"two runs are called {label!r}; give them labels: first={folder} second=...")
        path = need(RunDirectory(folder).scores, "evaluate")
        runs[label] = from_table(read_table(path), name=str(path))
    comparison = compare(runs)
    rows = comparison_rows(comparison)
    table = [[_title(row), _words(row)] for row in rows]
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_comparison(output / PAGE, comparison)
        write_table(output / TABLE, pd.DataFrame(rows))
        write_json(output / FIGURES, comparison)
        table.append(["page", str(output / PAGE)])
    return {"table": table, "rows": rows, "page": None if output is None else str(output / PAGE)}


def _labelled(text: str) -> tuple[str, Path]:
    """Return label and folder; a folder may have ``=`` in its name."""
    label, equals, folder = text.partition("=")
    path = Path(text)
    if equals and not path.exists():
        label, path = label, Path(folder)
    else:
        label = path.resolve().name
    if not path.is_dir():
        raise InputError(f"there is no run at {str(path)!r}; give the folder of a run, such as runs/demo")
    return label, path


def _title(row: Mapping[str, Any]) -> str:
    return f"{row['run']} ({row['forecaster']})" if row["run"] else str(row["forecaster"])


def _words(row: Mapping[str, Any]) -> str:
    """Return the figures of a row for people: error with its interval, and the difference from the first run."""
    told = [f"MSE {row['mse']:.5g}{_interval(row, 'mse', '.5g')}"]
    if row.get("skill_climatology") is not None:
        low_high = _interval(row, "skill_climatology", "+.3f")
        told.append(f"skill against climatology {row['skill_climatology']:+.3f}{low_high}")
    if row.get("mse_difference") is not None:
        told.append(
            f"MSE less the first's {row['mse_difference']:+.3g}{_interval(row, 'mse_difference', '+.3g')}"
        )
    return ", ".join(told)


def _interval(row: Mapping[str, Any], name: str, form: str) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"
