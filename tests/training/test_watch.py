"""A training whose rank is killed, hangs or has no memory ends, and says which rank that was and where it stood."""

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from glacierhpc.errors import GlacierError
from glacierhpc.training import roll
from glacierhpc.training.distributed import Single
from glacierhpc.training.loop import fit
from glacierhpc.training.pulse import Pulse, Word
from glacierhpc.training.roll import Desk, Line
from glacierhpc.training.verdicts import out_of_memory, told_hung
from glacierhpc.training.watch import Watch
from tests.training import lines
from tests.training.lines import OPTIONS, LineData
from tests.training.test_backends_ranks import horovod_is_there

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = (
    "killed@1:0",
    "killed@0:0",
    "fails@1:0",
    "memory@1:0",
    "uneven@1:0",
    "asleep@1:10",
    "stopped@1:10",
)
ALL = {
    # what is the same for all backends is tried once
    "ddp": (*SCENARIOS, "stopped@0:10", "held@1:10"),
    "horovod": (*SCENARIOS, "lost@1:100"),
    "single": ("asleep@0:10", "paused@0:8"),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """How the ranks of a backend ended, by scenario; all begin at once, as they wait more than they work."""
    folder, running = tmp_path_factory.mktemp("hurt"), {}
    reason = horovod_is_there(mpi=False)
    for backend, scenarios in ALL.items():
        if backend == "horovod" and reason:
            continue
        line = [sys.executable, "-W", "ignore", "-m", "tests.training.hurt", backend, *scenarios]
        with (folder / f"{backend}.out").open("wb") as out, (folder / f"{backend}.err").open("wb") as err:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            running[backend] = subprocess.Popen(
                line, cwd=ROOT, env=environment, stdout=out, stderr=err, start_new_session=True
            )

    @functools.cache
    def told(backend):
        if backend not in running:
            pytest.skip(reason)
        code = running[backend].wait(timeout=900)
        assert code == 0, (folder / f"{backend}.err").read_text()
        return json.loads((folder / f"{backend}.out").read_text())

    yield told
    for process in running.values():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


both = pytest.mark.parametrize("backend", ["ddp", "horovod"])


@both
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_all_at_once_and_is_named(ended, backend, rank):
    got = ended(backend)[f"killed@{rank}:0"]
    others = [each for each in range(3) if each != rank]
    assert got["codes"][rank] == -signal.SIGKILL and [got["codes"][each] for each in others] == [1, 1]
    for each in others:
        says = f"rank {each} says: rank {rank} on {socket.gethostname()} (process "
        assert says in got["told"][each] and "ended without a word" in got["told"][each]


@both
def test_an_error_on_one_rank_is_told_by_the_others(ended, backend):
    got = ended(backend)["fails@1:0"]
    assert got["codes"] == [1, 1, 1]
    assert "rank 1 fails: RuntimeError" in got["told"][1]
    for rank in (0, 2):
        assert "failed: RuntimeError: the disk of the last rank is gone" in got["told"][rank]


@both
def test_memory_that_is_not_there_is_called_so(ended, backend):
    got = ended(backend)["memory@1:0"]
    assert got["codes"] == [1, 1, 1]
    for rank in range(3):
        assert "is out of memory at training epoch 1, step 1, data" in got["told"][rank]
    assert "lower train.batch_size" in got["told"][1]


@both
def test_ranks_with_other_numbers_of_batches_do_not_begin(ended, backend):
    got = ended(backend)["uneven@1:0"]
    assert got["codes"] == [2, 2, 2]
    for rank in range(3):
        assert "the number of training sequences of rank 1 on" in got["told"][rank]


@both
def test_a_hung_rank_is_named_and_all_show_their_stacks(ended, backend):
    got = ended(backend)["asleep@1:10"]
    assert got["codes"] == [70, 70, 70]
    for rank in range(3):
        assert f"rank {rank} on" in got["told"][rank] and "in train_epoch" in got["told"][rank]
    assert "in __getitems__" in got["told"][1]
    report = got["told"][0].split("nothing has moved for 10 s (train.watchdog_s)")[1]
    first, second, third = report.splitlines()[1:4]
    assert "training epoch 1, step 1, data" in second and second.endswith("< the others wait for it")
    assert all(line.split(", for ")[0].endswith("step 1, agreement") for line in (first, third))


@pytest.mark.parametrize(("backend", "rank"), [("ddp", 1), ("ddp", 0), ("horovod", 1)])
def test_a_stopped_rank_is_named_by_the_others(ended, backend, rank):
    got = ended(backend)[f"stopped@{rank}:10"]
    others = [each for each in range(3) if each != rank]
    assert [got["codes"][each] for each in others] == [70, 70]
    told = got["told"][others[0]]
    line = next(line for line in told.splitlines() if line.startswith(f"  rank {rank} on"))
    assert line.endswith("< silent: stopped, or its host is gone")
    assert "in train_epoch" in told


def test_a_silent_rank_is_named_where_the_exchange_gives_up_before_the_watch(ended):
    """As Horovod over Gloo does after HOROVOD_GLOO_TIMEOUT_SECONDS, when a host is gone without closing anything."""
    got = ended("horovod")["lost@1:100"]
    assert [got["codes"][rank] for rank in (0, 2)] == [1, 1]
    for rank in (0, 2):  # rank 0 hears all, and tells the others
        lines = [line for line in got["told"][rank].splitlines() if "is silent: stopped" in line]
        assert lines and f"rank 1 on {socket.gethostname()} (process " in lines[0], got["told"][rank]


def test_a_rank_whose_threads_are_all_held_shows_its_stacks_too(ended):
    """A call into C that never gives Python's lock back: the dump comes from a thread that needs none."""
    got = ended("ddp")["held@1:10"]
    assert [got["codes"][rank] for rank in (0, 2)] == [70, 70]
    assert "Timeout (" in got["told"][1] and "hold_all_threads" in got["told"][1]


def test_one_process_alone_is_watched_too(ended):
    got = ended("single")["asleep@0:10"]
    assert got["codes"] == [70]
    assert "rank 0 on" in got["told"][0] and "in __getitems__" in got["told"][0]


def test_a_process_that_was_stopped_for_longer_than_the_limit_goes_on(ended):
    got = ended("single")["paused@0:8"]
    assert got["paused"] and got["codes"] == [0], got["told"]


def test_a_watched_training_is_the_same_and_leaves_no_thread_and_no_file_open():
    wanted = lines.uninterrupted()[1]
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    history = fit(lines.Line(), LineData(), lines.validation(), watchdog_s=100, **OPTIONS)
    assert lines.losses(history) == wanted
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


def test_a_training_that_nobody_watches_starts_nothing():
    with Watch(Single("cpu")) as pulse:
        pulse.at("forward")
        assert not any(thread.name == "watch" for thread in threading.enumerate())


@pytest.mark.parametrize(
    "text", ["[enforce fail] DefaultCPUAllocator: can't allocate memory", "std::bad_alloc"]
)
def test_errors_that_mean_memory(text):
    assert out_of_memory(RuntimeError(text)) and out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("shapes differ")) and not out_of_memory(ValueError(text))
    says = r"rank 0 on .* is out of memory at training epoch 0, step 0, forward \("
    with pytest.raises(GlacierError, match=says), Watch(Single("cpu")) as pulse:
        pulse.at("forward")
        raise RuntimeError(text)


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match="^shapes differ$"), Watch(Single("cpu")):
        raise RuntimeError("shapes differ")


