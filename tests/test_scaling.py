"""What the scaling benchmark makes of its figures: intervals, laws, the model, comparisons, the page."""

from __future__ import annotations

import csv
import importlib
import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from pydantic import ValidationError
from scipy.stats import mannwhitneyu

from glacierhpc.errors import GlacierError, InputError

ROOT = Path(__file__).resolve().parents[1]
MODULES = (
    "",
    "_assumed",
    "_compare",
    "_laws",
    "_measure",
    "_model",
    "_pace",
    "_page",
    "_plan",
    "_plots",
    "_points",
    "_project",
    "_result",
    "_schema",
    "_watch",
    "_work",
)
COUNTS = (1, 2, 4, 8)


@pytest.fixture
def bench(monkeypatch):
    """The modules of `bench scaling`, imported as it imports them, by their names without "scaling_"."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found = {name.lstrip("_") or "main": importlib.import_module(f"scaling{name}") for name in MODULES}
    return SimpleNamespace(**found)


def point(bench, workers, seconds, *, step="align", mode="strong", cores=8, details=None, work=None):
    return bench.points.Point(
        step,
        mode,
        workers,
        float(work or (24 if mode == "strong" else 6 * workers)),
        "scenes",
        tuple(seconds),
        workers > cores,
        {"compute": 0.7, "communication": 0.1, "data_wait": 0.1, "idle": 0.1},
        3.0,
        details or {"hosts": ["a"], "images": [], "cores": cores},
    )


def noisy(seconds, *, seed, repeats=5, spread=0.01):
    return seconds * np.exp(np.random.default_rng(seed).normal(0, spread, repeats))


# ---- intervals ----


@pytest.mark.parametrize(
    ("repeats", "low", "high", "coverage"),
    [(1, 1, 1, 0), (3, 1, 3, 0.75), (5, 1, 5, 0.9375), (20, 6, 15, 0.9586)],
)
def test_the_interval_of_a_median_says_what_it_covers(bench, repeats, low, high, coverage):
    found = bench.points.median_interval([float(k) for k in range(repeats, 0, -1)])
    assert (found.low, found.high) == (low, high) and found.coverage == pytest.approx(coverage, abs=1e-4)


def test_the_interval_of_a_median_covers_as_often_as_it_says(bench):
    rng = np.random.default_rng(1)
    found = [bench.points.median_interval(rng.lognormal(size=9)) for _ in range(1500)]
    assert np.mean([one.holds(1.0) for one in found]) == pytest.approx(found[0].coverage, abs=0.02)


def test_rank_sums_are_those_of_the_exact_test(bench):
    first, second = [1.0, 3.0, 5.0, 7.5], [2.0, 4.0, 6.0, 8.0, 9.0]
    chances = bench.points._rank_sums(4, 5)
    expected = mannwhitneyu(first, second, alternative="less", method="exact")
    assert chances.sum() == pytest.approx(1)
    assert chances[: int(expected.statistic) + 1].sum() == pytest.approx(expected.pvalue)


def test_a_ratio_covers_as_often_as_it_says_and_turns_around(bench):
    rng = np.random.default_rng(2)
    pairs = [(2 * rng.lognormal(0, 0.1, 6), rng.lognormal(0, 0.1, 6)) for _ in range(800)]
    found = [bench.points.ratio_interval(above, below) for above, below in pairs]
    assert found[0].coverage >= 0.95
    assert np.mean([one.holds(2.0) for one in found]) == pytest.approx(found[0].coverage, abs=0.02)
    around = bench.points.ratio_interval(*pairs[0][::-1])
    assert (around.low, around.high) == pytest.approx((1 / found[0].high, 1 / found[0].low))


def test_speed_up_and_efficiency_count_the_work(bench):
    base, strong = point(bench, 1, [8.0] * 5), point(bench, 4, [2.5] * 5)
    assert bench.points.speed_up(base, strong).value == pytest.approx(3.2)
    assert bench.points.efficiency(base, strong).value == pytest.approx(0.8)
    alone, weak = point(bench, 1, [8.0] * 5, mode="weak"), point(bench, 4, [10.0] * 5, mode="weak")
    assert bench.points.speed_up(alone, weak).value == pytest.approx(3.2)
    assert bench.points.efficiency(alone, weak).value == pytest.approx(0.8)
    assert asdict(bench.points.speed_up(base, base))["low"] == 1.0


# ---- laws ----

TRUTHS = {
    "Amdahl": ("strong", {"serial": 0.1}, lambda n: 0.1 + 0.9 / n),
    "Gustafson": ("weak", {"serial": 0.2}, lambda n: n / (n - 0.2 * (n - 1))),
    "USL": ("strong", {"contention": 0.05, "coherence": 0.01},
            lambda n: (1 + 0.05 * (n - 1) + 0.01 * n * (n - 1)) / n),
}  # fmt: skip


def fitted(bench, name, seed):
    mode, _, shape = TRUTHS[name]
    law = next(law for law in bench.laws.LAWS if law.name == name)
    times = {n: noisy(40 * shape(n), seed=100 * seed + n) for n in COUNTS}
    return bench.laws.fit(law, [point(bench, n, s, mode=mode) for n, s in times.items()])


@pytest.mark.parametrize("name", list(TRUTHS))
def test_known_laws_are_found_again_within_their_intervals(bench, name):
    fits = [fitted(bench, name, seed) for seed in range(100)]
    for parameter, truth in TRUTHS[name][1].items():
        intervals = [fit.parameters[parameter] for fit in fits]
        assert np.median([one.value for one in intervals]) == pytest.approx(truth, abs=0.004)
        assert 88 <= sum(one.holds(truth) for one in intervals) <= 100
    assert np.median([fit.one_worker_s for fit in fits]) == pytest.approx(40, rel=0.01)
    assert sum(fit.lack_of_fit < 0.05 for fit in fits) <= 15


def test_nothing_is_said_beyond_the_data(bench):
    fit = fitted(bench, "Amdahl", 0)
    assert fit.seconds(8) == pytest.approx(40 * (0.1 + 0.9 / 8), rel=0.02)
    for workers in (9, 64, 0.5):
        with pytest.raises(bench.laws.BeyondData, match=f"1 to 8 workers and says nothing of {workers:g}"):
            fit.seconds(workers)


def test_points_with_more_workers_than_cores_take_no_part_in_a_law(bench):
    law = bench.laws.LAWS[0]
    within = [point(bench, n, noisy(40 * (0.1 + 0.9 / n), seed=n)) for n in COUNTS]
    beyond = [point(bench, 16, [99.0] * 5)]
    assert beyond[0].oversubscribed
    assert bench.laws.fit(law, within + beyond) == bench.laws.fit(law, within)


def test_too_few_counts_give_a_reason_and_no_law(bench):
    points = [point(bench, n, [10.0 / n] * 5, cores=1) for n in (1, 2, 4)]
    found = bench.laws.fit_all(points)
    assert [type(one).__name__ for one in found] == ["NoFit", "NoFit"]
    assert "there are 1 (2 beyond the cores)" in found[0].reason


def test_a_law_that_does_not_hold_is_said_not_to(bench):
    law = bench.laws.LAWS[0]
    stairs = [point(bench, n, noisy(s, seed=n)) for n, s in zip(COUNTS, (40.0, 39.0, 11.0, 10.5))]
    assert "does not hold" in bench.laws.fit(law, stairs).words
    slower = [point(bench, n, noisy(40.0 * n, seed=n)) for n in (1, 2)]
    told = bench.laws.fit(law, slower)
    assert "does not describe this step" in told.words and "not tested" in told.words


# ---- the model ----


def farm(bench, tasks, *, compute=(1.0,), wait=(0.0,), serial_s=0.0, **workers):
    stage = bench.model.Stage(tasks, compute, wait * len(compute))
    return bench.model.Farm((stage,), serial_s, bench.model.Workers(**workers))


def test_one_worker_takes_the_sum_of_its_tasks(bench):
    found = bench.model.simulate_farm(farm(bench, 50, wait=(0.5,), serial_s=3.0, scheduler_s=0.01), 1)
    assert found.seconds == pytest.approx(3 + 50 * (1.5 + 0.01)) and found.lost == 0


def test_many_workers_take_as_long_as_the_longest_task_or_the_scheduler(bench):
    lengths = tuple(np.linspace(0.1, 5, 50))
    found = bench.model.simulate_farm(farm(bench, 2000, compute=lengths, serial_s=2.0), 2000)
    assert found.seconds == pytest.approx(2 + max(lengths))
    bound = bench.model.simulate_farm(farm(bench, 2000, compute=(0.3,), scheduler_s=0.01), 10_000)
    assert bound.seconds == pytest.approx(2000 * 0.01 + 0.3)


@pytest.mark.parametrize("workers", [1, 2, 10, 50, 100, 200, 1000])
def test_the_scheduler_is_a_queue_with_one_server(bench, workers):
    """Exponential tasks, constant service, a closed circle of workers (M/D/1//N): its throughput is known exactly.

    Takács (1962), Introduction to the Theory of Queues, chapter 5: the tasks handed out between two rests of the
    scheduler, over the time from one rest to the next. Beginning and end, which are no part of it, cancel out.
    """
    lengths, service = np.random.default_rng(3).exponential(1.0, 20_000), 0.01
    short, long = (
        farm(bench, tasks, compute=tuple(lengths), scheduler_s=service) for tasks in (20_000, 60_000)
    )
    seconds = [bench.model.simulate_farm(made, workers, seed=1).seconds for made in (short, long)]
    length = lengths.mean()
    others = np.arange(workers)
    factors = [0.0, *(math.log(math.expm1(k * service / length)) for k in others[1:])]
    ways = [math.lgamma(workers) - math.lgamma(k + 1) - math.lgamma(workers - k) for k in others]
    log_served = np.logaddexp.reduce(np.cumsum(factors) + ways)
    known = service + length / workers * math.exp(-log_served)
    assert (seconds[1] - seconds[0]) / 40_000 == pytest.approx(known, rel=0.015)


@pytest.mark.parametrize(("tasks", "workers"), [(1, 8), (60, 1), (60, 8), (64, 8), (65, 8)])
def test_a_line_before_several_workers_is_worked_off_in_the_time_that_is_known(bench, tasks, workers):
    """Tasks of one length take whole rounds; exponential ones end at the rate of the workers, then of those left."""
    same = bench.model.simulate_farm(farm(bench, tasks, compute=(2.0,)), workers)
    assert same.seconds == pytest.approx(2.0 * math.ceil(tasks / workers))
    lengths = tuple(np.random.default_rng(4).exponential(1.0, 20_000))
    line = farm(bench, tasks, compute=lengths)
    found = [bench.model.simulate_farm(line, workers, seed=seed).seconds for seed in range(400)]
    last = min(tasks, workers)
    known = (tasks - last) / workers + sum(1 / k for k in range(1, last + 1))
    assert abs(np.mean(found) / np.mean(lengths) - known) < 4 * np.std(found) / math.sqrt(len(found))


def test_an_archive_with_one_connection_is_read_by_one_after_the_other(bench):
    alone = replace(
        farm(bench, 40, compute=(0.1,), wait=(2.0,)), endpoint=bench.model.Endpoint(connections=1)
    )
    assert bench.model.simulate_farm(alone, 20).seconds == pytest.approx(40 * 2 + 0.1)
    stage = bench.model.Stage(40, (0.1,), (0.001,), bytes=1e6)
    thin = bench.model.Farm((stage,), 0.0, endpoint=bench.model.Endpoint(bytes_per_s=1e7))
    assert bench.model.simulate_farm(thin, 20).seconds >= 40 * 1e6 / 1e7


def test_stages_wait_for_each_other_and_cores_are_shared(bench):
    stages = (bench.model.Stage(3, (1.0,), (0.0,)), bench.model.Stage(3, (1.0,), (0.0,)))
    assert bench.model.simulate_farm(bench.model.Farm(stages, 0.0), 4).seconds == pytest.approx(2)
    shared = farm(bench, 40, cores=2)
    assert bench.model.simulate_farm(shared, 8).seconds == pytest.approx(40 / 2)


def test_lost_work_is_done_again(bench):
    calm = bench.model.simulate_farm(farm(bench, 400, compute=(30.0,)), 20, seed=5)
    torn = farm(bench, 400, compute=(30.0,), losses_per_hour=20.0, queue_s=60.0, start_s=(5.0,))
    found = bench.model.simulate_farm(torn, 20, seed=5)
    assert found.lost > 20 and found.seconds > calm.seconds
    assert found == bench.model.simulate_farm(torn, 20, seed=5) != bench.model.simulate_farm(torn, 20, seed=6)
    with pytest.raises(GlacierError, match="do not live long enough"):
        bench.model.simulate_farm(farm(bench, 4, compute=(30.0,), walltime_s=20.0), 2)
    slow = bench.model.simulate_farm(farm(bench, 400, straggler_share=0.05, straggler_factor=10.0), 400)
    assert slow.seconds == pytest.approx(10)


def test_a_lost_task_that_waits_does_not_hold_up_the_line(bench):
    """Two workers die, the one that began first later: what it had is begun again after what the other one had."""
    run = bench.model._FarmRun(farm(bench, 4, compute=(4.0,)), 4, np.random.default_rng(0))
    run.deaths = [3.9, 0.5, math.inf, math.inf]
    run.free = [(0.0, 0), (0.0, 2), (0.0, 3), (0.1, 1)]
    assert run.stage(run.farm.stages[0], 0.0) == pytest.approx(7.9) and run.lost == 2
    assert sorted(free for free, _ in run.free) == pytest.approx([4.0, 4.0, 4.5, 7.9])


def test_more_tasks_than_the_model_goes_through_are_left_out_and_said(bench):
    assumed = bench.assumed.Assumed.given(["campaign=100000000"])
    told = bench.project.project(measured(bench), assumed, counts=(10,), simulations=1)
    assert [row["mode"] for row in told["rows"]] == ["weak"] and "give less work" in told["left_out"][0]


def test_a_known_serial_part_of_the_model_is_found_by_the_law(bench):
    made = farm(bench, 720, compute=(0.125,), serial_s=10.0)
    times = {n: bench.model.simulate_farm(made, n).seconds for n in (1, 2, 4, 8, 16)}
    points = [point(bench, n, noisy(s, seed=n, spread=0.002), cores=16) for n, s in times.items()]
    found = bench.laws.fit(bench.laws.LAWS[0], points).parameters["serial"]
    assert found.value == pytest.approx(0.1, abs=0.003) and found.holds(0.1)


def training(bench, **more):
    given = {"fixed_s": 0.01, "sample_s": 0.1, "deviations": (0.9, 1.0, 1.2), "input_share": 0.1}
    return bench.model.Ranks(**{**given, "exchange_s": lambda ranks: 0.0, **more})


def test_ranks_wait_for_the_slowest(bench):
    made = training(bench)
    alone = bench.model.simulate_ranks(made, 1, steps=4000, batch=8).seconds / 4000
    assert alone == pytest.approx(0.81 * (np.mean(made.deviations) + 0.1), rel=0.01)
    many = bench.model.simulate_ranks(made, 10_000, steps=100, batch=80_000).seconds / 100
    assert many == pytest.approx(0.81 * (1.2 + 0.1))
    with pytest.raises(InputError, match="8 ranks cannot share a batch of 4"):
        bench.model.simulate_ranks(made, 8, steps=1, batch=4)


def test_what_a_lost_rank_costs_is_bounded_by_checkpoints(bench):
    rare = training(bench, losses_per_hour=0.5, restart_s=60.0, checkpoint_every=50, checkpoint_s=1.0)
    found = bench.model.simulate_ranks(rare, 100, steps=2000, batch=800, seed=1)
    calm = bench.model.simulate_ranks(replace(rare, losses_per_hour=0.0), 100, steps=2000, batch=800, seed=1)
    assert found.lost > 5 and found.seconds > calm.seconds + 60 * found.lost
    never = replace(rare, walltime_s=10.0)
    with pytest.raises(GlacierError, match="never ended: write"):
        bench.model.simulate_ranks(never, 100, steps=2000, batch=800)


def test_the_exchange_follows_its_ring(bench):
    inside, between = bench.model.Link(1e-5, 1e-10), bench.model.Link(5e-5, 1e-9)
    assert bench.model.ring(1, 1e6, inside) == 0
    assert bench.model.ring(4, 1e6, inside) == pytest.approx(6 * (1e-5 + 2.5e5 * 1e-10))
    both = {"per_node": 4, "inside": inside, "between": between}
    assert bench.model.hierarchical(4, 1e6, **both) == bench.model.ring(4, 1e6, inside)
    eight = bench.model.hierarchical(8, 1e6, **both)
    assert eight == pytest.approx(bench.model.ring(4, 1e6, inside) + bench.model.ring(2, 1e6, between))


# ---- the model and a run ----


def measured(bench, *, serial=0.02, seed=0):
    """Points of a step as a run gives them, whose times are those of a model that is known."""
    rng = np.random.default_rng(seed)
    compute, wait = tuple(rng.uniform(0.2, 0.3, 60)), tuple(rng.uniform(0.02, 0.1, 60))
    points = []
    for mode in ("strong", "weak"):
        for n in COUNTS:
            work = 48 if mode == "strong" else 6 * n
            stage = {"tasks": 4 * work, "compute_s": compute, "wait_s": wait, "bytes": 1e5}
            told = {
                "stages": [stage],
                "serial_s": serial * work,
                "scheduler_s": 0.002,
                "hosts": ["a"],
                "images": [],
                "cores": 8,
            }
            made = bench.model.Farm(
                (bench.model.Stage(4 * work, compute, wait),), 0.02 * work, bench.model.Workers(0.002)
            )
            times = [bench.model.simulate_farm(made, n, seed=900 + k).seconds for k in range(5)]
            points.append(point(bench, n, times, mode=mode, details=told, work=work))
    return points


def trained(bench):
    """Points of a training whose exchange is a known link."""
    link = bench.model.Link(2e-4, 3e-9)
    points = []
    for mode in ("strong", "weak"):
        for n in COUNTS:
            batch = 64 if mode == "strong" else 8 * n
            step = 0.01 + 0.005 * batch / n
            sizes = (1e3, 1e5, 1e6, 4e6)
            told = {
                "batch": batch,
                "steps": 10,
                "step_s": [step * d for d in (0.95, 1.0, 1.0, 1.05)],
                "exchanges": [[size, bench.model.ring(n, size, link) or 1e-5] for size in sizes],
                "gradient_bytes": 2_000_000,
                "hosts": ["a"],
                "images": [],
                "cores": 8,
            }
            slowest = 0.95 * 0.25**n + (0.75**n - 0.25**n) + 1.05 * (1 - 0.75**n)  # expected, of n draws
            one = 10 * (step * (0.9 * slowest + 0.1) + bench.model.ring(n, 2e6, link))
            seconds = noisy(one, seed=10 + n, spread=0.02)
            points.append(point(bench, n, seconds, step="train", mode=mode, details=told, work=10 * batch))
    return points


def test_the_model_meets_what_it_was_not_calibrated_on(bench):
    rows = bench.project.validate(measured(bench) + trained(bench), cores=8)
    assert len(rows) == 16 and sum(row["calibrated_on"] for row in rows) == 4
    assert all(row["agrees"] for row in rows)


def test_the_model_is_said_to_miss_where_it_does(bench):
    rows = bench.project.validate(measured(bench, serial=0.1), cores=8)
    assert not any(row["agrees"] for row in rows if row["workers"] == 8)
    (words,) = bench.project.trust(rows)
    off = max(row["model_s"] / row["measured_s"] for row in rows)
    assert f"by a factor {off:.2f}; they go up to 8 workers" in words and off > 1.2
    alone = [row for row in rows if row["calibrated_on"]]
    assert "not tested" in bench.project.trust(alone)[0]


def test_the_link_between_ranks_is_found_again(bench):
    found = bench.project.link_of(trained(bench))
    assert found.latency_s == pytest.approx(2e-4) and found.s_per_byte == pytest.approx(3e-9)
    assert bench.project.link_of([p for p in trained(bench) if p.workers == 1]) is None


def test_an_exchange_that_was_measured_between_hosts_is_not_taken_for_one_within_them(bench):
    within = trained(bench)
    across = [replace(p, details={**p.details, "hosts": ["a", "b"]}) for p in within]
    slow = bench.assumed.Assumed.given(["network_gbit=0.1"])  # slower than what was measured
    seconds = {}
    for name, points in (("within", within), ("across", across)):
        told = bench.project.project(points, slow, counts=(10,), simulations=1)
        seconds[name] = told["rows"][-1]["seconds"]
        assert ("between hosts" in " ".join(told["assumptions"])) == (name == "across")
    assert seconds["across"] < 0.5 * seconds["within"]


def test_a_projection_is_labelled_as_one_with_all_it_assumes(bench):
    assumed = bench.assumed.Assumed.given(["queue_s=0", "campaign=400"])
    told = bench.project.project(measured(bench) + trained(bench), assumed, counts=(10, 100), simulations=1)
    assert told["projection"] is True and len(told["rows"]) == 8
    assert all(row["projection"] is True for row in told["rows"])
    assert {row["work"] for row in told["rows"] if (row["step"], row["mode"]) == ("align", "strong")} == {400}
    listed = " ".join(told["assumptions"])
    assert all(f"{name} = " in listed for name in asdict(assumed)) and "queue_s = 0 (assumed" in listed
    assert all(0 < row["efficiency"] < 1.1 for row in told["rows"])


def test_a_projected_speed_up_is_over_what_one_worker_takes_in_the_mean(bench):
    """Of few tasks that differ much one run may take half as long again as the next."""
    seconds = {seed: 10.0 + 5.0 * (seed % 2) for seed in range(bench.project.SIMULATIONS)}
    rate = bench.project._rate_alone(lambda _, seed: (bench.model.Outcome(seconds[seed], 0), 20.0))
    assert rate == pytest.approx(20.0 / np.mean(list(seconds.values())))


def test_what_one_amount_of_work_leaves_open_is_among_the_assumptions(bench):
    both = measured(bench) + trained(bench)
    for points, count in ((both, 0), ([p for p in both if p.mode == "strong"], 2)):
        told = bench.project.project(points, bench.assumed.Assumed(), counts=(10,), simulations=1)
        assert sum("was measured, so" in line for line in told["assumptions"]) == count


def test_without_a_measured_exchange_there_is_no_model_of_many_ranks(bench):
    alone = [p for p in trained(bench) if p.workers == 1]
    told = bench.project.project(alone, bench.assumed.Assumed(), counts=(10,), simulations=1)
    assert told["rows"] == [] and "exchange between ranks was not measured" in told["left_out"][0]


@pytest.mark.parametrize(
    ("setting", "said"),
    [("queues=3", "did you mean 'queue_s'"), ("queue_s=long", "no number"), ("campaign=0", "above 0"),
     ("campaign=nan", "above 0"), ("queue_s=inf", "has an end"),
     ("ranks_per_node=0.5", "whole number"), ("straggler_share=2", "from 0 to 1")],
)  # fmt: skip
def test_a_wrong_assumption_is_refused(bench, setting, said):
    with pytest.raises(InputError, match=said):
        bench.assumed.Assumed.given([setting])


# ---- what is seen of tasks ----


def test_tasks_are_noted_and_their_errors_are_the_callers(bench):
    gate = threading.Event()
    with ThreadPoolExecutor(3) as pool:
        watch = bench.watch.Stopwatch(pool)
        first = [watch.submit(gate.wait, 60) for _ in range(3)]
        gate.set()
        assert all(future.result() for future in first)
        assert watch.submit(len, "four").result() == 4
        with pytest.raises(ZeroDivisionError):
            watch.submit(divmod, 1, 0).result()
    assert sorted(task.function for task in watch.tasks) == ["len", "wait", "wait", "wait"]


def test_a_stage_ends_where_all_is_back_and_another_kind_of_task_is_sent(bench):
    spans = [
        ("read", 0, 2),
        ("read", 1, 3),
        ("read", 4, 5),
        ("cut", 4.5, 7),
        ("cut", 8, 9),
        ("write", 10, 11),
    ]
    tasks = tuple(bench.watch.Task(name, sent, back, 1.0, 1.0) for name, sent, back in spans)
    seen = bench.watch.Seen(12.0, tasks[::-1])  # the slow driver at 3 and at 7 has waited for nothing
    assert [[task.function for task in stage] for stage in seen.stages()] == [
        ["read", "read", "read", "cut", "cut"],
        ["write"],
    ]


def test_the_time_of_workers_is_split_without_rest(bench):
    task = bench.watch.Task
    tasks = (task("f", 1.0, 4.0, 2.5, 2.0), task("f", 1.0, 5.0, 3.5, 3.0), task("f", 8.0, 9.0, 1.0, 0.5))
    seen = bench.watch.Seen(10.0, tasks)
    split = seen.split(2, 0.1)
    assert split == pytest.approx(
        {"compute": 5.5 / 20, "data_wait": 1.5 / 20, "communication": 0.03, "idle": 1 - 7 / 20 - 0.03}
    )
    assert sum(split.values()) == pytest.approx(1) and seen.serial_s == pytest.approx(5)


def test_the_shares_of_repeats_that_differ_add_up(bench):
    watch, nothing = (
        bench.watch,
        {"folder": Path(), "items": (), "grid": None, "cubes": {}, "scene_bytes": 0.0},
    )
    crew = watch.Team(None, 2, 2, ("a",), start_s=1.0, scheduler_s=0.01)
    runs = [
        watch.Seen(10.0, (watch.Task("f", 0.0, back, seconds, cpu_s),))
        for back, seconds, cpu_s in ((10.0, 9.0, 9.0), (5.0, 4.0, 1.0), (8.0, 6.0, 0.5))
    ]
    found = bench.measure._point(plan(bench), "align", "strong", crew, runs, bench.work.Material(**nothing))
    assert sum(found.split.values()) == pytest.approx(1) and found.split["compute"] == pytest.approx(
        10.5 / 60
    )


# ---- how much there is to do ----


def plan(bench, **other):
    """Steps with two pieces for each worker, on up to four workers."""
    given = {
        "steps": ("align", "train"),
        "modes": ("strong", "weak"),
        "counts": (1, 2, 4),
        "repeats": None,
        "minutes": 5.0,
        "cluster": "local",
        "backend": "ddp",
        "launcher": "torchrun",
        "jobs": None,
        "scratch": None,
        "size_px": 512,
        "delay_s": 0.0,
        "batch": 8,
        "patch_px": 50,
        "pieces": {"align": 2, "train": 3},
    }
    return bench.plan.Plan(**{**given, **other})


@pytest.fixture
def pace(bench):
    return bench.pace.Pace({"align": 0.5, "train": 0.1}, cores=2, team_s=4.0, ranks_s=6.0, scene_s=0.1)


def test_work_grows_with_workers_or_is_that_of_the_most(bench):
    found = plan(bench)
    assert [found.work("align", "weak", n) for n in (1, 2, 4)] == [2, 4, 8] == found.works("align")
    assert {found.work("align", "strong", n) for n in (1, 2, 4)} == {8}
    assert found.training("weak", 2).batch == 16 and found.training("strong", 2).batch == 32
    assert found.work("train", "strong", 1) == 3 * 32


def test_a_turn_takes_as_long_as_its_pieces_with_the_cores_shared(bench, pace):
    # strong: four workers' pieces by 1, 2 and 2 cores; weak: 1, 1 and twice as long by two on a core
    assert pace.turn_s(plan(bench), "align") == pytest.approx(0.5 * (4 + 2 + 2 + 1 + 1 + 2))
    # several ranks train twice, together and alone
    assert pace.turn_s(plan(bench), "train") == pytest.approx(0.1 * (4 + 4 + 4 + 1 + 2 + 4))


@pytest.mark.parametrize("minutes", [4.0, 5.0, 30.0])
def test_sizes_and_repeats_fill_the_time_there_is(bench, pace, minutes):
    settled = bench.pace.settled(plan(bench, pieces={}, minutes=minutes), pace, spent_s=30.0)
    assert settled.settled and set(settled.pieces.values()) <= set(bench.pace.SIZES)
    assert 30 + bench.pace.estimate_s(settled, pace) == pytest.approx(60 * minutes, rel=0.1)
    for step in settled.steps:
        turns = 6 * settled.point_s / (settled.pieces[step] * pace.turn_s(settled, step))
        assert 2 + 5 <= turns < 2 * (2 + 5)  # sizes at most double from one to the next


def test_what_is_asked_for_is_kept_and_what_cannot_be_shorter_is_said_to_take_longer(bench, pace):
    asked = plan(bench, pieces={"align": 5}, repeats=4)
    settled = bench.pace.settled(asked, pace, spent_s=30.0)
    assert settled.pieces["align"] == 5 and settled.pieces["train"] >= 1
    short = bench.pace.settled(plan(bench, pieces={}, minutes=0.1), pace, spent_s=30.0)
    assert short.pieces == {"align": 1, "train": 2} and short.point_s == 0
    least = sum(5 * short.pieces[step] * pace.turn_s(short, step) for step in short.steps)
    assert least < bench.pace.estimate_s(short, pace) < least + 60


# ---- a run that is ended ----


def environment():
    return {"versions": {"glacierhpc": "1"}, "commit": "abc", "container_digest": None}


def test_a_run_that_was_ended_leaves_a_result_that_says_what_is_missing_and_is_gone_on_with(
    bench, tmp_path, capsys
):
    settled = plan(bench, steps=("align",), counts=COUNTS, pieces={"align": 3}, point_s=4.0)
    about = bench.result.About(environment(), 0.1, bench.assumed.Assumed())
    known = [p for p in measured(bench) if p.mode == "strong"]
    told = bench.result.result_of(settled, known, about).to_dict()
    assert told["details"]["missing"] == [f"align, weak, {n} workers" for n in COUNTS]
    assert "align, weak, 1 workers; align, weak, 2" in told["details"]["words"][0]
    assert (
        told["details"]["projection"]["rows"] == []
        and "4 points" in told["details"]["projection"]["left_out"][0]
    )
    (tmp_path / "x.json").write_text(json.dumps(told))
    again, points = bench.main._gone_on(replace(settled, pieces={}, point_s=None), tmp_path / "x.json", about)
    assert again == settled and "4 of 8 points" in capsys.readouterr().err
    written, read = (json.dumps([asdict(p) for p in those]) for those in (known, points))
    assert json.loads(written) == json.loads(read)
    assert bench.measure.missing(again, points) == [("align", "weak", n) for n in COUNTS]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"commit": "new"}, "commit 'new', before 'abc'"),
        ({"versions": {"glacierhpc": "2"}}, "version of glacierhpc '2'"),
        ({"container_digest": "sha256:feed"}, "image 'sha256:feed'"),
    ],
)
def test_an_ended_run_of_another_environment_is_measured_anew(bench, tmp_path, capsys, change, said):
    settled = plan(bench, steps=("align",), counts=COUNTS, pieces={"align": 3}, point_s=4.0)
    about = bench.result.About(environment(), 0.1, bench.assumed.Assumed())
    told = bench.result.result_of(settled, measured(bench)[:4], about).to_dict()
    (tmp_path / "x.json").write_text(json.dumps(told))
    other = replace(about, environment={**environment(), **change})
    for asked, now, words in ((settled, other, said), (replace(settled, size_px=64), about, "of 64 px")):
        assert bench.main._gone_on(asked, tmp_path / "x.json", now) == (asked, [])
        assert words in capsys.readouterr().err


def test_a_run_that_is_whole_is_measured_anew(bench, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(result(bench)))
    about = bench.result.About(environment(), 0.1, bench.assumed.Assumed())
    for name in ("x.json", "none.json"):
        assert bench.main._gone_on(plan(bench), tmp_path / name, about) == (plan(bench), [])


# ---- a whole result ----


def result(bench, *, cores=8, factor=1.0, repeats=7, seed=0, busy=0.1):
    points = [
        replace(p, seconds=tuple(noisy(factor * np.median(p.seconds), seed=seed + k, repeats=repeats)),
                oversubscribed=p.workers > cores)
        for k, p in enumerate(measured(bench) + trained(bench))
    ]  # fmt: skip
    result = bench.result
    fits = bench.laws.fit_all(points)
    details = {
        "cluster": "local",
        "backend": "ddp",
        "launcher": "torchrun",
        "cores": cores,
        "hosts": ["a"],
        "load_average": {"before": busy, "after": 1.0, "cores": cores},
        "words": result.words_on(points, cores, busy / cores),
        "intervals": bench.points.METHOD,
        "environment": {"versions": {"glacierhpc": "1"}, "commit": "abc", "container_digest": "sha256:feed"},
        "pieces": {"align": 6, "train": 10},
        "point_s": None,
        "missing": [],
        "points": [result._told(p, bench.points.base_of(points, p)) for p in points],
        "fits": [result._fit(fit) for fit in fits if isinstance(fit, bench.laws.Fit)],
        "not_fitted": [asdict(fit) for fit in fits if isinstance(fit, bench.laws.NoFit)],
        "validation": bench.project.validate(points, cores=cores),
        "projection": bench.project.project(points, bench.assumed.Assumed(), counts=(10, 100), simulations=1),
        "comparison": None,
    }
    harness = importlib.import_module("harness")
    checked = bench.schema.Details.model_validate(details).model_dump()
    told = harness.Result("scaling", "synthetic", result.rows_of(points), checked).to_dict()
    return json.loads(json.dumps(told))


def test_the_words_are_made_of_what_the_machine_has(bench):
    few = result(bench, cores=2, busy=3.0)["details"]["words"]
    assert "measures overhead" in few[0] and "up to 2 workers" in few[0]
    assert "With 4, 8 workers there are more than cores" in few[1] and "busy" in few[2]
    many = result(bench, cores=8)["details"]["words"]
    assert len(many) == 1 and "overhead" not in many[0]


def test_the_readme_shows_the_most_workers_within_the_cores(bench):
    rows = result(bench, cores=2)["rows"]
    assert {row["what"].split(", ")[2] for row in rows if row["in_readme"]} == {"2 workers"}
    assert any(row["what"].endswith("8 workers, more workers than cores") for row in rows)


def test_the_schema_refuses_what_it_does_not_know(bench):
    details = result(bench)["details"]
    bench.schema.Details.model_validate(details)
    for wrong in (
        {**details, "more": 1},
        {**details, "words": []},
        {**details, "projection": {**details["projection"], "projection": False}},
        {**details, "projection": {**details["projection"], "assumptions": []}},
        {**details, "points": [{**details["points"][0], "start_s": math.nan}]},
    ):
        with pytest.raises(ValidationError):
            bench.schema.Details.model_validate(wrong)


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1.3, "slower beyond doubt"), (1.0, "not told apart"), (0.75, "faster beyond doubt")],
)
def test_two_runs_are_compared_beyond_doubt(bench, factor, verdict):
    told = bench.compare.compare(result(bench, factor=factor, seed=50), result(bench))
    assert len(told["rows"]) == 16 and not told["differences"]
    assert {row["verdict"] for row in told["rows"]} == {verdict}
    assert all(row["low"] <= factor <= row["high"] for row in told["rows"])


def test_few_repeats_decide_nothing_and_another_machine_is_named(bench):
    old = result(bench)
    told = bench.compare.compare(result(bench, factor=2.0, repeats=3), old)
    assert {row["verdict"] for row in told["rows"]} == {"not told apart"}
    assert "6 or more in both" in told["rows"][0]["reason"]
    old["machine"]["processor"] = "Another"
    told = bench.compare.compare(result(bench), old)
    assert "not of the code alone" in told["words"] and "Another" in told["words"]
    busy = bench.compare.compare(result(bench, busy=8.0), result(bench))
    assert busy["differences"] == ["load average 1.0 per core, before 0.0"]


def test_a_file_that_is_no_result_is_refused(bench, tmp_path):
    other = {
        "benchmark": "scaling",
        "details": {"points": [{"seconds": [1.0]}]},
        "machine": {},
        "conditions": "",
    }
    nothing = result(bench)
    nothing["details"]["points"][0]["seconds"] = [0.0]
    known = (json.dumps(other), json.dumps(nothing))
    for text in ("{}", "no json", '{"benchmark": "train", "details": {}}', *known):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(InputError, match="is no result of this benchmark"):
            bench.compare.read_details(tmp_path / "x.json")
    with pytest.raises(InputError, match="FileNotFoundError"):
        bench.compare.read_details(tmp_path / "none.json")


def test_a_law_is_drawn_no_further_than_it_was_fitted(bench):
    told = result(bench, cores=4)["details"]
    axis = Figure().subplots()
    own = [p for p in told["points"] if (p["step"], p["mode"]) == ("align", "strong")]
    fits = [f for f in told["fits"] if (f["step"], f["mode"]) == ("align", "strong")]
    bench.plots._laws(axis, fits, own)
    assert len(axis.lines) == 2 and all(max(line.get_xdata()) == pytest.approx(4) for line in axis.lines)
    bench.plots._points(axis, own, "#000000")
    labels = axis.get_legend_handles_labels()[1]
    assert "more workers than cores" in labels and "measured, with its interval" in labels


def test_the_page_holds_everything_and_loads_nothing(bench, tmp_path):
    run = result(bench, cores=2, busy=3.0)
    run["details"]["comparison"] = bench.compare.compare(run, result(bench, factor=1.2, seed=70))
    paths = {path.name for path in bench.page.write_all(run, tmp_path)}
    figures = {f"scaling_{name}.svg" for name in ("scaling", "split", "model", "projection", "comparison")}
    assert paths == figures | {"scaling.html", "scaling.csv", "scaling_projection.csv"}
    for name in figures:
        assert ElementTree.parse(tmp_path / name).getroot().tag.endswith("svg")
    html = (tmp_path / "scaling.html").read_text()
    said = [
        "measures overhead",
        "PROJECTION",
        "campaign = 5000 (assumed",
        "sha256:feed",
        "faster beyond doubt",
        "Amdahl",
        "share of the work that only one worker does",
        "they go up to 2 workers",
    ]
    assert all(words in html for words in [*said, "&#34;projection&#34;: true", ">4 *</td>"])
    assert html.count("data:image/svg+xml") == len(figures)
    assert 'src="http' not in html and "<script" not in html and 'href="http' not in html
    rows = list(csv.DictReader((tmp_path / "scaling.csv").read_text().splitlines()))
    assert len(rows) == len(run["details"]["points"]) and {row["projection"] for row in rows} == {"False"}
    projected = list(csv.DictReader((tmp_path / "scaling_projection.csv").read_text().splitlines()))
    assert len(projected) == len(run["details"]["projection"]["rows"])
    assert {row["projection"] for row in projected} == {"True"}
