"""The doctor's checks of the scheduler, each as it should be and broken; the programs are made up, the real ones are
in tests/cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glacierhpc.hpc.doctor import scheduler
from tests.hpc.machines import complains, made, says

ALL = {name: "exit 0" for name in ("squeue", "scontrol", "scancel")}
UP = says("Slurmctld(primary) at ctl is UP")
AWAY = complains("scontrol: error: Unable to contact slurm controller (connect failure)")
NO_CONFIG = complains("sbatch: fatal: Could not establish a configuration source")
ROWS = says("normal*|up|1-00:00:00\nlong|drain|7-00:00:00")
HANGS = "exec /bin/sleep 600"
PARTITIONS = says("PartitionName=normal Default=YES MaxTime=02:00:00 MaxNodes=4 TotalNodes=4")
CONFIG = "SelectType              = select/cons_tres\nSelectTypeParameters    = {}"

CASES: list[tuple[Any, dict[str, Any], str, str]] = [
    (scheduler.commands, {"commands": {**ALL, "sbatch": says("slurm-wlm 22.05.8")}}, "ok", "Slurm 22.05.8"),
    (scheduler.commands, {}, "skip", "not needed to work on this machine"),
    (scheduler.commands, {"scheduler_needed": True}, "fail", "glacierhpc run CONFIG"),
    (scheduler.commands, {"environ": {"APPTAINER_CONTAINER": "/x.sif"}, "scheduler_needed": True}, "skip", "outside"),
    (scheduler.commands, {"commands": {**ALL, "sbatch": says("slurm 19.05.5")}}, "fail", "too old"),
    (scheduler.commands, {"commands": {**ALL, "sbatch": NO_CONFIG}}, "warn", "set SLURM_CONF"),
    (scheduler.commands, {"commands": {**ALL, "sbatch": NO_CONFIG}, "scheduler_needed": True}, "fail", "SLURM_CONF"),
    (scheduler.controller, {"commands": {"scontrol": UP}}, "ok", "ctl is UP"),
    (scheduler.controller, {"commands": {"scontrol": says("Slurmctld(primary) at ctl is DOWN")}}, "warn", "DOWN"),
    (scheduler.controller, {"commands": {"scontrol": AWAY}, "scheduler_needed": True}, "fail", "down or not reached"),
    (scheduler.controller, {"commands": {"scontrol": NO_CONFIG}}, "skip", "slurm.conf"),
    (scheduler.controller, {"commands": {"scontrol": NO_CONFIG}, "scheduler_needed": True}, "unknown", "slurm.conf"),
    (scheduler.credentials, {"commands": {"squeue": AWAY}, "scheduler_needed": True}, "unknown", "down or not reached"),
    (scheduler.credentials, {"commands": {"squeue": says("12\n13")}}, "ok", "2 jobs of yours"),
    (
        scheduler.credentials,
        {"commands": {"squeue": complains("squeue: error: Munge decode failed: Rewound credential")},
         "scheduler_needed": True},
        "fail", "clock is behind",
    ),
    (
        scheduler.credentials,
        {"commands": {"squeue": complains("squeue: error: Munge decode failed: Expired credential")}},
        "warn", "clock is ahead",
    ),
    (
        scheduler.credentials,
        {"commands": {"squeue": complains('Munge encode failed: Failed to access "/run/munge/munge.socket.2"')}},
        "warn", "munge daemon",
    ),
    (
        scheduler.credentials,
        {"commands": {"squeue": complains("Munge decode failed: Invalid credential")}},
        "warn", "different munge keys",
    ),
    (scheduler.accounting, {"commands": {"sacct": "exit 0"}}, "ok", "on"),
    (
        scheduler.accounting, {"commands": {"sacct": complains("Slurm accounting storage is disabled")}}, "ok",
        "exit files",
    ),
    (scheduler.accounting, {"commands": {"sacct": AWAY}, "scheduler_needed": True}, "unknown", "try again"),
    (scheduler.partitions, {"commands": {"sinfo": ROWS}, "site": {"use": {"cpu": "normal"}}}, "ok", "1-00:00:00"),
    (scheduler.partitions, {"commands": {"sinfo": ROWS}}, "ok", "normal (1-00:00:00), long (7-00:00:00)"),
    (scheduler.partitions, {"commands": {"sinfo": says("normal*|down|1:00")}}, "warn", "takes no jobs"),
    (scheduler.partitions, {"commands": {"sinfo": says("a|up|1:00\nb|up|1:00")}}, "fail", "--set use.cpu=NAME (a, b)"),
    (scheduler.partitions, {"commands": {"sinfo": ROWS}, "site": {"use": {"cpu": "small"}}}, "fail", "no partition"),
    (
        scheduler.commands, {"commands": {**ALL, "sbatch": HANGS}, "scheduler_needed": True, "patience": 0.05},
        "unknown", "--patience",
    ),
    (
        scheduler.controller, {"commands": {"scontrol": HANGS}, "scheduler_needed": True, "patience": 0.05},
        "unknown", "busy or not reached",
    ),
    (scheduler.partitions, {"commands": {"sinfo": ROWS}, "site": {"use": {"gpu": "long"}}}, "warn", "takes no jobs"),
    (scheduler.account, {}, "skip", "none named"),
    (scheduler.account, {"site": {"account_needed": True}}, "fail", "--account PROJECT"),
    (scheduler.account, {"site": {"account": "p1"}, "commands": {"sacctmgr": says("p1\np2")}}, "ok", "p1"),
    (scheduler.account, {"site": {"account": "P1"}, "commands": {"sacctmgr": says("p1\np2")}}, "ok", "P1"),
    (scheduler.account, {"site": {"account": "p3"}, "commands": {"sacctmgr": says("p1\np2")}}, "fail", "--account p1"),
    (scheduler.account, {"site": {"account": "p3"}}, "unknown", "p3"),
    (scheduler.memory, {"commands": {"scontrol": says(CONFIG.format("CR_CPU_MEMORY"))}}, "ok", "counted"),
    (scheduler.memory, {"commands": {"scontrol": says(CONFIG.format("CR_CPU"))}}, "warn", "--set memory=none"),
    (
        scheduler.memory, {"commands": {"scontrol": says(CONFIG.format("CR_CORE_MEMORY"))}, "site": {"memory": "none"}},
        "warn", "memory=mem",
    ),
    (
        scheduler.memory, {"commands": {"scontrol": says(CONFIG.format("CR_CPU"))}, "site": {"memory": "none"}}, "ok",
        "not counted",
    ),
    (scheduler.requeue, {"commands": {"scontrol": "exit 0"}}, "ok", "by scontrol"),
    (scheduler.requeue, {"scheduler_needed": True}, "fail", "again=none"),
    (scheduler.requeue, {"scheduler_needed": True, "site": {"again": "none"}}, "skip", "do not queue"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "machine", "status", "words"), CASES)
def test_what_the_scheduler_says_is_understood(
    check: Any, machine: dict[str, Any], status: str, words: str, tmp_path: Path
) -> None:
    found = check(made(tmp_path, **machine))
    assert found.status == status and words in f"{found.told} {found.fix}", found
    assert bool(found.fix) or status in ("ok", "skip", "unknown")


def test_a_complaint_before_the_silence_is_a_cause(tmp_path: Path) -> None:
    """As scontrol does for a minute when SLURM_CONF is wrong."""
    complaint = f"echo 'error: s_p_parse_file: cannot stat file /none: No such file' >&2; {HANGS}"
    commands = {**ALL, "scontrol": complaint, "sbatch": complaint}
    partitions: dict[str, Any] = {"use": {"cpu": "normal"}, "partitions": {"normal": {}}}
    for check, status in (
        (scheduler.controller, "fail"),
        (scheduler.commands, "fail"),
        (scheduler.limits, "unknown"),
    ):
        for patience in (0.1, 1, 10):  # the first in which it comes to complain
            m = made(tmp_path, commands=commands, site=partitions, scheduler_needed=True, patience=patience)
            if "SLURM_CONF" in (found := check(m)).fix:
                break
        assert found.status == status and "SLURM_CONF names a file that is not there" in found.fix, found


def test_a_slow_controller_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "SLOW_S", 0.0)
    assert scheduler.controller(made(tmp_path, commands={"scontrol": UP})).status == "warn"


@pytest.mark.parametrize(
    ("site", "status", "words"),
    [
        ({}, "fail", "gives 2"),  # hours of the default partition
        (
            {"jobs": {name: {"hours": 1} for name in ("imagery", "train", "results")}},
            "ok",
            "default partition",
        ),
        ({"use": {"cpu": "none"}}, "fail", "'none' does not exist"),
    ],
)
def test_a_chain_is_held_against_its_partitions(
    site: dict[str, Any], status: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = 'case "$*" in *partition*) ' + PARTITIONS.replace("exit 0", "") + "\n;; *) echo x is UP;; esac"
    m = made(tmp_path, commands={"scontrol": answers, "sinfo": "exit 1"}, site=site)
    monkeypatch.setenv("PATH", m.environ["PATH"])
    found = scheduler.limits(m)
    assert found.status == status and words in found.told, found


def test_limits_are_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m = made(tmp_path, commands={"scontrol": "exit 1"})
    monkeypatch.setenv("PATH", m.environ["PATH"])
    assert scheduler.limits(m).status == "skip"


@pytest.mark.parametrize(
    ("sbatch", "status"),
    [
        ("exit 0", "ok"),
        (complains("allocation failure: Requested node configuration is not available"), "fail"),
        # the controller answers its ping, which asks for no credential
        (complains("sbatch: error: Munge encode failed: Failed to access munge.socket.2"), "unknown"),
    ],
)
def test_the_scheduler_judges_the_scripts(
    sbatch: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = made(tmp_path, commands={"sbatch": f'echo "$*" >>{tmp_path}/asked\n{sbatch}', "scontrol": UP})
    monkeypatch.setenv("PATH", m.environ["PATH"])
    assert scheduler.trial(m).status == status
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked and all("--test-only" in line for line in asked)  # nothing is submitted
