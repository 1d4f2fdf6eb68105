"""Asking a training run to stop: the signals of schedulers, and the error that asks for a requeue."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from glacierhpc.errors import GlacierError

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
"""What schedulers send before the end: Slurm's ``--signal`` the one that is asked for, its ``scancel`` SIGTERM."""


class Interrupted(GlacierError):
    """The run was asked to stop and can go on from its checkpoint; exit code 75 asks for a requeue.

    75 is EX_TEMPFAIL of ``sysexits.h``: "the user is invited to retry".
    """

    exit_code = 75


class StopRequest:
    """Whether this process has been asked to stop; a context that listens to `STOP_SIGNALS`.

    One inside of another is of the same request: what was asked of either is known to both.

    Handlers are installed on entry and those of before put back on exit. Outside of the main thread Python allows
    none: nothing is listened to then.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        """Name of the signal that came, or None."""
        self._before: dict[int, Any] = {}
        self._outer: list[StopRequest] = []

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            handlers = [signal.getsignal(number) for number in STOP_SIGNALS]
            self._outer = [handler.__self__ for handler in handlers if _listens(handler)]  # type: ignore[union-attr]
            self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
            self.signal = self.signal or next((each.signal for each in self._outer if each), None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None: a handler that was not installed from Python and cannot be put back from here
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def __bool__(self) -> bool:
        return self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        for outer in self._outer:
            outer.signal = self.signal


def _listens(handler: Any) -> bool:
    return isinstance(getattr(handler, "__self__", None), StopRequest)


def ignore_stop_signals() -> None:
    """Leave stopping to the main process: a scheduler signals every process of a job, and readers die of it."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
