"""The forecast task: from composites to sequences without leakage, and from a trained model to maps.

Begins where `imagery` (or `given`) ends; between the two steps told here lie `learning` and `judging`, after them
`results`. What is forecast is an index of the surface, not the motion of ice.
"""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np

from glacierhpc.config import Config
from glacierhpc.cube import open_cube
from glacierhpc.datasets.climatology import Climatology
from glacierhpc.datasets.samples import materialise
from glacierhpc.datasets.sequences import SequencePlan
from glacierhpc.datasets.splits import Split, sample_pixels, split_by_block, split_by_time
from glacierhpc.errors import GlacierError, InputError
from glacierhpc.evaluation.predict import predict_scene
from glacierhpc.rundir import RunDirectory, write_json, write_table
from glacierhpc.tiling import seam_ratio
from glacierhpc.workflows import products
from glacierhpc.workflows.learning import trained_model
from glacierhpc.workflows.material import Material, read_composites
from glacierhpc.workflows.tasks import Summary


def sequences(config: Config, run: RunDirectory) -> Summary:
    """Plan the sequences, split them and prove the split free of leakage."""
    data, valid, times = read_composites(run)
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


def predict(config: Config, run: RunDirectory) -> Summary:
    """Forecast the whole area from the latest test origin, as arrays and as GeoTIFFs."""
    material = Material.read(config, run)
    table, plan, test = material.table, material.plan, material.part("test")
    data, valid, times = material.data, material.valid, material.times
    start = int(table.time_index[test].max())
    seen, ahead = slice(start, start + plan.steps_in), slice(start + plan.steps_in, start + plan.steps)
    years = plan.years(np.flatnonzero(table.time_index == start)[:1])[0]
    usual = Climatology.build(data, valid, times, np.arange(len(times)), causal=True)
    forecast = predict_scene(
        trained_model(config, run, material)[0],
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


def _split(plan: SequencePlan, rule: Any) -> Split:
    shares = {"validation_share": rule.validation_share, "test_share": rule.test_share}
    if rule.method == "block":
        return split_by_block(plan, block_px=2 * plan.size, **shares)
    return split_by_time(plan, gap_steps=rule.gap_steps, **shares)
