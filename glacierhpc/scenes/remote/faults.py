"""What can go wrong between here and a file on a server, by kind; nothing here asks for anything."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

LONGEST_WAIT_S = 600.0  # a server that asks for more than ten minutes is as good as away

REASONS = {
    "busy": "the server asks to slow down (HTTP {}); lower acquire.read_threads or archive.max_connections",
    "server": "the server failed (HTTP {})",
    "refused": "access refused (HTTP {}); check archive.signing",
    "missing": "the file is not there (HTTP {})",
    "wrong": "the server cannot answer the request (HTTP {})",
}
_KIND_OF_STATUS = {401: "refused", 403: "refused", 404: "missing", 410: "missing", 429: "busy", 408: "server"}
LASTING = ("missing", "wrong", "changed", "dead")
"""Kinds that the same request does not outlive."""
OF_THE_HOST = ("server", "silent", "unreachable")
"""Kinds that say that the host is not well; one that asks to slow down is."""


class Fault(Exception):
    """One request that failed.

    Parameters
    ----------
    kind : str
        ``busy, server, refused, missing, wrong`` by status; ``page`` (no image), ``cut`` (fewer or other bytes),
        ``silent`` (too slow), ``unreachable``, ``changed`` (another file than before), ``dead`` (the host).
    reason : str
        For a person; without the file's name, so that equal reasons are equal texts.
    wait_s : float, optional
        What the server asks to wait.
    """

    def __init__(self, kind: str, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.wait_s = kind, reason, wait_s

    @property
    def lasting(self) -> bool:
        """Say whether asking again cannot help."""
        return self.kind in LASTING


def fault_of_status(status: int, wait_s: float | None = None) -> Fault:
    """Return the fault of an HTTP status that is no success."""
    kind = _KIND_OF_STATUS.get(status, "server" if status >= 500 else "wrong")
    # a server that says when to come back is not dead
    told = "busy" if kind == "server" and wait_s is not None else kind
    return Fault(told, REASONS[kind].format(status), wait_s)


def wait_asked_s(retry_after: str | None, server_now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` asks for: a number, or a date by the server's own clock.

    None where there is none or it cannot be read; never more than `LONGEST_WAIT_S`.

    References
    ----------
    RFC 9110, section 10.2.3.
    """
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        moment = parse_date(retry_after)
        if moment is None:
            return None
        seconds = moment - server_now
    return min(max(0.0, seconds), LONGEST_WAIT_S) if seconds == seconds else None


def parse_date(text: str | None) -> float | None:
    """Return the POSIX time of an HTTP date, or None."""
    try:
        moment = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
