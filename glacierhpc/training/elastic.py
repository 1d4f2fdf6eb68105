"""Doing a training on with the ranks that are there, whenever one is lost or comes; what a rank does, it is handed.

Nothing is kept in memory over a change: every rank begins as after a kill, from the last checkpoint, on another number
of ranks. So what a kill is proven not to change, a change of ranks does not either: a checkpoint lies between two
global batches, what came after it is done again with the same batches from the same weights, and every sequence of an
epoch has entered the weights once. Global batches stay as they are, shared among more ranks or fewer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, MutableMapping
from typing import Any, TypeVar

from glacierhpc.training.backends.horovod import import_horovod
from glacierhpc.training.backends.ranks import ending_at_once
from glacierhpc.training.backends.seats import PLACE, RanksChanged, Seat, held, open_seat
from glacierhpc.training.stopping import StopRequest
from glacierhpc.training.verdicts import first_line

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

SHORT_S, MAX_SHORT = 20.0, 10
"""So many changes in a row, each so soon after the one before, are no loss of ranks: something else is broken."""


def keep_on(attempt: Callable[[], Result], environment: MutableMapping[str, str]) -> Result:
    """Join the ranks and attempt a work, again with each change of ranks, until it ends.

    Parameters
    ----------
    attempt : callable
        The work of one rank, whichever it is by then, from its last checkpoint on.
    environment : mapping
        Of this process; the rank's place in it is kept as it is.

    Raises
    ------
    RanksChanged
        If ranks change without end, or nobody is left to give them out.
    """
    hvd = import_horovod()
    # a signal that comes between two attempts is for the next one
    with StopRequest(), held(seat := open_seat(environment)):
        size, short = 0, 0
        while True:
            began = time.monotonic()
            try:
                _join(hvd, seat, environment)
                if size and hvd.rank() == 0:
                    logger.warning("the training goes on with %d ranks, after %d", hvd.size(), size)
                size = hvd.size()
                return attempt()
            except Exception as err:
                short = short + 1 if time.monotonic() - began < SHORT_S else 0
                if not _has_changed(err) or short > MAX_SHORT:
                    raise
                logger.warning("%s", first_line(err))
            finally:
                hvd.shutdown()


def _join(hvd: Any, seat: Seat, environment: MutableMapping[str, str]) -> None:
    """Join the ranks that are there, and say the place among them where everyone looks for it."""
    seat.wait()
    with ending_at_once():
        hvd.init()
    environment.update({f"HOROVOD_{name}": str(getattr(hvd, name.lower())()) for name in PLACE})
    seat.joined()


def _has_changed(error: Exception) -> bool:
    """Return whether an error says that ranks have come or gone, by Horovod's own word or by ours."""
    return isinstance(error, RanksChanged) or type(error).__name__ == "HorovodInternalError"
