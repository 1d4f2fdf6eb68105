"""The forecast task: from composites to sequences without leakage, and from a trained model to maps.

Begins where `imagery` (or `given`) ends; between the two steps told here lie `learning` and `judging`, after them
`results`. What is forecast is an index of the surface, not the motion of ice.
"""

from __future__ import annotations

from typing import Any

from glacierhpc.atomic import remove
from glacierhpc.config import Config
from glacierhpc.cube import open_cube
from glacierhpc.datasets.samples import materialise
from glacierhpc.datasets.sequences import SequencePlan
from glacierhpc.datasets.splits import Split, sample_pixels, split_by_block, split_by_time
from glacierhpc.errors import GlacierError, InputError
from glacierhpc.rundir import RunDirectory, plain, write_json, write_table
from glacierhpc.workflows.learning import device, trained_model
from glacierhpc.workflows.material import Material
from glacierhpc.workflows.tasks import Summary, need
from glacierhpc.workflows.whole_scene import forecast_scene


def sequences(config: Config, run: RunDirectory) -> Summary:
    """Plan the sequences, split them and prove the split free of leakage."""
    cube = open_cube(need(run.composite, "composite"))
    valid = cube.valid.values
    wanted, split_rule = config.sequences, config.split
    plan = SequencePlan.build(
        valid.shape,
        cube.time.values,
        size=wanted.size_px,
        stride=wanted.stride_px,
        steps_in=wanted.steps_in,
        steps_out=wanted.steps_out,
    )
    share = plan.valid_share(valid)
    split = _split(plan, split_rule).without(share < wanted.min_valid_share)
    description = split.describe(plan)
    remove(run.sequences)  # of another split
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
        materialise(run.sequence_shards, cube.data.values, valid, plan)
    remove(run.checkpoints)  # of other composites: nothing to go on from
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
    """Forecast the whole area from the latest test origin, as arrays and as GeoTIFFs, in the memory of one block."""
    material = Material.read(config, run)
    plan, test = material.plan, material.part("test")
    judged = None
    start = int(plan.starts[test, 0].max())
    if config.split.method == "block":  # elsewhere the model has been trained on these very targets
        judged = sample_pixels(plan, test)[start + plan.steps_in : start + plan.steps]
    made = forecast_scene(
        trained_model(config, run, material)[0],
        material.composite,
        plan,
        start,
        prediction=run.prediction,
        maps=run.prediction_maps,
        judged=judged,
        overlap_px=config.predict.overlap_px,
        device=device(),
    )
    return {
        "table": [
            ["forecast from", str(made.input_time[-1])[:10]],
            ["forecast to", str(made.lead_time[-1])[:10]],
            ["maps", f"{len(made.maps)} in {run.prediction_maps}"],
            [
                "gradient across tile borders over inside",
                f"{made.seams:.3f}, of what was observed {made.target_seams:.3f}",
            ],
        ],
        "seams": plain({"forecast": made.seams, "observed": made.target_seams}),
    }


def _split(plan: SequencePlan, rule: Any) -> Split:
    shares = {"validation_share": rule.validation_share, "test_share": rule.test_share}
    if rule.method == "block":
        return split_by_block(plan, block_px=2 * plan.size, **shares)
    return split_by_time(plan, gap_steps=rule.gap_steps, **shares)
