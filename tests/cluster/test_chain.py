"""The whole chain by `glacierhpc submit` on a real Slurm: in the image, by two Horovod ranks on two nodes; sweeps, too.

What comes out is what one process makes of the same configuration.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from glacierhpc.config import config_to_yaml
from glacierhpc.config.trials import trials_of
from glacierhpc.rundir import RunDirectory, read_json, read_table
from glacierhpc.workflows.sweep import sweep
from tests.cluster.jobs import (
    SMALL_JOBS,
    alike,
    fields,
    glacier,
    log_of,
    prepared,
    reached,
    submit,
    told,
    trained_alone,
    verdicts,
    waited_for,
    weights,
)
from tests.conftest import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

TWO_NODES = ("--set=jobs.train.nodes=2",)
DEMO = ("period.end=2017-06-30", "train.epochs=1")


def all_done(jobs: dict[str, str], run: Path) -> None:
    for job in jobs.values():
        assert waited_for(int(job)) == ("COMPLETED", 0), f"{glacier('status', run)}\n{log_of(int(job))}"


def test_the_demo_in_the_image_by_two_ranks_on_two_nodes_is_that_of_one_process(
    image: Path, tmp_path: Path
) -> None:
    """From scenes to report, every job in the image; a plain `sbatch jobs/run.sbatch` does the same in one process."""
    scenes, run, alone = (tmp_path / name for name in ("scenes", "run", "alone"))
    inside = ("apptainer", "exec", "--bind", tmp_path, image)
    told(*inside, "glacierhpc", "archive", "create", scenes, "--scenes", "60", "--size-px", "192")
    path = Path(shutil.copy(ROOT / "configs" / "demo.yaml", tmp_path))  # its folder is seen in the image
    values = (path, f"archive.catalogue={scenes}", *DEMO)
    jobs = glacier(
        "submit", *values, f"run_dir={run}", "train.backend=horovod", *TWO_NODES, *SMALL_JOBS, f"--set=image={image}"
    )["jobs"]  # fmt: skip
    assert list(jobs) == ["imagery", "train", "results"]
    one = submit("run", *values, f"run_dir={alone}", GLACIERHPC_IMAGE=str(image))
    all_done(jobs | {"one": str(one)}, run)
    assert verdicts(run) == dict.fromkeys(jobs, "done")
    assert fields(int(jobs["train"]))["NumNodes"] == "2"
    digest = told(*inside, "cat", "/opt/glacierhpc/image-id").strip()
    for folder, last in ((run, jobs["results"]), (alone, str(one))):
        known = read_json(RunDirectory(folder).provenance_file)
        assert known["container_digest"] == digest and known["job_id"] == last
        states = {
            path.stem: json.loads(path.read_text())["state"] for path in (folder / "steps").glob("*.json")
        }
        assert set(states.values()) == {"done"}
        assert {"acquire", "align", "sequences", "train", "evaluate", "report"} < set(states)
    aligned = (read_table(RunDirectory(folder).alignment) for folder in (run, alone))
    pd.testing.assert_frame_equal(*(rows.drop(columns="seconds") for rows in aligned))
    assert alike(weights(run), weights(alone), atol=1e-5)
    scores, of_one = (read_json(RunDirectory(folder).metrics)["models"] for folder in (run, alone))
    assert {name: figures["mse"]["all"] for name, figures in scores.items()} == pytest.approx(
        {name: figures["mse"]["all"] for name, figures in of_one.items()}, rel=1e-4
    )
    assert (run / "report.html").stat().st_size > 10_000


def test_a_chain_cancelled_in_the_middle_and_resumed_ends_with_the_same(tmp_path: Path) -> None:
    config, path = prepared(tmp_path, epochs=50)
    run = config.run_path
    values = (path, "train.backend=ddp", *TWO_NODES, *SMALL_JOBS)
    jobs = glacier("submit", *values)["jobs"]
    reached((RunDirectory(run).checkpoints / "last.pt").exists)
    assert "is running; wait for it" in glacier("submit", *values, code=2)["error"]
    assert set(glacier("cancel", run)["cancelled"]) == set(jobs.values())
    reached(lambda: set(verdicts(run).values()) == {"cancelled"})
    assert not RunDirectory(run).model.exists()
    reached(lambda: json.loads((run / "steps/train.json").read_text())["state"] == "interrupted")
    assert fields(int(jobs["train"]))["Restarts"] == "0"
    all_done(glacier("resume", run)["jobs"], run)
    logs = [path.read_text() for path in (run / "jobs").glob("train-*.log")]
    assert len(logs) == 2 and any("resumed from" in text for text in logs)
    assert alike(weights(run), trained_alone(config, tmp_path / "alone"), atol=1e-5)


def test_a_sweep_is_an_array_whose_failed_task_keeps_no_other_from_its_place(tmp_path: Path) -> None:
    config, path = prepared(tmp_path, epochs=2)
    sections = {"seeds": (0, 1), "variations": ({}, {"train.learning_rate": 0.02})}
    config = config.model_copy(update={"sweep": config.sweep.model_copy(update=sections)})
    path.write_text(config_to_yaml(config))
    run = RunDirectory(config.run_path)
    in_the_way = trials_of(config)[2].config.run_path
    in_the_way.parent.mkdir()
    in_the_way.touch()  # where that trial's folder should be
    jobs = glacier("submit", path, *SMALL_JOBS, "--set=jobs.trials.at_once=3")["jobs"]
    assert list(jobs) == ["trials", "gather"]
    assert waited_for(int(jobs["gather"]))[0] == "FAILED"
    said = glacier("status", run.path)
    assert said["jobs"]["trials"]["told"] == "3 done, 1 failed"
    assert {task: state["state"] for task, state in said["jobs"]["trials"]["tasks"].items()} == {
        f"{jobs['trials']}_{number}": "failed" if number == 2 else "done" for number in range(4)
    }
    assert any(f"trials-{jobs['trials']}_2.log" in log for log in said["logs"])
    assert any("1 of 4 trials are not done" in line for lines in said["logs"].values() for line in lines)
    assert len(read_table(run.sweep_table)) == 3
    in_the_way.unlink()
    again = glacier("resume", run.path)["jobs"]
    assert "#SBATCH --array=2%3\n" in (run.path / "jobs" / "trials.sbatch").read_text()
    all_done({"gather": again["gather"]}, run.path)
    apart = read_table(run.sweep_table)
    torch.set_num_threads(1)
    other = config.model_copy(update={"run_dir": tmp_path / "together"})
    together = pd.DataFrame(sweep(other)["trials"])
    pd.testing.assert_frame_equal(
        apart.drop(columns="seconds"), together[apart.columns].drop(columns="seconds"), check_dtype=False
    )
    assert glacier("resume", run.path)["jobs"] == {}
