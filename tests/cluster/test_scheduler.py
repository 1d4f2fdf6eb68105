"""The test cluster is what it says: nodes, partitions, accounting, loopback, preemption, a node that is lost."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.cluster.jobs import fields, quick, reached, restarted, told

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ours = pytest.mark.skipif(
    "GLACIERHPC_TESTCLUSTER" not in os.environ, reason="of the test cluster only; as root: make test-cluster"
)


def setting(name: str) -> str:
    found = re.search(rf"^{name}\s*= (.*)$", told("scontrol", "show", "config"), re.MULTILINE)
    assert found, name
    return found[1]


def warned() -> bool:
    """Whether jobs to be preempted get the signal they asked for: on the test cluster, where it keeps accounts."""
    return "preempt_send_user_signal" in setting("SlurmctldParameters")


def batch(script: Path, text: str, *options: str) -> int:
    """Submit a script of one's own, its log beside it."""
    script.write_text("#!/bin/bash\n" + text)
    return int(told("sbatch", "--parsable", f"--output={script}.log", *options, script))


@ours
def test_three_nodes_stand_in_both_partitions() -> None:
    rows = {
        tuple(line.split()) for line in told("sinfo", "--noheader", "--Node", "--format=%N %P").splitlines()
    }
    assert rows == {(node, name) for node in ("r1", "r2", "r3") for name in ("normal*", "preemptible")}
    assert sorted(told("srun", "--nodes=3", "--ntasks=3", "hostname").split()) == ["r1", "r2", "r3"]


def test_accounting_knows_a_job_or_says_that_there_is_none() -> None:
    answer = subprocess.run(["sacct"], env=quick(), capture_output=True, text=True, check=False)
    if setting("AccountingStorageType").endswith("/none"):
        assert answer.returncode == 1 and "accounting storage is disabled" in answer.stderr
        return
    assert answer.returncode == 0, answer.stderr
    told("srun", "--job-name=is-it-kept", "true")
    asked = (
        "sacct",
        "--name=is-it-kept",
        "--allocations",
        "--noheader",
        "--parsable2",
        "--format=State,ExitCode",
    )
    reached(lambda: "COMPLETED|0:0" in told(*asked), 60)


@ours
def test_the_daemons_listen_on_loopback_only() -> None:
    ports = {setting("SlurmctldPort")}
    if not setting("AccountingStorageType").endswith("/none"):
        ports.add(setting("AccountingStoragePort"))
    ports |= set(re.findall(r"\bPort=(\d+)", told("scontrol", "show", "node", "--oneliner")))
    listening = [line.split()[3].rsplit(":", 1) for line in told("ss", "-ltnH").splitlines()]
    hosts = {port: host for host, port in listening if port in ports}
    assert set(hosts) == ports and all(host.startswith("127.") for host in hosts.values()), hosts


@ours
def test_a_batch_script_starts_tasks_on_its_nodes(tmp_path: Path) -> None:
    job = batch(tmp_path / "job.sh", "srun hostname | sort | xargs\n", "--nodes=2", "--ntasks=2", "--time=1")
    reached(lambda: fields(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"))
    assert fields(job)["JobState"] == "COMPLETED"
    assert len(set((tmp_path / "job.sh.log").read_text().split())) == 2


@ours
def test_a_preempted_job_is_warned_where_that_is_set_and_queued_again(tmp_path: Path) -> None:
    note = tmp_path / "signals"
    low = batch(
        tmp_path / "low.sh",
        f'trap "echo USR2 >>{note}" USR2\necho "began ${{SLURM_RESTART_COUNT:-0}}" >>{note}\n'
        "while :; do sleep 1 & wait; done\n",
        "--partition=preemptible", "--nodes=3", "--exclusive", "--requeue", "--signal=B:USR2@10", "--open-mode=append",
    )  # fmt: skip
    reached(lambda: note.exists())
    told("srun", "--nodes=3", "--exclusive", "sleep", "1")
    restarted(low)
    assert note.read_text().startswith("began 0\nUSR2\n") == warned()
    reached(lambda: "began 1" in note.read_text())
    told("scancel", str(low))
