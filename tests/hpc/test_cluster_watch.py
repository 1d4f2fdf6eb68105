"""Workers that vanish are replaced, with patience and not for ever.

The cluster is a stand-in, so that workers can vanish in every way at once; on a real Slurm: tests/cluster/test_dask.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from distributed.core import Status

from glacierhpc.hpc.cluster import WorkerJobs
from glacierhpc.hpc.cluster import watch as watching
from glacierhpc.hpc.cluster.watch import Watch
from glacierhpc.hpc.slurm.states import UNKNOWN, JobState

WAITS, RUNS = JobState("waiting", "PENDING", reason="Priority"), JobState("running", "RUNNING")
ENDED, FAILED = JobState("done", "COMPLETED", 0), JobState("failed", "FAILED", 1)


class Job:
    def __init__(self, name: str, number: int) -> None:
        self.name, self.job_id, self.status = name, str(number), Status.running
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class Cluster:
    """As much of Dask's as the watch looks at; what the scheduler sees is set by the test."""

    def __init__(self) -> None:
        self.workers: dict[str, Job] = {}
        self.worker_spec: dict[str, Any] = {}
        self.new_spec = {"cls": Job}
        self.scheduler = SimpleNamespace(workers={})
        self.scheduler_address = "tls://here"
        self.submitted: list[Job] = []
        self.refuse = False

    async def _correct_state(self) -> None:
        for name in self.worker_spec.keys() - self.workers.keys():
            job = Job(name, len(self.submitted) + 1)
            self.workers[name] = job
            if self.refuse:
                job.job_id = None  # type: ignore[assignment]
            else:
                self.submitted.append(job)
        if self.refuse:
            raise RuntimeError("no such partition")

    def show(self, *names: str) -> None:
        self.scheduler.workers = {name: SimpleNamespace(name=name) for name in names}


