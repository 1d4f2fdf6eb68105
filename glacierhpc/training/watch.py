"""Ends a training that hangs or has lost a rank, and says which rank, where, and what it was doing.

A thread of each rank looks at the marks of its engine (`pulse`) and hears from the others (`roll`); the loop knows only
that it is inside a `Watch`.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
import weakref
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor

from glacierhpc.errors import REQUEUE, GlacierError
from glacierhpc.training.backends.seats import RanksChanged
from glacierhpc.training.pulse import Pulse, Word
from glacierhpc.training.roll import Roll, open_roll
from glacierhpc.training.verdicts import HUNG, first_line, of_exchange, out_of_memory, silent, told_hung

logger = logging.getLogger(__name__)

BEAT_S = 2.0
"""Between two words of a rank; of more than `MANY` ranks as many times longer, as rank 0 hears them all."""
MANY = 500
LEAVE_S = 5.0
"""For a process whose rank hangs or whose neighbour is gone to end by itself; then it is ended."""
BLAME_S = 3.0
"""For the news of who ended to come in, after an exchange has failed."""
NEWS_S = 1.0
"""Of it, before a rank that only keeps silent is named: rank 0, which hears all, tells the others."""
BACKSTOP_S = 60.0
"""After the limit, for the thread to act. Where Python lets no thread run, faulthandler's then writes the stacks; the
launcher ends such a process when the others have ended."""


class Ranks(Protocol):
    """What the watch needs of a backend."""

    rank: int
    size: int

    def gather(self, value: Tensor) -> list[Tensor]: ...


class Watch:
    """A context in which a hung or broken run ends; entered and left by all ranks.

    Parameters
    ----------
    ranks : Ranks
    limit_s : float
        Time without a mark of this rank's engine after which the run counts as hung: every rank that still can writes
        the Python stacks of its threads to standard error, rank 0 logs where each rank stood, and the processes end
        with code 70. 0: never.
    outlives : bool
        Whether the others go on without a rank that is gone: what its end breaks is then raised as `RanksChanged`,
        and no process is ended by another one's end.
    """

    def __init__(self, ranks: Ranks, *, limit_s: float = 0.0, outlives: bool = False) -> None:
        self.pulse = Pulse()
        self._ranks, self._limit_s, self._outlives = ranks, limit_s, outlives
        beat_s = BEAT_S * max(1.0, ranks.size / MANY)
        self._beat_s = min(beat_s, limit_s / 4) if limit_s else beat_s
        self._roll: Roll | None = None
        self._thread: threading.Thread | None = None
        self._leaving = False
        self._count, self._since, self._longest = -1, time.monotonic(), 0.0

    def __enter__(self) -> Pulse:
        if self._ranks.size == 1 and not self._limit_s:
            return self.pulse
        self._since = time.monotonic()
        self._roll = open_roll(self._word(), share=self._share)
        os.register_at_fork(after_in_child=_closing(self._roll))
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()
        return self.pulse

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, Exception) and not isinstance(error, GlacierError):
                self._explain(error)
        except GlacierError as explained:
            # of who is gone all have heard already
            self._leave(None if self._roll is not None and self._roll.gone else explained)
            raise explained from error
        self._leave(error)

    def _explain(self, error: Exception) -> None:
        """Raise what a user can do something with, where there is something better to say than the error."""
        here = self._word()
        if out_of_memory(error):
            raise GlacierError(
                f"{here.name} is out of memory at {here.place} ({first_line(error)}): lower train.batch_size, "
                "raise train.accumulate, or ask for more memory"
            )
        if self._roll is not None and of_exchange(error):
            failed, mute = time.monotonic(), ""
            while not (self._roll.gone or mute) and time.monotonic() < failed + BLAME_S:
                time.sleep(0.05)
                mute = self._told_mute() if time.monotonic() > failed + NEWS_S else ""
            told = self._told_gone() if self._roll.gone else f"{mute} ({first_line(error)})"
            if self._outlives:
                raise RanksChanged(told if self._roll.gone or mute else first_line(error))
            if self._roll.gone or mute:
                self._end_in(LEAVE_S)
                raise GlacierError(told)

    def _leave(self, error: BaseException | None) -> None:
        """Say goodbye, or how it failed."""
        if self._roll is None or self._thread is None:
            return
        self._leaving = True
        self._roll.wake()
        self._thread.join()
        failed = error is not None and getattr(error, "exit_code", 1) != REQUEUE
        kind, text = ("failed", _told(error)) if failed else ("bye", "")
        self._roll.say(self._word(kind, text))
        self._roll.close()

    def _watch(self) -> None:
        roll, told = self._roll, 0.0
        assert roll is not None
        try:
            while not self._leaving:
                asked = time.monotonic()
                roll.poll(max(0.0, min(told + self._beat_s - asked, self._beat_s)))
                if time.monotonic() - asked > 3 * self._beat_s:
                    self._since = (
                        time.monotonic()
                    )  # this process itself was stopped, as by Ctrl-Z or the scheduler
                if time.monotonic() - told >= self._beat_s:
                    told = time.monotonic()
                    roll.say(self._word())
                    self._arm()
                self._judge(roll)
        finally:
            if self._limit_s:
                faulthandler.cancel_dump_traceback_later()

    def _judge(self, roll: Roll) -> None:
        idle = self._idle()
        if self._limit_s and (roll.hung or idle > self._limit_s):
            self._end_hung(roll)
        # a connection may break while its process lives: then the steps go on
        if roll.gone and not self._outlives and idle > max(LEAVE_S, 2 * (self._longest - self._beat_s)):
            _speak(f"{self._told_gone()}\n{self._word().name} waits for it in vain and ends")
            _exit(1)

    def _end_hung(self, roll: Roll) -> None:
        """Write what can be known, let the others do so, and end."""
        # whatever a lock or a full pipe does from here on
        faulthandler.dump_traceback_later(2 * LEAVE_S, exit=True, file=_stderr())
        here = self._word("hung")
        roll.say(here)
        write_stacks(here)
        end = time.monotonic() + min(LEAVE_S, 2 * self._beat_s)
        while time.monotonic() < end:
            roll.poll(0.1)
            roll.say(here)
        if here.rank == 0 or silent(roll.words.get(0), self._beat_s):
            logger.error("%s", told_hung(roll.words, self._ranks.size, self._limit_s, self._beat_s))
        _exit(HUNG)

    def _told_gone(self) -> str:
        assert self._roll is not None
        told = []
        for rank, how in sorted(self._roll.gone.items()):
            last = self._roll.words.get(rank)
            told.append(f"{last.name} {how}, last heard of at {last.place}" if last else f"rank {rank} {how}")
        if any("without a word" in how for how in self._roll.gone.values()):
            told.append(
                "a process ends so when it is killed, as by the system where memory is short, or crashes: the job's "
                "log, sacct and dmesg on that host know more; started again, the training goes on from its checkpoint"
            )
        return "; ".join(told)

    def _told_mute(self) -> str:
        """Return which ranks are silent, as those of a lost host: an exchange may give up before the watch does."""
        assert self._roll is not None
        words = [each for each in list(self._roll.words.values()) if each.rank != self._ranks.rank]
        mute = [each for each in words if each.kind == "beat" and silent(each, self._beat_s)]
        told = "is silent: stopped, or its host is gone"
        return "; ".join(f"{each.name} {told}, last heard of at {each.place}" for each in mute)

    def _idle(self) -> float:
        """Return the time since the last mark, s."""
        now = time.monotonic()
        if self.pulse.count != self._count:
            self._longest = max(self._longest, now - self._since) if self._count > 0 else 0.0
            self._count, self._since = self.pulse.count, now
        return now - self._since

    def _word(self, kind: str = "beat", text: str = "") -> Word:
        idle = time.monotonic() - self._since
        return Word.of(self._ranks.rank, self.pulse, idle_s=idle, kind=kind, text=text)

    def _share(self, text: str) -> list[str]:
        own = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        return [bytes(each.tolist()).decode() for each in self._ranks.gather(own)]

    def _arm(self) -> None:
        if self._limit_s:
            # without exit: a process that was stopped and goes on would be ended by it
            faulthandler.dump_traceback_later(self._limit_s + BACKSTOP_S, file=_stderr())

    def _end_in(self, seconds: float) -> None:
        """End this process after some time: leaving the group of ranks may wait for who is gone."""
        timer = threading.Timer(seconds, _exit, (1,))
        timer.daemon = True
        timer.start()


def write_stacks(word: Word) -> None:
    """Write the Python stacks of all threads of this process to standard error, needing no lock."""
    _speak(f"{word.name} stands at {word.place} for {word.idle_s:.0f} s; the stacks of its threads:")
    faulthandler.dump_traceback(file=_stderr(), all_threads=True)


def _told(error: BaseException | None) -> str:
    known = isinstance(error, GlacierError)  # its text is made for users, and says all
    return first_line(error) if known else f"{type(error).__name__}: {first_line(error)}"


def _closing(roll: Roll) -> Any:
    """Return what closes the roll, without keeping it."""
    kept = weakref.ref(roll)

    def close() -> None:
        found = kept()
        if found is not None:
            found.close()

    return close


def _stderr() -> int:
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return 2


def _speak(text: str) -> None:
    os.write(_stderr(), f"{text}\n".encode())


def _exit(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
