"""A training whose processes come and go learns what one process learns that nothing happens to (see comers.py)."""

from __future__ import annotations

import importlib.util
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from glacierhpc.errors import InputError
from glacierhpc.hpc.members import Members, MemberStore
from glacierhpc.training.distributed import rejoining
from glacierhpc.training.stopping import StopRequest
from tests.training import comers

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 600
"""For processes on a busy machine; many times what they take on an idle one."""

needs_horovod = pytest.mark.skipif(
    importlib.util.find_spec("horovod") is None,
    reason="Horovod is not installed; build it with: make horovod",
)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    """Start a process on a pretended host, by what it is to do; none is left behind."""
    processes: list[subprocess.Popen[bytes]] = []
    with MemberStore("127.0.0.1", Members(1)) as store:
        address, port = store.start()
        given = {
            "HOROVOD_ELASTIC": "1", "HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo",
            "HOROVOD_GLOO_RENDEZVOUS_ADDR": address, "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
            "HOROVOD_GLOO_IFACE": "lo", "HOROVOD_GLOO_TIMEOUT_SECONDS": str(TIMEOUT_S), "OMP_NUM_THREADS": "1",
        }  # fmt: skip

        def start(host: str, *part: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "tests.training.comers", str(tmp_path), *part]
            process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **given, "HOROVOD_HOSTNAME": host}
            )
            processes.append(process)
            return process

        yield start
        for process in processes:
            process.kill()
            process.wait()
        store.shutdown()


def result(folder: Path, name: str) -> dict[str, Any]:
    return dict(torch.load(folder / f"{name}.pt", weights_only=True))


def is_that_of_one_process(got: dict[str, Any], folder: Path) -> None:
    expected = comers.alone(folder / "alone")
    torch.testing.assert_close(got["losses"], expected["losses"], rtol=0, atol=1e-6)
    assert float((got["weights"] - expected["weights"]).abs().max()) < 1e-6


@needs_horovod
def test_one_comes_and_the_first_is_lost(started: Any, tmp_path: Path) -> None:
    """One process, then two, then the other one alone: it takes over checkpoints and all."""
    first, end = started("a", "waits_and_is_lost"), time.monotonic() + TIMEOUT_S
    while not (tmp_path / "checkpoints" / "last.pt").exists():
        assert time.monotonic() < end and first.poll() is None
        time.sleep(0.1)
    second = started("b")
    assert first.wait(TIMEOUT_S) == -signal.SIGKILL and second.wait(TIMEOUT_S) == 0
    got = result(tmp_path, "b")
    assert got["seen"] == [[1, 2], [0, 1]]
    is_that_of_one_process(got, tmp_path)


@needs_horovod
@pytest.mark.slow
def test_horovodrun_starts_such_a_training(tmp_path: Path) -> None:
    """Two names of this machine for two hosts; the process of one is lost, and horovodrun gives the host up."""
    hosts = tmp_path / "hosts.sh"
    hosts.write_text("#!/bin/sh\necho localhost:1\necho 127.0.0.1:1\n")
    hosts.chmod(stat.S_IRWXU)
    rank = (
        f'[ "$HOROVOD_HOSTNAME" = localhost ] || part=is_lost; exec {sys.executable} -m tests.training.comers'
    )
    command = [
        str(Path(sys.executable).with_name("horovodrun")), "-np", "2", "--min-np", "1",
        "--host-discovery-script", str(hosts), "--network-interfaces", "lo",
        "sh", "-c", f'{rank} "$0" $part', str(tmp_path),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOROVOD_GLOO_TIMEOUT_SECONDS": str(TIMEOUT_S)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True) as process:
        try:
            process.wait(TIMEOUT_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    got = result(tmp_path, "localhost")
    assert [size for _, size in got["seen"]] == [2, 1]
    is_that_of_one_process(got, tmp_path)


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOROVOD_ELASTIC", "1")
    with pytest.raises(InputError, match="elastic training .* train.backend='ddp' ends when a rank is lost"):
        rejoining("ddp", dict)


def test_ranks_that_stay_are_attempted_once() -> None:
    assert rejoining("single", lambda: "done") == "done"


def test_a_request_to_stop_is_known_to_the_next_attempt() -> None:
    with StopRequest() as outer:
        with StopRequest() as first:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert first and outer
        with StopRequest() as second:
            assert second.signal == "SIGUSR2"
    with StopRequest() as another:
        assert not another
