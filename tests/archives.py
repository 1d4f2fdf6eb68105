"""Session fixtures of the embedded archive: one small series on disk, one server of it without faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from glacierhpc.scenes import archive


@pytest.fixture(scope="session")
def archive_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes of 128 x 128 px, every 24 days, known pointing errors; read its truth with `archive.read_truth`."""
    folder = tmp_path_factory.mktemp("archive") / "series"
    return archive.create(folder, seed=7, scenes=12, size_px=128, every_days=24).folder


@pytest.fixture(scope="session")
def archive_server(archive_folder: Path) -> Iterator[archive.ServedArchive]:
    """Serve `archive_folder` without delay, tokens or faults. It is shared: count in it only by differences."""
    with archive.serve(archive_folder) as served:
        yield served
