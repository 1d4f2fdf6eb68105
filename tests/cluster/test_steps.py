"""Job scripts on a real Slurm: submitted with a plain `sbatch`, waited for, their results looked at."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cluster.jobs import log_of, submit, told, waited_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_the_steps_of_the_demo_run_as_jobs(tmp_path: Path) -> None:
    """Synthetic scenes in a static catalogue, then two jobs one after the other in the same run directory."""
    scenes, run = tmp_path / "scenes", tmp_path / "run"
    told(
        sys.executable, "-m", "glacierhpc", "archive", "create", scenes, "--scenes", "60", "--size-px", "192"
    )
    overrides = (f"archive.catalogue={scenes}", f"run_dir={run}", "period.end=2017-06-30", "train.epochs=1")
    done(submit("imagery", "configs/demo.yaml", *overrides))
    states = {path.stem: json.loads(path.read_text())["state"] for path in (run / "steps").glob("*.json")}
    assert states == dict.fromkeys(("search", "acquire", "clean", "align", "composite"), "done")
    last = submit("run", "configs/demo.yaml", *overrides)
    done(last)
    assert (run / "report.html").stat().st_size > 10_000
    assert json.loads((run / "provenance.json").read_text())["job_id"] == str(last)


def done(job: int) -> None:
    assert waited_for(job) == ("COMPLETED", 0), log_of(job)
