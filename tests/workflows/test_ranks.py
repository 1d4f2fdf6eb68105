"""Training by the command line: on two ranks that write one run, and stopped by a scheduler's signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from glacierhpc.config import Config, config_to_yaml
from glacierhpc.rundir import RunDirectory, read_json
from glacierhpc.workflows import run_steps
from tests.conftest import ROOT
from tests.workflows.cubes import given_config, given_cube, store

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
PATIENCE_S = 400
"""For what takes some seconds, on a busy machine."""


def prepared(folder: Path, epochs: int) -> tuple[Config, Path]:
    """Make the sequences of a run, and a file with its configuration."""
    config = given_config(
        folder / "run", store(given_cube(), folder / "mine.zarr"), train={"epochs": epochs, "patience": None}
    )
    path = folder / "own.yaml"
    path.write_text(config_to_yaml(config))
    run_steps(config, to_step="sequences")
    return config, path


def test_two_ranks_write_one_run_with_the_weights_of_one_process(tmp_path: Path) -> None:
    config, path = prepared(tmp_path, epochs=2)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "glacierhpc", "train", str(path), "train.backend=ddp", "--json"],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('"step": "train"') == 1  # one of them speaks
    run = RunDirectory(config.run_path)
    assert run.done("train") and (run.logs / "train.log").read_text().count("epoch 2 of 2") == 1
    alone = config.model_copy(update={"run_dir": tmp_path / "alone"})
    run_steps(alone, to_step="train")
    mine, theirs = (
        load_file(folder / "model" / "model.safetensors") for folder in (alone.run_path, run.path)
    )
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-6) for name in mine)


def test_a_signal_ends_training_with_the_code_that_asks_for_a_requeue(tmp_path: Path) -> None:
    """By SIGTERM, for which the command line has a handler of its own; the others are tried with the loop."""
    config, path = prepared(tmp_path, epochs=100_000)
    run = RunDirectory(config.run_path)
    command = [sys.executable, "-m", "glacierhpc", "train", str(path)]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + PATIENCE_S
        while not (run.checkpoints / "last.pt").exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        told = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 75, told
    assert "Traceback" not in told and "SIGTERM" in told.splitlines()[-1]
    assert read_json(run.steps / "train.json")["state"] == "interrupted" and not run.model.exists()
