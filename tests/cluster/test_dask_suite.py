"""dask-jobqueue's own tests pass with our classes on a real Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hpc.suite import run_suite

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_their_tests_pass_with_our_classes_on_slurm(tmp_path: Path) -> None:
    """All of theirs that need a Slurm; the others run without one, in tests/hpc/test_cluster_suite.py."""
    results = run_suite(tmp_path, "-E", "slurm", "-m", "env", "-k", "slurm or SLURM or EnvSpecific")
    assert results.failed == [], results.output
    assert results.passed >= 9
