"""From a run's figures to the model, and from the model to what was measured and to numbers of workers that were not.

Whatever leaves here about numbers that were not measured carries ``"projection": true`` and the assumptions made.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scaling_assumed import Assumed
from scaling_model import (
    FARM_ASSUMPTIONS,
    RANKS_ASSUMPTIONS,
    Endpoint,
    Farm,
    Link,
    Outcome,
    Ranks,
    Stage,
    Workers,
    hierarchical,
    ring,
    simulate_farm,
    simulate_ranks,
)
from scaling_points import Point, base_of, median_interval

from glacierhpc.errors import GlacierError

ABOUT = "a projection by a model, not a measurement; every worker has a core like those measured on"
COUNTS = (10, 30, 100, 300, 1000, 3000, 10_000)
SIMULATIONS = 9
"""Of each point; their smallest and largest are given."""


@dataclass(frozen=True)
class Calibrated:
    """The model of one step, and the figures of the run that it stands on."""

    step: str
    points: tuple[Point, ...]
    """Measured, of this step."""
    base: dict[str, Point]
    """By mode: the point with the fewest workers; nothing else is calibrated on but exchanges between ranks."""

    def serial_s(self, work: float) -> float:
        """Return the driver's own time for an amount of work: a line through what was measured with fewest workers."""
        known = sorted({(p.work, float(p.details["serial_s"])) for p in self.base.values()})
        if len(known) < 2 or known[0][0] == known[-1][0]:
            return known[0][1] * work / known[0][0]
        (less, first), (more, second) = known[0], known[-1]
        slope = max((second - first) / (more - less), 0.0)
        return max(first + slope * (work - less), 0.0)

    def farm(self, mode: str, work: float, workers: Workers, endpoint: Endpoint) -> Farm:
        """Return the model of an amount of work; stages keep their shares of the tasks."""
        base = self.base[mode]
        stages = tuple(
            Stage(
                max(1, round(stage["tasks"] * work / base.work)),
                tuple(stage["compute_s"]),
                tuple(stage["wait_s"]),
                stage["bytes"],
            )
            for stage in base.details["stages"]
        )
        return Farm(stages, self.serial_s(work), workers, endpoint)

    def simplified(self) -> list[str]:
        """Return what had to be assumed because the run did not measure it by itself."""
        if self.step == "train":
            return self._simplified_training()
        told = [
            f"{self.step}: the {1e3 * self.scheduler_s():.3g} ms of handing out a task hold what a measured worker "
            "does for an empty one: many workers may be served faster"
        ]
        if len({p.work for p in self.base.values()}) < 2:
            told.append(
                f"{self.step}: one amount of work was measured, so the driver's part is taken to grow with it"
            )
        return told

    def _simplified_training(self) -> list[str]:
        told = []
        if len({p.details["batch"] / p.workers for p in self.base.values()}) < 2:
            told.append(
                "train: one share of a batch was measured, so computing is taken as proportional to it: optimistic"
            )
        if crosses_hosts(self.points):
            told.append(
                "train: the exchange was measured between hosts and is taken as such within them, too: the assumed "
                "network_latency_us and network_gbit are not used"
            )
        return told

    def scheduler_s(self) -> float:
        """Return what handing out a task costs, as measured with the fewest workers."""
        return float(min(self.points, key=lambda p: p.workers).details["scheduler_s"])

    def ranks(self, *, exchange: Any, cores: float) -> Ranks:
        """Return the model of training: the compute time of a step, a line through what single ranks took."""
        known = sorted(
            {(p.details["batch"] / p.workers, _median(p.details["step_s"])) for p in self.base.values()}
        )
        (less, first), (more, second) = known[0], known[-1]
        sample_s = max((second - first) / (more - less), 0.0) if more > less else first / less
        fixed_s = max(first - sample_s * less, 0.0)
        steps = [
            s
            for p in self.base.values()
            for s in np.divide(p.details["step_s"], _median(p.details["step_s"]))
        ]
        waiting = statistics.mean(min(p.split["data_wait"], 0.99) for p in self.base.values())
        busy = 1 - waiting  # a measured step holds both
        deviations = tuple(map(float, steps))
        return Ranks(fixed_s * busy, sample_s * busy, deviations, waiting / busy, exchange, cores)


def calibrate(step: str, points: Sequence[Point]) -> Calibrated:
    """Take from the points of a step what its model needs."""
    own = tuple(point for point in points if point.step == step)
    return Calibrated(
        step, own, {mode: base_of(own, _first(own, mode)) for mode in dict.fromkeys(p.mode for p in own)}
    )


