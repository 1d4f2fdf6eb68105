"""The forecast task: from index composites to a judged forecast and its maps.

Begins where `imagery` ends; `results` reads what it writes. What is forecast is an index of the
surface, not the motion of ice.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from glacierhpc.config import Config
from glacierhpc.cube import open_cube
from glacierhpc.datasets.climatology import Climatology
from glacierhpc.datasets.samples import SequenceDataset, materialise
from glacierhpc.datasets.sequences import SequencePlan
from glacierhpc.datasets.splits import Split, sample_pixels, sample_steps, split_by_block, split_by_time
from glacierhpc.errors import GlacierError, InputError
from glacierhpc.evaluation.bootstrap import sequence_blocks, time_windows
from glacierhpc.evaluation.predict import NetworkForecaster, predict_scene
from glacierhpc.evaluation.score import evaluate as score_forecasts
from glacierhpc.grid import Grid
from glacierhpc.models import build_model
from glacierhpc.models.baselines import BASELINES, Record, SequenceBaseline, build_baseline, climatology
from glacierhpc.models.weights import ModelDescription, load_model, save_model
from glacierhpc.rundir import RunDirectory, read_json, read_table, write_json, write_table
from glacierhpc.tiling import seam_ratio
from glacierhpc.training.checkpoint import Checkpoints
from glacierhpc.training.distributed import open_backend
from glacierhpc.training.loop import fit
from glacierhpc.training.trackers import open_trackers
from glacierhpc.workflows import products
from glacierhpc.workflows.index_facts import index_facts
from glacierhpc.workflows.tasks import Summary, need

UNITS = "1"
"""Of every index and of reflectance."""


def sequences(config: Config, run: RunDirectory) -> Summary:
    """Plan the sequences, split them and prove the split free of leakage."""
    data, valid, times = _composites(run)
    wanted, split_rule = config.sequences, config.split
    plan = SequencePlan.build(
        valid.shape,
        times,
        size=wanted.size_px,
        stride=wanted.stride_px,
        steps_in=wanted.steps_in,
        steps_out=wanted.steps_out,
    )
    share = plan.valid_share(valid)
    split = _split(plan, split_rule).without(share < wanted.min_valid_share)
    description = split.describe(plan)
    run.sequences.unlink(missing_ok=True)  # of another split
    write_json(run.split, description)  # first: what is refused below is read there
    counts = {name: int((split.labels == name).sum()) for name in ("train", "validation", "test")}
    for name, count in counts.items():
        if count == 0:
            raise InputError(
                f"no {name} sequence has {wanted.min_valid_share:.0%} of valid pixels among {len(plan)}; lower "
                "sequences.min_valid_share, widen the windows (composite.window_months) or lengthen the period"
            )
    if not description["audit"]["ok"]:
        raise GlacierError(f"the split leaks: {description['audit']['leaks'][:3]}; {run.split} lists all")
    if wanted.materialise:
        materialise(run.sequence_shards, data, valid, plan)
    shutil.rmtree(run.checkpoints, ignore_errors=True)  # of other composites: nothing to go on from
    write_table(run.sequences, plan.to_table(split=split.labels, valid_share=share))
    return {
        "table": [
            ["sequences", f"{len(plan):,}"],
            *[[name, f"{count:,}"] for name, count in counts.items()],
            ["audit", f"no leak, {description['audit']['checked']:,} target pixel-times checked"],
        ],
        "counts": counts,
    }


def train(config: Config, run: RunDirectory) -> Summary:
    """Train the model on the training sequences; goes on from the last checkpoint of the same data and model."""
    material = _Material.read(config, run)
    plan, training, validation = material.plan, material.dataset("train"), material.dataset("validation")
    bands = [str(band) for band in open_cube(run.composite).band.values]
    scaling = material.scaling(bands)
    parameters = _model_parameters(config, scaling)
    seed = config.train.seed
    model = build_model(config.model.name, seed=seed, **parameters)
    split_hash = read_json(run.split)["hash"]
    identity = {
        "data": material.digest(),
        "split": split_hash,
        "model": json.dumps([config.model.name, parameters], sort_keys=True),
    }
    checkpoints = Checkpoints(run.checkpoints)
    checkpoints.forget_others(identity)
    history = fit(
        model,
        training,
        validation,
        loss=config.train.loss,
        backend=open_backend(config.train.backend),
        trackers=open_trackers(config.train.trackers, run.path),
        checkpoints=checkpoints,
        identity=identity,
        epochs=config.train.epochs,
        batch_size=config.train.batch_size,
        learning_rate=config.train.learning_rate,
        weight_decay=config.train.weight_decay,
        gradient_clip=config.train.gradient_clip,
        patience=config.train.patience,
        seed=seed,
    )
    description = ModelDescription(
        architecture=config.model.name,
        parameters=parameters,
        bands=tuple(bands),
        units=UNITS,
        scaling=scaling,
        resolution_m=Grid.from_dataset(open_cube(run.composite)).resolution_m,
        steps_in=plan.steps_in,
        steps_out=plan.steps_out,
        split_hash=split_hash,
        training={
            "epochs": len(history.rows),
            "best_epoch": history.best_epoch,
            "seed": seed,
            "climatology": "each pixel's mean of the season over other years; in use, those up to the last input",
        },
    )
    save_model(run.model, model, description)
    return {
        "table": [
            ["sequences", f"{len(training):,} to train, {len(validation):,} to validate"],
            ["parameters", f"{sum(p.numel() for p in model.parameters()):,}"],
            ["epochs", f"{len(history.rows)}, best {history.best_epoch + 1}"],
            ["validation loss", f"{history.best_loss:.5f}"],
        ]
    }


def evaluate(config: Config, run: RunDirectory) -> Summary:
    """Judge the model against the baselines on the test sequences, with block-bootstrap intervals."""
    material = _Material.read(config, run)
    plan, test = material.plan, material.dataset("test")
    record = Record(material.data, material.valid, material.times)
    model = _trained(config, run)
    forecasters: dict[str, Any] = {config.model.name: NetworkForecaster(model)}
    for name in BASELINES:
        forecasters[name] = SequenceBaseline(
            build_baseline(name, record),
            plan.starts,
            steps_in=plan.steps_in,
            steps_out=plan.steps_out,
            size=plan.size,
        )
    forecasters["climatology"] = climatology
    facts = index_facts(config.composite.index)
    starts = plan.starts[test.indices]
    metrics = score_forecasts(
        forecasters,
        test,
        sequence_blocks(starts, block_steps=plan.steps, size=plan.size, block_px=config.evaluate.block_px),
        model=config.model.name,
        data_range=facts.value_range[1] - facts.value_range[0],
        threshold=facts.threshold,
        samples=config.evaluate.bootstrap_samples,
        confidence=config.evaluate.confidence,
        seed=config.train.seed,
        windows=len(np.unique(time_windows(starts, block_steps=plan.steps))),
        audit=read_json(run.split)["audit"],
        shows=facts.shows,
    )
    write_json(run.metrics, metrics)
    return {"table": _skill_table(metrics), "shows": facts.shows, "skill": metrics["skill"]}


def predict(config: Config, run: RunDirectory) -> Summary:
    """Forecast the whole area from the latest test origin, as arrays and as GeoTIFFs."""
    material = _Material.read(config, run)
    table, plan, test = material.table, material.plan, material.part("test")
    data, valid, times = material.data, material.valid, material.times
    start = int(table.time_index[test].max())
    seen, ahead = slice(start, start + plan.steps_in), slice(start + plan.steps_in, start + plan.steps)
    years = plan.years(np.flatnonzero(table.time_index == start)[:1])[0]
    usual = Climatology.build(data, valid, times, np.arange(len(times)), causal=True)
    forecast = predict_scene(
        _trained(config, run),
        data[seen],
        valid[seen],
        years=years,
        climatology=usual.frames(
            start, steps_in=plan.steps_in, steps=plan.steps, rows=slice(None), cols=slice(None)
        ),
        size=plan.size,
        overlap_px=config.predict.overlap_px,
    )
    judged = valid[ahead]
    if config.split.method == "block":  # elsewhere the model has been trained on these very targets
        judged = judged & sample_pixels(plan, test)[ahead]
    composite = open_cube(run.composite)
    products.write_prediction(
        run.prediction,
        composite,
        prediction=forecast.values,
        target=data[ahead],
        target_valid=judged,
        inputs=np.where(valid[seen][:, None], data[seen], np.nan),
        lead_time=times[ahead],
        input_time=times[seen],
    )
    maps = products.write_maps(run.prediction_maps, composite, forecast.values, times[ahead])
    seams = seam_ratio(forecast.values[0, 0], forecast.tiles)
    return {
        "table": [
            ["forecast from", str(times[seen][-1])[:10]],
            ["forecast to", str(times[ahead][-1])[:10]],
            ["maps", f"{len(maps)} in {run.prediction_maps}"],
            ["gradient across tile borders over inside", f"{seams:.3f}"],
        ]
    }


def _composites(run: RunDirectory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return data (T, C, Y, X) float32, valid (T, Y, X) bool and times (T,) of the composites."""
    cube = open_cube(need(run.composite, "composite"))
    return cube.data.values, cube.valid.values, cube.time.values


