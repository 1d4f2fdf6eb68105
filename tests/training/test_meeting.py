"""Ranks meet though another program has their port: by a signpost at one of a few ports, which says whose it is."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from glacierhpc.errors import GlacierError
from glacierhpc.training.backends.meeting import follow, signpost, signposts

ROOT = Path(__file__).resolve().parents[2]
HERE = "127.0.0.1"


@pytest.fixture
def port():
    with socket.create_server((HERE, 0)) as free:
        found = free.getsockname()[1]
    return found


def test_ports_are_few_apart_and_always_ports():
    for first in (1, 1024, 20_000, 65_535):
        found = signposts(first)
        assert len(set(found)) == len(found) == 8 and all(1024 <= each <= 65_535 for each in found)
    assert signposts(20_000)[0] == 20_000


@pytest.mark.parametrize("says", [None, b"HTTP/1.0 400\r\n\r\n", b"other-run 7\n"])
def test_a_taken_port_is_passed_over(port, says):
    """By a program that keeps silent, one that says something else, and another run's rank 0."""
    with socket.create_server((HERE, port)) as taken:

        def answer():
            kept = []
            with contextlib.suppress(OSError):
                while True:
                    kept.append(taken.accept()[0])
                    if says:
                        with kept.pop() as line:
                            line.sendall(says)
            for line in kept:
                line.close()

        answering = threading.Thread(target=answer)
        answering.start()
        with signpost(HERE, port, run="job 5", store=4242) as stands:
            assert stands in signposts(port)[1:]
            assert follow(HERE, port, run="job 5", timeout_s=30) == 4242
        taken.shutdown(socket.SHUT_RDWR)
        answering.join()


def test_the_signpost_is_gone_with_its_block(port):
    with signpost(HERE, port, run="a", store=1):
        assert follow(HERE, port, run="a", timeout_s=10) == 1
        with pytest.raises(
            GlacierError, match=r"rank 0 was not found on 127.0.0.1 in 0 s \(.*: a 1; .*refused"
        ):
            follow(HERE, port, run="b", timeout_s=0)
    with pytest.raises(GlacierError, match="refused"):
        follow(HERE, port, run="a", timeout_s=0)


def test_when_all_ports_are_taken_they_are_named(port):
    taken = []
    for each in signposts(port):
        with contextlib.suppress(OSError):  # another program has it: as good
            taken.append(socket.create_server((HERE, each)))
    try:
        says = f"none of the ports {port}, .* set MASTER_PORT to another"
        with pytest.raises(GlacierError, match=says), signpost(HERE, port, run="a", store=1):
            pass
    finally:
        for each in taken:
            each.close()


def test_two_ranks_meet_at_another_port(port):
    """DDP itself, as tasks of srun, whose port a silent program has."""
    code = (
        "import torch, logging; logging.basicConfig(level=20); "
        "from glacierhpc.training.distributed import open_backend; b = open_backend('ddp', device='cpu'); "
        "print(b.sum(torch.ones(1)).item()); b.close()"
    )
    given = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "5", "SLURM_STEP_ID": "1", "MASTER_ADDR": HERE}
    given |= {"SLURM_STEP_TASKS_PER_NODE": "2", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    with socket.create_server((HERE, port)):
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=ROOT,
                env={**os.environ, **given, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in (0, 1)
        ]
        told = [rank.communicate(timeout=180)[0] for rank in ranks]
    assert [text.splitlines()[-1] for text in told] == ["2.0", "2.0"], told
    assert f"port {port} of {HERE} is another program's; the ranks meet at" in told[0]
