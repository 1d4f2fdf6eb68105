"""The job scripts that come with the project: one for each step, and for what is made of several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from glacierhpc.hpc.slurm.job import JobSpec
from glacierhpc.hpc.slurm.script import render


def _step(name: str, about: str, **asked: object) -> JobSpec:
    return replace(JobSpec(name, about, (name,), hours=2), **asked)  # type: ignore[arg-type]


STEPS = (
    _step("search", "Find the scenes of the area and period in the catalogue; reads over the network.", cpus=1,
          memory_gb=4, hours=1, kind="network"),
    _step(
        "acquire",
        "Read the scenes into one cube; in groups first: sbatch --array=0-7 jobs/acquire.sbatch CONFIG --groups 8.",
        hours=12, kind="network", pools=True, numbered="--group",
    ),
    _step("clean", "Mask clouds, shadows and saturation; fill small holes and mark them.", pools=True),
    _step("align", "Co-register every scene to one reference.", hours=4, pools=True),
    _step("composite", "Make one image of an index per window of months.", pools=True),
    _step("sequences", "Plan the training sequences and a split without leakage.", cpus=2, pools=True),
    _step("train", "Train the model in one process, with the backend of the configuration.", memory_gb=32, hours=24,
          kind="gpu"),
    _step("evaluate", "Measure skill on the test sequences against the baselines.", memory_gb=32, hours=4),
    _step("predict", "Forecast the whole area.", memory_gb=32, hours=4),
    _step("flow", "Compare the apparent motion of targets and forecasts.", hours=4),
    _step("report", "Write one self-contained HTML file about the run.", cpus=2, hours=1),
)  # fmt: skip
"""One job for each step of the forecast task."""

TRAININGS = (
    JobSpec(
        "train-single",
        "Train in one process; ask for a GPU with: sbatch --gres=gpu:1 jobs/train-single.sbatch CONFIG.",
        ("train",), ("train.backend=single",), memory_gb=32, hours=24, kind="gpu",
    ),
    JobSpec(
        "train-ddp",
        "Train in one process per task, joined by torch.distributed; GPUs: sbatch --gres=gpu:4 --ntasks-per-node=4.",
        ("train",), ("train.backend=ddp",), launch="srun", nodes=2, memory_gb=32, hours=24, kind="gpu",
    ),
    JobSpec(
        "train-horovod",
        "Train in one process per task, joined by Horovod without MPI; GPUs: sbatch --gres=gpu:4 --ntasks-per-node=4.",
        ("train",), ("train.backend=horovod",), launch="gloo", nodes=2, memory_gb=32, hours=24, kind="gpu",
    ),
    JobSpec(
        "train-horovod-mpi",
        "Train in one process per task, joined by Horovod over the MPI of the site (srun --mpi=list).",
        ("train",), ("train.backend=horovod",), launch="mpi", nodes=2, memory_gb=32, hours=24, kind="gpu",
    ),
    JobSpec(
        "train-elastic",
        "Train by Horovod on what is there: goes on without a lost process; a second job of the run adds its own.",
        ("train",), ("train.backend=horovod",), launch="elastic", nodes=2, memory_gb=32, hours=24, kind="gpu",
    ),
)  # fmt: skip
"""One job for each way of training."""

PARTS = (
    JobSpec("run", "All steps that are still to do, on one node.", ("run",), hours=24, pools=True),
    JobSpec(
        "imagery",
        "From the catalogue to composites; reads over the network, so on some sites it needs a special partition.",
        ("run", "--to", "composite"), pools=True, kind="network",
    ),
    JobSpec(
        "training",
        "Everything up to training; ask for a GPU with: sbatch --gres=gpu:1 jobs/training.sbatch CONFIG.",
        ("run", "--to", "train"), memory_gb=32, hours=24, pools=True, kind="gpu",
    ),
    JobSpec(
        "results",
        "What is left after training: evaluation, forecast of the whole area, flow, report.",
        ("run",), hours=4, pools=True,
    ),
    JobSpec(
        "demo",
        "The offline demo: shows within minutes whether everything works on a compute node.",
        ("demo",), takes_config=False, goes_on=False, cpus=2, memory_gb=8, hours=0.5,
    ),
    JobSpec(
        "sweep",
        "Every variation and seed under sweep:, one by one; as an array: sbatch --array=0-5%3 jobs/sweep.sbatch.",
        ("sweep",), ("train.backend=single",), numbered="--trial", memory_gb=32, hours=24, kind="gpu",
    ),
    JobSpec(
        "scaling",
        "Measure how acquiring, aligning, cutting and training scale over the processes of this job.",
        ("bench", "scaling"), ("--output", "build/scaling/scaling.json", "--plots", "build/scaling"),
        takes_config=False, takes="[OPTION ...]", nodes=2, tasks_per_node=2, cpus=1, hours=2,
    ),
)  # fmt: skip
"""Jobs of several steps."""

JOBS = (*PARTS, *STEPS, *TRAININGS)
"""The scripts in jobs/ that `render` writes."""

PIPELINE = """\
#!/usr/bin/env bash
#SBATCH --job-name=glacierhpc-pipeline
#SBATCH --output=%x-%j.log
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
#SBATCH --time=00:10:00

# The whole task as a chain of jobs, each waiting for the one before to end well: imagery, training, results.
# Use: bash jobs/pipeline.sbatch CONFIG [section.key=value ...]       (sbatch works, too, where jobs may submit jobs)
# TRAINING names another script of jobs/ for the second one: TRAINING=train-ddp. `glacierhpc submit` can do more.

set -euo pipefail
if [[ $# -eq 0 ]]; then
    echo "no configuration given; write: bash jobs/pipeline.sbatch configs/forecast.yaml" >&2
    exit 2
fi
cd "${SLURM_SUBMIT_DIR:-$PWD}"

training=${TRAINING:-training}
if [[ ! -f jobs/$training.sbatch ]]; then
    echo "TRAINING=$training names no script: there is no jobs/$training.sbatch" >&2
    exit 2
fi
chain=(imagery "$training" results)
# several processes share only training itself: what comes before is done in one
if [[ $training == train* && $training != training ]]; then chain=(imagery sequences "$training" results); fi

# what this job was given is not for the jobs that it submits
for name in $(compgen -e); do
    case $name in SLURM_CONF) ;; SLURM_* | SBATCH_*) unset "$name" ;; esac
done

after=''
for job in "${chain[@]}"; do
    options=(--parsable --kill-on-invalid-dep=yes)
    if [[ -n $after ]]; then options+=(--dependency="afterok:$after"); fi
    after=$(sbatch "${options[@]}" "jobs/$job.sbatch" "$@")
    after=${after%%;*}
    echo "$job: job $after"
done
"""
"""Submits the others, and is nothing that glacierhpc itself runs."""


def write_jobs(folder: str | Path) -> list[Path]:
    """Write the scripts of all `JOBS` and the chain of them into a folder and return their paths."""
    texts = {spec.name: render(spec) for spec in JOBS} | {"pipeline": PIPELINE}
    paths = []
    for name, text in texts.items():
        path = Path(folder) / f"{name}.sbatch"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        paths.append(path)
    return paths
