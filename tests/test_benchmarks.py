"""The benchmarks run, tell what they found as JSON, and the README's table is made of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from glacierhpc import cli

ROOT = Path(__file__).resolve().parents[1]
README = "# Title\n\nbefore\n<!-- benchmarks:begin -->\nold\n<!-- benchmarks:end -->\nafter\n"


def run(script, *options):
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *map(str, options)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_every_benchmark_has_a_command_and_a_place_in_make_bench():
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"harness", "readme"}
    assert set(cli.BENCHMARKS) == scripts
    line = next(x for x in (ROOT / "Makefile").read_text().splitlines() if x.startswith("BENCHMARKS ="))
    assert set(line.split("=")[1].split()) == scripts


@pytest.mark.parametrize("name", ["acquire", "align", "gaps", "patch"])
def test_a_benchmark_runs_and_its_json_is_well_formed(name, tmp_path):
    done = run(name, "--quick", "--json", "--repeats", 1, "--output", tmp_path / "x.json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert json.loads((tmp_path / "x.json").read_text()) == told
    assert told["benchmark"] == name and told["machine"]["cores"] >= 1
    assert told["rows"] and any(row["in_readme"] for row in told["rows"])
    for row in told["rows"]:
        faster = row["ours"] / row["peer_value"] if row["more_is_better"] else row["peer_value"] / row["ours"]
        assert row["ratio"] == pytest.approx(faster) and row["ours"] > 0 and row["peer"] and row["unit"]


@pytest.mark.slow
def test_memory_is_measured_for_every_step():
    done = run("memory", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["peak_gb"] == max(step["total_gb"] for step in told["steps"].values()) > 0.1


def result(name, *, cores=2, **more):
    machine = {"processor": "Some CPU", "cores": cores, "system": "Linux", "python": "3.11.2"}
    row = {
        "what": "cut",
        "ours": 0.5,
        "peer": "NumPy",
        "peer_value": 1.0,
        "unit": "s",
        "more_is_better": False,
    }
    rows = [
        {**row, "ratio": 2.0, "in_readme": True},
        {**row, "what": "hidden", "ratio": 2.0, "in_readme": False},
    ]
    told = {"benchmark": name, "conditions": "512 px", "machine": machine, "date": "2026-01-02", "rows": rows}
    return {**told, **more}


def write(folder, *results):
    folder.mkdir(exist_ok=True)
    for each in results:
        (folder / f"{each['benchmark']}.json").write_text(json.dumps(each))
    (folder / "README.md").write_text(README)


def rewrite(folder):
    return run("readme", "--results", folder, "--readme", folder / "README.md")


def test_the_table_replaces_only_its_block_and_writing_it_again_changes_nothing(tmp_path):
    write(tmp_path, result("gaps"), result("memory", peak_gb=2.34, rows=[]))
    assert rewrite(tmp_path).returncode == 0
    once = (tmp_path / "README.md").read_text()
    assert once.startswith("# Title\n\nbefore\n<!-- benchmarks:begin -->\n")
    assert once.endswith("\n<!-- benchmarks:end -->\nafter\n")
    assert "| cut | 500 ms | NumPy | 1,000 ms | 2 |" in once and "Some CPU, 2 cores" in once
    assert "2.3 GB" in once and "hidden" not in once and "old" not in once
    assert rewrite(tmp_path).returncode == 0
    assert (tmp_path / "README.md").read_text() == once


def test_figures_of_two_machines_are_not_mixed(tmp_path):
    write(tmp_path, result("gaps"), result("patch", cores=64))
    done = rewrite(tmp_path)
    assert done.returncode == 1 and "2 machines" in done.stderr
    assert (tmp_path / "README.md").read_text() == README
