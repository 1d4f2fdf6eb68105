"""Which request goes wrong and how: rates, kinds and lasting faults of the archive's file server; sends
nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch

from glacierhpc.errors import InputError, unknown_name

FAULT_KINDS = {
    "429": "too many requests, with Retry-After",
    "500": "internal error",
    "502": "bad gateway",
    "503": "service unavailable, with Retry-After",
    "504": "gateway timeout",
    "403": "forbidden although the token is good",
    "404": "not found although it exists",
    "truncate": "the headers promise all bytes, the connection ends half-way",
    "html": "status 200 with a page of HTML, as proxies and sign-in pages answer",
    "timeout": "silence for `hang_s`, then the connection ends",
    "reset": "the connection ends before any answer",
    "ignore_range": "status 200 and the whole file where a range was asked for",
    "corrupt": "the right length, the wrong bytes",
    "slow": "the answer comes at a hundredth of the usual rate, or 2 kB/s",
}


@dataclass(frozen=True)
class Faults:
    """What a server does wrong. All defaults are harmless."""

    delay_s: float = 0.0
    """Wait before every answer: the round trip of a far archive."""
    bytes_per_s: float | None = None
    """Rate of each answer's body."""
    fail_rate: float = 0.0
    """Share of requests that fail."""
    fail_kinds: tuple[str, ...] = ("503", "429", "truncate", "html", "timeout")
    """What failing requests do, in equal shares."""
    fail_first: int = 0
    """The first so many requests of every file fail with the first of `fail_kinds`."""
    always: Mapping[str, str] = field(default_factory=dict)
    """Pattern of the file's path (``*_SR_B3.TIF``) to the kind of fault all its requests get."""
    retry_after_s: float = 0.0
    """What 429 and 503 tell the client to wait."""
    hang_s: float = 30.0
    """How long ``timeout`` is silent."""
    seed: int = 0

    def __post_init__(self) -> None:
        for kind in (*self.fail_kinds, *self.always.values()):
            if kind not in FAULT_KINDS:
                raise unknown_name("kind of fault", kind, FAULT_KINDS)
        if not 0.0 <= self.fail_rate <= 1.0:
            raise InputError(f"fail_rate {self.fail_rate!r} is no share; write a number from 0 to 1.")
        if (self.fail_rate or self.fail_first) and not self.fail_kinds:
            raise InputError(
                f"fail_kinds is empty but requests shall fail; write some of: {', '.join(FAULT_KINDS)}."
            )
        if self.delay_s < 0 or (self.bytes_per_s is not None and self.bytes_per_s <= 0):
            raise InputError(
                f"delay_s {self.delay_s!r} and bytes_per_s {self.bytes_per_s!r} must not be negative or zero; "
                "leave bytes_per_s out for full speed."
            )

    def of(self, path: str, number: int) -> str | None:
        """Return the fault of the `number`-th request (from 0) of a file, or None.

        Depends on nothing else than seed, path and number: however many clients ask in whatever order, the
        third request of a file fares the same.
        """
        for pattern, kind in self.always.items():
            if fnmatch(path, pattern):
                return kind
        if number < self.fail_first:
            return self.fail_kinds[0]
        digest = hashlib.sha256(f"{self.seed}/{path}/{number}".encode()).digest()
        if int.from_bytes(digest[:6], "big") / 2**48 >= self.fail_rate:
            return None
        return self.fail_kinds[int.from_bytes(digest[6:10], "big") % len(self.fail_kinds)]
