"""Workers that are jobs and run in the image: certificates, folders, threads get inside, the home folder does not."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from glacierhpc.hpc.cluster import make_cluster
from tests.cluster.workers import JOBS

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_workers_run_in_the_image(image: Path, tmp_path: Path) -> None:
    jobs = replace(JOBS, image=str(image), folder=tmp_path / "a b")
    with make_cluster("jobqueue", workers=1, memory_gb=2, jobs=jobs) as executor:
        assert executor is not None

        def told(name: str) -> str | None:
            return executor.submit(os.getenv, name).result(300)

        assert told("APPTAINER_CONTAINER") == str(image)
        assert told("NUMBA_NUM_THREADS") == "1" and told("PYTHONNOUSERSITE") == "1"
        assert executor.submit(os.path.isdir, str(tmp_path / "a b" / "logs")).result(60)
        assert not executor.submit(os.path.exists, os.path.expanduser("~/.bashrc")).result(60)
        assert executor._client.scheduler.address.startswith("tls://")  # type: ignore[attr-defined]
