"""Chains: what is still to do, in order, with what was asked for; and what a partition does not give."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from glacierhpc.cli.steps import STEPS
from glacierhpc.errors import InputError
from glacierhpc.hpc.chain import Link, check, first_to_do, plan
from glacierhpc.hpc.reading import groups_to_do
from glacierhpc.hpc.reading import plan as plan_reading
from glacierhpc.hpc.site import PLAIN, AcquireWish, ArrayWish, Jobs, JobWish, Partition, Site
from glacierhpc.hpc.slurm.limits import array_size, hours_of
from glacierhpc.hpc.trials import plan as plan_trials
from glacierhpc.hpc.trials import trials_to_do
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
    narrow = Partition(max_hours=2, max_nodes=1, cores=4, memory_gb=8.7, gpus=0)
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
    either = Site(use={"cpu": "short,long", "network": "long,short"})
    check(links(either), either)
    with pytest.raises(InputError, match=r"partition 'none' does not exist here; .*long, short"):
        check(links(Site(use={"cpu": "none"})), Site(use={"cpu": "none"}))


QOS = "normal|||\nshort|01:00:00|4|cpu=512,node=1,gres/gpu=2\n"


def test_a_quality_of_service_has_limits_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "scontrol", "exit 1")
    program(tmp_path, "sacctmgr", f"printf '{QOS}'")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    short = Site.model_validate({"directives": {"all": {"qos": "short"}}, "jobs": {"train": {"nodes": 2}}})
    with pytest.raises(InputError) as told:
        check([*links(short, backend="ddp"), *trials(short, to_do=range(3))], short)
    for words in ("jobs.imagery.hours=1", "jobs.train.nodes=1", "is 8 jobs, tasks of arrays counted"):
        assert sum(words in fault for fault in str(told.value).splitlines()) == 1, words
    none = Site.model_validate({"directives": {"all": {"qos": "long"}}})
    with pytest.raises(InputError, match="'long' does not exist here; known: normal, short"):
        check(links(none), none)
    check(links(), Site.model_validate({"directives": {"all": {"qos": "normal"}}}))
    program(tmp_path, "sacctmgr", "exit 1")  # an accounting that is off knows of none
    check(links(none), none)


# --- sweeps


def trials(
    site: Site = PLAIN, *, to_do: Iterable[int], imagery: bool = True, array_size: int = 1001
) -> list[Link]:
    return plan_trials(
        site, name="x", run="/r", imagery=imagery, to_do=list(to_do), array_size=array_size, folder="/r/jobs"
    )


def test_trials_are_an_array_between_what_they_share_and_what_they_gave() -> None:
    site = Site(jobs=Jobs(trials=ArrayWish(at_once=3, hours=2)))
    imagery, array, gather = trials(site, to_do=range(6))
    assert [link.spec.name for link in (imagery, array, gather)] == ["imagery", "trials", "gather"]
    assert "#SBATCH --array=0-5%3\n" in array.script and "#SBATCH --time=02:00:00\n" in array.script
    assert array.after == ("imagery",) and array.ended == ()
    # a trial that failed keeps no other from being written down, images that failed end all
    assert gather.after == ("imagery",) and gather.ended == ("trials",)
    array, gather = trials(to_do=[1, 4], imagery=False)
    assert "#SBATCH --array=1,4\n" in array.script and array.after == gather.after == ()
    assert [link.spec.name for link in trials(to_do=[], imagery=False)] == ["gather"]


def test_a_list_longer_than_arrays_may_be_becomes_several_one_after_the_other() -> None:
    _, *arrays, gather = trials(to_do=[*range(5), 7, 13], array_size=4)
    told = [(link.spec.name, link.spec.offset, link.spec.array, link.ended) for link in arrays]
    assert told == [
        ("trials", 0, (0, 1, 2, 3), ()), ("trials-2", 4, (0, 3), ("trials",)), ("trials-3", 12, (1,), ("trials-2",)),
    ]  # fmt: skip
    assert gather.ended == ("trials", "trials-2", "trials-3")
    assert "offset=12 " in arrays[2].script and {link.after for link in arrays} == {("imagery",)}
    too_long = Site(max_hours=2, jobs=Jobs(imagery=JobWish(hours=1), trials=ArrayWish(hours=3)))
    with pytest.raises(InputError) as told_:
        check(trials(too_long, to_do=range(9), array_size=4), too_long)
    assert str(told_.value).count("jobs.trials.hours=2") == 3  # the key that is there, for each of the arrays


def test_a_trial_asks_for_what_training_asks_for_in_one_process() -> None:
    wide = JobWish(nodes=4, tasks_per_node=4, gpus=4, cpus=9, memory_gb=70)
    spec = trials(Site(jobs=Jobs(train=wide)), to_do=[0])[1].spec
    assert (spec.nodes, spec.tasks, spec.gpus, spec.cpus, spec.memory_gb) == (1, 1, 1, 9, 70)
    own = trials(Site(jobs=Jobs(train=wide, trials=ArrayWish(gpus=0, cpus=2))), to_do=[0])[1].spec
    assert (own.gpus, own.cpus, own.kind) == (0, 2, "cpu")


def test_trials_to_do_are_those_that_the_workflow_would_do() -> None:
    done = {"state": "done", "started": "2026-01-02"}
    early, failed = {**done, "started": "2026-01-01"}, {**done, "state": "failed"}
    records = [
        {"train": done, "evaluate": done}, {"train": early, "evaluate": done}, {"train": done, "evaluate": failed},
        {"train": done}, {}, {"train": done, "evaluate": early},
    ]  # fmt: skip
    assert trials_to_do({**done, "started": "2026-01-01T12"}, records) == [1, 2, 3, 4, 5]


def test_how_long_arrays_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert array_size(Site()) == 1001 and array_size(Site(max_array=50)) == 50
    program(tmp_path, "scontrol", "echo 'MaxArraySize            = 4001'")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert array_size(Site(max_array=50)) == 4001
    program(tmp_path, "scontrol", "echo 'MaxArraySize = 0'")
    with pytest.raises(InputError, match=r"allows no job arrays .*sbatch jobs/sweep\.sbatch"):
        array_size(Site())


@pytest.mark.parametrize(
    ("text", "hours"),
    [("1-00:00:00", 24), ("00:30:00", 0.5), ("2-12", 60), ("2-12:30", 60.5), ("90", 1.5), ("30:00", 0.5),
     ("UNLIMITED", None), ("", None)],
)  # fmt: skip
def test_times_of_slurm(text: str, hours: float | None) -> None:
    assert hours_of(text) == hours


# --- scenes read by arrays


def readers(site: Site, *, search: bool = True, to_do: Iterable[int], array_size: int = 1001) -> list[Link]:
    return plan_reading(
        site, name="x", run="/r", search=search, to_do=list(to_do), array_size=array_size, folder="/r/jobs"
    )


def test_scenes_are_read_by_arrays_before_all_else() -> None:
    site = Site(jobs=Jobs(acquire=AcquireWish(tasks=10, hours=3, cpus=2), search=JobWish(hours=0.5)))
    before = readers(site, to_do=range(10), array_size=8)
    chained = plan(
        site, name="x", run="/r", steps=NAMES, to_do=0, backend="single", folder="/r/jobs", before=before
    )
    told = [(link.spec.name, link.after, link.ended) for link in chained]
    assert told == [
        ("search", (), ()), ("acquire", ("search",), ()), ("acquire-2", ("search",), ("acquire",)),
        ("imagery", ("search", "acquire", "acquire-2"), ()), ("train", ("imagery",), ()), ("results", ("train",), ()),
    ]  # fmt: skip
    search, first, second, imagery, *_ = chained
    assert "#SBATCH --array=0-7\n" in first.script and "#SBATCH --array=0-1\n" in second.script
    assert "offset=8 " in second.script and "acquire --groups 10 " in second.script
    assert "#SBATCH --time=03:00:00\n" in first.script and "#SBATCH --time=00:30:00\n" in search.script
    assert {link.spec.kind for link in (search, first, imagery)} == {"network"}
    swept = plan_trials(
        site, name="x", run="/r", imagery=True, to_do=[0], array_size=8, folder="/r/jobs", before=before
    )
    assert [link.spec.name for link in swept] == [
        "search",
        "acquire",
        "acquire-2",
        "imagery",
        "trials",
        "gather",
    ]
    assert swept[3].after == ("search", "acquire", "acquire-2") and swept[4].after == ("imagery",)
    # all groups are read, and the cube is still to be made of them
    assert readers(site, search=False, to_do=[]) == []


def test_too_long_a_walltime_is_told_by_the_key_of_the_array() -> None:
    site = Site(max_hours=2, jobs=Jobs(acquire=AcquireWish(tasks=2)))
    with pytest.raises(InputError, match=r"jobs\.acquire\.hours=2"):
        check(readers(site, to_do=[0, 1]), site)


def test_groups_to_do_are_those_not_read_since_the_search() -> None:
    done = {"state": "done", "started": "2026-01-02"}
    groups = [done, {}, {**done, "state": "failed"}, {**done, "started": "2025-12-31"}]
    assert groups_to_do({**done, "started": "2026-01-01"}, groups) == [1, 2, 3]
    assert groups_to_do({}, [done]) == [0]
