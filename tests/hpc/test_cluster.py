"""Tasks run where the name says, and unknown names are refused."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Executor

import dask
import pytest
import requests
from dask.utils import parse_timedelta
from distributed import Client, Security

from glacierhpc.errors import InputError
from glacierhpc.hpc.cluster import make_cluster
from glacierhpc.hpc.cluster.serving import SETTINGS, _terminated_in_order


def worker_identity(_: int) -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("OMP_NUM_THREADS")


def test_local_tasks_run_in_worker_processes_with_serial_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # a job leaves all cores to training
    before = dict(os.environ)
    with make_cluster("local", workers=2, cores=2) as executor:
        assert executor is not None
        answers = list(executor.map(worker_identity, range(8)))
    assert os.getpid() not in {process for process, _ in answers}
    assert {threads for _, threads in answers} == {"1"}
    assert dict(os.environ) == before


def test_serial_needs_no_workers() -> None:
    with make_cluster("serial", workers=0) as executor:
        assert executor is None


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'local'"):
        make_cluster("locl", workers=1)


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    before = signal.getsignal(signal.SIGINT)
    with make_cluster("local", workers=1) as executor:
        assert executor is not None
        assert signal.getsignal(signal.SIGINT) is before
        yield executor


@pytest.mark.filterwarnings("ignore:unclosed")
@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_another_user_of_the_node_cannot_give_tasks(scheme: str, executor: Executor) -> None:
    stranger = Security.temporary() if scheme == "tls" else None
    address = executor._client.scheduler.address  # type: ignore[attr-defined]
    assert address.startswith("tls://127.0.0.1:")
    with pytest.raises(OSError, match="(?i)tls|timed out|closed"):
        Client(address.replace("tls", scheme), security=stranger, timeout="2s", set_as_default=False)
    assert executor.submit(pow, 2, 3).result() == 8


@pytest.mark.usefixtures("executor")
@pytest.mark.parametrize(
    "place", ["json/counts.json", "info/main/workers.html", "metrics", "proxy/1/127.0.0.1/status"]
)
def test_the_scheduler_s_page_gives_no_more_than_itself(place: str, executor: Executor) -> None:
    address = f"http://127.0.0.1:{executor._client.cluster.scheduler.http_server.port}"  # type: ignore[attr-defined]
    assert requests.get(f"{address}/status", timeout=60).ok
    assert requests.get(f"{address}/{place}", timeout=60).status_code == 404


def test_a_worker_short_of_memory_is_heard_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="glacierhpc"):
        logging.getLogger("distributed.nanny.memory").warning("Worker exceeded 95% memory budget")
    assert "glacierhpc.hpc.cluster.local" in {
        record.name for record in caplog.records if "95%" in record.message
    }


def interrupt_is_ignored(_: int) -> bool:
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_ctrl_c_is_for_the_caller_not_for_workers(executor: Executor) -> None:
    """That the caller still hears it is asked where the workers are started, above."""
    assert executor.submit(interrupt_is_ignored, 0).result()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_that_end_a_process_end_it_in_order(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # whatever tests of the command line have set
    try:
        with pytest.raises(SystemExit) as ended, _terminated_in_order():
            os.kill(os.getpid(), number)
        assert ended.value.code == 128 + number and signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_signals_that_somebody_sees_to_are_left_alone() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with _terminated_in_order():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_result_that_is_lost_with_its_worker_is_not_asked_for_there_for_long() -> None:
    """On a real Slurm, where workers are killed after a result and before it is fetched: tests/cluster/test_dask.py."""
    with dask.config.set(SETTINGS):
        connect_s = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
        assert connect_s * (1 + dask.config.get("distributed.comm.retry.count")) <= 30