def _first(points: Sequence[Point], mode: str) -> Point:
    return next(point for point in points if point.mode == mode)


def _median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def link_of(points: Sequence[Point]) -> Link | None:
    """Return latency and time per byte of the exchange between ranks, from the largest count within the cores.

    A ring of `p` ranks sends ``2 (p - 1)`` messages of a `p`-th of the size; a line is fitted to the measured times,
    each weighed by its size so that a per cent counts alike.
    """
    point = _exchanged(points)
    if point is None:
        return None
    sizes, seconds = np.asarray(point.details["exchanges"], dtype=float).T
    messages = 2 * (point.workers - 1)
    weights = 1 / seconds
    matrix = np.stack([np.full(len(sizes), float(messages)), messages * sizes / point.workers], axis=1)
    latency, s_per_byte = np.linalg.lstsq(matrix * weights[:, None], seconds * weights, rcond=None)[0]
    return Link(max(float(latency), 0.0), max(float(s_per_byte), 0.0))


def crosses_hosts(points: Sequence[Point]) -> bool:
    """Return whether the exchange of which `link_of` tells went from one host to another."""
    point = _exchanged(points)
    return point is not None and len(point.details["hosts"]) > 1


def _exchanged(points: Sequence[Point]) -> Point | None:
    several = [p for p in points if p.workers > 1 and not p.oversubscribed and "exchanges" in p.details]
    return max(several, key=lambda p: p.workers, default=None)


def validate(points: Sequence[Point], *, cores: float) -> list[dict[str, Any]]:
    """Set the model beside every point: what it says, what was measured, and whether the two meet.

    The model is calibrated with the fewest workers; all other points are new to it.
    """
    rows = []
    for step in dict.fromkeys(point.step for point in points):
        model = calibrate(step, points)
        for point in model.points:
            simulated = _simulated(model, point, cores)
            if simulated is None:
                continue
            seconds = [outcome.seconds for outcome in simulated]
            measured, low, high = median_interval(point.seconds), min(seconds), max(seconds)
            rows.append(
                {
                    "step": step,
                    "mode": point.mode,
                    "workers": point.workers,
                    "measured_s": measured.value,
                    "measured_low_s": measured.low,
                    "measured_high_s": measured.high,
                    "model_s": _median(seconds),
                    "model_low_s": low,
                    "model_high_s": high,
                    "agrees": low <= measured.high and measured.low <= high,
                    "calibrated_on": point is model.base[point.mode],
                    "oversubscribed": point.oversubscribed,
                }
            )
    return rows


