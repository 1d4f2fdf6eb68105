"""The benchmarks run, tell what they found as JSON, and the README's table is made of it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from glacierhpc import cli
from glacierhpc.config.trials import trials_of
from glacierhpc.errors import InputError
from glacierhpc.evaluation.score import Scores
from glacierhpc.evaluation.table import Scored
from glacierhpc.models import MODELS, build_model

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
    names = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {
        "cogs",
        "harness",
        "pairs",
        "readme",
        "world",
    }
    scripts = {name for name in names if not name.startswith(("align_", "forecast_", "scaling_"))}
    assert set(cli.BENCHMARKS) == scripts
    line = next(x for x in (ROOT / "Makefile").read_text().splitlines() if x.startswith("BENCHMARKS ="))
    assert set(line.split("=")[1].split()) == scripts


@pytest.mark.parametrize("name", ["acquire", "align", "forecast", "gaps", "patch", "train"])
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


def test_training_is_measured_with_what_the_loop_itself_tells():
    done = run("train", "--quick", "--json", "--repeats", 1, "--models", "convlstm", "--precision", "bf16")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [row["what"] for row in told["rows"]] == ["train convlstm", "forecast convlstm"]
    found = told["details"]["models"]["convlstm"]
    assert 0 < found["share_of_peak"] < 1 and 0 <= found["data_wait_share"] < 1
    assert found["peak_memory_mb"] > 0 and found["gflop_per_sequence"] > 0
    spread = found["ratio_by_turn"]
    assert 0 < spread["least"] <= spread["median"] <= spread["most"]


@pytest.fixture
def align(monkeypatch):
    """The modules of `bench align`, imported as it imports them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    names = ("align", "align_accuracy", "align_plots", "align_speed")
    return {name: importlib.import_module(name) for name in names}


def full_results(align):
    """What a run at full size measures, with made-up figures: ours is twice as good as everyone."""
    accuracy, speed, main = align["align_accuracy"], align["align_speed"], align["align"]
    good = {method.name: 1.0 if method.name == "ours" else 2.0 for method in main.METHODS}
    cases = [(method, motion) for method in main.METHODS for motion in method.motions]
    times = [
        speed.Timing(what, method.name, motion, size_px, 1e-9 * size_px**2 * good[method.name])
        for what in ("iteration", "convergence")
        for method, motion in cases
        for size_px in main.SIZES
        if what == "convergence" or method.iterate
    ]
    summaries = [
        accuracy.Summary(
            method.name, motion, case, 10, 0, 0.01 * good[method.name], 1e-5 * good[method.name], 1e-6
        )
        for case in accuracy.CONDITIONS
        for method, motion in cases
    ]
    bounds = [
        {"motion": motion, "case": case, "known_signal_px": 0.004, "unknown_signal_px": 0.005}
        for motion in accuracy.MOTIONS
        for case in accuracy.CONDITIONS
        if case != "no noise"
    ]
    return times, summaries, bounds


def test_every_key_figure_of_the_alignment_is_measured(align):
    times, summaries, bounds = full_results(align)
    main = align["align"]
    names = (main.PAIRS, main.LINKS, main.PEER_PAIRS)
    by_method = {
        name: {"scenes_per_s": speed, "corner_rms_px": 1 / speed}
        for name, speed in zip(names, (4.0, 4.0, 2.0))
    }
    workers = {name: {"one": 2.0, "two": 4.0} for name in names[:2]}
    rows = [
        *main.rows_of_times(times),
        *main.rows_of_masks({"pass": dict.fromkeys(("clouds", "specks"), 1.0) | {"no mask": 2.0}}, 2048),
        *main.rows_of_errors(summaries, bounds),
        *main.rows_of_stacks({m: by_method for m in main.STACK_MOTIONS}, {"euclidean": workers}),
    ]
    assert {(row.what, row.peer) for row in rows if row.in_readme} == main.IN_README
    ratios = [row.ratio for row in rows if row.peer != main.BOUND]
    assert ratios == pytest.approx([2] * len(ratios))
    assert all(row.ratio == pytest.approx(0.5) for row in rows if row.peer == main.BOUND)


def test_what_was_not_measured_has_no_row(align):
    times, summaries, bounds = full_results(align)
    main = align["align"]
    blind = [replace(s, corner_rms_px=float("nan"), scale_bias=float("nan")) for s in summaries]
    assert not list(main.rows_of_errors(blind, bounds))
    assert not list(main.rows_of_times([t for t in times if t.method != "ours"]))


def test_the_figures_are_drawn(align, tmp_path):
    times, summaries, bounds = full_results(align)
    main = align["align"]
    far = [
        replace(s, case=case, failures=3 * k)
        for s in summaries
        if s.case == "3 % noise"
        for k, case in enumerate(("4 px", "1°"))
    ]
    details = {
        "methods": [method.name for method in main.METHODS],
        "times": [asdict(t) for t in times],
        "accuracy": [asdict(s) for s in summaries],
        "bounds": bounds,
        "captures": [asdict(s) for s in far],
    }
    paths = align["align_plots"].draw_all(details, tmp_path)
    assert {path.name for path in paths} == {
        f"align_{n}.{e}" for n in ("speed", "accuracy", "capture") for e in ("svg", "png")
    }
    svg = (tmp_path / "align_speed.svg").read_text()
    assert svg.count("<svg") == 1 and all(path.stat().st_size > 5000 for path in paths)


