"""The diary of an acquisition: one line per finished asset, appended the moment it is finished.

A line that was torn by a kill is ignored; what a line means is `acquire`'s to know.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from glacierhpc import fence
from glacierhpc.errors import InputError

JOURNAL = "journal.jsonl"
SYNC_EVERY_S = 0.5


@dataclass(frozen=True)
class Receipt:
    """What became of one asset of one scene."""

    scene: str
    """Key of the scene, unique over collections."""
    asset: str
    state: str
    """``done`` or ``failed``."""
    reason: str = ""
    attempts: int = 0
    bytes: int = 0
    """Size of the piece on disk."""
    checksum: str = ""
    """SHA-256 of the piece."""
    seconds: float = 0.0
    valid_share: float = 0.0
    """Share of the grid's pixels that have data in this asset."""
    clear_share: float = 0.0


class Journal:
    """An append-only file of receipts; the last receipt of an asset counts."""

    def __init__(self, path: Path, purpose: Mapping[str, Any]) -> None:
        self._path = path
        known, self.receipts = read_receipts(path)
        if known is not None and known != _plain(purpose):
            changed = sorted(key for key in {*known, *purpose} if known.get(key) != _plain(purpose).get(key))
            raise InputError(
                f"{str(path.parent)!r} holds the pieces of another acquisition (other {', '.join(changed)}); "
                "delete that folder or use another run directory"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._synced_at = 0.0
        if known is None:
            self._write([{"purpose": _plain(purpose)}])

    def add(self, receipts: list[Receipt]) -> None:
        """Record receipts: they survive a kill of this process at once, a power cut after half a second."""
        self._write([asdict(receipt) for receipt in receipts])
        self.receipts.update({(receipt.scene, receipt.asset): receipt for receipt in receipts})

    def close(self) -> None:
        """Write out everything and close the file."""
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _write(self, rows: list[dict[str, Any]]) -> None:
        fence.check(self._path)  # what an overtaken command has to say would come after its successor's
        # a leading newline ends a line that an earlier kill may have torn
        self._file.write(b"\n" + b"\n".join(json.dumps(row).encode() for row in rows) + b"\n")
        self._file.flush()
        # a sync takes 4 ms and more; a receipt lost with the power is one asset read again
        if time.monotonic() - self._synced_at > SYNC_EVERY_S:
            os.fsync(self._file.fileno())
            self._synced_at = time.monotonic()


def read_receipts(path: Path) -> tuple[dict[str, Any] | None, dict[tuple[str, str], Receipt]]:
    """Return what a journal is for, None where there is none, and its receipts; others may be writing it."""
    purpose: dict[str, Any] | None = None
    receipts: dict[tuple[str, str], Receipt] = {}
    if not path.is_file():
        return purpose, receipts
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if "purpose" in row:
            purpose = row["purpose"]
        else:
            receipt = Receipt(**row)
            receipts[receipt.scene, receipt.asset] = receipt
    return purpose, receipts


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(value))
