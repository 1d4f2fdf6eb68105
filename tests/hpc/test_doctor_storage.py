"""The doctor on file systems; noexec, read-only and small ones are real, mounted in a namespace of the test."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glacierhpc import lease
from glacierhpc.fence import epoch_file
from glacierhpc.hpc.cluster.owned import OWNER
from glacierhpc.hpc.doctor import folders, storage
from glacierhpc.hpc.site import Site
from tests.hpc.machines import complains, in_namespace, made, says

LOOK = """
from pathlib import Path
from glacierhpc.hpc.doctor import Machine, folders, storage
found = {check}(Machine(environ={{'PATH': '/usr/bin:/bin', 'TMPDIR': '{folder}', 'HOME': '{folder}'}}, folder=Path('{folder}')))
print(found.status, found.told, found.fix)
"""  # noqa: E501


def looked(check: str, folder: Path, options: str) -> str:
    """What a check finds in a real file system mounted with these options."""
    return in_namespace(
        f"mount -t tmpfs -o {options} none '{folder}'", LOOK.format(check=check, folder=folder)
    )


def test_the_temporary_folder(tmp_path: Path) -> None:
    assert looked("storage.temporary", tmp_path, "size=20g").startswith("ok ")
    assert looked("storage.temporary", tmp_path, "size=5g").startswith("warn ")
    assert looked("storage.temporary", tmp_path, "size=500m").startswith("fail ")
    assert "mounted noexec" in looked("storage.temporary", tmp_path, "size=20g,noexec")
    assert looked("storage.temporary", tmp_path, "ro").startswith("fail ")
    slow = storage.temporary(made(tmp_path, environ={"TMPDIR": str(tmp_path)}, patience=0))
    assert slow.status == "unknown"  # not said to be mounted noexec
    absent = storage.temporary(made(tmp_path, environ={"TMPDIR": str(tmp_path / "none")}))
    assert absent.status == "fail" and "TMPDIR" in absent.fix


def test_the_scratch_of_the_site_is_that_of_jobs(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "site": {"scratch": "/nowhere/$SLURM_JOB_ID"},
        "environ": {"SLURM_JOB_ID": "7", "TMPDIR": "/tmp"},
    }
    assert "/nowhere/7 cannot be written" in storage.temporary(made(tmp_path, **given, role="compute")).told
    assert storage.temporary(made(tmp_path, **given)).told.startswith("/tmp ")


def test_room_for_bytes_and_for_files(tmp_path: Path) -> None:
    assert looked("storage.work", tmp_path, "size=50g,nr_inodes=100k").startswith("ok ")
    assert looked("storage.work", tmp_path, "size=50g,nr_inodes=1000").startswith("warn ")
    assert looked("storage.work", tmp_path, "size=1g,nr_inodes=100k").startswith("warn ")
    assert looked("storage.work", tmp_path, "size=50m,nr_inodes=100k").startswith("fail ")
    assert storage.room("x", 100, None).status == "ok"  # a file system that does not count them
    assert storage.work(made(tmp_path, folder=tmp_path / "not" / "yet")).status in ("ok", "warn")


def test_home(tmp_path: Path) -> None:
    assert looked("storage.home", tmp_path, "size=5g").startswith("ok ")
    assert looked("storage.home", tmp_path, "size=500m").startswith("warn ")
    assert storage.home(made(tmp_path, environ={"HOME": str(tmp_path / "none")})).status == "warn"


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        # quota --raw-grace: file system, KiB, soft, hard, grace, files, soft, hard, grace
        ("/home 1048576 10485760 11534336 0 20 100000 110000 0", "ok", "1.0 of 11.0 GiB 20 of 110,000 files"),
        ("/home 10000000 10485760 11534336 0 20 100000 110000 0", "warn", "GiB"),
        ("/home 1048576 10485760 11534336 0 100001* 100000 110000 604800", "warn", "over the soft limit"),
        ("/home 1048576 10485760 11534336 0 110000* 100000 110000 0", "fail", "110,000 of 110,000 files"),
        ("/home 10485760 10485760 0 0 20 0 0 0", "fail", "10.0 of 10.0 GiB"),
        ("/home 1048576 0 0 0 20 100000 110000 0", "ok", "20 of"),
        # lfs quota: the grace is a dash
        ("/scratch 1048576 0 1073741824 - 1999999 0 2000000 -", "warn", "1,999,999 of 2,000,000 files"),
    ],
)
def test_a_quota_is_read(line: str, status: str, words: str, tmp_path: Path) -> None:
    """Of the system's command and of a site's own one the same is said."""
    said = says(line.replace("/home", str(tmp_path)).replace("/scratch", str(tmp_path)))
    m = made(tmp_path, commands={"quota": said, "told": said})
    found = storage.home(m)
    assert found.status == status and words in found.told, found
    if status != "ok":
        assert storage.work(m) == found
        assert storage.work(replace(m, site=Site(quota_command="told"))) == found


def test_the_quota_of_the_file_system_that_the_folder_is_on(tmp_path: Path) -> None:
    """A local device tells itself before where it is mounted."""
    lines = [
        "/dev/sda1 / 99 100 100 0 1 0 0 0", f"/dev/sdb1 {tmp_path} 1048576 10485760 10485760 0 20 0 0 0",
        f"server:/other {tmp_path}/hom 99 100 100 0 1 0 0 0",
    ]  # fmt: skip
    found = storage.home(made(tmp_path, commands={"quota": says("\n".join(lines))}))
    assert found.status == "ok" and "1.0 of 10.0 GiB" in found.told, found


def test_the_quota_of_a_site_s_own_command(tmp_path: Path) -> None:
    def found(answer: str) -> Any:
        site = {"quota_command": "told -u $WHO"}
        return storage.work(made(tmp_path, site=site, environ={"WHO": "me"}, commands={"told": answer}))

    lines = f"{tmp_path} 1048576 0 10485760 - 20 0 100 -\n{tmp_path} 1048576 0 0 - 95 0 100 -\n/other 9 0 9 - 9 0 9 -"
    worst = found(f'[ "$*" = "-u me" ] && {says(lines)}')
    assert worst.status == "warn" and "95 of 100 files" in worst.told, worst
    assert found(says("all is well")).fix.endswith(
        "like that of one of these: lfs quota, quota, quota -s, mmlsquota -Y"
    )
    assert "told: all is well" not in found(says("Disk quotas for user me (uid 7): none")).told
    assert found(complains("no such file system")).told.endswith("no such file system")


def test_no_quota_is_none(tmp_path: Path) -> None:
    for answer in ("", f"{tmp_path} 1048576 0 0 0 20 0 0 0"):
        assert "quota:" not in storage.home(made(tmp_path, commands={"quota": says(answer)})).told


def test_stripes_of_lustre(tmp_path: Path) -> None:
    def found(count: str, **more: Any) -> Any:
        mounts = {"proc/self/mounts": f"/dev/sda / ext4 rw 0 0\nmds@tcp:/l {tmp_path} lustre rw 0 0\n"}
        lfs = {"lfs": f'case "$1" in getstripe) echo {count};; *) exit 1;; esac'} if count else {}
        return storage.lustre(made(tmp_path / "m", folder=tmp_path, files=mounts, commands=lfs, **more))

    (tmp_path / "m").mkdir()
    assert found("").status == "skip" and "no lfs" in found("").told
    assert found("1").status == "ok"
    assert "over 8 servers" in found("8").told and "lfs setstripe -c 1" in found("8").fix
    assert "over all servers" in found("-1").told
    assert found("error").status == "unknown"
    (tmp_path / "other").mkdir()
    assert (
        storage.lustre(
            made(tmp_path / "other", files={"proc/self/mounts": "/dev/sda / ext4 rw 0 0\n"})
        ).status
        == "skip"
    )


def test_locks(tmp_path: Path) -> None:
    assert folders.locks(made(tmp_path)).status == "ok"  # really: a second process is kept off
    # where locks do nothing: the second process gets it, too
    assert folders.locks(made(tmp_path, python="/bin/true")).status == "warn"
    (tmp_path / "closed").mkdir()
    assert looked("folders.locks", tmp_path / "closed", "ro").startswith("unknown nothing can be written")
    assert folders.locks(made(tmp_path, python="/bin/false")).status == "unknown"
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".glacierhpc")] == []


def test_renames(tmp_path: Path) -> None:
    assert looked("folders.renames", tmp_path, "size=1m").startswith("ok ")
    assert looked("folders.renames", tmp_path, "ro").startswith("fail ")


def test_file_times(tmp_path: Path) -> None:
    assert folders.file_times(made(tmp_path)).status == "ok"
    assert folders.skewed(100, "the file server's clock").status == "warn"
    assert looked("folders.file_times", tmp_path, "ro").startswith("unknown ")


@pytest.mark.parametrize(
    ("mask", "status", "words"),
    [
        ("0022", "ok", "everybody may read"),
        ("0027", "ok", "your group may read"),
        ("0077", "ok", "umask 027"),
        ("0000", "warn", "everybody"),
    ],
)
def test_the_file_mode(mask: str, status: str, words: str, tmp_path: Path) -> None:
    found = folders.file_mode(made(tmp_path, files={"proc/self/status": f"Name:\tx\nUmask:\t{mask}\n"}))
    assert found.status == status and words in found.told
    assert folders.file_mode(made(tmp_path / "root")).status == "unknown"


def test_the_holder_of_a_run(tmp_path: Path) -> None:
    assert folders.holder(made(tmp_path)).status == "skip"
    held = lease.take(tmp_path)
    assert folders.holder(made(tmp_path)).status == "ok"
    path = epoch_file(tmp_path, 1)
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago))
    found = folders.holder(made(tmp_path))
    assert found.status == "warn" and "60 minutes" in found.told
    held.release()
    assert folders.holder(made(tmp_path)).told == "no command has the run"


def test_keys_of_dead_runs_are_found(tmp_path: Path) -> None:
    (tmp_path / ".glacierhpc-doctor-young").mkdir()
    assert folders.leftovers(made(tmp_path)).status == "ok"
    left = tmp_path / "runs" / "a" / ".tls-00aa"
    left.mkdir(parents=True)
    (left / OWNER).write_text(json.dumps({"host": "gone", "boot": "x", "pid": 1, "started": 1}))
    assert (
        folders.leftovers(made(tmp_path)).status == "ok"
    )  # touched just now, on another machine: it may live
    day_ago = time.time() - 90_000
    os.utime(left / OWNER, (day_ago, day_ago))
    found = folders.leftovers(made(tmp_path))
    assert found.status == "warn" and "runs/a/.tls-00aa" in found.told
    assert found.fix.endswith("&& rm -r runs/a/.tls-00aa")
    os.utime(tmp_path / ".glacierhpc-doctor-young", (day_ago, day_ago))
    assert ".glacierhpc-doctor-young" in folders.leftovers(made(tmp_path)).told
