"""How servers are spared: waits, limits and the giving up of a dead one, over threads and over processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from glacierhpc.scenes.remote import hosts, shared
from glacierhpc.scenes.remote.faults import LONGEST_WAIT_S, Fault, wait_asked_s
from glacierhpc.scenes.remote.hosts import Host

SOON, LATE = 5.0, 1e6


def fail(host: Host, fault: Fault) -> None:
    with pytest.raises(Fault), host.turn(time.monotonic() + LATE):
        raise fault


@pytest.fixture
def folder(tmp_path) -> Path:
    found = shared.make_private(tmp_path / "run" / shared.FOLDER)
    assert found is not None
    return found


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Time that passes by sleeping only; gives the sleeps."""
    slept: list[float] = []

    class Time:
        time = staticmethod(lambda: 1e9 + sum(slept))
        monotonic = staticmethod(lambda: sum(slept))
        sleep = staticmethod(slept.append)

    monkeypatch.setattr(hosts, "time", Time)
    return slept


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        ("12", 12.0),
        ("0", 0.0),
        ("1e9", LONGEST_WAIT_S),
        ("-3", 0.0),
        ("Thu, 01 Jan 1970 00:20:00 GMT", 200.0),
        ("Thu, 01 Jan 1970 00:10:00 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_a_wait_is_seconds_or_a_date(header, wait_s):
    assert wait_asked_s(header, server_now=1000.0) == wait_s


def test_a_wait_that_one_process_is_told_is_kept_by_all(folder, clock):
    one, other = Host("http://a", folder=folder), Host("http://a", folder=folder)
    elsewhere = Host("http://b", folder=folder)
    fail(one, Fault("busy", "slow down", wait_s=30.0))
    with elsewhere.turn(SOON):
        assert sum(clock) == 0
    with pytest.raises(Fault, match="asks for longer pauses"), other.turn(SOON):
        raise AssertionError("asked too early")
    with other.turn(LATE):
        assert sum(clock) == pytest.approx(30.0)


def test_without_a_folder_a_process_goes_by_what_it_knows(clock):
    one, other = Host("http://a"), Host("http://a")
    fail(one, Fault("busy", "slow down", wait_s=30.0))
    with other.turn(SOON):
        assert sum(clock) == 0


def test_a_dead_host_is_asked_less_and_less_and_then_given_up(clock):
    host = Host("http://a")
    asked = 0
    for _ in range(400):
        try:
            with host.turn(sum(clock) + 40.0):
                asked += 1
                raise Fault("unreachable", "no connection to a")
        except Fault as fault:
            last = fault
    assert last.kind == "dead" and "has not answered" in last.reason
    assert asked < 25 and hosts.DEAD_AFTER_S < sum(clock) < 4 * hosts.DEAD_AFTER_S
    clock.append(2 * hosts.LONGEST_COOLING_S)  # one may try now and then, and finds it well again
    with host.turn(sum(clock)):
        asked += 1
    with host.turn(sum(clock)):
        asked += 1


def test_one_bad_file_does_not_make_a_host_dead(clock):
    host = Host("http://a")
    for _ in range(100):
        fail(host, Fault("server", "no"))
        with host.turn(SOON):
            pass
        fail(host, Fault("missing", "no"))
    assert sum(clock) == 0


def test_rates_are_shared_by_processes(folder, clock):
    pair = [Host("http://a", folder=folder, requests_per_s=4.0) for _ in range(2)]
    for number in range(22):
        with pair[number % 2].turn(LATE):
            pass
    # 22 requests, of which the first and those of the half second to spare wait for nothing
    assert sum(clock) == pytest.approx((22 - 3) / 4.0, abs=0.26)


def test_connections_are_limited_over_threads_and_instances(folder):
    pair = [Host("http://a", folder=folder, max_connections=2) for _ in range(3)]
    lock, now, most = threading.Lock(), [0], [0]

    def work(number: int) -> None:
        with pair[number % 3].turn(time.monotonic() + 60):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.01)
            with lock:
                now[0] -= 1

    with ThreadPoolExecutor(9) as pool:
        list(pool.map(work, range(45)))
    assert most[0] == 2


def test_what_is_shared_is_for_nobody_else(folder):
    assert (folder.stat().st_mode & 0o777) == 0o700
    shared.write(folder, "token", {"query": "secret"})
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    assert shared.read(folder, "token") == {"query": "secret"}
    (folder / "token").chmod(0o640)
    assert shared.read(folder, "token") == {}
    (folder / "token").chmod(0o600)
    folder.chmod(0o750)
    assert shared.read(folder, "token") == {}
    shared.write(folder, "other", {"query": "secret"})
    assert not (folder / "other").exists()


def test_links_are_not_followed(folder, tmp_path):
    target = tmp_path / "elsewhere"
    target.write_text('{"query": "planted"}')
    target.chmod(0o600)
    (folder / "token").symlink_to(target)
    assert shared.read(folder, "token") == {}
    shared.write(folder, "token", {"query": "mine"})
    assert target.read_text() == '{"query": "planted"}' and shared.read(folder, "token") == {"query": "mine"}
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert shared.read(link, "token") == {}


HOLD = """
import sys, time
from pathlib import Path
from glacierhpc.scenes.remote import shared
with shared.locked(Path(sys.argv[1]), "x", wait_s=5) as held:
    print(held, flush=True)
    time.sleep(60)
"""


def test_a_lock_ends_with_its_process(folder):
    line = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env={**os.environ}) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "True\n"
        with shared.locked(folder, "x", wait_s=0.0) as held:
            assert not held
        holder.kill()
        holder.wait()
    with shared.locked(folder, "x", wait_s=5.0) as held:
        assert held


def test_a_folder_that_is_gone_hinders_nobody(tmp_path):
    gone = tmp_path / "gone"
    shared.write(gone, "x", {"a": 1})
    assert shared.read(gone, "x") == {} and not gone.exists()
    with shared.locked(gone, "x", wait_s=0.0):
        pass
    with Host("http://a", folder=gone, max_connections=1, requests_per_s=1000.0).turn(time.monotonic() + 5):
        pass


def test_a_folder_that_takes_no_locks_hinders_nobody(folder, monkeypatch):
    monkeypatch.setattr(shared, "_open_lock", lambda *_: None)  # as on a disk without a free inode
    with Host("http://a", folder=folder, max_connections=1).turn(time.monotonic() + 5):
        pass
