"""The step that judges: the model against all baselines on the test sequences, and what cannot flatter it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from glacierhpc.config import Config
from glacierhpc.datasets.samples import SequenceBatch, SequenceDataset
from glacierhpc.errors import GlacierError, InputError
from glacierhpc.evaluation.bootstrap import GROUND_SIZES, Resampling, ground_blocks, sequence_blocks
from glacierhpc.evaluation.control import permuted_control
from glacierhpc.evaluation.groups import Glaciers
from glacierhpc.evaluation.predict import NetworkForecaster
from glacierhpc.evaluation.score import Scores, score, summarise
from glacierhpc.evaluation.table import Scored, to_table
from glacierhpc.mapping.outlines import glacier_labels
from glacierhpc.models.baselines import Record, build_baselines
from glacierhpc.rundir import RunDirectory, write_json, write_table
from glacierhpc.workflows.learning import device, trained_model
from glacierhpc.workflows.material import Material
from glacierhpc.workflows.tasks import Summary

log = logging.getLogger(__name__)

BATCH = 64
"""Sequences read at once."""


def evaluate(config: Config, run: RunDirectory, *, output: Path | None = None) -> Summary:
    """Judge the model against the baselines on the test sequences, with block-bootstrap intervals.

    By default they are those of other years on this ground; each skill has a second one, of other ground as well.
    With `output`, a folder, the figures are written there, and the run is only read.
    """
    cubes = run.cubes()
    material = Material.read(config, run)
    plan, test, facts = material.plan, material.dataset("test"), material.facts
    starts = plan.starts[test.indices]
    forecasters, left_out = _able(_forecasters(config, run, material), test, config.model.name)
    judged: dict[str, Any] = {
        "data_range": facts.data_range,
        "threshold": float("nan") if facts.threshold is None else facts.threshold,
    }
    scores = score(
        forecasters, test, batch_size=BATCH, glaciers=_glaciers(config, material), starts=starts, **judged
    )
    draws = _resampling(config, starts, plan)
    target_times = material.times[starts[:, :1] + plan.steps_in + np.arange(plan.steps_out)]
    metrics = summarise(
        scores,
        draws.blocks,
        model=config.model.name,
        samples=draws.samples,
        confidence=draws.confidence,
        seed=draws.seed,
        audit=material.split["audit"],
        shows=facts.shows,
        target_times=target_times,
        grounds=ground_blocks(
            starts, size=plan.size, block_px=config.evaluate.block_px or GROUND_SIZES * plan.size
        ),
    )
    if config.evaluate.control:
        metrics["control"] = _control(config, forecasters, test, starts, draws, judged, plan)
    if "blend" in forecasters:
        metrics["blend"] = forecasters["blend"].describe()
    metrics["left_out"] = left_out
    if run.cubes() != cubes:
        raise GlacierError(f"{str(run.path)!r} was rewritten while it was read; evaluate it again later")
    told = run if output is None else RunDirectory(output)
    write_table(told.scores, to_table(_scored(config, material, scores, test, target_times)))
    write_json(told.metrics, metrics)
    return {
        "table": skill_table(metrics),
        "shows": facts.shows,
        "skill": metrics["skill"],
        "mse": {name: entry["mse"]["all"] for name, entry in metrics["models"].items()},
    }


def _forecasters(config: Config, run: RunDirectory, material: Material) -> dict[str, Any]:
    """Return the model and every baseline; the blend learns its few numbers from this run's training sequences."""
    plan = material.plan
    model, _ = trained_model(config, run, material)
    return {
        config.model.name: NetworkForecaster(model, device=device()),
        **build_baselines(
            Record(material.data, material.valid, material.times),
            starts=plan.starts,
            steps_in=plan.steps_in,
            steps_out=plan.steps_out,
            size=plan.size,
            training=_batches(material.dataset("train")),
        ),
    }


