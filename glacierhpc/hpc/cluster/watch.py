"""Keeping as many workers as were asked for: who vanishes is replaced, with patience, and not for ever.

What a worker is, and how to ask what became of it, is handed in.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from glacierhpc.errors import GlacierError
from glacierhpc.hpc.cluster.wish import DEATH_TIMEOUT_S, WorkerJobs
from glacierhpc.hpc.slurm.states import UNKNOWN, JobState

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 300.0
TOUCH_S = 300.0
SETTLED_S = 30.0
"""After so long a worker counts as well started: what makes it fail at once would have."""
TAKEN_AWAY = ("PREEMPTED", "NODE_FAIL", "REVOKED")
"""Ends of jobs that say nothing about how they were started."""


@dataclass(frozen=True)
class Lost:
    """A worker that never came, or failed as soon as it was here."""

    job: str
    state: str
    words: str
    """The end of its log."""


Ask = Callable[[Sequence[Any]], Mapping[str, JobState]]
"""Called with workers of which the scheduler sees nothing; returns what is known of each, by its name."""


class Watch:
    """Looks after the workers of a cluster, within its event loop."""

    def __init__(
        self,
        cluster: Any,
        wanted: int,
        jobs: WorkerJobs,
        *,
        ask: Ask,
        last_words: Callable[[Any], str],
        touch: Callable[[], None],
        give_up: Callable[[], None],
    ) -> None:
        """Take the cluster, how many workers it is to have, and what is done at each look and at the end.

        Parameters
        ----------
        ask, last_words :
            What became of workers; the end of a worker's log.
        touch :
            Called now and then, to show that this run is alive.
        give_up :
            Called when no worker can be had: ends whoever waits for results.
        """
        self.fault: GlacierError | None = None
        self.replaced = 0
        self._cluster, self._wanted, self._jobs = cluster, wanted, jobs
        self._ask, self._last_words, self._touch, self._give_up = ask, last_words, touch, give_up
        self._came: dict[str, float] = {}
        self._settled: set[str] = set()
        self._submission: asyncio.Future | None = None
        self._absent: dict[str, float] = {}
        self._bad: list[Lost] = []
        self._not_before = self._touched = time.monotonic()
        self._name = f"glacierhpc-{secrets.token_hex(3)}"
        self._count = 0
        self._told = ""
        self._task: asyncio.Task | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Look no more; a submission that is under way comes to its end first."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._submission is not None:
            # a job whose number is not yet known could be cancelled by nobody
            await asyncio.wait([self._submission])

    async def _run(self) -> None:
        while self.fault is None:
            try:
                await self._look()
            except Exception as err:  # noqa: BLE001 - the scheduler may be away; the next look tells
                log.warning("the workers could not be looked after: %s", err)
            await asyncio.sleep(self._jobs.look_s)

    async def _look(self) -> None:
        for name, state in (await self._gone()).items():
            await self._drop(name, state)
        if self._is_hopeless():
            self.fault = self._sentence()
            await asyncio.to_thread(self._give_up)
            return
        missing = self._wanted - len(self._cluster.worker_spec)
        if missing > 0 and time.monotonic() >= self._not_before:
            await self._fill(missing)
        if time.monotonic() - self._touched > TOUCH_S:
            self._touched = time.monotonic()
            await asyncio.to_thread(self._touch)

    def _is_hopeless(self) -> bool:
        """Return whether all tries end badly; while one worker is at work, others may be tried for ever."""
        return (
            len(self._bad) >= max(self._jobs.bad_starts, self._wanted) and not self._cluster.scheduler.workers
        )

    async def _gone(self) -> dict[str, JobState]:
        """Return the workers that will not come (again), and what is known of them."""
        now, own = time.monotonic(), dict(self._cluster.workers)
        present = {str(worker.name) for worker in self._cluster.scheduler.workers.values()} & own.keys()
        self._greet(present, now)
        absent = [name for name in own if name not in present]
        self._absent = {name: self._absent.get(name, now) for name in absent}
        states = await asyncio.to_thread(self._ask, [own[name] for name in absent]) if absent else {}
        self._tell(len(own) - len(absent), states)
        return {
            name: states.get(name, UNKNOWN)
            for name in absent
            if self._is_gone(name, states.get(name, UNKNOWN), now)
        }

    def _greet(self, present: Collection[str], now: float) -> None:
        """Remember when workers came; one that has stayed makes up for the bad starts before it."""
        for name in present:
            self._came.setdefault(name, now)
        settled = {name for name in present if now - self._came[name] >= SETTLED_S}
        if settled - self._settled:
            self._bad.clear()
        self._settled |= settled

    def _is_gone(self, name: str, state: JobState, now: float) -> bool:
        if state.verdict == "waiting":
            self._absent[name] = now  # nothing is wrong with a job that waits, for days if need be
            return False
        if not state.active and state.verdict != "unknown":
            return True
        # runs, and does not come: its node may be cut off. Of a job of which nobody knows the same is only sure if
        # its worker has been here
        too_long = now - self._absent[name] > 2 * DEATH_TIMEOUT_S
        return too_long and (state.active or name in self._came)

    def _tell(self, here: int, states: Mapping[str, JobState]) -> None:
        waiting = [state for state in states.values() if state.verdict == "waiting"]
        reasons = ", ".join(sorted({state.reason for state in waiting if state.reason}))
        told = f"{here} of {self._wanted} workers"
        if waiting:
            told += f"; {len(waiting)} jobs wait" + (f" ({reasons})" if reasons else "")
        if told != self._told:
            log.info("%s", told)
            self._told = told

    async def _drop(self, name: str, state: JobState) -> None:
        """Forget a worker, end what is left of its job, and remember whether it was of use."""
        job = self._cluster.workers.pop(name)
        self._cluster.worker_spec.pop(name, None)
        with suppress(OSError, RuntimeError, GlacierError):
            await job.close()
        self.replaced += 1
        if name in self._came and (state.verdict != "failed" or name in self._settled):
            log.info("worker %s is gone (%s) and is replaced", name, state.told.lower() or state.verdict)
            return
        if state.told in TAKEN_AWAY:
            self._not_before = time.monotonic() + self._jobs.first_wait_s
            return
        code = f", exit code {state.exit_code}" if state.exit_code else ""
        self._note(str(job.job_id), f"{state.told.lower() or state.verdict}{code}", self._last_words(job))

    def _note(self, job: str, state: str, words: str) -> None:
        self._bad.append(Lost(job, state, words))
        wait_s = min(LONGEST_WAIT_S, self._jobs.first_wait_s * 2 ** (len(self._bad) - 1))
        self._not_before = time.monotonic() + wait_s
        log.warning("a worker did not start well: job %s %s; the next try is in %.0f s", job, state, wait_s)

    async def _fill(self, missing: int) -> None:
        cluster, names = self._cluster, []
        for _ in range(missing):
            # a name that was never used: the scheduler refuses the second worker of a name
            names.append(f"{self._name}-{self._count}")
            cluster.worker_spec[names[-1]] = cluster.new_spec
            self._count += 1
        self._submission = asyncio.ensure_future(cluster._correct_state())
        try:
            await asyncio.shield(self._submission)
        except Exception as err:  # noqa: BLE001 - which of them failed is seen by who has no job
            words = str(err)
        for name in names:
            job = cluster.workers.get(name)
            if job is None or job.job_id is None:
                cluster.worker_spec.pop(name, None)
                if cluster.workers.pop(name, None) is not None:
                    await job.close()
                self._note("(none)", "was not taken by the scheduler", words)

    def _sentence(self) -> GlacierError:
        last = self._bad[-1]
        jobs = ", ".join(dict.fromkeys(f"{lost.job} ({lost.state})" for lost in self._bad))
        said = f"\nlast words of job {last.job}:\n{last.words}" if last.words else ""
        return GlacierError(
            f"no worker can be had: {len(self._bad)} jobs in a row ended at their start: {jobs}. They were to "
            f"reach {self._cluster.scheduler_address}; their script: glacierhpc workers CONFIG --dry-run{said}"
        )
