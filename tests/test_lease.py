"""The lease of a folder: one holder at a time, taken over from the dead and the earlier only, no write by an orphan.

Holders are real processes, stopped and killed by signals. What is pretended is what one machine cannot have: that a
process is on another machine (its boot has another name), and that the file system has no locks.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from glacierhpc import fence, holder, lease
from glacierhpc.atomic import atomic_path, remove, remove_leftovers, write_text
from glacierhpc.errors import GlacierError, InputError
from glacierhpc.fence import FencedExecutor, LeaseLost, epoch_file, epochs, read_record
from glacierhpc.lease import Lease, take

HOLDER = """
import errno, fcntl, os, sys
from pathlib import Path
from glacierhpc import holder, lease
from glacierhpc.atomic import atomic_path, write_text
from glacierhpc.errors import GlacierError

folder, options = Path(sys.argv[1]), eval(sys.argv[2])
if options.pop("elsewhere", False):
    holder._boot = lambda: "another machine"
if options.pop("no_locks", False):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = refuse
if (years := options.pop("clock_off_years", 0)):
    touch, ticks = os.utime, iter(range(10**6))
    os.utime = lambda path: touch(path, ns=(0, int((years * 3.2e7 - next(ticks)) * 1e9) + 10**18))

def lost(err):
    print("lost:", err, flush=True)

try:
    held = lease.take(folder, beat_s=0.5, on_lost=lost, **options)
except GlacierError as err:
    print(type(err).__name__, err, flush=True)
    sys.exit(err.exit_code)
print("has it", flush=True)
for line in sys.stdin:
    verb, name = line.split()
    try:
        if verb == "write":
            write_text(folder / name, "by " + str(os.getpid()))
        if verb == "begin":
            begun = atomic_path(folder / name)
            begun.__enter__().write_text("by " + str(os.getpid()))
        if verb == "end":
            begun.__exit__(None, None, None)
        print("done", flush=True)
    except GlacierError as err:
        print(type(err).__name__, err, flush=True)
held.release()
"""


class Holder:
    """A process that takes a folder and then does as it is told."""

    def __init__(self, folder: Path, **options: object) -> None:
        command = [sys.executable, "-c", HOLDER, str(folder), repr(options)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lost = False
        self.first = self.line()

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def tell(self, order: str) -> str:
        """Give an order and return the answer to it."""
        assert self.process.stdin
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        while (answer := self.line()).startswith("lost:"):
            self.lost = True
        return answer

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        self.signal(signal.SIGCONT)
        self.process.communicate(timeout=60)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


Start = Callable[..., Holder]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start holders of one folder, and see that none is left."""
    holders: list[Holder] = []

    def one(**options: object) -> Holder:
        holders.append(Holder(tmp_path, **options))
        return holders[-1]

    yield one
    for each in holders:
        if each.process.poll() is None:
            each.kill()


def stopped(process: Holder) -> None:
    """Stop a process as a stalled machine does, and return when it has stopped."""
    process.signal(signal.SIGSTOP)
    end = time.monotonic() + 60
    while Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("pretended", [{}, {"no_locks": True}, {"elsewhere": True}])
def test_a_second_command_is_refused_and_told_who_has_it(
    start: Start, tmp_path: Path, pretended: dict
) -> None:
    first = start(job="17@here", restart=1, **pretended)
    assert first.first == "has it"
    with pytest.raises(
        InputError, match=rf"in use by process {first.process.pid} on .* of job 17@here, start 2"
    ):
        take(tmp_path)
    assert first.tell("write file") == "done"
    first.end()
    take(tmp_path).release()


def refused_at_a_sign(folder: Path, **more: Any) -> None:
    """See a command refused, however late a busy machine lets the holder give its sign."""
    with pytest.MonkeyPatch.context() as patient, pytest.raises(InputError, match="in use by process"):
        patient.setattr(lease, "MISSES", 120)
        take(folder, **more)


