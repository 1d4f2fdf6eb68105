"""What the tests on a real Slurm share: jobs that are waited for, and a small run that is ready to be trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from glacierhpc.config import Config, config_to_yaml
from glacierhpc.workflows import run_steps
from tests.conftest import ROOT
from tests.workflows.cubes import given_config, given_cube, store

SMALL = ("--cpus-per-task=1", "--mem=2G", "--time=30")
"""Test clusters are smaller than real ones; options of the command line go before those of the script."""
OF_CHAINS = ("search", "acquire", "imagery", "train", "results", "trials", "gather")
SMALL_JOBS = [
    f"--set=jobs.{job}.{asked}" for job in OF_CHAINS for asked in ("cpus=1", "memory_gb=2", "hours=0.5")
]
"""Likewise for `glacierhpc submit`."""


def told(*command: str | Path) -> str:
    """Run a command that must succeed and return what it says."""
    answer = subprocess.run(
        command, cwd=ROOT, env=quick(), capture_output=True, text=True, check=False, timeout=900
    )
    assert answer.returncode == 0, (
        f"{command}: {answer.returncode}\n{answer.stdout[-3000:]}{answer.stderr[-3000:]}"
    )
    return answer.stdout


def glacier(*arguments: object, code: int = 0, **environment: str) -> dict[str, Any]:
    """Run a command of glacierhpc that ends with a code, and return what it says."""
    command = [sys.executable, "-m", "glacierhpc", *map(str, arguments), "--json"]
    answer = subprocess.run(
        command, cwd=ROOT, env=quick(**environment), capture_output=True, text=True, check=False, timeout=300
    )
    assert answer.returncode == code, answer.stdout + answer.stderr
    return dict(json.loads(answer.stdout.splitlines()[-1]))


def verdicts(run: Path) -> dict[str, str]:
    """What became of the jobs of a run."""
    return {job: told["state"] for job, told in glacier("status", run)["jobs"].items()}


def control(line: str) -> None:
    """Ask for something that only the test cluster's root may do, see containers/testcluster/inside.sh."""
    (Path(os.environ["GLACIERHPC_TESTCLUSTER"]) / "run" / "control").write_text(f"{line}\n")


def quick(**more: str) -> dict[str, str]:
    """An environment of few threads: the nodes of a test cluster share the cores of one machine."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def submit(script: str, *arguments: str | Path, options: tuple[str, ...] = (), **environment: str) -> int:
    """Submit a script of jobs/ and return the number of its job."""
    command = ["sbatch", "--parsable", *SMALL, *options, f"jobs/{script}.sbatch", *map(str, arguments)]
    answer = subprocess.run(
        command, cwd=ROOT, env=quick(**environment), capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return int(answer.stdout.split(";")[0])


def waited_for(job: int, *, timeout_s: float = 900) -> tuple[str, int]:
    """Wait for the end of a job; its state and exit code."""
    reached(
        lambda: fields(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED"), timeout_s
    )
    known = fields(job)
    return known["JobState"], int(known["ExitCode"].split(":")[0])


def restarted(job: int | str, timeout_s: float = 300) -> None:
    """Wait until a job has been queued again, and let it start soon: Slurm holds it as long as a credential lives.

    Not at once: a node refuses a credential of the second in which it was told to kill the job, or of one before.
    """

    def is_queued_again() -> bool:
        known = fields(job)
        return known["Restarts"] == "1" and known["JobState"] != "COMPLETING"

    reached(is_queued_again, timeout_s)
    # one that runs by now refuses this, rightly
    subprocess.run(
        ["scontrol", "update", f"JobId={job}", "StartTime=now+2"], capture_output=True, check=False
    )


def fields(job: int | str) -> dict[str, str]:
    """What the scheduler knows of a job that is not long gone."""
    words = told("scontrol", "show", "job", "--oneliner", str(job)).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def log_of(job: int) -> str:
    """A job's log."""
    path = Path(fields(job)["StdOut"])
    return path.read_text() if path.exists() else "(no log)"


def reached(condition: Callable[[], bool], timeout_s: float = 300) -> None:
    """Wait until something holds; the limit is for what hangs, on a busy machine as well."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.3)


def prepared(folder: Path, epochs: int, **train: object) -> tuple[Config, Path]:
    """Make the sequences of a run, and a file with its configuration."""
    config = given_config(
        folder / "run", store(given_cube(), folder / "mine.zarr"),
        train={"epochs": epochs, "patience": None, **train},
    )  # fmt: skip
    path = folder / "own.yaml"
    path.write_text(config_to_yaml(config))
    run_steps(config, to_step="sequences")
    return config, path


def trained_alone(config: Config, folder: Path) -> dict[str, torch.Tensor]:
    """Train the same in this process, in a folder of its own, and return the weights."""
    torch.set_num_threads(1)  # as the jobs do, to the last bit
    run_steps(config.model_copy(update={"run_dir": folder}), to_step="train")
    return weights(folder)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights of a run."""
    return load_file(run / "model" / "model.safetensors")


def alike(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], *, atol: float = 0.0) -> bool:
    """Whether weights are the same, to the last bit where no tolerance is given."""
    rtol = 1e-5 if atol else 0.0
    return found.keys() == expected.keys() and all(
        torch.allclose(found[name], value, rtol=rtol, atol=atol) for name, value in expected.items()
    )
