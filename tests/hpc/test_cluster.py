"""Tasks run where the name says, and unknown names are refused."""

from __future__ import annotations

import logging
import os
import signal

import pytest
from distributed import Client, Security

from glacierhpc.errors import InputError
from glacierhpc.hpc.cluster import make_cluster


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


@pytest.mark.filterwarnings("ignore:unclosed")
@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_another_user_of_the_node_cannot_give_tasks(scheme: str) -> None:
    stranger = Security.temporary() if scheme == "tls" else None
    with make_cluster("local", workers=1) as executor:
        address = executor._client.scheduler.address  # type: ignore[union-attr]
        assert address.startswith("tls://127.0.0.1:")
        with pytest.raises(OSError, match="(?i)tls|timed out|closed"):
            Client(address.replace("tls", scheme), security=stranger, timeout="2s", set_as_default=False)
        assert executor is not None and executor.submit(pow, 2, 3).result() == 8


def test_a_worker_short_of_memory_is_heard_of(caplog: pytest.LogCaptureFixture) -> None:
    with make_cluster("local", workers=1), caplog.at_level(logging.WARNING, logger="glacierhpc"):
        logging.getLogger("distributed.nanny.memory").warning("Worker exceeded 95% memory budget")
    assert "glacierhpc.hpc.cluster.local" in {
        record.name for record in caplog.records if "95%" in record.message
    }


def interrupt_is_ignored(_: int) -> bool:
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_ctrl_c_is_for_the_caller_not_for_workers() -> None:
    before = signal.getsignal(signal.SIGINT)
    with make_cluster("local", workers=1) as executor:
        assert executor is not None
        assert executor.submit(interrupt_is_ignored, 0).result()
        assert signal.getsignal(signal.SIGINT) is before