def _split(plan: SequencePlan, rule: Any) -> Split:
    shares = {"validation_share": rule.validation_share, "test_share": rule.test_share}
    if rule.method == "block":
        return split_by_block(plan, block_px=2 * plan.size, **shares)
    return split_by_time(plan, gap_steps=rule.gap_steps, **shares)


@dataclass(frozen=True, eq=False)
class _Material:
    """The sequences of a run and the composites they are cut from, read once."""

    table: pd.DataFrame
    plan: SequencePlan
    data: np.ndarray
    """(T, C, Y, X) float32."""
    valid: np.ndarray
    """(T, Y, X) bool."""
    times: np.ndarray
    shards: Path | None
    """Patches on disk, where they are materialised."""

    @classmethod
    def read(cls, config: Config, run: RunDirectory) -> _Material:
        table = read_table(need(run.sequences, "sequences"))
        shards = run.sequence_shards if config.sequences.materialise else None
        return cls(table, SequencePlan.from_table(table), *_composites(run), shards)

    def part(self, name: str) -> np.ndarray:
        """Return the numbers of the sequences of a part."""
        return np.flatnonzero(self.table.split == name)

    def dataset(self, name: str) -> SequenceDataset:
        """Return the sequences of a part, with the climatology that they may know."""
        indices, learning = self.part(name), name == "train"
        known = sample_steps(self.plan, indices) if learning else np.arange(len(self.times))
        usual = Climatology.build(self.data, self.valid, self.times, known, causal=not learning)
        if self.shards is not None:
            return SequenceDataset.from_shards(self.shards, self.plan, indices, climatology=usual)
        return SequenceDataset.from_cube(self.data, self.valid, self.plan, indices, climatology=usual)

    def digest(self) -> str:
        """Return the SHA-256 of all valid pixels."""
        text = hashlib.sha256(np.ascontiguousarray(self.valid).data)
        text.update(np.ascontiguousarray(np.where(self.valid[:, None], self.data, 0)).data)
        return text.hexdigest()

    def scaling(self, bands: list[str]) -> dict[str, dict[str, float]]:
        """Return mean and deviation of each band over the pixels that training sees."""
        seen = self.valid & sample_pixels(self.plan, self.part("train"))
        scaling = {}
        for layer, band in enumerate(bands):
            values = self.data[:, layer][seen]
            scaling[band] = {"mean": float(values.mean()), "deviation": float(values.std()) or 1.0}
        return scaling


