"""A plugin by which dask-jobqueue's own tests, which come with the package, run against our classes.

Use: see `suite`, which copies them; or pytest -p tests.hpc.jobqueue_plugin FOLDER [-E slurm]

Stands for the ``conftest.py`` of that project, which does not come with the package: its fixtures ``Cluster`` and
``EnvSpecificCluster``, its marker ``env`` and option ``-E``, and tests that are coroutines.
"""

from __future__ import annotations

import asyncio
import inspect

import dask
import dask_jobqueue
import pytest
from dask_jobqueue import htcondor, lsf, pbs, sge, slurm
from dask_jobqueue.local import LocalCluster
from distributed.utils_test import cleanup, loop, loop_in_thread  # noqa: F401

from glacierhpc.hpc.cluster import queues

REPLACED = {"SLURM": slurm, "PBS": pbs, "LSF": lsf, "SGE": sge, "HTCondor": htcondor}

NOT_RUN = {
    "test_slurm_runner": "tries SLURMRunner, which is not one of the classes; it waits for ever where a step may not "
    "use all of the job's cores",
    "test_different_interfaces_on_scheduler_and_workers": "needs networks called eth0:worker and eth0:scheduler",
}
"""Tests that are left out, with the reason."""


def replace() -> None:
    """Put our classes where the tests import theirs from."""
    for name, module in REPLACED.items():
        for part in ("Cluster", "Job"):
            ours = getattr(queues, name + part)
            setattr(module, name + part, ours)
            if part == "Cluster":
                setattr(dask_jobqueue, name + part, ours)


replace()
# what HTCondor cannot do without, besides cores and memory
dask.config.set({"jobqueue.htcondor.disk": "1GB"})
CLUSTERS = [getattr(dask_jobqueue, f"{name}Cluster") for name in REPLACED]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("-E", action="store", metavar="NAME", help="the batch system that is here")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "env(NAME): needs that batch system")
    config.addinivalue_line("markers", "xfail_env(REASONS): fails where that batch system is")
    config.addinivalue_line("markers", "asyncio: a coroutine")
    if config.getoption("-E"):
        # nobody looks at the page of a worker, and what draws it takes each of them longer to import than the rest
        dask.config.set({"jobqueue.slurm.worker-extra-args": ["--no-dashboard"]})


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if item.name in NOT_RUN]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item.name not in NOT_RUN]


def pytest_runtest_setup(item: pytest.Item) -> None:
    asked = item.config.getoption("-E")
    names: list[str] = []
    for mark in item.iter_markers("env"):
        names += mark.args[0] if isinstance(mark.args[0], list) else [mark.args[0]]
    if names and asked not in names:
        pytest.skip(f"needs {', '.join(names)}")
    for mark in item.iter_markers("xfail_env"):
        if asked in mark.args[0]:
            item.add_marker(pytest.mark.xfail(reason=mark.args[0][asked], strict=False))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(params=[*CLUSTERS, LocalCluster], ids=lambda cluster: cluster.__name__)
def Cluster(request: pytest.FixtureRequest) -> type:
    """Every class that a test is to be right for."""
    return request.param


@pytest.fixture(
    params=[
        pytest.param(dask_jobqueue.SLURMCluster, marks=pytest.mark.env("slurm")),
        pytest.param(LocalCluster),
    ],
    ids=lambda cluster: cluster.__name__,
)
def EnvSpecificCluster(request: pytest.FixtureRequest) -> type:
    """The classes that can start workers here."""
    if request.param is LocalCluster and request.config.getoption("-E"):
        pytest.skip("runs without a batch system")
    return request.param
