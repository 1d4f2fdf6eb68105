"""submit, status, cancel, resume and config explain, as they are typed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from glacierhpc import cli
from glacierhpc.config import load_config
from glacierhpc.config.groups import group_path
from glacierhpc.config.trials import trials_of
from tests.hpc.scripts import program

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "demo.yaml"
HEAVY = {"numpy", "pandas", "pyarrow", "torch", "xarray", "dask", "distributed", "rasterio", "pyproj", "numba", "rich",
         "zarr", "glacierhpc.rundir", "glacierhpc.workflows"}  # fmt: skip

Glacier = Callable[..., tuple[int, str, str]]


@pytest.fixture
def glacier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Glacier:
    """Return a function that runs a command in this process, with a scheduler that takes everything."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    for name in ("squeue", "scancel"):
        program(tmp_path, name, "true")
    program(tmp_path, "scontrol", "exit 1")
    program(tmp_path, "sbatch", 'case "$*" in *--test-only*) exit 0;; esac; echo x >>taken; wc -l <taken')
    program(
        tmp_path,
        "sacct",
        "[ ! -e ended ] || printf '%s\\n' '1|COMPLETED|0:0' '2|FAILED|3:0' '3|CANCELLED|0:0'",
    )

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return int(end.value.code or 0), told.out, told.err

    return run


SWEEP = ("sweep.seeds=[0, 1, 2]", "sweep.variations=[{}, {train.learning_rate: 0.01}]")
LIGHT = {
    "submit": ["submit", str(CONFIG), "--dry-run"],
    "submit, for a program": ["submit", str(CONFIG), "--dry-run", "--json"],
    "submit a sweep": ["submit", str(CONFIG), *SWEEP, "--diff"],
    "submit groups of scenes": ["submit", str(CONFIG), "--dry-run", "--set", "jobs.acquire.tasks=3"],
    "status": ["status", "nowhere"],
    "cancel": ["cancel", "nowhere"],
    "resume": ["resume", "nowhere"],
    "explain": ["config", "explain", "train.epochs", str(CONFIG), "--json"],
}


@pytest.mark.parametrize("command", LIGHT.values(), ids=LIGHT)
def test_nothing_heavy_is_imported(command: list[str], tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "glacierhpc", *command], cwd=ROOT, capture_output=True, text=True,
        check=False, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert answer.returncode == (2 if "nowhere" in command else 0), answer.stderr
    imported = {
        line.rpartition("|")[2].strip()
        for line in answer.stderr.splitlines()
        if line.startswith("import time")
    }
    assert len(imported) > 100 and not imported & HEAVY


def test_a_dry_run_prints_and_leaves_nothing(glacier: Glacier, tmp_path: Path) -> None:
    code, out, _ = glacier("submit", CONFIG, "--dry-run", "--set", "use.cpu=small", "--account", "me; id")
    assert code == 0 and out.count("#!/usr/bin/env bash") == 3 and "#SBATCH --account='me; id'" in out
    code, out, _ = glacier("submit", CONFIG, "--dry-run", "--json")
    assert code == 0 and set(json.loads(out)["scripts"]) == {
        "imagery.sbatch",
        "train.sbatch",
        "results.sbatch",
    }
    jobs = tmp_path / "runs/demo/jobs"
    assert json.loads(out)["commands"] == [
        f"sbatch --parsable --job-name=demo-imagery-ONCE {jobs}/imagery.sbatch",
        "sbatch --parsable --job-name=demo-train-ONCE --dependency=afterok:IMAGERY --kill-on-invalid-dep=yes "
        f"{jobs}/train.sbatch",
        "sbatch --parsable --job-name=demo-results-ONCE --dependency=afterok:TRAIN --kill-on-invalid-dep=yes "
        f"{jobs}/results.sbatch",
    ]
    assert not (tmp_path / "runs").exists() and not (tmp_path / "taken").exists()


