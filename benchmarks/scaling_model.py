"""A discrete-event model of steps spread over workers, and of training spread over ranks; what it says is a projection.

Its figures come from elsewhere (`scaling_project` takes them from a run); with a seed it gives the same every time.
What it leaves out is in `FARM_ASSUMPTIONS` and `RANKS_ASSUMPTIONS`, which go wherever its results go.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from glacierhpc.errors import GlacierError, InputError

FARM_ASSUMPTIONS = (
    "tasks take as long as those measured, drawn anew from them with replacement: no task is slower than the slowest "
    "that was measured, but for the stragglers named",
    "a stage has as many tasks per piece of work as measured, and one at least",
    "a stage begins when the one before has ended; within a stage every worker takes the next task in line",
    "one scheduler hands out one task after the other, and a worker waits for it between two tasks",
    "the part of the driver that no worker shares takes as long as measured, per piece of work where that was "
    "measured, and comes before the first task",
    "a connection to the archive has its equal share of the endpoint's bandwidth, also while others rest, and waits "
    "for its turn when all connections are taken; the shared file system never slows down",
    "the clock begins when the workers' jobs do: what these waited in the queue is left out",
    "a lost worker comes back after a wait in the queue and a start; its task is done again, finished ones are kept",
)
RANKS_ASSUMPTIONS = (
    "the compute time of a step is a constant and a share of the batch, as measured; each rank draws its deviation "
    "from those measured, and all wait for the slowest",
    "gradients cross after the backward pass, hidden behind nothing",
    "an exchange costs a latency per message and a time per byte; first within each node, then between them",
    "one lost rank ends the attempt; it goes on from the last checkpoint after a wait in the queue and a start",
)
MOST_LOSSES = 1000
"""Attempts at one piece of work after which the model says that it does not end."""
MOST_TASKS = 5_000_000
"""Of a step: more take minutes and gigabytes."""


@dataclass(frozen=True)
class Stage:
    """Tasks that may run side by side."""

    tasks: int
    compute_s: tuple[float, ...]
    """Processor time of measured tasks."""
    wait_s: tuple[float, ...]
    """What each of them waited for files and the network."""
    bytes: float = 0.0
    """Mean size of what a task reads from the archive."""

    def __post_init__(self) -> None:
        if not self.compute_s or len(self.compute_s) != len(self.wait_s):
            raise InputError(
                f"a stage has {len(self.compute_s)} compute times and {len(self.wait_s)} waits: give both of each task"
            )


@dataclass(frozen=True)
class Endpoint:
    """The archive, or what else all tasks read from."""

    connections: float = math.inf
    """At the same time."""
    bytes_per_s: float = math.inf
    """Of all connections together."""


@dataclass(frozen=True)
class Workers:
    """How workers come, work and go."""

    scheduler_s: float = 0.0
    """To hand out one task."""
    start_s: tuple[float, ...] = (0.0,)
    """Times that workers took to come up, after their jobs began."""
    queue_s: float = 0.0
    """Mean wait of the job of a worker that replaces a lost one, exponential."""
    straggler_share: float = 0.0
    """Of the tasks."""
    straggler_factor: float = 1.0
    losses_per_hour: float = 0.0
    """Of one worker."""
    walltime_s: float = math.inf
    """After which a worker ends, whatever it does; up to a tenth earlier, so that not all end at once."""
    cores: float = math.inf
    """Of all workers together: where there are more workers, computing takes longer."""


@dataclass(frozen=True)
class Farm:
    """A step as the model sees it."""

    stages: tuple[Stage, ...]
    serial_s: float
    """What the driver does alone."""
    workers: Workers = field(default_factory=Workers)
    endpoint: Endpoint = field(default_factory=Endpoint)


@dataclass(frozen=True)
class Outcome:
    """What a simulated run gave."""

    seconds: float
    lost: int
    """Tasks, or attempts, done in vain."""


def simulate_farm(farm: Farm, workers: int, *, seed: int = 0) -> Outcome:
    """Return how long a step takes with a number of workers.

    Raises
    ------
    InputError
        If there is no worker, or more tasks than `MOST_TASKS`.
    GlacierError
        If workers are lost faster than tasks end.
    """
    if workers < 1:
        raise InputError(f"a step cannot run on {workers!r} workers: give 1 or more")
    if (tasks := sum(stage.tasks for stage in farm.stages)) > MOST_TASKS:
        raise InputError(
            f"{tasks:,} tasks are more than the {MOST_TASKS:,} that the model goes through: give less work"
        )
    run = _FarmRun(farm, workers, np.random.default_rng(seed))
    clock = farm.serial_s
    for stage in farm.stages:
        clock = run.stage(stage, clock)
    return Outcome(clock, run.lost)


_Work = tuple[float, float, float, int]
"""A task in line: when it may begin, its computing, its waiting, and how often it was begun."""


class _FarmRun:
    """The state of one simulated step: when each worker is free and dies, when the scheduler is free."""

    def __init__(self, farm: Farm, workers: int, rng: np.random.Generator) -> None:
        self.farm, self.rng = farm, rng
        self.stretch = max(1.0, workers / farm.workers.cores)
        self.connections = int(min(workers, farm.endpoint.connections))
        self.open: list[float] = [0.0] * self.connections  # when each connection is free
        up = [self._start() for _ in range(workers)]
        self.deaths = [at + self._life() for at in up]
        self.free = list(zip(up, range(workers)))
        heapq.heapify(self.free)
        self.dispatched, self.lost = 0.0, 0

    def _start(self) -> float:
        starts = self.farm.workers.start_s
        return float(starts[self.rng.integers(len(starts))])

    def _life(self) -> float:
        kind = self.farm.workers
        loss = self.rng.exponential(3600 / kind.losses_per_hour) if kind.losses_per_hour else math.inf
        return min(loss, kind.walltime_s * (1 - 0.1 * self.rng.random()))

    def _tasks(self, stage: Stage) -> deque[_Work]:
        """Return the tasks of a stage, in line."""
        chosen = self.rng.integers(len(stage.compute_s), size=stage.tasks)
        slow = self.rng.random(stage.tasks) < self.farm.workers.straggler_share
        factor = np.where(slow, self.farm.workers.straggler_factor, 1.0)
        compute = np.asarray(stage.compute_s)[chosen] * factor * self.stretch
        wait = np.asarray(stage.wait_s)[chosen] * factor
        if stage.bytes:
            wait = np.maximum(wait, stage.bytes * self.connections / self.farm.endpoint.bytes_per_s)
        return deque(zip([0.0] * stage.tasks, compute.tolist(), wait.tolist(), [0] * stage.tasks))

    def stage(self, stage: Stage, begin: float) -> float:
        """Run the tasks of a stage that begins at `begin`; return when the last one ends."""
        tasks, last = self._tasks(stage), begin
        again: list[
            _Work
        ] = []  # lost ones, the first that may begin ahead: else the line would wait for a later one
        while tasks or again:
            free, worker = heapq.heappop(self.free)
            now = max(free, begin, 0.0 if tasks else again[0][0])
            if self.deaths[worker] <= now:
                self._come_back(worker)
                continue
            _, compute, wait, attempts = tasks.popleft() if tasks else heapq.heappop(again)
            self.dispatched = max(self.dispatched, now) + self.farm.workers.scheduler_s
            end = self._read(self.dispatched, wait) + compute
            if end <= self.deaths[worker]:
                heapq.heappush(self.free, (end, worker))
                last = max(last, end)
                continue
            if attempts >= MOST_LOSSES:
                raise GlacierError(
                    f"a task of {compute + wait:.3g} s was lost {attempts} times: workers do not live long enough for "
                    "it; give a longer walltime or fewer losses per hour"
                )
            self.lost += 1
            heapq.heappush(again, (self.deaths[worker], compute, wait, attempts + 1))
            self._come_back(worker)
        return last

    def _come_back(self, worker: int) -> None:
        queued = self.rng.exponential(self.farm.workers.queue_s) if self.farm.workers.queue_s else 0.0
        up = self.deaths[worker] + queued + self._start()
        self.deaths[worker] = up + self._life()
        heapq.heappush(self.free, (up, worker))

    def _read(self, asked: float, wait: float) -> float:
        """Return when something has been read, by the first connection that is free."""
        if not wait:
            return asked
        end = max(heapq.heappop(self.open), asked) + wait
        heapq.heappush(self.open, end)
        return end


@dataclass(frozen=True)
class Link:
    """A network between ranks: an exchange of `n` bytes in one message takes ``latency_s + n * s_per_byte``."""

    latency_s: float
    s_per_byte: float


def ring(ranks: int, size: float, link: Link) -> float:
    """Return the time of an allreduce around a ring, seconds.

    References
    ----------
    Thakur, Rabenseifner & Gropp (2005), section 4.4, doi:10.1177/1094342005051521
    """
    return 2 * (ranks - 1) * (link.latency_s + size / ranks * link.s_per_byte)


def hierarchical(ranks: int, size: float, *, per_node: int, inside: Link, between: Link) -> float:
    """Return the time of an allreduce within each node, then around a ring of nodes, seconds."""
    local, nodes = min(ranks, per_node), math.ceil(ranks / per_node)
    return ring(local, size, inside) + ring(nodes, size, between)


@dataclass(frozen=True)
class Ranks:
    """A training as the model sees it."""

    fixed_s: float
    """Compute time of a step that no smaller share of the batch saves."""
    sample_s: float
    """Compute time per sample of a rank's share."""
    deviations: tuple[float, ...]
    """Measured compute times over their median."""
    input_share: float
    """Wait for data, over the compute time of a step."""
    exchange_s: Callable[[int], float]
    """Time of the exchanges of a step between a number of ranks."""
    cores: float = math.inf
    checkpoint_s: float = 0.0
    checkpoint_every: int = 0
    """Steps; 0 is never."""
    losses_per_hour: float = 0.0
    """Of one rank."""
    walltime_s: float = math.inf
    restart_s: float = 0.0
    """Queue, start, and reading the checkpoint."""


