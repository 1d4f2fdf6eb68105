"""The scaling benchmark in one job of two nodes: one worker or rank, then two, by every way of starting ranks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.jobs import log_of, submit, waited_for
from tests.cluster.test_ranks import needs_horovod

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

TWO = ("--nodes=2", "--ntasks-per-node=1")


def measured(folder: Path, *asked: str) -> dict[str, Any]:
    """Run the benchmark as a job, very small, and return the details of what it tells."""
    file, plots = folder / "x.json", folder / "plots"
    places = ("--output", file, "--plots", plots)
    job = submit("scaling", "--quick", "--mode", "strong", *asked, *places, options=TWO)
    assert waited_for(job) == ("COMPLETED", 0), log_of(job)
    assert (plots / "scaling.html").exists()
    told = dict(json.loads(file.read_text())["details"])
    assert told["environment"]["job_id"] == str(job)
    return told


def test_workers_and_ranks_are_measured_on_the_nodes_of_the_job(tmp_path: Path) -> None:
    told = measured(tmp_path, "--what", "acquire,train")
    assert (told["cluster"], told["backend"], told["launcher"]) == ("allocation", "ddp", "srun")
    found = [(p["step"], p["workers"], len(p["details"]["hosts"])) for p in told["points"]]
    assert found == [("acquire", 1, 1), ("acquire", 2, 2), ("train", 1, 1), ("train", 2, 2)]
    assert {row["step"] for row in told["projection"]["rows"]} == {"acquire", "train"}


@pytest.mark.parametrize("launcher", ["srun", "pmix", "mpirun"])
def test_horovods_ranks_meet_by_gloo_and_by_mpi(launcher: str, tmp_path: Path) -> None:
    needs_horovod()
    if launcher == "mpirun" and shutil.which("mpirun") is None:
        pytest.skip("there is no mpirun; install OpenMPI, with which Horovod was built")
    told = measured(tmp_path, "--what", "train", "--backend", "horovod", "--launcher", launcher)
    assert (told["backend"], told["launcher"]) == ("horovod", launcher)
    alone, two = told["points"]
    assert [len(alone["details"]["hosts"]), len(two["details"]["hosts"])] == [1, 2]
    assert len(two["seconds"]) == 2 and sum(two["split"].values()) == pytest.approx(1)
    assert all(seconds > 0 for _, seconds in two["details"]["exchanges"])
