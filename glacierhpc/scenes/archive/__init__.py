"""The embedded archive: synthetic glacier scenes with known truth, and a server that can misbehave like a
real one."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glacierhpc.scenes.archive.counts import ServerStatistics
    from glacierhpc.scenes.archive.faults import FAULT_KINDS, Faults
    from glacierhpc.scenes.archive.making import ArchiveSummary, create
    from glacierhpc.scenes.archive.serving import ServedArchive, serve
    from glacierhpc.scenes.archive.truth import Truth, read_truth

__all__ = [
    "FAULT_KINDS",
    "ArchiveSummary",
    "Faults",
    "ServedArchive",
    "ServerStatistics",
    "Truth",
    "create",
    "read_truth",
    "serve",
]
_HOMES = {
    "FAULT_KINDS": "faults",
    "Faults": "faults",
    "ServerStatistics": "counts",
    "ArchiveSummary": "making",
    "create": "making",
    "ServedArchive": "serving",
    "serve": "serving",
    "Truth": "truth",
    "read_truth": "truth",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: the file server's process needs none of SciPy and pandas and starts in 0.1 s,
    # not 1 s.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
