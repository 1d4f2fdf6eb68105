"""The embedded archive: synthetic glacier scenes with known truth, and a server that can misbehave like a real one."""

from glacierhpc.scenes.archive.create import ArchiveSummary, create
from glacierhpc.scenes.archive.truth import Truth, read_truth

__all__ = ["ArchiveSummary", "Truth", "create", "read_truth"]
