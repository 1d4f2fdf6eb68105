"""Training by ranks on two nodes, by each launcher that a Slurm job has: the weights are those of one process.

Horovod by srun and Gloo, as jobs/train-horovod.sbatch starts it, is in test_walltime.py.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from glacierhpc.rundir import RunDirectory
from tests.cluster.jobs import alike, prepared, quick, told, trained_alone, weights
from tests.conftest import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

TWO = ("--nodes=2", "--ntasks=2", "--cpus-per-task=1", "--mem=2G", "--time=10")
LAUNCHERS = {
    "ddp by srun": ("ddp", ("srun", *TWO)),
    "horovod by srun": ("horovod", ("srun", "--mpi=pmix", *TWO)),
    "horovod by mpirun": ("horovod", ("salloc", "--quiet", *TWO, "mpirun", "--bind-to", "none", "-np", "2")),
}


def needs_horovod() -> None:
    if importlib.util.find_spec("horovod") is None:
        pytest.skip("Horovod is not installed; build it with: make horovod")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_two_nodes_train_the_weights_of_one_process(name: str, tmp_path: Path) -> None:
    backend, launcher = LAUNCHERS[name]
    if backend == "horovod":
        needs_horovod()
    if "mpirun" in launcher and shutil.which("mpirun") is None:
        pytest.skip("there is no mpirun; install OpenMPI, with which Horovod was built")
    config, path = prepared(tmp_path, epochs=3)
    assert len(set(told(*launcher, "hostname").split())) == 2
    said = told(
        *launcher, sys.executable, "-m", "glacierhpc", "train", path, f"train.backend={backend}", "--json"
    )
    assert said.count('"step": "train"') == 1  # one of them speaks
    run = RunDirectory(config.run_path)
    assert run.done("train")
    assert alike(weights(run.path), trained_alone(config, tmp_path / "alone"), atol=1e-6)


def test_tasks_that_mpi_does_not_join_are_refused_with_what_to_write(tmp_path: Path) -> None:
    needs_horovod()
    _, path = prepared(tmp_path, epochs=1)
    answer = subprocess.run(
        ["srun", "--mpi=none", *TWO, sys.executable, "-m", "glacierhpc", "train", path, "train.backend=horovod"],
        cwd=ROOT, env=quick(), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert answer.returncode == 2
    said = " ".join((answer.stdout + answer.stderr).split())
    assert (
        "size 1 is not the 2 tasks" in said and "srun --mpi=pmix" in said and "train-horovod.sbatch" in said
    )
