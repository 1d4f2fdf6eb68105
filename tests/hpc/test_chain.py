"""Chains: what is still to do, in order, with what was asked for; and what a partition does not give."""

from __future__ import annotations

from pathlib import Path

import pytest

from glacierhpc.cli.steps import STEPS
from glacierhpc.errors import InputError
from glacierhpc.hpc.chain import Link, check, first_to_do, plan
from glacierhpc.hpc.site import PLAIN, Jobs, JobWish, Partition, Site
from glacierhpc.hpc.slurm.limits import hours_of
from glacierhpc.rundir import RunDirectory
from glacierhpc.workflows import runner
from tests.hpc.scripts import program

NAMES = list(STEPS)


def links(site: Site = PLAIN, *, to_do: int = 0, backend: str = "single") -> list[Link]:
    return plan(site, name="x", run="/r", steps=NAMES, to_do=to_do, backend=backend, folder="/r/jobs")


@pytest.mark.parametrize("step", ["search", "composite", "sequences", "train", "evaluate", "report"])
def test_only_jobs_with_something_to_do_are_submitted(step: str) -> None:
    names = [link.spec.name for link in links(to_do=NAMES.index(step))]
    expected = {"train": ["train", "results"], "evaluate": ["results"], "report": ["results"]}
    assert names == expected.get(step, ["imagery", "train", "results"])
    assert links(to_do=len(NAMES)) == []


def test_what_is_to_do_is_what_the_workflow_would_do(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    records: dict[str, dict[str, str]] = {}
    for position, step in enumerate(NAMES):
        assert first_to_do(NAMES, records) == position == runner.first_to_do(NAMES, run)
        with run.step(step):
            pass
        records[step] = run.step_record(step)
    assert first_to_do(NAMES, records) == len(NAMES)
    with run.step("clean"):
        pass
    records["clean"] = run.step_record("clean")
    assert first_to_do(NAMES, records) == runner.first_to_do(NAMES, run) == NAMES.index("align")


@pytest.mark.parametrize(("backend", "words"), [("ddp", "--mpi=none"), ("horovod", "rendezvous")])
def test_several_processes_train(backend: str, words: str) -> None:
    site = Site(jobs=Jobs(train=JobWish(nodes=2, tasks_per_node=4, gpus=4)))
    imagery, train, results = links(site, backend=backend)
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=4\n" in train.script and words in train.script
    assert "#SBATCH --gres=gpu:4\n" in train.script and "gpu" not in imagery.script + results.script


def test_processes_that_nothing_would_join_are_refused() -> None:
    with pytest.raises(InputError, match="train.backend='single' is one"):
        links(Site(jobs=Jobs(train=JobWish(nodes=2))))
    with pytest.raises(InputError, match="jobs.results is one process"):
        links(Site(jobs=Jobs(results=JobWish(nodes=2))))


def test_a_site_without_a_scheduler_here_is_judged_by_its_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    narrow = Partition(max_hours=2, max_nodes=1, cores=4, memory_gb=8, gpus=0)
    wide = Jobs(train=JobWish(nodes=2, gpus=1))
    site = Site(
        partitions={"p": narrow}, use={"cpu": "p", "gpu": "p", "network": "p"}, account_needed=True, jobs=wide
    )
    with pytest.raises(InputError) as told:
        check(links(site, backend="ddp"), site)
    faults = str(told.value).splitlines()
    for words in ("--set account=PROJECT", "jobs.imagery.hours=2", "jobs.train.nodes=1", "jobs.train.cpus=4",
                  "jobs.results.memory_gb=8", "jobs.train.gpus=0"):  # fmt: skip
        assert sum(words in fault for fault in faults) == 1, (words, faults)
    check(links(), Site())


PARTITIONS = """\
PartitionName=short Default=YES MaxNodes=UNLIMITED MaxTime=00:30:00 TotalNodes=3 State=UP
PartitionName=long Default=NO MaxNodes=2 MaxTime=UNLIMITED TotalNodes=8 State=UP
"""


def test_the_scheduler_knows_its_limits_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "scontrol", f"cat <<'END'\n{PARTITIONS}END")
    program(tmp_path, "sinfo", 'echo "8+ 16000+ gpu:a100:4(S:0-1)"; echo "64 256000 (null)"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(InputError, match=r"jobs\.imagery\.hours=0\.5"):
        check(links(), Site())
    train = Jobs(train=JobWish(nodes=3, cpus=65, gpus=5))
    with pytest.raises(InputError) as told:
        check(links(Site(use={"gpu": "long"}, jobs=train), backend="ddp")[1:2], Site(use={"gpu": "long"}))
    assert "nodes=2" in str(told.value) and "cpus=64" in str(told.value) and "gpus=4" in str(told.value)
    with pytest.raises(InputError, match=r"partition 'none' does not exist here; .*long, short"):
        check(links(Site(use={"cpu": "none"})), Site(use={"cpu": "none"}))


@pytest.mark.parametrize(
    ("text", "hours"),
    [("1-00:00:00", 24), ("00:30:00", 0.5), ("2-12", 60), ("2-12:30", 60.5), ("90", 1.5), ("30:00", 0.5),
     ("UNLIMITED", None), ("", None)],
)  # fmt: skip
def test_times_of_slurm(text: str, hours: float | None) -> None:
    assert hours_of(text) == hours
