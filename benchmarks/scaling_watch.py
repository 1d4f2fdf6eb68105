"""Workers under observation: a team of them, what each task took where it ran, and what handing out tasks costs.

What the tasks do is in `scaling_work`; what the figures mean is told elsewhere.
"""

from __future__ import annotations

import operator
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cloudpickle

from glacierhpc.errors import GlacierError
from glacierhpc.hpc.cluster import WorkerJobs, make_cluster

COME_UP_S = 900.0
"""How long workers may take to come up: jobs wait in a queue."""


@dataclass(frozen=True)
class Task:
    """One task as the driver and the worker saw it; seconds of the driver's clock and durations of the worker's."""

    function: str
    sent: float
    back: float
    seconds: float
    """On the worker, from beginning to end."""
    cpu_s: float
    """Processor time of the worker meanwhile, no more than `seconds`."""


@dataclass(frozen=True)
class Team:
    """Some workers that are up."""

    executor: Executor
    workers: int
    cores: int
    """Cores of all machines that the workers may use together."""
    hosts: tuple[str, ...]
    start_s: float
    scheduler_s: float
    """To hand out one empty task among many."""
    images: tuple[str, ...] = ()
    """Digests of the images that they run in; empty where they run in none."""


class _ByValue:
    """A function that travels as its code, to workers that cannot import this folder."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[bytes]]:
        return cloudpickle.loads, (by_value(self._function),)


@lru_cache
def by_value(function: Callable[..., Any]) -> bytes:
    """Return a function of these scripts as bytes that hold its code, all others by their names."""
    module = sys.modules[function.__module__]
    if function.__module__.startswith("glacierhpc"):
        return cloudpickle.dumps(function)
    cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(function)
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _timed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float, float]:
    import time

    # of all threads: a worker does one task at a time, some of it in threads of the libraries
    began, worked = time.perf_counter(), time.process_time()
    value = function(*arguments)
    seconds = time.perf_counter() - began
    return value, seconds, min(time.process_time() - worked, seconds)


def _nothing() -> None:
    return None


def _who(wait_s: float) -> tuple[str, int, list[int], str | None]:
    import os
    import socket
    import time

    from glacierhpc.hpc.surroundings import job_surroundings

    time.sleep(wait_s)
    cores = sorted(os.sched_getaffinity(0))
    return socket.gethostname(), os.getpid(), cores, job_surroundings()["container_digest"]


class Stopwatch(Executor):
    """Runs tasks on another executor and notes what each took."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.tasks: list[Task] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:  # type: ignore[override]
        """Run one task; keywords are not taken."""
        sent, outer = time.perf_counter(), Future[Any]()
        inner = self._executor.submit(operator.call, _ByValue(_timed), _ByValue(function), arguments)
        outer.set_running_or_notify_cancel()
        inner.add_done_callback(partial(self._note, outer, function.__name__, sent))
        return outer

    def _note(self, outer: Future[Any], name: str, sent: float, inner: Future[Any]) -> None:
        try:
            value, seconds, cpu_s = inner.result()
        except BaseException as err:  # noqa: BLE001  whatever it is, it is the caller's
            outer.set_exception(err)
            return
        self.tasks.append(Task(name, sent, time.perf_counter(), seconds, cpu_s))
        outer.set_result(value)


@contextmanager
def team(
    kind: str, workers: int, *, jobs: WorkerJobs | None = None, scratch: Path | None = None
) -> Iterator[Team]:
    """Start workers of one thread each, wait until all are up, and stop them at the end.

    Parameters
    ----------
    kind, jobs, scratch
        As `make_cluster` takes them.

    Raises
    ------
    GlacierError
        If they do not come up.
    """
    began = time.perf_counter()
    with make_cluster(kind, workers=workers, cores=1, jobs=jobs, scratch=scratch) as executor:
        if executor is None:
            raise GlacierError(
                f"workers of kind {kind!r} cannot be counted: give local, jobqueue or allocation"
            )
        cores, images = _met(executor, workers)
        start_s = time.perf_counter() - began
        scheduler_s = _empty_tasks(executor, workers)
        hosts = tuple(sorted(cores))
        count = sum(len(those) for those in cores.values())
        yield Team(executor, workers, count, hosts, start_s, scheduler_s, images)


def _met(executor: Executor, workers: int) -> tuple[dict[str, set[int]], tuple[str, ...]]:
    """Return the cores of each host that the workers may use, and their images, once every worker has answered."""
    seen: set[tuple[str, int]] = set()
    cores: dict[str, set[int]] = {}
    images: set[str] = set()
    limit = time.monotonic() + COME_UP_S
    while len(seen) < workers:
        if time.monotonic() > limit:
            raise GlacierError(f"only {len(seen)} of {workers} workers came up in {COME_UP_S:.0f} s")
        asked = [executor.submit(operator.call, _ByValue(_who), 0.05) for _ in range(2 * workers)]
        for host, process, usable, image in (future.result() for future in asked):
            seen.add((host, process))
            cores.setdefault(host, set()).update(usable)
            images.update([image] if image else [])
    return cores, tuple(sorted(images))


def _empty_tasks(executor: Executor, workers: int) -> float:
    """Return the time of one empty task among many, seconds; the first ones warm up."""
    count = 50 * workers
    for _ in range(2):
        began = time.perf_counter()
        for future in [executor.submit(operator.call, _ByValue(_nothing)) for _ in range(count)]:
            future.result()
        each = (time.perf_counter() - began) / count
    return each


@dataclass(frozen=True)
class Seen:
    """One run of a step on a team."""

    seconds: float
    tasks: tuple[Task, ...]

    @property
    def serial_s(self) -> float:
        """Time in which no task was on its way or running: what the driver does alone."""
        return max(self.seconds - _covered([(task.sent, task.back) for task in self.tasks]), 0.0)

    def split(self, workers: int, scheduler_s: float) -> dict[str, float]:
        """Return where the time of the workers went, as shares of the wall clock time.

        ``compute`` is processor time in tasks; ``data_wait`` the rest of the tasks, off the processor: files, the
        network, or other programs that have the core; ``communication`` what handing out as many empty tasks takes,
        no more than is left; ``idle`` the rest: nothing to do, or the driver at work.
        """
        slots = workers * self.seconds
        compute = min(sum(task.cpu_s for task in self.tasks) / slots, 1.0)
        waiting = sum(max(task.seconds - task.cpu_s, 0.0) for task in self.tasks) / slots
        waiting = min(waiting, 1.0 - compute)
        left = 1.0 - compute - waiting
        handing_out = min(len(self.tasks) * scheduler_s / self.seconds, left)
        return {
            "compute": compute,
            "communication": handing_out,
            "data_wait": waiting,
            "idle": left - handing_out,
        }

    def stages(self) -> list[list[Task]]:
        """Return the tasks by stage: one begins where a task of another kind is sent while none is on its way.

        A driver that is slow to send the next task of the same kind has not waited for the last one.
        """
        found: list[list[Task]] = []
        until = -1.0
        for task in sorted(self.tasks, key=lambda task: task.sent):
            if not found or (task.sent > until and task.function != found[-1][-1].function):
                found.append([])
            found[-1].append(task)
            until = max(until, task.back)
        return found


def _covered(spans: list[tuple[float, float]]) -> float:
    """Return the length of what at least one of some spans covers."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def observe(team: Team, run: Callable[[Executor], Any]) -> Seen:
    """Run a step on a team; return what was seen of it."""
    watch = Stopwatch(team.executor)
    began = time.perf_counter()
    run(watch)
    return Seen(time.perf_counter() - began, tuple(watch.tasks))
