"""Pieces of one file asked for at the same time: how many, in what limits, and what ends it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from glacierhpc.scenes.bearer import PlainSigner
from glacierhpc.scenes.remote import files
from glacierhpc.scenes.remote.abreast import SPARE_THREADS, fetch_abreast
from glacierhpc.scenes.remote.faults import Fault
from glacierhpc.scenes.remote.policy import RetryPolicy
from tests.conftest import ROOT
from tests.scenes.remote.scripted import Scripted, scripted

POLICY = RetryPolicy(max_attempts=3, backoff_s=0.01, timeout_s=60.0, deadline_s=300.0)
PIECE = 40_000
CONTENT = np.random.default_rng(0).bytes(20 * PIECE)


@pytest.fixture(autouse=True)
def small_requests(monkeypatch) -> None:
    """Split what is read into several requests, as large windows are."""
    monkeypatch.setattr(files, "LARGEST_REQUEST_BYTES", PIECE)


def remote(told: Scripted, policy: RetryPolicy = POLICY) -> files.RemoteFile:
    return files.RemoteFile(told.href, PlainSigner(), policy, ends=time.monotonic() + 300)


class Crowd:
    """Counts the answers under way; as a script, holds each until `together` are, or some time has passed."""

    def __init__(self, together: int, wait_s: float) -> None:
        self.most, self._now, self._together, self._wait_s = 0, 0, together, wait_s
        self._changed = threading.Condition()

    def __call__(self, number: int) -> None:
        if number == 0:  # the head of a file comes alone
            return
        with self._changed:
            self._now += 1
            self.most = max(self.most, self._now)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most >= self._together, self._wait_s)
            self._now -= 1


@pytest.mark.parametrize("ask", ["one place", "many places"])
def test_the_pieces_of_a_window_are_asked_for_at_the_same_time(ask):
    crowd = Crowd(together=5, wait_s=60.0)
    with scripted(CONTENT, crowd) as told:
        if ask == "one place":
            assert remote(told).read(PIECE, 5 * PIECE) == CONTENT[PIECE : 6 * PIECE]
        else:
            places = [(begin, 100) for begin in range(4 * PIECE, 19 * PIECE, 3 * PIECE)]
            bodies = remote(told).read_many(places[::-1])
            assert bodies == [CONTENT[begin : begin + 100] for begin, _ in places[::-1]]
    assert crowd.most == 5


def test_no_more_at_the_same_time_than_a_server_is_to_bear():
    crowd = Crowd(together=3, wait_s=0.05)
    with scripted(CONTENT, crowd) as told:
        body = remote(told, replace(POLICY, max_connections=2)).read(PIECE, 12 * PIECE)
    assert body == CONTENT[PIECE : 13 * PIECE] and crowd.most == 2


def test_all_files_of_a_process_share_the_spare_threads():
    threads = 4
    crowd = Crowd(together=threads + SPARE_THREADS + 1, wait_s=0.05)
    with scripted(CONTENT, crowd) as told, ThreadPoolExecutor(threads) as pool:
        opened = [remote(told) for _ in range(threads)]
        bodies = list(pool.map(lambda file: file.read(PIECE, 6 * PIECE), opened))
    assert bodies == [CONTENT[PIECE : 7 * PIECE]] * threads
    assert crowd.most <= threads + SPARE_THREADS


def test_after_a_lasting_fault_nothing_more_is_asked_for():
    with scripted(CONTENT, lambda number: "404" if number else None) as told:
        with pytest.raises(Fault, match="not there"):
            remote(told).read(PIECE, 19 * PIECE)
        assert len(told.asked) <= 1 + 1 + SPARE_THREADS


def test_what_is_under_way_is_not_asked_for_again_once_the_file_is_lost():
    def until_lost(_: float) -> None:
        ends = time.monotonic() + 60
        while not file._lost and time.monotonic() < ends:
            time.sleep(0.005)

    with scripted(CONTENT, lambda number: {0: None, 1: "404"}.get(number, "500")) as told:
        policy = replace(POLICY, max_attempts=6)
        file = files.RemoteFile(
            told.href, PlainSigner(), policy, ends=time.monotonic() + 300, sleep=until_lost
        )
        with pytest.raises(Fault):
            file.read(PIECE, 4 * PIECE)
    assert len(told.asked) <= 1 + 4 + 3


def test_the_first_error_ends_it_and_is_told():
    done: list[int] = []
    raised = threading.Event()

    def fetch(number: int, _: int) -> bytes:
        if number == 0:
            raised.set()
            raise ValueError("zero")
        raised.wait(60.0)
        time.sleep(0.01)
        done.append(number)
        return b"x"

    with pytest.raises(ValueError, match="zero"):
        fetch_abreast([(number, 0) for number in range(5000)], fetch)
    assert len(done) < 4999


def test_results_keep_their_order_and_nothing_is_fetched_twice():
    for count in (0, 1, 2, 200):
        asked: list[int] = []

        def fetch(number: int, add: int, asked: list[int] = asked) -> bytes:
            asked.append(number)
            return str(number + add).encode()

        bodies = fetch_abreast([(number, 1) for number in range(count)], fetch)
        assert bodies == [str(number + 1).encode() for number in range(count)]
        assert sorted(asked) == list(range(count))


FORKED = """
import os
from glacierhpc.scenes.remote.abreast import fetch_abreast
spans = [(number, 0) for number in range(20)]
fetch = lambda number, _: b"x"
assert len(fetch_abreast(spans, fetch)) == 20
if not (child := os.fork()):
    os._exit(len(fetch_abreast(spans[:3], fetch)))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_of_a_process_has_spare_threads_of_its_own():
    done = subprocess.run(
        [sys.executable, "-c", FORKED], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "3\n", done.stderr
