"""The server that gives ranks to processes that come and go, asked by sockets as the processes ask it."""

from __future__ import annotations

import json
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from glacierhpc.config import config_to_yaml
from glacierhpc.hpc.members import FILE, Members, MemberStore, Seat, exit_code, given_out, known, served
from tests.workflows.cubes import given_config

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60


class Process:
    """One that takes part."""

    def __init__(self, place: tuple[str, int], host: str, slot: int = 0) -> None:
        key = place[0].partition("/")[2]
        self.line = socket.create_connection(("127.0.0.1", place[1]), timeout=WAIT_S)
        self.line.sendall(f"POST /{key}/members/{host}/{slot} HTTP/1.0\r\n\r\n".encode())
        self.answers = self.line.makefile("r")

    def ready(self) -> None:
        self.line.sendall(b"ready\n")

    def told(self) -> str:
        """The next line, waited for."""
        return self.answers.readline().strip()

    def end(self) -> None:
        """As the kernel does when a process is killed."""
        self.answers.close()
        self.line.close()


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """A server that waits for two processes, unless told otherwise."""
    expected, patience_s = getattr(request, "param", (2, WAIT_S))
    with MemberStore("127.0.0.1", Members(expected, patience_s)) as store:
        yield store.start()
        store.shutdown()