class Bench:
    """A watch over a stand-in, and a clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wanted: int = 2, **jobs: Any) -> None:
        self.cluster, self.states, self.gave_up, self.touched, self.now = Cluster(), {}, 0, 0, 1000.0  # type: ignore[var-annotated]
        monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.watch = Watch(
            self.cluster, wanted, WorkerJobs(**jobs), ask=self._ask,
            last_words=lambda job: f"words of {job.job_id}", touch=self._touch, give_up=self._give_up,
        )  # fmt: skip

    def _ask(self, jobs: Any) -> dict[str, JobState]:
        return {job.name: self.states.get(job.name, RUNS) for job in jobs}

    def _touch(self) -> None:
        self.touched += 1

    def _give_up(self) -> None:
        self.gave_up += 1

    def look(self, seconds: float = 10.0) -> list[str]:
        """Let time pass and look; returns the workers there are."""
        self.now += seconds
        asyncio.run(self.watch._look())
        return list(self.cluster.workers)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bench]:
    return lambda *given, **named: Bench(monkeypatch, *given, **named)


def test_a_worker_that_has_been_here_is_replaced_at_once_under_a_new_name(
    bench: Callable[..., Bench],
) -> None:
    case = bench()
    first, second = case.look()
    case.cluster.show(first, second)
    case.look()
    case.cluster.show(second)
    case.states[first] = ENDED
    names = case.look()
    assert len(names) == 2 and second in names and first not in names
    assert case.cluster.submitted[0].closed and case.watch.replaced == 1


def test_a_job_that_waits_is_waited_for(bench: Callable[..., Bench]) -> None:
    case = bench(1)
    (name,) = case.look()
    case.states[name] = WAITS
    assert case.look() == case.look(10 * 86400) == [name]
    case.states[name] = RUNS
    assert case.look(60) == [name]
    assert case.look(3600) != [name]  # it runs and does not come


@pytest.mark.parametrize("been_here", [False, True])
def test_of_a_job_of_which_nobody_knows_nothing_is_concluded_in_a_hurry(
    been_here: bool, bench: Callable[..., Bench]
) -> None:
    case = bench(1)
    (name,) = case.look()
    if been_here:
        case.cluster.show(name)
        case.look()
        case.cluster.show()
    case.states[name] = UNKNOWN
    assert case.look(500) == [name]
    case.look(3600)
    assert (case.look(3600) == [name]) is not been_here


def test_bad_starts_are_tried_again_later_and_later_and_then_given_up(bench: Callable[..., Bench]) -> None:
    case = bench(1, bad_starts=4, first_wait_s=10.0)
    waited = []
    for _ in range(3):
        (name,) = case.look()
        case.states[name] = FAILED
        before = case.now
        while not case.look(1.0) or name in case.cluster.workers:
            pass
        waited.append(case.now - before)
    assert waited == [11.0, 21.0, 41.0]
    case.states[next(iter(case.cluster.workers))] = FAILED
    case.look()
    assert case.gave_up == 1 and len(case.cluster.submitted) == 4
    assert "4 jobs in a row" in str(case.watch.fault) and "1 (failed, exit code 1)" in str(case.watch.fault)
    assert "words of 4" in str(case.watch.fault)


def test_a_worker_that_stays_makes_up_for_bad_starts(bench: Callable[..., Bench]) -> None:
    case = bench(2, bad_starts=2, first_wait_s=0.1)
    good, bad = case.look()
    case.states[bad] = FAILED
    case.cluster.show(good)
    case.look()
    case.look(2 * watching.SETTLED_S)
    case.cluster.show()
    for fault in (False, True):
        case.look()
        case.states[next(name for name in case.cluster.workers if name != good)] = FAILED
        case.look()
        assert (case.watch.fault is not None) is fault


def test_while_one_worker_is_there_others_are_tried_for_ever_and_seldom(bench: Callable[..., Bench]) -> None:
    case = bench(2, bad_starts=2, first_wait_s=1.0)
    good, _ = case.look()
    case.cluster.show(good)
    for _ in range(200):
        case.states |= dict.fromkeys(case.cluster.workers.keys() - {good}, FAILED)
        case.look()
    assert case.watch.fault is None
    assert 10 < len(case.cluster.submitted) < 20


@pytest.mark.parametrize("stays_s", [1.0, 3600.0])
def test_workers_that_fail_as_soon_as_they_come_were_started_badly(
    stays_s: float, bench: Callable[..., Bench]
) -> None:
    case = bench(1, bad_starts=3, first_wait_s=1.0)
    for _ in range(3):
        (name,) = case.look()
        case.cluster.show(name)
        case.look(1.0)
        case.look(stays_s)
        case.cluster.show()
        case.states[name] = FAILED
        case.look(1.0)
    assert (case.watch.fault is not None) is (stays_s == 1.0)


def test_a_job_that_is_being_submitted_at_the_end_is_known_to_whoever_ends_it(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, at_once = bench(1), Cluster._correct_state

    async def slowly(cluster: Cluster) -> None:
        await asyncio.sleep(0.2)
        await at_once(cluster)

    monkeypatch.setattr(Cluster, "_correct_state", slowly)

    async def run() -> None:
        await case.watch.start()
        await asyncio.sleep(0.05)
        await case.watch.stop()

    asyncio.run(run())
    assert len(case.cluster.submitted) == len(case.cluster.workers) == 1


def test_a_job_that_is_preempted_is_no_bad_start(bench: Callable[..., Bench]) -> None:
    case = bench(1, bad_starts=1, first_wait_s=5.0)
    (name,) = case.look()
    case.states[name] = JobState("stopped", "PREEMPTED")
    case.look(1.0)
    (again,) = case.look(6.0)
    assert again != name and case.watch.fault is None


def test_a_refused_job_counts_as_a_bad_start(bench: Callable[..., Bench]) -> None:
    case = bench(1, bad_starts=1)
    case.cluster.refuse = True
    assert case.look() == [] and case.cluster.worker_spec == {}
    case.look()
    assert "no such partition" in str(case.watch.fault) and case.gave_up == 1


def test_a_living_run_shows_that_it_lives(bench: Callable[..., Bench]) -> None:
    case = bench()
    for _ in range(100):
        case.look()
    assert case.touched == 3