def trust(validation: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how the model did, step by step, at points that were new to it: its projection is worth no more."""
    told = []
    for step in dict.fromkeys(row["step"] for row in validation):
        new = [r for r in validation if r["step"] == step and not (r["calibrated_on"] or r["oversubscribed"])]
        if not new:
            told.append(f"{step}: no measured point within the cores was new to the model: it is not tested")
            continue
        off = max((r["model_s"] / r["measured_s"] for r in new), key=lambda ratio: abs(math.log(ratio)))
        met, most = sum(r["agrees"] for r in new), max(r["workers"] for r in new)
        told.append(
            f"{step}: the model met {met} of {len(new)} measured points that were new to it, the farthest off by a "
            f"factor {off:.2f}; they go up to {most} workers"
        )
    return told


def _simulated(model: Calibrated, point: Point, cores: float) -> list[Outcome] | None:
    """Return the model's runs of what was measured: workers that are up, none lost, no stragglers but those seen."""
    if model.step == "train":
        link = link_of(model.points)
        if link is None and point.workers > 1:
            return None
        size = point.details["gradient_bytes"]
        ranks = model.ranks(exchange=lambda p: ring(p, size, link) if link else 0.0, cores=cores)
        how = {"steps": point.details["steps"], "batch": point.details["batch"]}
        return [simulate_ranks(ranks, point.workers, seed=seed, **how) for seed in range(SIMULATIONS)]
    workers = Workers(scheduler_s=model.scheduler_s(), cores=cores)
    farm = model.farm(point.mode, point.work, workers, Endpoint())
    return [simulate_farm(farm, point.workers, seed=seed) for seed in range(SIMULATIONS)]


def project(
    points: Sequence[Point], assumed: Assumed, *, counts: Sequence[int] = COUNTS, simulations: int = 3
) -> dict[str, Any]:
    """Return what the model says of numbers of workers that were not measured, with all that it assumes."""
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    simplified: list[str] = []
    for step in dict.fromkeys(point.step for point in points):
        model = calibrate(step, points)
        simplified += model.simplified()
        for mode in model.base:
            many = _ranks_at if step == "train" else _farm_at
            try:
                at = many(model, mode, assumed)
                alone = _rate_alone(many(model, mode, assumed.without_losses()))
            except GlacierError as err:
                left_out.append(f"{step}, {mode}: {err}")
                continue
            for workers in counts:
                try:
                    rows.append(_row(step, mode, workers, at, alone, simulations))
                except GlacierError as err:
                    left_out.append(f"{step}, {mode}, {workers} workers: {err}")
    kinds = {row["step"] == "train" for row in rows}
    said = [*(FARM_ASSUMPTIONS if False in kinds else ()), *(RANKS_ASSUMPTIONS if True in kinds else ())]
    assumptions = [ABOUT, *said, *simplified, *assumed.told()]
    return {"projection": True, "assumptions": assumptions, "rows": rows, "left_out": left_out}


def nothing_projected(missing: Sequence[str]) -> dict[str, Any]:
    """Return a projection that says nothing, as points are missing."""
    left_out = f"nothing is projected before all is measured; {len(missing)} points are missing"
    return {"projection": True, "assumptions": [ABOUT], "rows": [], "left_out": [left_out]}


def _rate_alone(at: Any) -> float:
    """Return how much work one worker of a model does in a second; of few tasks a single run would tell little."""
    runs = [at(1, seed) for seed in range(SIMULATIONS)]
    return float(runs[0][1] / statistics.fmean(outcome.seconds for outcome, _ in runs))


def _row(step: str, mode: str, workers: int, at: Any, alone: float, simulations: int) -> dict[str, Any]:
    """Return what is projected of a count; speed-up is over one worker of the same model that is never lost."""
    runs = [at(workers, seed) for seed in range(simulations)]
    seconds, work = [outcome.seconds for outcome, _ in runs], runs[0][1]
    gain = work / _median(seconds) / alone
    return {
        "projection": True,
        "step": step,
        "mode": mode,
        "workers": workers,
        "work": work,
        "seconds": _median(seconds),
        "low_s": min(seconds),
        "high_s": max(seconds),
        "speed_up": gain,
        "efficiency": gain / workers,
        "lost": max(outcome.lost for outcome, _ in runs),
    }


def _farm_at(model: Calibrated, mode: str, assumed: Assumed) -> Any:
    workers = Workers(
        scheduler_s=model.scheduler_s(),
        start_s=(_median([point.start_s for point in model.points]),),
        queue_s=assumed.queue_s,
        straggler_share=assumed.straggler_share,
        straggler_factor=assumed.straggler_factor,
        losses_per_hour=assumed.losses_per_hour,
        walltime_s=3600 * assumed.walltime_h,
    )
    endpoint = Endpoint(assumed.endpoint_connections, assumed.endpoint_gbit * 1e9 / 8)

    def at(count: int, seed: int) -> tuple[Outcome, float]:
        work = assumed.campaign if mode == "strong" else assumed.campaign_each * count
        return simulate_farm(model.farm(mode, work, workers, endpoint), count, seed=seed), work

    return at


def _ranks_at(model: Calibrated, mode: str, assumed: Assumed) -> Any:
    link = link_of(model.points)
    if link is None:
        raise GlacierError(
            "the exchange between ranks was not measured within the cores: there is no model of many ranks; measure "
            "2 ranks or more on a machine with as many cores"
        )
    between = Link(assumed.network_latency_us * 1e-6, 8 / (assumed.network_gbit * 1e9))
    if crosses_hosts(model.points):
        between = link
    base = model.base[mode]
    size, node = base.details["gradient_bytes"], int(assumed.ranks_per_node)
    training = replace(
        model.ranks(
            exchange=lambda p: hierarchical(p, size, per_node=node, inside=link, between=between),
            cores=math.inf,
        ),
        checkpoint_s=assumed.checkpoint_s,
        checkpoint_every=int(assumed.checkpoint_every),
        losses_per_hour=assumed.losses_per_hour,
        walltime_s=3600 * assumed.walltime_h,
        restart_s=assumed.queue_s + _median([point.start_s for point in model.points]),
    )
    share = base.details["batch"] / base.workers

    def at(count: int, seed: int) -> tuple[Outcome, float]:
        batch = assumed.campaign_batch if mode == "strong" else share * count
        how = {"steps": int(assumed.steps), "batch": batch}
        return simulate_ranks(training, count, seed=seed, **how), batch * assumed.steps

    return at
