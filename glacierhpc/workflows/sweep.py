"""Variations and repeats of a training on the sequences of one run: what each gave, and how much it scatters.

Every variation and seed is a run of its own in ``sweep/`` of the base run, linked to its composites and sequences. They
are run one after another by `sweep`, or as the tasks of a job array: `run_trial` for each, then `gather`.
Runs with other composites or sequences are not varied here but compared, see `comparison`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from typing import Any

import pandas as pd

from glacierhpc.config import Config
from glacierhpc.config.trials import Trial, trials_of
from glacierhpc.errors import GlacierError, InputError
from glacierhpc.evaluation.compare import spread
from glacierhpc.hpc import chain
from glacierhpc.rundir import RunDirectory, read_json, write_table
from glacierhpc.workflows.runner import check_ahead, claimed, first_to_do, recorded
from glacierhpc.workflows.tasks import Summary, step_function, steps_of

log = logging.getLogger(__name__)

SHARED = ("composite", "sequences", "sequence_shards", "split")
"""Files of the base run that its trials are linked to."""
TRIAL_STEPS = ("train", "evaluate")


def sweep(config: Config) -> Summary:
    """Train and score every variation with every seed, and write ``sweep.parquet``; started again, it goes on.

    The steps up to the sequences are run first, where they are still to do. Test scores are told with their spread;
    which variation is best is decided by the validation loss, never by the test.

    Raises
    ------
    InputError
        If the configuration lists neither variations nor seeds, or several processes were started.
    """
    trials = trials_of(config)
    _refuse_ranks(config)
    for trial in trials:
        check_ahead(["train"], trial.config)
    with claimed(config) as run:
        names = _shared_steps(config)
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
    return _summary(rows, run)


def run_trial(config: Config, number: int) -> Summary:
    """Train and score one trial of the list, beside others that other processes are at; started again, it goes on.

    Parameters
    ----------
    number : int
        Its place in `trials_of`, counted from 0.

    Raises
    ------
    InputError
        If there is no such trial, or the sequences that trials share are still to be made.
    """
    trials = trials_of(config)
    if not 0 <= number < len(trials):
        raise InputError(f"trial {number} does not exist; there are {len(trials)}, counted from 0")
    _refuse_ranks(config)
    trial, run = trials[number], RunDirectory(config.run_path)
    names = _shared_steps(config)
    if first_to_do(names, run) < len(names):
        raise InputError(
            f"the sequences of {str(run.path)!r} are not made, or not of its latest images; write first: "
            "glacierhpc run CONFIG --to sequences"
        )
    check_ahead(["train"], trial.config)
    row = _run_trial(trial, run)
    table = [
        ["trial", trial.name],
        ["variation", trial.variation],
        ["smallest validation loss", row["best_loss"]],
    ]
    return {"table": table, "trial": row, "run": str(trial.config.run_path)}


def gather(config: Config) -> Summary:
    """Write ``sweep.parquet`` of the trials that are done; trains nothing.

    Raises
    ------
    GlacierError
        If some are not, once the others are written down.
    """
    trials = trials_of(config)
    with claimed(config) as run:
        done = [trial for trial in trials if _done(trial, run)]
        rows = [_row(trial, RunDirectory(trial.config.run_path)) for trial in done]
        if rows:
            write_table(run.sweep_table, pd.DataFrame(rows))
    missing = [trial.name for trial in trials if trial not in done]
    if missing:
        raise GlacierError(
            f"{len(missing)} of {len(trials)} trials are not done: {', '.join(missing)}; the others are in "
            f"{run.sweep_table.name}. Write: glacierhpc resume {run.path}"
        )
    return _summary(rows, run)


def _refuse_ranks(config: Config) -> None:
    if step_function(config, "train", "surroundings")(config.train.backend)[1] > 1:
        raise InputError(
            "several processes were started, and a trial is one process: start it in one process, or train the "
            "variations as runs of their own"
        )


def _shared_steps(config: Config) -> Sequence[str]:
    names = steps_of(config)
    return names[: names.index("sequences") + 1]


def _done(trial: Trial, base: RunDirectory) -> bool:
    """Return whether a trial was trained and scored on the sequences as they are now."""
    own = RunDirectory(trial.config.run_path)
    records = {"sequences": base.step_record("sequences")}
    records |= {name: own.step_record(name) for name in TRIAL_STEPS}
    return chain.first_to_do(list(records), records) == len(records)


def _summary(rows: list[dict[str, Any]], run: RunDirectory) -> Summary:
    summary = summarise_trials(rows)
    return {"table": _table(rows, summary), "trials": rows, "summary": summary, "run": str(run.path)}


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
        fresh = run.step_record("train").get("started", "") > begun
        for name in TRIAL_STEPS[first_to_do(TRIAL_STEPS, run) if fresh else 0 :]:
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
    steps = [run.step_record(name) for name in TRIAL_STEPS]
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
