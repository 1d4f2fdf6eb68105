"""Job scripts on a real Slurm: submitted with a plain `sbatch`, waited for, their results looked at."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--cpus-per-task=1", "--mem=0", "--time=30")
"""Test clusters are smaller than real ones; options of the command line go before those of the script."""

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(autouse=True)
def slurm() -> None:
    """Skip where no Slurm answers."""
    if not shutil.which("sbatch"):
        pytest.skip("sbatch is not installed here; run on a machine of a Slurm cluster: make test-cluster")
    answer = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, check=False)
    if answer.returncode:
        pytest.skip(
            f"Slurm does not answer ({answer.stderr.strip()}); start slurmctld, then: make test-cluster"
        )


def submit(script: str, *arguments: str) -> None:
    command = ["sbatch", "--wait", *SMALL, f"jobs/{script}.sbatch", *arguments]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    logs = "".join(path.read_text() for path in sorted(ROOT.glob(f"glacierhpc-{script}-*.log"))[-1:])
    assert answer.returncode == 0, f"{answer.stdout}{answer.stderr}{logs[-3000:]}"


def test_the_steps_of_the_demo_run_as_jobs(tmp_path: Path) -> None:
    """Synthetic scenes in a static catalogue, then two jobs one after the other in the same run directory."""
    scenes, run = tmp_path / "scenes", tmp_path / "run"
    subprocess.run(
        [
            ROOT / ".venv" / "bin" / "glacierhpc",
            "archive",
            "create",
            scenes,
            "--scenes",
            "60",
            "--size-px",
            "192",
        ],
        check=True,
    )
    overrides = (f"archive.catalogue={scenes}", f"run_dir={run}", "period.end=2017-06-30", "train.epochs=1")
    submit("imagery", "configs/demo.yaml", *overrides)
    states = {path.stem: json.loads(path.read_text())["state"] for path in (run / "steps").glob("*.json")}
    assert states == dict.fromkeys(("search", "acquire", "clean", "align", "composite"), "done")
    submit("run", "configs/demo.yaml", *overrides)
    assert (run / "report.html").stat().st_size > 10_000
    assert json.loads((run / "provenance.json").read_text())["job_id"]