def word(rank, *, step=3, phase="agreement", age_s=0.0):
    return Word(rank, f"r{rank}", 10 + rank, phase, "training", 1, step, 5.0, heard=time.monotonic() - age_s)


def test_the_report_names_who_is_behind_or_silent():
    told = told_hung({0: word(0), 1: word(1, phase="backward"), 2: word(2)}, 3, 9, 2).splitlines()
    assert [line.endswith("wait for it") for line in told[1:]] == [True, False, True]
    told = told_hung({0: word(0), 1: word(1, step=2, phase="exchange")}, 2, 9, 2).splitlines()
    assert [line.endswith("wait for it") for line in told[1:]] == [False, True]
    told = told_hung({0: word(0), 1: word(1, age_s=60)}, 3, 9, 2)
    assert "rank 1 on r1 (process 11): training epoch 1, step 3, agreement < silent" in told
    assert "rank 2 was never heard of" in told and "wait for it" not in told
    assert "all stand at the same place" in told_hung({0: word(0), 1: word(1)}, 2, 9, 2)


@pytest.fixture
def desk():
    desk = Desk("127.0.0.1", word(0))
    yield desk
    desk.close()


def polled(*polling, until):
    end = time.monotonic() + 20
    while not until():
        assert time.monotonic() < end, "it never came to that"
        for each in polling:
            each.poll(0.05)


def joined(desk, *ranks):
    found = []
    for rank in ranks:
        thread = threading.Thread(
            target=lambda rank=rank: found.append(Line(["127.0.0.1"], desk.port, desk.token, word(rank)))
        )
        thread.start()
        polled(desk, until=lambda thread=thread: not thread.is_alive())
    return found


def test_a_connection_that_ends_without_goodbye_is_a_rank_that_is_gone(desk):
    first, second = joined(desk, 1, 2)
    first.close()
    polled(desk, second, until=lambda: second.gone)
    assert desk.gone == second.gone == {1: "ended without a word"}
    assert second.words[0].name == "rank 0 on r0 (process 10)"
    assert second.words[1].name == "rank 1 on r1 (process 11)"
    second.say(Word.of(2, Pulse(), idle_s=0, kind="bye"))
    second.close()
    polled(desk, until=lambda: desk.words[2].kind == "bye")
    desk.poll(0.2)
    assert set(desk.gone) == {1}


@pytest.mark.parametrize(
    "says", [b"GET / HTTP/1.1\r\n\r\n", b'{"token": "guess", "word": {"rank": 1}}\n', b"[1]\n", b"x" * 10**5]
)
def test_strangers_are_shown_the_door(desk, says):
    with socket.create_connection(("127.0.0.1", desk.port)) as line:
        line.sendall(says)
        line.settimeout(0.05)
        closed = []

        def ended():
            try:
                closed.append(line.recv(10))
            except TimeoutError:
                pass
            except OSError:
                closed.append(b"")
            return closed

        if says.startswith(b"GET"):
            line.shutdown(socket.SHUT_WR)
        polled(desk, until=ended)
    assert closed[0] == b"" and not desk.gone and set(desk.words) == {0}


def test_a_rank_that_reaches_nobody_goes_on_alone(monkeypatch):
    monkeypatch.setattr(roll, "GREET_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(OSError):
        Line(["127.0.0.1"], silent.getsockname()[1], "token", word(1))
