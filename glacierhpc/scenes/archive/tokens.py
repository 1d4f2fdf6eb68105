"""Access tokens with an end, in the form of Azure's shared access signatures: made and checked; served by
`files`."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from time import time
from urllib.parse import parse_qs, urlencode

_ISO = "%Y-%m-%dT%H:%M:%SZ"


class TokenOffice:
    """Issues ``se=<end>&sig=<signature>`` and checks it; the key lives and dies with the object."""

    def __init__(self, lifetime_s: float, *, clock: Callable[[], float] = time) -> None:
        self._lifetime_s, self._clock = lifetime_s, clock
        self._key = secrets.token_bytes(32)

    def issue(self) -> dict[str, str]:
        """Return ``{"msft:expiry": ISO time, "token": query}``, as Planetary Computer's token endpoint
        answers."""
        # Whole seconds, rounded down, as the real service writes them: a token may end up to a second early.
        expiry = datetime.fromtimestamp(self._clock() + self._lifetime_s, UTC).strftime(_ISO)
        return {"msft:expiry": expiry, "token": urlencode({"se": expiry, "sig": self._sign(expiry)})}

    def refuses(self, query: str) -> str | None:
        """Return why a request with this query string may not pass, or None if it may."""
        fields = parse_qs(query)
        expiry, signature = (fields.get(name, [""])[0] for name in ("se", "sig"))
        if not signature:
            return "no signature in the query"
        if not hmac.compare_digest(signature.encode(), self._sign(expiry).encode()):
            return "the signature does not match"
        end = datetime.strptime(expiry, _ISO).replace(tzinfo=UTC).timestamp()
        return f"expired at {expiry}" if self._clock() >= end else None

    def _sign(self, expiry: str) -> str:
        return b64encode(hmac.new(self._key, expiry.encode(), hashlib.sha256).digest()).decode()
