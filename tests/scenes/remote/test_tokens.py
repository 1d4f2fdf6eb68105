"""One token for all processes of a run, and tokens that end by the server's clock."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from glacierhpc.grid import Grid
from glacierhpc.scenes import tokens
from glacierhpc.scenes.remote import clock, http, shared
from glacierhpc.scenes.tokens import TokenSigner
from tests.scenes.remote.scripted import Scripted, scripted

GRID = Grid("EPSG:32643", (30.0, 0.0, 600015.0, 0.0, -30.0, 3540015.0), (40, 50))

WORKER = """
import sys, time
from pathlib import Path
from glacierhpc.scenes.tokens import TokenSigner
folder = Path(sys.argv[2]) if sys.argv[2] else None
signer = TokenSigner(sys.argv[1] + "/token", azure_only=False, shared_folder=folder)
print("ready", flush=True)
sys.stdin.readline()
seen = []
while len(seen) < 3:
    query = signer.sign(sys.argv[1] + "/container/a.tif").partition("?")[2]
    if query not in seen:
        seen.append(query)
    time.sleep(0.01)
print(*seen, flush=True)
"""


def seen_by_four(told: Scripted, folder: Path | None) -> list[list[str]]:
    """Let four processes sign until each has seen three tokens; return what they saw."""
    line = [sys.executable, "-c", WORKER, told.url, str(folder or "")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(line, env={**os.environ}, **pipes) for _ in range(4)]  # type: ignore[call-overload]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    outputs = []
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        outputs.append(worker.communicate(timeout=120)[0].split())
    return outputs


def test_four_processes_ask_for_one_token_in_each_window(tmp_path):
    folder = shared.make_private(tmp_path / shared.FOLDER)
    with scripted(b"") as told:
        told.lifetime_s = 5.0
        outputs = seen_by_four(told, folder)
    assert all(len(set(seen)) == 3 for seen in outputs)
    # who is held up may miss a window and see a later one: the windows count, not their number
    assert told.tokens == len(set().union(*outputs)) < 12
    gaps = [later - earlier for earlier, later in pairwise(told.issued_at)]
    assert min(gaps) > told.lifetime_s * (1 - 1.2 / 4) - 0.1
    assert not any(path.stat().st_mode & 0o077 for path in [folder, *folder.iterdir()])


def test_without_a_shared_folder_every_process_asks_for_its_own(tmp_path):
    with scripted(b"") as told:
        told.lifetime_s = 2.0
        outputs = seen_by_four(told, None)
    assert told.tokens == len(set().union(*outputs)) == 12


@pytest.fixture
def own_clock(monkeypatch) -> None:
    """What is learnt of a clock that is off stays in this test."""
    fresh = clock.ServerClock()
    for module in (tokens, http, clock):
        monkeypatch.setattr(module, "CLOCK", fresh)


@pytest.mark.parametrize("ahead_s", [-7200.0, 0.0, 7200.0])
def test_tokens_end_by_the_servers_clock(own_clock, ahead_s):
    with scripted(b"") as told:
        told.ahead_s, told.lifetime_s = ahead_s, 60.0
        signer = TokenSigner(f"{told.url}/token", azure_only=False)
        signed = {signer.sign(told.href) for _ in range(20)}
        assert told.tokens == 1  # by this clock, it ended two hours ago
        assert not signer.expired(signed.pop())
        token = signer._token(("127.0.0.1", "container"))
        assert 50 < token.good_for_s() < 62
        told.lifetime_s = 2.5
        signer.renew(signer.sign(told.href))
        short = signer.sign(told.href)
        assert told.tokens == 2
        ends = time.monotonic() + 30
        while not signer.expired(short) and time.monotonic() < ends:
            time.sleep(0.05)
        assert signer.expired(short)  # by this clock, it holds for two hours more
        assert signer.sign(told.href) != short and told.tokens == 3


def test_a_process_that_is_refused_takes_what_another_was_given(tmp_path):
    folder = shared.make_private(tmp_path / shared.FOLDER)
    with scripted(b"") as told:
        one, other = (
            TokenSigner(f"{told.url}/token", azure_only=False, shared_folder=folder) for _ in range(2)
        )
        old = one.sign(told.href)
        assert other.sign(told.href) == old and told.tokens == 1
        one.renew(old)
        new = one.sign(told.href)
        other.renew(old)
        assert other.sign(told.href) == new != old and told.tokens == 2


def test_a_planted_token_is_not_taken(tmp_path):
    folder = shared.make_private(tmp_path / shared.FOLDER)
    with scripted(b"") as told:
        signer = TokenSigner(f"{told.url}/token", azure_only=False, shared_folder=folder)
        name = shared.name_for("token", f"{told.url}/token", "127.0.0.1", "container")
        shared.write(folder, name, {"query": "sig=planted", "expires_at": 4e9, "lifetime_s": 3600.0})
        (folder / name).chmod(0o644)  # anyone could have written it
        assert urlsplit(signer.sign(told.href)).query.endswith("secret1")
