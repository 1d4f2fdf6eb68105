"""Workers that are jobs of a real Slurm: they work, they vanish and are replaced, they let nobody else in."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glacierhpc.errors import GlacierError
from glacierhpc.files import read_table
from glacierhpc.hpc.cluster import make_cluster
from glacierhpc.hpc.site import Site
from glacierhpc.scenes.archive import serve
from tests.cluster.workers import (
    JOBS,
    as_other,
    files_of,
    items_of,
    own_jobs,
    reached,
    read,
    told,
)
from tests.conftest import ROOT
from tests.scenes.rasters import BANDS, SCENES, small_archive

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small scenes."""
    return small_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def reference(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The cube that one process makes."""
    out = tmp_path_factory.mktemp("serial")
    read(items_of(str(archive)), out)
    return files_of(out)


def test_workers_are_jobs_and_nothing_is_left_of_them(tmp_path: Path) -> None:
    shared = tmp_path / "a b;$(touch X)'\"é%j"
    with make_cluster("jobqueue", workers=2, memory_gb=1, jobs=replace(JOBS, folder=shared)) as executor:
        assert executor is not None
        found: set[str | None] = set()

        def both_are_here() -> bool:  # one of them may be there long before the other
            found.update(executor.map(os.getenv, ["SLURM_JOB_ID"] * 8))
            return len(found) == 2

        reached(both_are_here)
        assert found == set(own_jobs())
        assert len(list(shared.glob(".tls-*/worker.key"))) == 1
    assert list(shared.glob(".tls-*")) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [shared.name]
    reached(lambda: own_jobs() == [])


def test_a_job_brings_its_own_workers(tmp_path: Path) -> None:
    """One job of two nodes; its process starts a worker on each by srun, and submits nothing."""
    script = tmp_path / "job.sh"
    script.write_text(
        f"#!/bin/bash\ncd '{ROOT}'\n'{sys.executable}' -m glacierhpc workers '{tmp_path}/own.yaml' --json\n"
    )
    (tmp_path / "site.yaml").write_text("interface: lo\n")
    (tmp_path / "own.yaml").write_text(
        (ROOT / "configs" / "demo.yaml").read_text()
        + f"\ncluster: {{kind: allocation, workers: 2, memory_gb: 1, site: {tmp_path}/site.yaml}}\n"
        + f"run_dir: {tmp_path}/run\n"
    )
    options = ["--nodes=2", "--ntasks-per-node=1", "--mem=2G", "--time=5", f"--output={tmp_path}/log"]
    told("sbatch", *options, str(script))
    reached(lambda: own_jobs() == [])
    said = (tmp_path / "log").read_text()
    last = json.loads(said.strip().splitlines()[-1])
    assert sum(last["workers"].values()) == 2 and set(last["workers"]) <= {"r1", "r2", "r3"}
    assert list((tmp_path / "run").glob(".tls-*")) == []


def test_without_tls_it_is_said_loudly_and_the_way_to_the_page_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = replace(JOBS, folder=tmp_path, insecure=True)
    with (
        caplog.at_level(logging.INFO),
        make_cluster("jobqueue", workers=1, memory_gb=1, jobs=jobs) as executor,
    ):
        assert executor is not None and executor.submit(pow, 2, 3).result(120) == 8
        assert executor._client.scheduler.address.startswith("tcp://127.0.0.1")  # type: ignore[attr-defined]
        page = executor._client.cluster.scheduler.http_server.port  # type: ignore[attr-defined]
    assert "INSECURE" in caplog.text
    assert f"ssh -N -L 8787:127.0.0.1:{page} {socket.gethostname()} " in caplog.text


def test_a_worker_whose_time_is_over_is_replaced(tmp_path: Path) -> None:
    jobs, seen = replace(JOBS, folder=tmp_path, lifetime_s=3.0), set()
    with make_cluster("jobqueue", workers=1, memory_gb=1, jobs=jobs) as executor:
        assert executor is not None

        def answers() -> bool:
            seen.add(executor.submit(os.getenv, "SLURM_JOB_ID").result(200))
            return len(seen) == 2

        reached(answers)


def test_workers_that_are_killed_are_replaced_and_nothing_is_lost_or_double(
    archive: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    """Three times the job of one of the two workers is cancelled, and none lives longer than 33 s."""
    jobs = replace(JOBS, folder=tmp_path / "shared", lifetime_s=30.0)
    with (
        serve(archive, delay_s=0.2) as served,
        make_cluster("jobqueue", workers=2, memory_gb=1, jobs=jobs) as executor,
    ):
        cancelling = Cancelling(executor._client.cluster, (3, 8, 13), seed=1)  # type: ignore[union-attr]
        summary = read(items_of(served.stac_url), tmp_path, executor, progress=cancelling)
    assert len(cancelling.cancelled) >= 2
    assert len(list((tmp_path / "shared" / "logs").iterdir())) > 2
    assert summary.failed == {} and files_of(tmp_path) == reference
    rows = read_table(tmp_path / "manifest.parquet")
    assert len(rows) == SCENES * (len(BANDS) + 1) == len(rows.drop_duplicates(["scene", "asset"]))


class Cancelling:
    """Cancels the job of a worker that is at work, each time so much more has been done; called with what is done."""

    def __init__(self, cluster: Any, marks: tuple[int, ...], seed: int) -> None:
        self._cluster, self._marks, self._choice = cluster, list(marks), random.Random(seed)
        self.cancelled: list[str] = []

    def __call__(self, done: int, total: int) -> None:
        if not self._marks or done < self._marks[0]:
            return
        at_work = sorted(str(worker.name) for worker in list(self._cluster.scheduler.workers.values()))
        jobs = [self._cluster.workers[name].job_id for name in at_work if name in self._cluster.workers]
        if jobs:
            self._marks.pop(0)
            self.cancelled.append(self._choice.choice(jobs))
            told("scancel", self.cancelled[-1])


def test_when_no_worker_comes_the_jobs_and_their_last_words_are_named(tmp_path: Path) -> None:
    """Workers that cannot start Python: after two of them the error reaches whoever waits for a result."""
    site = Site(interface="lo", environment={"PYTHONHOME": "/nowhere"})
    jobs = replace(JOBS, folder=tmp_path, site=site, bad_starts=2)
    with (
        pytest.raises(
            GlacierError, match=r"(?s)2 jobs in a row ended.*failed, exit code 1.*last words.*encodings"
        ),
        make_cluster("jobqueue", workers=1, memory_gb=1, jobs=jobs) as executor,
    ):
        assert executor is not None
        executor.submit(pow, 2, 3).result(300)
    assert len(list((tmp_path / "logs").iterdir())) == 2
    assert list(tmp_path.glob(".tls-*")) == []


def test_a_partition_that_is_not_there_is_named_at_once(tmp_path: Path) -> None:
    jobs = replace(JOBS, folder=tmp_path, options={"partition": "nowhere"}, bad_starts=1)
    with (
        pytest.raises(GlacierError, match="(?s)not taken by the scheduler.*invalid partition"),
        make_cluster("jobqueue", workers=1, jobs=jobs) as executor,
    ):
        assert executor is not None
        executor.submit(pow, 2, 3).result(300)


DRIVER = """
import json, sys, warnings
from pathlib import Path
from typing import Any
from tests.cluster.workers import JOBS, items_of, read
from glacierhpc.hpc.cluster import make_cluster
from dataclasses import replace
if __name__ == "__main__":
    out = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    items = items_of(sys.argv[2])
    jobs = replace(JOBS, folder=out / "shared")
    with make_cluster("jobqueue", workers=2, memory_gb=1, jobs=jobs) as executor:
        read(items, out, executor, progress=lambda done, total: print(done, flush=True))
"""


def driver(out: Path, catalogue: str) -> subprocess.Popen[str]:
    script = out / "driver.py"
    script.write_text(DRIVER)
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(script), str(out), catalogue], stdout=subprocess.PIPE, text=True,
                            env=environ, cwd=ROOT)  # fmt: skip


def test_a_driver_that_is_killed_goes_on_where_it_was(
    archive: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    """Killed twice, first with no time to clean up: what has a line in the journal is not asked for again."""
    with serve(archive, delay_s=0.1) as served:
        killed(driver(tmp_path, served.stac_url), signal.SIGKILL, tmp_path, after=5)
        assert len(keys := list((tmp_path / "shared").glob(".tls-*"))) == 1
        told("scancel", "--me")  # the workers of a killed driver end by themselves only after minutes
        first = journaled(tmp_path)
        served.reset_statistics()
        killed(driver(tmp_path, served.stac_url), signal.SIGTERM, tmp_path, after=len(first) + 5)
        assert not keys[0].exists() and list((tmp_path / "shared").glob(".tls-*")) == []
        reached(lambda: own_jobs() == [])
        asked = " ".join(served.statistics().by_path)
        assert [name for name in first if name in asked] == []
        second = journaled(tmp_path)
        assert SCENES * (len(BANDS) + 1) > len(second) > len(first) >= 5
        served.reset_statistics()
        read(items_of(served.stac_url), tmp_path)
        asked = " ".join(served.statistics().by_path)
    assert [name for name in second if name in asked] == [] and files_of(tmp_path) == reference


def killed(running: subprocess.Popen[str], number: signal.Signals, out: Path, *, after: int) -> None:
    """End a driver by a signal when so many files have been read."""
    assert running.stdout is not None
    for _ in running.stdout:
        if len(journaled(out)) >= after:
            break
    running.send_signal(number)
    running.wait(120)
    running.stdout.close()


def journaled(out: Path) -> list[str]:
    """The files of the archive that have been read, by name."""
    rows = [
        json.loads(line)
        for line in (out / ".parts" / "journal.jsonl").read_text().splitlines()
        if line.strip()
    ]
    files = {"green": "SR_B3", "nir08": "SR_B5", "swir16": "SR_B6"}
    return [
        f"{row['scene']}_{files.get(row['asset'], 'QA_PIXEL')}" for row in rows if row.get("state") == "done"
    ]


STRANGER = r"""
cd /
for file in "$0" "{keys}" "{keys}"/* ; do
    if cat "$file" 2>/dev/null | grep -q . || ls "$file" 2>/dev/null | grep -q . ; then echo "READ $file"; fi
done
"{python}" - <<'END'
import asyncio, sys
sys.path.insert(0, "{root}")
from distributed import Client, Security
for scheme, security in (("tls", Security.temporary()), ("tcp", None)):
    address = "{address}".replace("tls", scheme)
    try:
        with Client(address, security=security, timeout="4s", set_as_default=False) as client:
            print("INSIDE", scheme, client.run_on_scheduler(lambda: __import__("os").getuid()))
    except Exception as err:
        print("REFUSED", scheme, type(err).__name__)
END
"""


def test_a_second_user_neither_gets_in_nor_reads_a_key(tmp_path: Path) -> None:
    """That user is a real one: of the test cluster, whose pipe runs a file as them."""
    home = os.environ.get("GLACIERHPC_TESTCLUSTER")
    if not home:
        pytest.skip("needs the second user of containers/testcluster; run: make test-cluster")
    # all may enter the folder above: it is the keys' own that must keep them out
    shared = Path(home) / "tmp" / f"open-{os.getpid()}"
    shared.mkdir()
    shared.chmod(0o755)
    with make_cluster("jobqueue", workers=1, memory_gb=1, jobs=replace(JOBS, folder=shared)) as executor:
        assert executor is not None and executor.submit(pow, 2, 3).result(120) == 8
        scheduler = executor._client.cluster.scheduler  # type: ignore[attr-defined]
        (keys,) = shared.glob(".tls-*")
        file = shared / "stranger.sh"
        file.write_text(
            STRANGER.format(keys=keys, python=sys.executable, address=scheduler.address, root=ROOT)
        )
        shared.chmod(0o777)  # what they say is written here
        said = as_other(file)
        pages = listening(os.getpid())
        assert executor.submit(pow, 2, 4).result(120) == 16
    assert re.findall("^REFUSED (tls|tcp)", said, re.MULTILINE) == ["tls", "tcp"], said
    assert "INSIDE" not in said, said
    assert re.findall("^READ (.*)", said, re.MULTILINE) == [str(file)], said
    assert pages and pages <= {"127.0.0.1"}


def listening(pid: int) -> set[str]:
    """The addresses that a process listens on."""
    import psutil

    return {
        each.laddr.ip
        for each in psutil.Process(pid).net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    }


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    subprocess.run(["scancel", "--me"], check=False)