def _able(
    forecasters: dict[str, Any], test: SequenceDataset, model: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the forecasters without the baselines that can say nothing at all, and why those are left out.

    Scores count only pixels that all can forecast: one that can forecast none, such as the same season last year in a
    series of months, would leave nothing to judge.
    """
    able = {name: name == model for name in forecasters}
    for batch in _batches(test):
        for name in [name for name, known in able.items() if not known]:
            able[name] = bool(forecasters[name](batch)[1].any())
        if all(able.values()):
            break
    left_out = {
        name: "it can forecast no pixel of the test: the series is too short for it"
        for name, known in able.items()
        if not known
    }
    for name, reason in left_out.items():
        log.warning("baseline %s is left out: %s", name, reason)
    return {name: forecast for name, forecast in forecasters.items() if able[name]}, left_out


def _batches(data: SequenceDataset) -> Iterator[SequenceBatch]:
    for first in range(0, len(data), BATCH):
        yield data.__getitems__(range(first, min(first + BATCH, len(data))))


def _glaciers(config: Config, material: Material) -> Glaciers | None:
    """Return which glacier each pixel lies on, where outlines are given."""
    outlines = config.evaluate.outlines or (config.area.outlines if config.area is not None else None)
    if outlines is None:
        return None
    return Glaciers(*glacier_labels(outlines, material.grid))


def _resampling(config: Config, starts: np.ndarray, plan: Any) -> Resampling:
    wanted = config.evaluate
    blocks = sequence_blocks(starts, block_steps=plan.steps, size=plan.size, block_px=wanted.block_px)
    return Resampling(blocks, wanted.bootstrap_samples, wanted.confidence, config.train.seed)


def _control(
    config: Config,
    forecasters: dict[str, Any],
    test: SequenceDataset,
    starts: np.ndarray,
    draws: Resampling,
    judged: dict[str, Any],
    plan: Any,
) -> dict[str, Any]:
    """Return what is left of the skill on inputs of another time; without another time, why there is no answer."""
    try:
        return permuted_control(
            forecasters,
            test,
            starts,
            draws,
            model=config.model.name,
            steps_in=plan.steps_in,
            steps_out=plan.steps_out,
            **judged,
        )
    except InputError as err:
        log.warning("control: %s", err)
        return {"verdict": "undecided", "reason": str(err)}


def _scored(
    config: Config, material: Material, scores: Scores, test: SequenceDataset, target_times: np.ndarray
) -> Scored:
    starts = material.plan.starts[test.indices]
    return Scored(
        scores,
        config.model.name,
        test.indices,
        starts,
        material.times[starts[:, 0]],
        target_times,
        material.plan.size,
        material.plan.steps_in,
        config.evaluate.block_px,
    )


def skill_table(metrics: dict[str, Any]) -> list[list[Any]]:
    """Return the rows that a command shows of ``metrics.json``."""
    rows: list[list[Any]] = [["shows", metrics["shows"]], ["test sequences", metrics["n_sequences"]]]
    for name, scores in metrics["models"].items():
        rows.append([f"MSE of {name}", f"{scores['mse']['all']:.5g}"])
    for name, skill in metrics["skill"].items():
        (low, high), (least, most) = skill["interval"], skill["ground_interval"]
        told = f"{_number(skill['all'])} ({_number(low)} to {_number(high)})"
        if [least, most] != [low, high]:
            told += f"; on other ground, too: {_number(least)} to {_number(most)}"
        rows.append([f"skill against {name}", told])
    rows += [[f"without {name}", reason] for name, reason in metrics["left_out"].items()]
    if "control" in metrics:
        rows.append(["control with inputs of other dates", metrics["control"]["verdict"]])
    if metrics["bootstrap"]["few_blocks"]:
        windows = metrics["bootstrap"]["windows"]
        rows.append(["windows of time", f"{windows} independent: too few to rely on the intervals"])
    return rows


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.3f}"
