"""The executor that hands out the results of a cluster's tasks: what has been fetched is told as it came.

Distributed's own asks for the state of a task after it has fetched the result. If the worker dies between the two, that
is "lost" by then, and a good result ends the step as an error. Only `_wrap_future` is no public name: a version of
distributed that does not call it tells results in its own way.
"""

from __future__ import annotations

from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from distributed import CancelledError
from distributed.cfexecutor import ClientExecutor


class ResultExecutor(ClientExecutor):
    """Distributed's executor, but for how a result is told."""

    def _wrap_future(self, future: Any) -> Future:
        told: Future = Future()

        def pass_on_cancellation(told: Future) -> None:
            if told.cancelled() and future.status != "cancelled":
                future.cancel()

        told.add_done_callback(pass_on_cancellation)
        self._client.loop.add_callback(_tell, future, told)
        return told


async def _tell(future: Any, told: Future) -> None:
    with suppress(InvalidStateError):  # cancelled by who waited, in this moment
        try:
            result = await future
        except CancelledError:
            told.cancel()
            told.set_running_or_notify_cancel()
        except BaseException as err:  # noqa: BLE001 - the task's own, for who waits, whatever its kind
            told.set_exception(err)
        else:
            told.set_result(result)
