"""dask-jobqueue's own tests pass with our classes in the place of theirs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.hpc.suite import run_suite


@pytest.mark.slow
def test_their_tests_pass_with_our_classes(tmp_path: Path) -> None:
    """Those that start workers do so on this machine; on a real Slurm: tests/cluster/test_dask_suite.py."""
    # a half-installed Slurm would be asked for its cores
    results = run_suite(tmp_path, path=str(Path(sys.executable).parent))
    assert results.failed == [], results.output
    assert results.passed > 120