def asked(place: tuple[str, int], method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    address, key = place[0].split("/")
    connection = HTTPConnection(address, timeout=WAIT_S)
    connection.request(method, f"/{key}:{place[1]}{path}", body)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_ranks_are_given_out_anew_when_one_is_lost_and_when_one_comes(place: tuple[str, int]) -> None:
    late, early = Process(place, "b"), Process(place, "a")
    late.ready()
    early.ready()
    assert early.told() == "go 0 2 0 1 0 2" and late.told() == "go 1 2 0 1 1 2"
    assert asked(place, "GET", "/rank_and_size/b:0") == (200, b"1,2,0,1,1,2")
    assert asked(place, "PUT", "/global/0", b"an address")[0] == 200
    early.end()
    late.ready()
    assert late.told() == "go 0 1 0 1 0 1"
    assert asked(place, "GET", "/global/0")[0] == 404  # else who joins again meets who is gone
    assert asked(place, "GET", "/rank_and_size/a:0")[0] == 404
    another = Process(place, "a")
    assert late.told() == "changed"
    another.ready()
    late.ready()
    assert late.told() == "go 0 2 0 1 0 2" and another.told() == "go 1 2 0 1 1 2"
    late.end()
    another.end()


def test_who_is_lost_while_the_others_wait_is_not_waited_for(place: tuple[str, int]) -> None:
    processes = [Process(place, host) for host in "abc"]
    for each in processes[:2]:
        each.ready()
    processes[2].end()
    assert [each.told() for each in processes[:2]] == ["go 0 2 0 1 0 2", "go 1 2 0 1 1 2"]
    for each in processes[:2]:
        each.end()


@pytest.mark.parametrize("place", [(3, 0.2)], indirect=True)
def test_who_does_not_come_at_the_beginning_is_waited_for_some_time(place: tuple[str, int]) -> None:
    alone = Process(place, "a")
    alone.ready()
    assert alone.told() == "go 0 1 0 1 0 1"
    alone.end()


def test_places_are_those_that_horovod_counts() -> None:
    """Neighbours on a host have neighbouring ranks; across hosts, those with the same number belong together."""
    seats = [Seat(host, slot, print) for host, slot in (("b", 1), ("a", 0), ("b", 0), ("b", 2), ("a", 1))]
    places = {(seat.host, seat.slot): (name, place) for seat, name, place in given_out(seats)}
    assert places == {
        ("b", 0): ("b:0", (0, 5, 0, 3, 0, 2)),
        ("b", 1): ("b:1", (1, 5, 1, 3, 0, 2)),
        ("b", 2): ("b:2", (2, 5, 2, 3, 0, 1)),
        ("a", 0): ("a:0", (3, 5, 0, 2, 1, 2)),
        ("a", 1): ("a:1", (4, 5, 1, 2, 1, 2)),
    }


@pytest.mark.parametrize(
    "request_line", ["GET /{}/mark", "POST /{}/members/a/0", "POST /members/a/0", "GET /mark"]
)
def test_who_does_not_know_the_key_takes_no_part(place: tuple[str, int], request_line: str) -> None:
    """Neither is he told anything, nor is he waited for."""
    key = place[0].partition("/")[2]
    with socket.create_connection(("127.0.0.1", place[1]), timeout=WAIT_S) as line:
        line.sendall(f"{request_line.format(key[::-1])} HTTP/1.0\r\n\r\nready\n".encode())
        line.shutdown(socket.SHUT_WR)
        answer = line.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.0 403") and answer.endswith(b"\r\n\r\n")
    processes = [Process(place, host) for host in "ab"]
    for each in processes:
        each.ready()
    assert [each.told() for each in processes] == ["go 0 2 0 1 0 2", "go 1 2 0 1 1 2"]
    for each in processes:
        each.end()


def test_nothing_else_is_held(place: tuple[str, int]) -> None:
    assert asked(place, "POST", "/members/a")[0] == 404
    assert asked(place, "POST", "/members/a/x")[0] == 404
    assert asked(place, "POST", "/elsewhere/a/0")[0] == 404


def start(config: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "glacierhpc", "members", str(config), "--json", "--address", "localhost"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_second_one_tells_where_the_first_is_and_both_how_it_ended(tmp_path: Path) -> None:
    (tmp_path / "none.zarr").mkdir()
    config = given_config(tmp_path / "run", tmp_path / "none.zarr")
    path, run = tmp_path / "own.yaml", config.run_path
    path.write_text(config_to_yaml(config))
    (run / "steps").mkdir(parents=True)
    record = run / "steps" / "train.json"
    record.write_text(json.dumps({"state": "done", "started": "before"}))
    (run / FILE).write_text(json.dumps(["127.0.0.1:9/key", 9, "of one that is gone", str(run)]))
    with start(path) as first:
        assert first.stdin is not None and first.stdout is not None
        told = first.stdout.readline()
        assert stat.S_IMODE((run / FILE).stat().st_mode) == 0o600  # it holds the key
        with start(path) as second:
            assert second.stdin is not None and second.stdout is not None
            assert second.stdout.readline() == told and told.startswith("127.0.0.1:")
            second.stdin.close()
            assert second.stdout.readline().strip() == "-" and second.wait(WAIT_S) == 0
        record.write_text(json.dumps({"state": "interrupted", "started": "now"}))
        first.stdin.close()
        assert first.stdout.readline().strip() == "75" and first.wait(WAIT_S) == 0
    assert (run / FILE).read_text() == ""


def test_of_two_that_start_at_once_one_serves(tmp_path: Path) -> None:
    (tmp_path / "none.zarr").mkdir()
    config = given_config(tmp_path / "run", tmp_path / "none.zarr")
    (tmp_path / "own.yaml").write_text(config_to_yaml(config))
    with start(tmp_path / "own.yaml") as first, start(tmp_path / "own.yaml") as second:
        assert first.stdout is not None and second.stdout is not None
        assert first.stdout.readline() == second.stdout.readline() != ""
        first.communicate(timeout=WAIT_S)
        second.communicate(timeout=WAIT_S)


@pytest.mark.parametrize("text", ["", "[]", "{", "7", '["127.0.0.1:9", 9, "mark"]', '[1, 9, "mark", "/"]'])
def test_what_is_no_place_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with known(tmp_path) as file:
        assert served(file, tmp_path) is None


def test_another_program_at_the_port_is_not_believed(place: tuple[str, int], tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps([*place, "of one that is gone", str(tmp_path)]))
    with known(tmp_path) as file:
        assert served(file, tmp_path) is None


def test_the_copy_of_a_run_has_a_server_of_its_own(tmp_path: Path) -> None:
    run, copy = tmp_path / "run", tmp_path / "copy"
    run.mkdir()
    with MemberStore("127.0.0.1", Members(1)) as store:
        (run / FILE).write_text(json.dumps([*store.start(), store.mark, str(run)]))
        shutil.copytree(run, copy)
        with known(run) as file, known(copy) as copied:
            assert served(file, run) == store.place and served(copied, copy) is None
        store.shutdown()


def test_a_training_that_ended_before_says_nothing_of_this_one() -> None:
    done = {"state": "done", "started": "yesterday"}
    assert exit_code(done, done) == "-" == exit_code({}, {})
    assert exit_code(done, {**done, "started": "now"}) == 0
    assert exit_code({}, {"state": "running"}) == "-" == exit_code({}, {"state": "failed"})
    assert exit_code(done, {"state": "interrupted"}) == 75
