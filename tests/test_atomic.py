"""Writing whole or not at all: after success, failure, a full disk, and SIGKILL at any moment."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from glacierhpc.atomic import atomic_path, write_text
from glacierhpc.errors import GlacierError, InputError
from tests.conftest import ROOT


def test_atomic_path_replaces_only_on_success(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.tif"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".tif"
        temporary.write_text("first")
        assert not target.exists()
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_text("second")
        raise ZeroDivisionError
    assert target.read_text() == "first"
    assert [item.name for item in target.parent.iterdir()] == ["file.tif"]


def test_atomic_path_replaces_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "store.zarr"
    for content in ("one", "two"):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [item.name for item in target.iterdir()] == ["two"]
    assert [item.name for item in tmp_path.iterdir()] == ["store.zarr"]


def test_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("kept")
    with pytest.raises(GlacierError, match="free some space and run again"), atomic_path(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert target.read_text() == "kept"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_for_real(tmp_path: Path) -> None:
    with (
        pytest.raises(GlacierError, match="disk or quota is full"),
        atomic_path(tmp_path / "file") as temporary,
    ):
        temporary.symlink_to("/dev/full")
        temporary.write_text("x" * 100_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "kind"), [(errno.EROFS, InputError), (errno.EACCES, InputError)])
def test_a_place_that_may_not_be_written_is_the_users_to_change(
    tmp_path: Path, number: int, kind: type
) -> None:
    with pytest.raises(kind, match="give a folder that may be written"), atomic_path(tmp_path / "file"):
        raise OSError(number, os.strerror(number))


def test_any_other_trouble_with_a_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GlacierError, match="cannot be written: File exists"):
        write_text(tmp_path / "file" / "inside", "")


def test_submitting_does_not_wait_for_numpy() -> None:
    program = (
        "import sys, glacierhpc.lease, glacierhpc.hpc.journal; "
        "print(*({'numpy', 'pandas', 'pyarrow', 'yaml', 'pydantic'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == ""


KILLS = """
import json, os, random, signal, sys, time
from pathlib import Path
from glacierhpc.atomic import atomic_path, remove_leftovers, write_text
from glacierhpc.lease import take

folder, draw = Path(sys.argv[1]), random.Random(0)
last = {"file": 0, "store": 0}

def write(number):
    held = take(folder)
    remove_leftovers(folder)
    while True:
        number += 1
        write_text(folder / "file", f"{number} " * 20_000)
        with atomic_path(folder / "store") as store:
            store.mkdir()
            for shard in range(4):
                (store / f"shard-{shard}").write_text(f"{number} " * 5_000)

seen = {"kills": 0, "leftovers": 0, "moved_aside": 0}
for _ in range(100):
    if not (child := os.fork()):
        write(max(last.values()))
    time.sleep(draw.uniform(0, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    names = [path.name for path in folder.iterdir()]
    seen["kills"] += 1
    seen["leftovers"] += any(name.startswith((".tmp-", ".old-")) for name in names)
    seen["moved_aside"] += any(name.startswith(".old-") for name in names) and "store" not in names
    held = take(folder)
    remove_leftovers(folder)
    held.release()
    for name, shards in (("file", 1), ("store", 4)):
        path = folder / name
        if not path.exists():
            assert not last[name], f"{name} was there and is not"
            continue
        files = [path] if shards == 1 else sorted(path.iterdir())
        numbers = {word for file in files for word in file.read_text().split()}
        assert len(files) == shards and len(numbers) == 1, (name, numbers)
        assert all(len(file.read_text().split()) == 20_000 // shards for file in files), name
        assert int(min(numbers)) >= last[name], "an older one came back"
        last[name] = int(min(numbers))
    left = sorted(path.name for path in folder.iterdir() if path.name not in (".lock", ".lease"))
    assert set(left) <= {"file", "store"}, left
print(json.dumps({**seen, **last}))
"""


def test_a_hundred_kills_tear_nothing(tmp_path: Path) -> None:
    # a process of its own, because it forks: pytest has threads and open files
    answer = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    seen = json.loads(answer.stdout)
    assert seen["kills"] == 100 and seen["leftovers"] > 10 and seen["store"] > 10, seen
