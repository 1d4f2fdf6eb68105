"""Tasks run where the name says, and unknown names are refused."""

from __future__ import annotations

import os

import pytest

from glacierhpc.errors import InputError
from glacierhpc.hpc.cluster import make_cluster


def worker_identity(_: int) -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("OMP_NUM_THREADS")


def test_local_tasks_run_in_worker_processes_with_serial_kernels() -> None:
    with make_cluster("local", workers=2, cores=2) as executor:
        assert executor is not None
        answers = list(executor.map(worker_identity, range(8)))
    assert os.getpid() not in {process for process, _ in answers}
    assert {threads for _, threads in answers} == {"1"}


def test_serial_needs_no_workers() -> None:
    with make_cluster("serial", workers=0) as executor:
        assert executor is None


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'local'"):
        make_cluster("locl", workers=1)