def test_a_chain_is_submitted_looked_at_and_gone_on_with(glacier: Glacier, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("--set", "jobs.train.hours=3")
    code, out, err = glacier("submit", CONFIG, f"run_dir={run}", *settings, "--json")
    assert code == 0, err
    assert json.loads(out)["jobs"] == {"imagery": "1", "train": "2", "results": "3"}
    assert (run / "config.yaml").is_file() and "--time=03:00:00" in (run / "jobs/train.sbatch").read_text()
    code, out, err = glacier("status", run, "--json")
    assert {job["state"] for job in json.loads(out)["jobs"].values()} == {"unknown"}
    # of jobs that nobody knows any more it is not said that they failed, and they do not stand in the way
    (tmp_path / "ended").touch()
    code, out, _ = glacier("status", run, "--json")
    jobs = json.loads(out)["jobs"]
    assert [job["state"] for job in jobs.values()] == ["done", "failed", "cancelled"]
    assert jobs["train"]["exit_code"] == 3
    (run / "steps").mkdir()
    for step in cli.STEPS:
        if step == "train":
            break
        (run / "steps" / f"{step}.json").write_text(json.dumps({"state": "done", "started": "2020"}))
    code, out, err = glacier("resume", run, "--json")
    assert code == 0 and json.loads(out)["jobs"] == {"train": "4", "results": "5"}, err
    assert "--time=03:00:00" in (run / "jobs/train.sbatch").read_text()
    code, out, _ = glacier("submit", CONFIG, f"run_dir={run}", "--diff", *settings)
    assert code == 0 and out.count("no difference") == 2
    code, out, _ = glacier("submit", CONFIG, f"run_dir={run}", "--diff", "--set", "jobs.train.hours=4")
    assert "-#SBATCH --time=03:00:00" in out and "+#SBATCH --time=04:00:00" in out
    assert len((tmp_path / "taken").read_text().split()) == 5


def test_a_sweep_is_submitted_as_an_array_and_gone_on_with(glacier: Glacier, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out, err = glacier(
        "submit", CONFIG, *SWEEP, f"run_dir={run}", "--set", "jobs.trials.at_once=2", "--json"
    )
    assert code == 0 and json.loads(out)["jobs"] == {"imagery": "1", "trials": "2", "gather": "3"}, err
    assert "#SBATCH --array=0-5%2\n" in (run / "jobs/trials.sbatch").read_text()
    # images are made, of the trials the second and the last are done
    done = {"state": "done", "started": "2020"}
    for step in cli.STEPS:
        write_record(run, step, done)
        if step == "sequences":
            break
    trials = [trial.config.run_path for trial in trials_of(load_config(run / "config.yaml"))]
    for step in ("train", "evaluate"):
        for trial in (trials[1], trials[5]):
            write_record(trial, step, done)
    accounting = ("2_0|FAILED|1:0", "2_1|COMPLETED|0:0", "2_5|COMPLETED|0:0", "3|FAILED|1:0")
    program(tmp_path, "sacct", f"printf '%s\\n' {' '.join(map(repr, accounting))}")
    code, out, _ = glacier("status", run, "--json")
    told = json.loads(out)["jobs"]["trials"]
    assert told["state"] == "failed" and told["told"] == "2 done, 3 unknown, 1 failed"
    assert told["tasks"]["2_0"]["exit_code"] == 1
    code, out, err = glacier("resume", run, "--json")
    assert code == 0 and list(json.loads(out)["jobs"]) == ["trials", "gather"], err
    assert "#SBATCH --array=0,2-4%2\n" in (run / "jobs/trials.sbatch").read_text()
    for step in ("train", "evaluate"):
        for trial in trials:
            write_record(trial, step, done)
    program(tmp_path, "sacct", "true")
    assert list(json.loads(glacier("resume", run, "--json")[1])["jobs"]) == ["gather"]
    (run / "sweep.parquet").touch()
    assert json.loads(glacier("resume", run, "--json")[1])["jobs"] == {}
    code, out, _ = glacier("submit", CONFIG, *SWEEP, "--no-sweep", "--dry-run", f"run_dir={run}", "--json")
    assert list(json.loads(out)["scripts"]) == ["train.sbatch", "results.sbatch"]


def test_scenes_are_read_by_an_array_of_which_only_what_failed_is_repeated(
    glacier: Glacier, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    program(tmp_path, "sbatch", 'case "$*" in *--test-only*) ;; *) echo "$*" >>taken; wc -l <taken;; esac')
    tasks = ("--set", "jobs.acquire.tasks=4", "--set", "jobs.acquire.at_once=3")
    network = ("--set", "use.network=data", "--set", "use.cpu=small")
    code, out, err = glacier("submit", CONFIG, f"run_dir={run}", *tasks, *network, "--json")
    names = ["search", "acquire", "imagery", "train", "results"]
    assert code == 0 and list(json.loads(out)["jobs"]) == names, err
    script = (run / "jobs/acquire.sbatch").read_text()
    assert "#SBATCH --array=0-3%3\n" in script and "#SBATCH --partition=data\n" in script
    _, reads, makes, *_ = (tmp_path / "taken").read_text().splitlines()
    assert "--dependency=afterok:1 " in reads and "--dependency=afterok:1:2 " in makes
    # scenes were found, then two of the groups read, and one before: of an earlier list of scenes
    program(tmp_path, "sacct", "printf '%s\\n' '2_1|FAILED|1:0' '3|CANCELLED|0:0'")
    write_record(run, "search", {"state": "done", "started": "2021"})
    for number, (state, started) in enumerate(
        [("done", "2022"), ("failed", "2022"), ("done", "2020"), ("done", "2022")]
    ):
        write_record(group_path(run, number, 4), "acquire", {"state": state, "started": started})
    _, out, _ = glacier("submit", CONFIG, f"run_dir={run}", *tasks, *network, "--diff")
    assert out.count("no difference") == 3 and "+#SBATCH --array=1-2%3" in out
    code, out, err = glacier("resume", run, "--json")
    assert code == 0 and list(json.loads(out)["jobs"]) == ["acquire", "imagery", "train", "results"], err
    assert "#SBATCH --array=1-2%3\n" in (run / "jobs/acquire.sbatch").read_text()
    for number in (1, 2):
        write_record(group_path(run, number, 4), "acquire", {"state": "done", "started": "2022"})
    assert list(json.loads(glacier("resume", run, "--json")[1])["jobs"]) == ["imagery", "train", "results"]
    write_record(run, "acquire", {"state": "done", "started": "2023"})
    code, out, _ = glacier("submit", CONFIG, *SWEEP, f"run_dir={run}", *tasks, "--dry-run", "--json")
    assert list(json.loads(out)["scripts"]) == ["imagery.sbatch", "trials.sbatch", "gather.sbatch"]


def test_a_group_is_one_of_several(glacier: Glacier) -> None:
    """One number without the other would read all scenes, or none, in each task of an array."""
    for given in (["--group", "0"], ["--groups", "8"], ["--group", "0", "--groups", "8", "--dry-run"]):
        code, _, err = glacier("acquire", CONFIG, *given)
        assert code == 2 and "--groups, how many there are, are given together, without --dry-run" in err


def write_record(run: Path, step: str, record: dict[str, str]) -> None:
    (run / "steps").mkdir(parents=True, exist_ok=True)
    (run / "steps" / f"{step}.json").write_text(json.dumps(record))


def test_status_says_why_a_job_failed(glacier: Glacier, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert glacier("submit", CONFIG, f"run_dir={run}")[0] == 0
    (tmp_path / "ended").touch()
    (run / "jobs/train-2.log").write_text("".join(f"line {number}\n" for number in range(9)) + "the reason\n")
    (run / "jobs/imagery-1.log").write_text("all well\n")
    code, out, _ = glacier("status", run)
    assert code == 0 and "exit code 3" in out and "the reason" in out and "line 3" not in out
    assert "all well" not in out


def test_status_says_how_to_go_on(glacier: Glacier, tmp_path: Path) -> None:
    run = tmp_path / "my run"
    glacier("submit", CONFIG, f"run_dir={run}")
    assert "resume" not in glacier("status", run)[1]  # nobody knows of these jobs that they failed
    write_record(run, "acquire", {"state": "failed", "error": "2 of 9 scenes could not be read\n  S2A: 404"})
    told = glacier("status", run)[1]
    assert "2 of 9 scenes" in told and "S2A: 404" in told and f"glacierhpc resume '{run}'" in told
    write_record(run, "acquire", {"state": "done", "table": [["scenes failed", 2]]})
    program(tmp_path, "sacct", "printf '%s\\n' '1|COMPLETED|0:0' '2|COMPLETED|0:0' '3|COMPLETED|0:0'")
    advice = json.loads(glacier("status", run, "--json")[1])["advice"]
    assert list(advice) == ["scenes failed"] and f"glacierhpc acquire '{run}'" in advice["scenes failed"]
    program(tmp_path, "sacct", "printf '%s\\n' '1|COMPLETED|0:0' '2|RUNNING|0:0'")
    assert json.loads(glacier("status", run, "--json")[1])["advice"] == {}


def test_a_job_that_waits_for_one_that_failed_does_not_stand_in_the_way(
    glacier: Glacier, tmp_path: Path
) -> None:
    """As on a scheduler that keeps such jobs for ever, whatever it was asked for."""
    run = tmp_path / "run"
    glacier("submit", CONFIG, f"run_dir={run}")
    program(tmp_path, "sacct", "printf '%s\\n' '1|COMPLETED|0:0' '2|FAILED|1:0'")
    waits = '[ -e gone ] || case "$*" in *%i*) echo "3|PENDING|DependencyNeverSatisfied";; esac'
    program(tmp_path, "squeue", waits)
    program(tmp_path, "scancel", 'echo "$@" >gone')
    told = json.loads(glacier("status", run, "--json")[1])
    assert told["jobs"]["results"]["reason"] == "DependencyNeverSatisfied" and "go on" in told["advice"]
    assert "look at them" in glacier("resume", run)[1] and (tmp_path / "gone").read_text() == "3\n"


def test_a_node_on_which_jobs_fail_again_and_again_is_named(glacier: Glacier, tmp_path: Path) -> None:
    run = tmp_path / "run"
    glacier("submit", CONFIG, f"run_dir={run}")
    program(tmp_path, "scontrol", '[ "$3" = "n[1-2]" ] && printf "n1\\nn2\\n"')
    program(tmp_path, "sacct", "printf '%s\\n' '1|COMPLETED|0:0' '2|NODE_FAIL|0:0' '3|CANCELLED|0:0'")
    words = {
        "acquire-8_1": "1 ended 0 1 - n2", "acquire-8_2": "2 ended 0 1 - n2", "acquire-8_3": "75 ended 0 1 - n2",
        "acquire-8_4": "0 ended 0 1 - n2", "acquire-9_1": "9 ended 0 1", "train-1": "- began 0 1 - n2",
        "results-7": "1 ended 0 1 - -", "train-5": "1 ended 0 1 - -",
    }  # fmt: skip
    for name, text in words.items():
        (run / f"jobs/{name}.exit").write_text(f"{text}\n")
    assert json.loads(glacier("status", run, "--json")[1])["failing_nodes"] == {}  # one failure is no habit
    (run / "jobs/train-2.exit").write_text("- began 0 1 - n[1-2]\n")
    code, out, _ = glacier("status", run)
    assert code == 0 and "jobs 2, 8_1 failed there" in out and "node n1" not in out
    assert "--set directives.all.exclude=n2" in out
    assert glacier("resume", run, "--set", "directives.all.exclude=n2")[0] == 0
    assert "#SBATCH --exclude=n2\n" in (run / "jobs/train.sbatch").read_text()
    assert "node n2" not in glacier("status", run)[1]


def test_a_refused_submission_does_not_change_what_waiting_jobs_will_read(
    glacier: Glacier, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert glacier("submit", CONFIG, f"run_dir={run}")[0] == 0
    before = (run / "config.yaml").read_bytes()
    program(tmp_path, "squeue", "echo '2|PENDING|Dependency'")
    code, _, err = glacier("submit", CONFIG, f"run_dir={run}", "cluster.workers=7")
    assert code == 2 and "is pending; wait for it" in err
    assert (run / "config.yaml").read_bytes() == before


def test_a_run_of_another_configuration_is_refused_before_anything_is_submitted(
    glacier: Glacier, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/provenance.json").write_text('{"config_hash": "other"}')
    for how in ([], ["--dry-run"], ["--diff"]):
        code, out, err = glacier("submit", CONFIG, f"run_dir={tmp_path / 'run'}", *how)
        assert code == 2 and "is of another configuration" in err and "#SBATCH" not in out
    assert not (tmp_path / "taken").exists()


def test_cancel_ends_what_waits_or_runs(glacier: Glacier, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert glacier("submit", CONFIG, f"run_dir={run}")[0] == 0
    program(tmp_path, "squeue", "printf '%s\\n' '1|RUNNING|None' '2|PENDING|Dependency'")
    program(tmp_path, "scancel", 'echo "$*" >>cancelled')
    code, out, _ = glacier("cancel", run, "--json")
    assert code == 0 and json.loads(out)["cancelled"] == ["1", "2"]
    assert (tmp_path / "cancelled").read_text() == "2 1\n"
    code, _, err = glacier("submit", CONFIG, f"run_dir={run}")
    assert code == 2 and "job 1 (imagery)" in err and "glacierhpc cancel" in err


def test_a_refusal_of_the_scheduler_comes_before_the_first_job(glacier: Glacier, tmp_path: Path) -> None:
    program(tmp_path, "sbatch", 'echo "sbatch: error: invalid partition specified: none" >&2; exit 1')
    code, _, err = glacier("submit", CONFIG, f"run_dir={tmp_path / 'run'}")
    assert code == 2 and "the scheduler would refuse the job 'imagery'" in err and "invalid partition" in err
    # nothing stands in the way of another configuration in the same folder
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".jobs-lock"]


def test_an_image_is_built_from_any_folder(glacier: Glacier, tmp_path: Path) -> None:
    """The files that deeplearning.def names lie beside it; those that are typed where the command is."""
    says = '[ "$1" != --version ] || { echo apptainer version 1.4.0; exit; }; { pwd; echo "$@"; } >>said'
    program(tmp_path, "apptainer", says)
    clone = tmp_path / "a clone"
    clone.mkdir()
    (clone / "deeplearning.def").write_text((ROOT / "deeplearning.def").read_text())
    (tmp_path / "base.sif").touch()
    code, _, err = glacier("container", "build", "--definition", clone / "deeplearning.def", "--build-arg",
                           "FROM=base.sif")  # fmt: skip
    assert code == 0, err
    said = (clone / "said").read_text()
    assert said.startswith(f"{clone}\n") and f"--build-arg FROM={tmp_path / 'base.sif'} " in said
    assert said.endswith(f" {tmp_path / 'deeplearning.sif'} {clone / 'deeplearning.def'}\n")
    assert (clone / "build/wheelhouse").is_dir() and not (tmp_path / "build").exists()


LINES = CONFIG.read_text().splitlines()
EXPLAINED = {
    "account": ("mine", "/.config/glacierhpc/site.yaml"),
    "interface": ("hsn0", "/configs/sites/lumi.yaml"),
    "jobs.train.nodes": (2, "--set jobs.train.nodes=2"),
    "jobs.train.cpus": (7, "/configs/sites/lumi.yaml"),
    "jobs.trials.cpus": (7, "/configs/sites/lumi.yaml"),
    "jobs.results.cpus": (8, "the job itself"),
    "jobs.gather.memory_gb": (4, "the job itself"),
    "jobs.acquire.hours": (12.0, "the job itself"),
    "jobs.search.cpus": (1, "the job itself"),
    "jobs.acquire.tasks": (None, "default"),
    "attempts": (10, "default"),
    "image": ("/env.sif", "GLACIERHPC_IMAGE of the environment"),
    "train.epochs": (5, "command line"),
    "area.crs": ("auto", "default"),
    "train.batch_size": (4, f"/configs/demo.yaml:{LINES.index('  batch_size: 4') + 1}"),
}


@pytest.mark.parametrize("key", EXPLAINED)
def test_where_a_value_comes_from(
    key: str, glacier: Glacier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".config/glacierhpc").mkdir(parents=True)
    (tmp_path / ".config/glacierhpc/site.yaml").write_text("account: mine\nimage: /user.sif\n")
    monkeypatch.setenv("GLACIERHPC_IMAGE", "/env.sif")
    code, out, err = glacier(
        "config",
        "explain",
        key,
        CONFIG,
        "train.epochs=5",
        "--site",
        "lumi",
        "--set",
        "jobs.train.nodes=2",
        "--json",
    )
    assert code == 0, err
    value, source = EXPLAINED[key]
    told = json.loads(out)
    assert told["value"] == value and told["source"].endswith(source)


def test_what_cannot_be_explained(glacier: Glacier) -> None:
    assert "did you mean 'account'" in glacier("config", "explain", "acount")[2]
    assert "config explain train.epochs CONFIG" in glacier("config", "explain", "train.epochs")[2]
    assert "did you mean 'epochs'" in glacier("config", "explain", "train.epoch", CONFIG)[2]


@pytest.mark.parametrize(("number", "code"), [("SIGUSR2", 75), ("SIGUSR1", 75), ("SIGTERM", 1)])
def test_a_step_whose_time_is_up_asks_to_go_on(tmp_path: Path, number: str, code: int) -> None:
    program = f"""
import glacierhpc.cli, glacierhpc.workflows, os, signal
from glacierhpc.rundir import RunConfig, RunDirectory
def wait(name, config, **options):
    with RunDirectory.open(config.run_path, RunConfig("name: tiny", "hash")) as run, run.step(name):
        os.kill(os.getpid(), signal.{number})
        signal.pause()
glacierhpc.workflows.run_step = wait
glacierhpc.cli.main(["search", {str(CONFIG)!r}, "run_dir={tmp_path / "run"}"])
"""
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == code and "goes on where it stopped" in answer.stderr, answer.stderr
    assert json.loads((tmp_path / "run/steps/search.json").read_text())["state"] == "interrupted"


def test_where_a_signature_is_demanded_no_other_image_is_used(glacier: Glacier, tmp_path: Path) -> None:
    """A program stands for Apptainer, which knows one key; real signatures: tests/cluster/test_image.py."""
    program(
        tmp_path, "apptainer",
        'case "$*" in --version) echo apptainer version 1.4.5;; verify*mine.pem*) ;; verify*) exit 255;; esac\n'
        'echo "$@" >>words',
    )  # fmt: skip
    (tmp_path / "i.sif").mkdir()  # an unpacked one, which has no header that names its machine
    user = tmp_path / ".config/glacierhpc/site.yaml"
    user.parent.mkdir(parents=True)
    user.write_text("image: $HOME/i.sif\nsigned_by: [keyring, $HOME/another.pem]\n")
    for command in (("submit", CONFIG, f"run_dir={tmp_path}/run"), ("container", "exec", "i.sif", "id")):
        code, _, err = glacier(*command)
        assert code == 2 and "not signed by any of signed_by: keyring, $HOME/another.pem" in err
    assert not (tmp_path / "taken").exists() and "exec" not in (tmp_path / "words").read_text()
    user.write_text("image: $HOME/i.sif\nsigned_by: [keyring, $HOME/mine.pem]\n")
    assert glacier("submit", CONFIG, f"run_dir={tmp_path}/run")[0] == 0
    assert glacier("container", "exec", "i.sif", "id")[0] == 0
    said = (tmp_path / "words").read_text()
    assert f"verify --key {tmp_path}/mine.pem {tmp_path}/i.sif" in said and "verify --local" not in said
    (tmp_path / "bin/apptainer").unlink()  # who cannot ask does not let it pass
    assert "module load" in glacier("submit", CONFIG, f"run_dir={tmp_path}/other")[2]


def test_an_image_is_run_in_and_built_by_the_runtime_that_is_there(glacier: Glacier, tmp_path: Path) -> None:
    program(
        tmp_path, "apptainer",
        'case $1 in --version) echo apptainer version 1.4.5;; *) printf "%s\\n" "$@" >words; exit 3;; esac',
    )  # fmt: skip
    (tmp_path / "i.sif").mkdir()  # an unpacked one, which has no header that names its machine
    assert glacier("container", "exec", "i.sif", "glacierhpc", "train", "a b", "--json")[0] == 3
    words = (tmp_path / "words").read_text().splitlines()
    assert words[:3] == ["exec", "--cleanenv", "--no-home"]
    assert words[-5:] == ["i.sif", "glacierhpc", "train", "a b", "--json"]
    (tmp_path / "d.def").touch()
    code, _, err = glacier("container", "build", "i.sif", "--definition", "d.def")
    assert code == 2 and "exists" in err
    assert (
        glacier("container", "build", "new.sif", "--definition", "d.def", "--build-arg", "FROM=x y")[0] == 3
    )
    assert "FROM=x y" in (tmp_path / "words").read_text().splitlines()
    assert glacier("container", "inspect", "none.sif")[0] == 2
    assert glacier("container", "exec", "i.sif")[0] == 2
