"""Variations and repeats of a training on the sequences of one run: what each gave, and how much it scatters.

Every variation and seed is a run of its own in ``sweep/`` of the base run, linked to its composites and sequences.
Runs with other composites or sequences are not varied here but compared, see `comparison`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from glacierhpc.config import Config
from glacierhpc.errors import InputError
from glacierhpc.evaluation.compare import spread
from glacierhpc.rundir import RunDirectory, read_json, write_table
from glacierhpc.workflows.runner import check_ahead, claimed, first_to_do, recorded
from glacierhpc.workflows.tasks import Summary, step_function, steps_of

log = logging.getLogger(__name__)

SHARED = ("composite", "sequences", "sequence_shards", "split")
"""Files of the base run that its trials are linked to."""
UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Trial:
    """One variation with one seed."""

    name: str
    """Of its folder; the same for the same variation and seed, whatever else is in the list."""
    variation: str
    """What is changed, in words."""
    changes: Mapping[str, Any]
    config: Config


def sweep(config: Config) -> Summary:
    """Train and score every variation with every seed, and write ``sweep.parquet``; started again, it goes on.

    The steps up to the sequences are run first, where they are still to do. Test scores are told with their spread;
    which variation is best is decided by the validation loss, never by the test.

    Raises
    ------
    InputError
        If the configuration lists neither variations nor seeds, or several processes were started.
    """
    if not config.sweep.variations and not config.sweep.seeds:
        raise InputError(
            "there is nothing to vary: write sweep.seeds, such as [0, 1, 2], or sweep.variations, such as "
            "[{train.learning_rate: 0.01}]"
        )
    if step_function(config, "train", "surroundings")(config.train.backend)[1] > 1:
        raise InputError(
            "several processes were started, and a sweep starts its trials one after another: start it in one process, "
            "or train its variations as runs of their own"
        )
    trials = trials_of(config)
    for trial in trials:
        check_ahead(["train"], trial.config)
    with claimed(config) as run:
        names = steps_of(config)
        names = names[: names.index("sequences") + 1]
        for name in names[first_to_do(names, run) :]:
            recorded(name, config, run)
        rows = []
        for number, trial in enumerate(trials):
            told = {"done": number, "total": len(trials), "bar_only": True}
            log.info("trial %d of %d: %s", number + 1, len(trials), trial.name, extra=told)
            rows.append(_run_trial(trial, run))
            write_table(
                run.sweep_table, pd.DataFrame(rows)
            )  # after each: what is done is told even if the rest fails
    summary = summarise_trials(rows)
    return {"table": _table(rows, summary), "trials": rows, "summary": summary, "run": str(run.path)}


def trials_of(config: Config) -> list[Trial]:
    """Return every variation with every seed."""
    values = config.model_dump() | {"sweep": {}}
    trials = []
    for changes in config.sweep.variations or ({},):
        for seed in config.sweep.seeds or (config.train.seed,):
            varied = {**values, **{name: dict(values[name]) for name in ("model", "train")}}
            for key, value in {**changes, "train.seed": seed}.items():
                section, _, name = key.partition(".")
                varied[section][name] = value
            variation = ", ".join(f"{key}={_short(value)}" for key, value in changes.items()) or UNCHANGED
            folder = f"{_slug(variation, changes)}-seed{seed}"
            varied |= {"name": folder, "run_dir": config.run_path / "sweep" / folder}
            trials.append(Trial(folder, variation, changes, Config.model_validate(varied)))
    return trials


def summarise_trials(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and spread of every figure of each variation over its seeds, and the best by validation.

    Returns
    -------
    dict
        ``variations``: variation -> figure -> mean, std, min, max, n; ``best``: the variation with the smallest mean
        validation loss, None where the losses are of different kinds.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["variation"], []).append(row)
    found = {variation: spread([_figures(row) for row in group]) for variation, group in groups.items()}
    comparable = len({row["loss"] for row in rows}) == 1 and all(
        "best_loss" in each for each in found.values()
    )
    best = min(found, key=lambda name: found[name]["best_loss"]["mean"]) if comparable else None
    return {"variations": found, "best": best}


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("seed", "epochs", "best_epoch")}


def _run_trial(trial: Trial, base: RunDirectory) -> dict[str, Any]:
    """Train and score a trial, where that is still to do, and return its row."""
    with claimed(trial.config) as run:
        _link(run, base)
        begun = base.step_record("sequences").get("started", "")
        steps = ("train", "evaluate")
        fresh = run.step_record("train").get("started", "") > begun
        for name in steps[first_to_do(steps, run) if fresh else 0 :]:
            recorded(name, trial.config, run)
        return _row(trial, run)


def _link(run: RunDirectory, base: RunDirectory) -> None:
    """Point a trial's composites and sequences to those of the base run; nothing is copied."""
    for name in SHARED:
        own, shared = getattr(run, name), getattr(base, name)
        if own.is_symlink():
            own.unlink()
        if shared.exists():
            own.symlink_to(os.path.relpath(shared, run.path))


def _row(trial: Trial, run: RunDirectory) -> dict[str, Any]:
    metrics, history = read_json(run.metrics), pd.read_csv(run.history)
    own = metrics["models"][metrics["model"]]
    steps = [run.step_record(name) for name in ("train", "evaluate")]
    return {
        "trial": trial.name,
        "variation": trial.variation,
        "changes": json.dumps(dict(trial.changes), sort_keys=True, default=str),
        "seed": trial.config.train.seed,
        "model": metrics["model"],
        "loss": trial.config.train.loss,
        "best_loss": float(history.valid_loss.min()),
        "best_epoch": int(history.valid_loss.idxmin()),
        "epochs": len(history),
        **{name: own[name]["all"] for name in ("mse", "mae", "ssim")},
        **{f"skill_{name}": entry["all"] for name, entry in metrics["skill"].items()},
        "seconds": sum(step["seconds"] for step in steps),
    }


def _table(rows: list[dict[str, Any]], summary: dict[str, Any]) -> list[list[Any]]:
    table: list[list[Any]] = [["trials", len(rows)]]
    for variation, figures in summary["variations"].items():
        told = [f"MSE {_spread(figures['mse'])}"] if "mse" in figures else []
        told += [
            f"skill against {key.removeprefix('skill_')} {_spread(figures[key])}"
            for key in ("skill_climatology", "skill_persistence")
            if key in figures
        ]
        table.append([variation, "; ".join(told)])
    best = summary["best"] or "not decided: the variations have different losses"
    table.append(["smallest validation loss", best])
    return table


def _spread(figure: dict[str, Any]) -> str:
    if figure["std"] is None:
        return f"{figure['mean']:.5g}"
    return f"{figure['mean']:.5g} +- {figure['std']:.2g} ({figure['n']} seeds)"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return Path(text).name if "/" in text else text


def _slug(variation: str, changes: Mapping[str, Any]) -> str:
    """Return a folder's name: readable, and different for different changes."""
    digest = hashlib.sha256(json.dumps(dict(changes), sort_keys=True, default=str).encode()).hexdigest()[:6]
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", variation.replace("train.", "").replace("model.", "")).strip(
        "-._"
    )
    return f"{readable[:40]}-{digest}" if changes else UNCHANGED
