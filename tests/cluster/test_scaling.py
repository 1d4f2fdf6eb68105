"""The scaling benchmark in one job of two nodes: a rank on one, then on each, by every way of starting them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cluster.jobs import log_of, submit, waited_for
from tests.cluster.test_ranks import needs_horovod

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

TWO = ("--nodes=2", "--ntasks-per-node=1")
TRAIN = ("--quick", "--what", "train", "--mode", "strong")


@pytest.mark.parametrize(
    ("backend", "launcher"),
    [("ddp", "srun"), ("horovod", "srun"), ("horovod", "pmix"), ("horovod", "mpirun")],
)
def test_ranks_are_measured_on_the_nodes_of_the_job(backend: str, launcher: str, tmp_path: Path) -> None:
    if backend == "horovod":
        needs_horovod()
    if launcher == "mpirun" and shutil.which("mpirun") is None:
        pytest.skip("there is no mpirun; install OpenMPI, with which Horovod was built")
    file, plots = tmp_path / "x.json", tmp_path / "plots"
    asked = ("--backend", backend, "--launcher", launcher, "--output", file, "--plots", plots)
    job = submit("scaling", *TRAIN, *map(str, asked), options=TWO)
    assert waited_for(job) == ("COMPLETED", 0), log_of(job)
    told = json.loads(file.read_text())["details"]
    assert (told["backend"], told["launcher"]) == (backend, launcher)
    alone, two = told["points"]
    assert [len(alone["details"]["hosts"]), len(two["details"]["hosts"])] == [1, 2] and two["workers"] == 2
    assert len(two["seconds"]) == 2 and min(two["seconds"]) > 0
    assert sum(two["split"].values()) == pytest.approx(1)
    assert all(seconds > 0 for _, seconds in two["details"]["exchanges"])
    assert told["environment"]["job_id"] == str(job) and (plots / "scaling.html").exists()