def test_without_locks_a_command_elsewhere_is_known_to_live_by_its_signs(
    start: Start, tmp_path: Path
) -> None:
    first = start(elsewhere=True, no_locks=True)
    refused_at_a_sign(tmp_path)
    assert first.tell("write file") == "done"


@pytest.mark.parametrize("years", [-20, 20])
def test_a_wrong_clock_says_nothing_about_life(start: Start, tmp_path: Path, years: int) -> None:
    first = start(elsewhere=True, no_locks=True, clock_off_years=years)
    refused_at_a_sign(tmp_path)
    stopped(first)
    take(tmp_path).release()


def test_a_killed_command_is_known_to_be_gone_at_once(start: Start, tmp_path: Path) -> None:
    first = start(no_locks=True)
    first.tell("begin file")
    first.kill()
    second = take(tmp_path)
    remove_leftovers(tmp_path)
    assert second.fence.epoch == 2 and epochs(tmp_path) == [2]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp")] == []
    second.release()


def test_a_lock_that_is_free_says_that_a_command_elsewhere_is_gone(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(elsewhere=True)
    first.kill()
    monkeypatch.setattr(lease, "_silent", lambda *_: pytest.fail("it waited"))
    take(tmp_path).release()
    assert not epoch_file(tmp_path, 1).exists()


def test_the_end_of_its_job_says_that_a_command_elsewhere_is_gone(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(elsewhere=True, no_locks=True, job="17@here").kill()
    waits: list[str] = []
    monkeypatch.setattr(lease, "_silent", lambda *_: waits.append("for signs of life") or "silent")
    take(tmp_path, has_ended=lambda job: job == "17@here").release()
    assert not waits
    start(elsewhere=True, no_locks=True, job="18@here").kill()
    take(tmp_path, has_ended=lambda job: job == "17@here").release()
    assert waits


def test_locks_that_other_machines_do_not_see_say_nothing(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(elsewhere=True)
    first.kill()
    monkeypatch.setattr(holder, "_locks_are_shared", lambda path: False)
    waited = []
    monkeypatch.setattr(lease, "_silent", lambda *_: waited.append(1) or "silent")
    take(tmp_path).release()
    assert waited


@pytest.mark.parametrize(
    ("kind", "options", "shared"),
    [
        ("lustre", "rw,flock", True), ("lustre", "rw,localflock", False), ("nfs4", "rw,local_lock=none", True),
        ("nfs", "rw,vers=3,nolock,addr=1", False), ("beegfs", "rw", False), ("gpfs", "rw", False), ("xfs", "rw", True),
        ("fuse.sshfs", "rw", False),
    ],
)  # fmt: skip
def test_mounts_tell_whose_locks_they_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: str, shared: bool
) -> None:
    """Recorded lines: this machine has none of these but its own disk."""
    folder = tmp_path / "données et plus"
    escaped = str(folder).replace(" ", "\\040")
    lines = [
        "22 1 0:20 / / rw - ext4 /dev/root rw,nolock",
        f"36 22 0:44 / {escaped} rw,noatime shared:1 - {kind} 10.0.0.1:/scratch {options}",
        "37 22 0:45 / /elsewhere rw - nfs host:/home rw,nolock",
    ]
    real = Path.read_bytes
    monkeypatch.setattr(
        Path,
        "read_bytes",
        lambda path: "\n".join(lines).encode() if path.name == "mountinfo" else real(path),
    )
    assert holder._locks_are_shared(folder / "run") is shared


@pytest.mark.parametrize("pretended", [{}, {"no_locks": True}, {"elsewhere": True}])
def test_a_job_that_starts_again_takes_over_from_its_orphan(
    start: Start, tmp_path: Path, pretended: dict
) -> None:
    orphan = start(job="17@here", restart=0, **pretended)
    assert orphan.tell("write file") == "done"
    assert orphan.tell("begin late") == "done"
    lost: list[LeaseLost] = []
    second = take(tmp_path, job="17@here", restart=1, on_lost=lost.append)
    remove_leftovers(tmp_path)
    (unfinished,) = tmp_path.glob(".tmp-e1-*-late")  # it may be at work: what it writes is left to it
    with atomic_path(tmp_path / "file") as temporary:
        assert temporary.name.startswith(".tmp-e2-")
        temporary.write_text("by the second")
    for order in ("write file", "end late", "write new"):
        answer = orphan.tell(order)
        assert answer.startswith("LeaseLost") and "start 2" in answer and "believed dead" in answer
    assert (tmp_path / "file").read_text() == "by the second"
    assert not (tmp_path / "late").exists() and not (tmp_path / "new").exists() and not unfinished.exists()
    assert orphan.lost or orphan.line().startswith("lost:")  # within a sign of life
    orphan.end()
    write_text(tmp_path / "file", "still")
    second.release()
    assert not lost
    take(tmp_path).release()
    assert epochs(tmp_path) == [3]


@pytest.mark.parametrize("pretended", [{}, {"no_locks": True}, {"elsewhere": True}])
def test_a_command_that_gives_way_does_so_to_all_but_its_like(
    start: Start, tmp_path: Path, pretended: dict
) -> None:
    looker = start(gives_way=True, **pretended)
    assert looker.tell("begin late") == "done"
    refused_at_a_sign(tmp_path, gives_way=True)
    worker = take(tmp_path)
    assert "to whom this command gives way" in looker.tell("end late")
    looker.end()
    assert not (tmp_path / "late").exists()
    with pytest.raises(InputError, match="in use"):
        take(tmp_path)
    worker.release()


def test_the_same_start_of_a_job_and_other_jobs_are_refused(start: Start, tmp_path: Path) -> None:
    start(job="17@here", restart=1)
    for job, restart in (("17@here", 1), ("17@here", 0), ("18@here", 2), ("17@there", 2), (None, 2)):
        with pytest.raises(InputError, match="in use"):
            take(tmp_path, job=job, restart=restart)


def test_a_command_that_shows_no_life_is_overtaken_and_fenced_when_it_wakes(
    start: Start, tmp_path: Path
) -> None:
    sleeper = start(elsewhere=True, no_locks=True)
    sleeper.tell("begin late")
    stopped(sleeper)
    began = time.monotonic()
    second = take(tmp_path)
    assert time.monotonic() - began > 0.5 * lease.MISSES
    remove_leftovers(tmp_path)
    assert list(tmp_path.glob(".tmp-e1-*-late"))
    sleeper.signal(signal.SIGCONT)
    assert sleeper.tell("end late").startswith("LeaseLost")
    assert not (tmp_path / "late").exists()
    second.release()


def test_of_many_who_come_at_once_one_has_it(tmp_path: Path) -> None:
    Holder(tmp_path).kill()  # a dead holder, whom all of them find
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path), "{'no_locks': True}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(6)
    ]  # fmt: skip
    first_words = [process.stdout.readline().split()[0] for process in crowd if process.stdout]
    for process in crowd:
        process.communicate(timeout=60)
    assert sorted(first_words) == ["InUse"] * 5 + ["has"]


