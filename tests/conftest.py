"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.archives import archive_folder, archive_server  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Return a function that gives the folder of a real data set, or skips and says how to get it."""
    home = Path(os.environ.get("GLACIERHPC_TEST_DATA", ROOT.parent / "shared" / "data"))

    def folder(name: str) -> Path:
        path = home / name
        if not path.is_dir():
            pytest.skip(
                f"real data set {name!r} is not in {home}: tests/DATA.md says where it is published; "
                "put it there or point GLACIERHPC_TEST_DATA at its parent folder"
            )
        return path

    return folder
