"""Certificates of a run: for its user's eyes, gone with the run, of use to nobody else."""

from __future__ import annotations

import os
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from distributed import Security

from glacierhpc.errors import InputError
from glacierhpc.hpc.cluster.owned import OWNER, sweep
from glacierhpc.hpc.cluster.tls import PREFIX, credentials, refuse_open


def test_keys_are_for_their_user_alone_and_go_with_the_run(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with pytest.raises(ZeroDivisionError), credentials(tmp_path / "run") as known:
            folder = known.folder
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            raise ZeroDivisionError
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("ca.pem", "worker.pem", "worker.key", OWNER), 0o600)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    with pytest.raises(InputError, match="mode 0750.*0700"):
        refuse_open(tmp_path)


def shake(server: Security, server_role: str, client: Security, client_role: str) -> None:
    """Let two sides meet in memory, as Dask's do."""
    ways = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        server.get_listen_args(server_role)["ssl_context"].wrap_bio(ways[0], ways[1], server_side=True),
        client.get_connection_args(client_role)["ssl_context"].wrap_bio(ways[1], ways[0]),
    ]
    left, rounds = list(sides), 0
    while left and rounds < 20:
        rounds += 1
        for side in list(left):
            try:
                side.do_handshake()
                left.remove(side)
            except ssl.SSLWantReadError:
                pass
    assert not left
    sides[1].write(b"task")
    assert sides[0].read(4) == b"task"


def test_only_those_of_the_run_talk_to_each_other(tmp_path: Path) -> None:
    with credentials(tmp_path / "a") as ours, credentials(tmp_path / "b") as others:
        for role in ("worker", "client"):
            shake(ours.security, "scheduler", ours.security, role)
            with pytest.raises(ssl.SSLError, match="(?i)verify failed|unknown ca"):
                shake(ours.security, "scheduler", others.security, role)
        with pytest.raises(ssl.SSLError):  # nor does a client's certificate do to pose as the scheduler
            shake(ours.security, "client", ours.security, "worker")


def test_what_dead_runs_left_is_swept_and_what_lives_stays(tmp_path: Path) -> None:
    killed = "import os, sys\nfrom pathlib import Path\nfrom glacierhpc.hpc.cluster.tls import credentials\n" \
        "with credentials(Path(sys.argv[1])) as known:\n    os.kill(os.getpid(), 9)"  # fmt: skip
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)], check=False)
    assert len(left := list(tmp_path.glob(f"{PREFIX}*"))) == 1
    with credentials(tmp_path) as known:
        assert list(tmp_path.glob(f"{PREFIX}*")) == [known.folder] != left
        assert sweep(tmp_path, PREFIX) == [] and known.folder.is_dir()