def simulate_ranks(model: Ranks, ranks: int, *, steps: int, batch: float, seed: int = 0) -> Outcome:
    """Return how long some steps take.

    Parameters
    ----------
    batch : float
        Samples of all ranks together in one step.

    Raises
    ------
    InputError
        If a rank would have less than one sample.
    GlacierError
        If ranks are lost faster than checkpoints are written.
    """
    if ranks < 1 or batch < ranks:
        raise InputError(f"{ranks} ranks cannot share a batch of {batch:g}: give at least one sample to each")
    rng = np.random.default_rng(seed)
    compute = (model.fixed_s + model.sample_s * batch / ranks) * max(1.0, ranks / model.cores)
    # the largest of many draws from one distribution is its quantile at U^(1/ranks)
    slowest = np.quantile(model.deviations, rng.random(steps) ** (1 / ranks), method="inverted_cdf")
    waited = model.input_share * compute + model.exchange_s(ranks)
    seconds = compute * slowest + waited
    every = model.checkpoint_every or steps
    blocks = [float(seconds[k : k + every].sum()) for k in range(0, steps, every)]
    if model.checkpoint_every:
        blocks = [block + model.checkpoint_s for block in blocks]
    total, lost = _with_losses(blocks, model, ranks, rng)
    return Outcome(total, lost)


def _with_losses(
    blocks: list[float], model: Ranks, ranks: int, rng: np.random.Generator
) -> tuple[float, int]:
    """Return when the last of some blocks of steps is done, each repeated from its start where a rank is lost."""
    rate, clock, job_began, lost = ranks * model.losses_per_hour / 3600, 0.0, 0.0, 0
    for block in blocks:
        for attempt in range(MOST_LOSSES + 1):
            loss = rng.exponential(1 / rate) if rate else math.inf
            limit = min(loss, model.walltime_s - (clock - job_began))
            if block <= limit:
                clock += block
                break
            if attempt == MOST_LOSSES:
                raise GlacierError(
                    f"{block:.3g} s between two checkpoints were begun {attempt} times and never ended: write "
                    "checkpoints more often, or give a longer walltime"
                )
            clock += max(limit, 0.0) + model.restart_s
            job_began, lost = clock, lost + 1
    return clock, lost
