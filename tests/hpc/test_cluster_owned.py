"""Folders of processes: those of the dead are removed by the next to come, and no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from glacierhpc.hpc.cluster import make_cluster
from glacierhpc.hpc.cluster.local import PREFIX
from glacierhpc.hpc.cluster.owned import OWNER, STALE_S, is_dead, own, sweep, touch
from tests.conftest import ROOT

OLD_S = 2 * STALE_S


@pytest.mark.parametrize(
    ("change", "age_s", "dead", "dead_here"),
    [
        ({}, 0.0, False, False),
        ({}, OLD_S, False, False),
        ({"pid": 2**22 + 1}, 0.0, True, True),
        ({"began": 12}, 0.0, True, True),  # the number of the process is another's by now
        ({"pid": 2**22 + 1, "pids": "of a container"}, 0.0, False, False),
        ({"host": "elsewhere"}, 0.0, False, False),
        ({"host": "elsewhere"}, OLD_S, True, False),
        ({"boot": "before"}, 0.0, False, True),
        ({"boot": "before"}, OLD_S, True, True),
    ],
)
def test_who_is_dead(
    tmp_path: Path, change: dict[str, object], age_s: float, dead: bool, dead_here: bool
) -> None:
    own(tmp_path)
    path = tmp_path / OWNER
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    os.utime(path, (time.time() - age_s,) * 2)
    assert is_dead(tmp_path) is dead
    assert is_dead(tmp_path, shared=False) is dead_here
    touch(tmp_path)
    if "host" in change:
        assert not is_dead(tmp_path)


def test_another_users_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(tmp_path)
    (tmp_path / OWNER).write_text("{}")
    os.utime(tmp_path / OWNER, (0, 0))
    assert is_dead(tmp_path)
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    assert not is_dead(tmp_path)


def test_no_folder_but_a_run_s_is_swept(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / ".tls-link").symlink_to(tmp_path / "kept")
    (tmp_path / ".tls-new").mkdir()  # of a run that is just being started
    assert sweep(tmp_path, ".tls-") == []
    os.utime(tmp_path / ".tls-new", (time.time() - OLD_S,) * 2)
    assert sweep(tmp_path, ".tls-") == [tmp_path / ".tls-new"]
    assert (tmp_path / "kept").is_dir()


KILLED = """
import os, sys
from glacierhpc.hpc.cluster import make_cluster

if __name__ == "__main__":
    with make_cluster("local", workers=1, cores=1) as executor:
        executor.submit(os.getpid).result(120)
        os.kill(os.getpid(), 9)
"""


def test_what_a_killed_run_with_workers_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    environ = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, tmp_path / "killed.py"], env=environ, check=False, timeout=300)
    assert done.returncode == -9 and len(list(tmp_path.glob(f"{PREFIX}*"))) == 1
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with make_cluster("local", workers=1) as first:
        assert first is not None
        (mine,) = tmp_path.glob(f"{PREFIX}*")
        assert json.loads((mine / OWNER).read_text())["pid"] == os.getpid()
        assert sweep(tmp_path, PREFIX, shared=False) == [] and mine.is_dir()
    assert list(tmp_path.glob(f"{PREFIX}*")) == []