def test_a_copied_folder_is_nobodys(start: Start, tmp_path: Path) -> None:
    start()
    copy = tmp_path.with_name(f"{tmp_path.name}-copy")
    shutil.copytree(tmp_path, copy)
    take(copy).release()


@pytest.mark.parametrize("pretended", [{}, {"elsewhere": True}, {"elsewhere": True, "no_locks": True}])
def test_a_folder_that_has_another_number_at_every_look_is_not_taken_for_a_copy(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretended: dict
) -> None:
    first = start(**pretended)
    monkeypatch.setattr(lease, "_place", lambda folder: -1)
    refused_at_a_sign(tmp_path)
    first.kill()
    take(tmp_path).release()


def test_a_copied_folder_without_locks_is_had_after_a_look(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(no_locks=True)
    copy = tmp_path.with_name(f"{tmp_path.name}-copy")
    shutil.copytree(tmp_path, copy)
    monkeypatch.setattr(holder, "_locks_are_shared", lambda path: False)
    take(copy).release()


def test_a_fork_that_ends_does_not_let_go_for_its_parent(tmp_path: Path) -> None:
    program = f"""
import os, sys
from pathlib import Path
from glacierhpc.lease import take

held = take(Path({str(tmp_path)!r}))
if not os.fork():
    held.release()
    os._exit(0)
os.wait()
held.check()
sys.exit("released" in held.fence.file.read_text())
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


def test_an_orphan_removes_nothing_of_its_successor(tmp_path: Path) -> None:
    first = take(tmp_path, job="17", restart=0)
    for name in ("checkpoints", "gone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.pt").touch()
    remove(tmp_path / "gone")
    remove(tmp_path / "never there")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lease", ".lock", "checkpoints"]
    second = take(tmp_path, job="17", restart=1)
    fence.hold(first.fence)  # as in the process of the first, which does not know of the second
    for name in ("checkpoints", "checkpoints/last.pt"):
        with pytest.raises(LeaseLost, match="taken over"):
            remove(tmp_path / name)
    assert (tmp_path / "checkpoints" / "last.pt").exists()
    second.release()
    first.release()


def test_a_folder_whose_lease_was_deleted_is_written_no_more(start: Start, tmp_path: Path) -> None:
    first = start(no_locks=True)
    shutil.rmtree(tmp_path / fence.FOLDER)
    assert "is gone" in first.tell("write file")
    second = take(tmp_path)
    assert second.fence.epoch == 1
    assert first.tell("write file").startswith("LeaseLost")
    second.release()
    assert read_record(epoch_file(tmp_path, 1))["released"]


def test_a_number_given_to_another_process_is_not_the_holder(tmp_path: Path) -> None:
    held = take(tmp_path)
    record = read_record(held.fence.file)
    held.release()
    epoch_file(tmp_path, 2).write_text(json.dumps({**record, "began": record["began"] - 1}))
    take(tmp_path).release()
    epoch_file(tmp_path, 4).write_text(json.dumps(record))
    with pytest.raises(InputError, match="in use"):
        take(tmp_path)


def test_a_holder_that_cannot_show_life_stops_writing_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = take(tmp_path, beat_s=0.02)
    real, failing = os.utime, True

    def utime(path: Path, *more: object) -> None:
        if failing:
            raise OSError(5, "Input/output error")
        real(path)

    monkeypatch.setattr(os, "utime", utime)
    write_text(tmp_path / "file", "one miss refuses nothing")
    reached(lambda: held._missed >= lease.MISSES)
    with pytest.raises(GlacierError, match="look at the file system"):
        write_text(tmp_path / "file", "but several do")
    failing = False
    reached(lambda: held._missed == 0)
    write_text(tmp_path / "file", "well again")
    held.release()


def reached(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def write_slowly(path: Path) -> str:
    """A task: what it has begun it ends later."""
    with atomic_path(path) as temporary:
        temporary.write_text("by a worker")
        while not path.with_name("go").exists():
            time.sleep(0.01)
    return temporary.name


def test_workers_of_an_overtaken_command_are_refused(tmp_path: Path) -> None:
    first = take(tmp_path, job="17", restart=0)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        workers = FencedExecutor(pool, first.fence)
        (tmp_path / "go").touch()
        assert workers.submit(write_slowly, tmp_path / "piece").result(60).startswith(".tmp-e1-")
        (tmp_path / "go").unlink()
        late = workers.submit(write_slowly, tmp_path / "late")
        reached(lambda: bool(list(tmp_path.glob(".tmp-e1-*-late"))))
        second = take(tmp_path, job="17", restart=1)
        (tmp_path / "go").touch()
        with pytest.raises(LeaseLost, match="taken over"):
            late.result(60)
    assert not (tmp_path / "late").exists() and (tmp_path / "piece").exists()
    second.release()
    first.release()


def test_without_hard_links_numbers_are_still_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    held: Lease = take(tmp_path)
    assert not lease._create(held.fence.file, {})
    with pytest.raises(InputError, match="in use"):
        take(tmp_path)
    held.release()
