"""Training by ranks on two nodes, by each launcher that a Slurm job has: the weights are those of one process."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import torch

from glacierhpc.rundir import RunDirectory
from tests.cluster.jobs import prepared, told, trained_alone, weights

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

TWO = ("--nodes=2", "--ntasks=2", "--cpus-per-task=1", "--mem=2G", "--time=10")
LAUNCHERS = {
    "ddp by srun": ("ddp", ("srun", *TWO)),
    "horovod by srun": ("horovod", ("srun", "--mpi=pmix", *TWO)),
    "horovod by mpirun": ("horovod", ("salloc", "--quiet", *TWO, "mpirun", "--bind-to", "none", "-np", "2")),
}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_two_nodes_train_the_weights_of_one_process(name: str, tmp_path: Path) -> None:
    backend, launcher = LAUNCHERS[name]
    if backend == "horovod" and importlib.util.find_spec("horovod") is None:
        pytest.skip("Horovod is not installed; build it with: make horovod")
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
    alone = trained_alone(config, tmp_path / "alone")
    assert all(torch.allclose(alone[name], value, atol=1e-6) for name, value in weights(run.path).items())