@pytest.fixture
def forecast(monkeypatch):
    """The modules of `bench forecast`, imported as it imports them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    names = ("forecast", "forecast_plots", "forecast_real")
    return {name: importlib.import_module(name) for name in names}


def test_every_family_has_settings_that_its_model_takes(forecast, tmp_path):
    families = forecast["forecast"].FAMILIES
    assert set(families) == {name for name in MODELS if not name.startswith("paper_")}
    for name, family in families.items():
        build_model(name, **family.parameters)
    bench = forecast["forecast"]
    config = bench.configuration(bench.Size(), list(families), tmp_path, {})
    assert [trial.config.model.name for trial in trials_of(config)] == list(families)


def metrics(**mse):
    """What `metrics.json` holds of errors and of the skill of the first, which is known to a tenth."""
    first, *others = mse
    skill = {name: 1 - mse[first] / mse[name] for name in others}
    return {
        "model": first,
        "models": {name: {"mse": {"all": value}} for name, value in mse.items()},
        "skill": {
            name: {"all": value, "interval": [value - 0.1, value + 0.1]} for name, value in skill.items()
        },
        "bootstrap": {"windows": 7},
    }


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ({"unet": 1.0, "blend": 2.0, "climatology": 4.0}, "unet wins; MSE of unet 1, of blend 2, skill"),
        ({"unet": 4.0, "blend": 2.0}, "blend wins; MSE of unet 4, of blend 2, skill against it -1.00"),
        ({"unet": 1.0, "blend": 1.05}, "not told apart; MSE of unet 1, of blend 1.05"),
    ],
)  # fmt: skip
def test_it_is_said_who_wins_where_that_can_be_told(forecast, errors, said):
    told = forecast["forecast_real"].told(metrics(**errors))
    assert told["said"].startswith(said) and told["wins"] == min(errors, key=errors.get)
    assert "7 windows" in told["said"]


def test_the_best_baseline_is_the_peer_and_the_skill_is_drawn(forecast, tmp_path):
    mse = {"unet": 0.5, "persistence": 2.0, "climatology": 1.0}
    told = {"unet": metrics(**mse) | {"mse": mse}}
    row = forecast["forecast"].row_of("unet", told["unet"])
    assert (row.peer, row.ratio) == ("climatology, the best baseline", 2.0)
    path = forecast["forecast_plots"].draw_skill(told, tmp_path / "skill.png")
    assert path.stat().st_size > 5000


def scored(**squared):
    """Eight sequences of two leads in two windows of time, with the errors of a model and of a baseline."""
    starts = np.stack([np.arange(8), np.zeros(8), np.zeros(8)], axis=1).astype(int)
    sums = {name: np.ones((8, 2, 9)) for name in squared}
    for name, values in squared.items():
        sums[name][..., 1] = values
    dates = np.full((8, 2), np.datetime64("2020-01-01", "ns"))
    return Scored(Scores(sums, 2.0, 0.4, 1.0), "unet", np.arange(8), starts, dates[:, 0], dates, 16, 2)


def test_archives_are_pooled_window_by_window(forecast):
    parts = [scored(unet=1.0, blend=2.0), scored(unet=3.0, blend=8.0)]
    told = forecast["forecast"].pooled(parts)
    assert told["windows"] == 4 and told["mse"] == {"unet": 2.0, "blend": 5.0}
    assert told["skill"]["blend"]["all"] == pytest.approx(0.6)
    low, high = told["skill"]["blend"]["interval"]
    assert low == pytest.approx(0.5) and high == pytest.approx(
        1 - 3 / 8
    )  # one archive drawn alone, the other alone


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


def test_the_readme_says_of_scaling_what_it_measured_and_what_not(tmp_path):
    seen = [{"agrees": n == 2, "calibrated_on": n == 1, "oversubscribed": n > 2} for n in (1, 2, 2, 4)]
    seen[1]["agrees"] = False
    words = ["2 cores: this measures overhead.", "With 4 workers there are more than cores."]
    write(tmp_path, result("scaling", details={"validation": seen, "words": words}))
    assert rewrite(tmp_path).returncode == 0
    told = (tmp_path / "README.md").read_text()
    assert f"the ratio is the speed-up. {' '.join(words)} The model" in told
    assert "meets 1 of the 2 points that were new to it" in told and "no measurement" in told


def test_the_readme_says_nothing_of_a_model_where_there_were_more_workers_than_cores(tmp_path):
    seen = [{"agrees": True, "calibrated_on": False, "oversubscribed": True}]
    details = {"validation": seen, "words": ["With 8 workers there are more than cores."]}
    write(tmp_path, result("scaling", details=details))
    assert rewrite(tmp_path).returncode == 0
    told = (tmp_path / "README.md").read_text()
    assert "With 8 workers there are more than cores" in told and "model" not in told


def test_figures_of_two_machines_are_not_mixed(tmp_path):
    write(tmp_path, result("gaps"), result("patch", cores=64))
    done = rewrite(tmp_path)
    assert done.returncode == 1 and "2 machines" in done.stderr
    assert (tmp_path / "README.md").read_text() == README


def test_an_installed_package_runs_the_benchmarks_of_the_clone_it_is_called_in(tmp_path, monkeypatch):
    home = tmp_path / "site-packages" / "glacierhpc" / "cli" / "bench.py"
    monkeypatch.setattr(cli.bench, "__file__", str(home))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="call them in a clone"):
        cli.bench._benchmark("gaps", [])
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "gaps.py").write_text(
        "import os, sys\nprint(os.getpid(), *sys.argv[1:])\nsys.exit(7)"
    )
    call = f"from glacierhpc.cli import bench; bench.__file__ = {str(home)!r}; bench._benchmark('gaps', ['--a b', 'c'])"
    started = subprocess.Popen([sys.executable, "-c", call], stdout=subprocess.PIPE, text=True)
    assert started.communicate(timeout=300)[0] == f"{started.pid} --a b c\n"  # a signal to it is the script's
    assert started.returncode == 7