def _model_parameters(config: Config, scaling: dict[str, dict[str, float]]) -> dict[str, Any]:
    own = {
        "bands": len(scaling),
        "steps_out": config.sequences.steps_out,
        "means": [band["mean"] for band in scaling.values()],
        "deviations": [band["deviation"] for band in scaling.values()],
        "value_range": list(index_facts(config.composite.index).value_range),
    }
    return {**own, **config.model.parameters}


def _trained(config: Config, run: RunDirectory) -> Any:
    composite = open_cube(run.composite)
    bands = [str(band) for band in composite.band.values]
    resolution_m = Grid.from_dataset(composite).resolution_m
    folder, name = need(run.model, "train"), config.model.name
    return load_model(folder, architecture=name, bands=bands, units=UNITS, resolution_m=resolution_m)[0]


def _skill_table(metrics: dict[str, Any]) -> list[list[Any]]:
    rows: list[list[Any]] = [["shows", metrics["shows"]], ["test sequences", metrics["n_sequences"]]]
    for name, scores in metrics["models"].items():
        rows.append([f"MSE of {name}", f"{scores['mse']['all']:.5f}"])
    for name, skill in metrics["skill"].items():
        low, high = skill["interval"]
        rows.append([f"skill against {name}", f"{skill['all']:+.3f} ({_number(low)} to {_number(high)})"])
    if metrics["bootstrap"]["few_blocks"]:
        windows = metrics["bootstrap"]["windows"]
        rows.append(["windows of time", f"{windows} independent: too few to rely on the intervals"])
    return rows


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.3f}"
