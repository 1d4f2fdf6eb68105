"""Job scripts for Slurm as text: a pure function of what the job is; nothing here submits or runs one."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from glacierhpc.errors import InputError

IMAGE_ID = Path("/opt/glacierhpc/image-id")
"""Written by deeplearning.def: a hash of the source and versions the image was built from."""


@dataclass(frozen=True)
class JobSpec:
    """One job: what it runs and what it asks the scheduler for."""

    name: str
    """Name in the queue, and of the log file."""
    about: str
    """One line for the reader of the script."""
    command: tuple[str, ...]
    """Arguments of ``glacierhpc``, before those of ``sbatch``'s caller."""
    goes_on: bool = True
    """Whether the command, given again, goes on where it stopped; otherwise it starts again."""
    takes_config: bool = True
    """Whether the script's first argument is a configuration."""
    cpus: int = 8
    memory_gb: int = 16
    hours: float = 12.0
    """Walltime. A job that meets it has saved its work; submitting it again goes on."""
    gpus: int = 0
    directives: Mapping[str, str] = field(default_factory=dict)
    """Further options of ``sbatch`` that a site asks for, such as ``{"partition": "gpu"}``."""


JOBS = (
    JobSpec("run", "All steps that are still to do, on one node.", ("run",), hours=24),
    JobSpec(
        "imagery",
        "From the catalogue to composites; reads over the network, so on some sites it needs a special partition.",
        ("run", "--to", "composite"),
    ),
    JobSpec(
        "training",
        "Everything up to training; ask for a GPU with: sbatch --gres=gpu:1 jobs/training.sbatch CONFIG.",
        ("run", "--to", "train"),
        memory_gb=32,
        hours=24,
    ),
    JobSpec(
        "results",
        "What is left after training: evaluation, forecast of the whole area, flow, report.",
        ("run",),
        hours=4,
    ),
    JobSpec(
        "demo",
        "The offline demo: shows within minutes whether everything works on a compute node.",
        ("demo",),
        takes_config=False,
        goes_on=False,
        cpus=2,
        memory_gb=8,
        hours=0.5,
    ),
)
"""The scripts in jobs/."""


def render(spec: JobSpec) -> str:
    """Return the script of a job, to be given to ``sbatch``.

    The script runs the image named by ``GLACIERHPC_IMAGE`` where that is set, else the ``.venv`` of the folder it is
    submitted from, else what is on the path. Every value is quoted.

    Raises
    ------
    InputError
        If a value cannot stand in a script: a line break in a directive, an option name that is none.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", spec.name):
        raise InputError(
            f"job name {spec.name!r} cannot be used; write letters, digits, dot, dash, underscore"
        )
    usage = f"sbatch jobs/{spec.name}.sbatch " + (
        "CONFIG [section.key=value ...]" if spec.takes_config else "[FOLDER]"
    )
    lines = [
        "#!/usr/bin/env bash",
        *_directives(spec),
        "",
        f"# {_one_line(spec.about)}",
        f"# Use: {_one_line(usage)}",
        f"# Runs out of time, is killed, or fails: submit it again, it {_again(spec)}.",
        "",
        "set -euo pipefail",
        *(_CONFIG_ARGUMENT.format(name=spec.name).splitlines() if spec.takes_config else []),
        *_RUNNER.splitlines(),
        _call(spec),
    ]
    return "\n".join(lines) + "\n"


def write_jobs(folder: str | Path) -> list[Path]:
    """Write the scripts of all `JOBS` into a folder and return their paths."""
    paths = []
    for spec in JOBS:
        path = Path(folder) / f"{spec.name}.sbatch"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(spec), encoding="utf-8")
        path.chmod(0o755)
        paths.append(path)
    return paths


def job_surroundings(environ: Mapping[str, str] = os.environ) -> dict[str, str | None]:
    """Return the ids of the job and the container this process runs in, None where it runs in neither.

    Keys are those of `rundir.RunDirectory.provenance`.
    """
    inside = environ.get("APPTAINER_CONTAINER") or environ.get("SINGULARITY_CONTAINER")
    digest = IMAGE_ID.read_text(encoding="utf-8").strip() if inside and IMAGE_ID.is_file() else None
    return {"job_id": environ.get("SLURM_JOB_ID"), "container_digest": digest}


_CONFIG_ARGUMENT = """\
if [[ $# -eq 0 ]]; then
    echo "no configuration given; write: sbatch jobs/{name}.sbatch configs/forecast.yaml" >&2
    exit 2
fi
config=$1
shift
"""

_RUNNER = """\
cd "${SLURM_SUBMIT_DIR:-$PWD}"

# for training, which is one process with all cores; the workers of the other steps set themselves to one thread
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"

if [[ -n "${GLACIERHPC_IMAGE:-}" ]]; then
    container=$(command -v apptainer || command -v singularity) || {
        echo "GLACIERHPC_IMAGE is set, but neither apptainer nor singularity is on the path; load its module" >&2
        exit 2
    }
    glacierhpc=("$container" exec --bind "$PWD")
    if [[ -n "${SLURM_JOB_GPUS:-}" ]]; then glacierhpc+=(--nv); fi
    glacierhpc+=("$GLACIERHPC_IMAGE" glacierhpc)
elif [[ -x .venv/bin/glacierhpc ]]; then
    glacierhpc=(.venv/bin/glacierhpc)
else
    glacierhpc=(glacierhpc)
fi

# exec: the scheduler's SIGTERM reaches glacierhpc itself, which then records where it stopped
"""


def _again(spec: JobSpec) -> str:
    return "goes on where it stopped" if spec.goes_on else "starts again"


def _directives(spec: JobSpec) -> list[str]:
    values = {
        "job-name": f"glacierhpc-{spec.name}",
        "output": "%x-%j.log",
        "open-mode": "append",
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(spec.cpus),
        "mem": f"{spec.memory_gb}G",
        "time": _walltime(spec.hours),
        # two minutes before the end, to the script's own process
        "signal": "B:TERM@120",
        **({"gres": f"gpu:{spec.gpus}"} if spec.gpus else {}),
        **spec.directives,
    }
    return [_directive(name, value) for name, value in values.items()]


def _directive(name: str, value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z-]*", name):
        raise InputError(
            f"directive {name!r} is not an option of sbatch; write its long name without dashes in front"
        )
    return f"#SBATCH --{name}={shlex.quote(_one_line(value))}"


def _one_line(text: str) -> str:
    if any(ord(character) < 32 for character in text):
        raise InputError(
            f"{text!r} cannot stand in a job script: it has a line break or control character; remove it"
        )
    return text


def _walltime(hours: float) -> str:
    minutes = round(hours * 60)
    if minutes < 1:
        raise InputError(f"walltime of {hours!r} hours is none; write at least 0.02")
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


def _call(spec: JobSpec) -> str:
    arguments = " ".join(shlex.quote(_one_line(argument)) for argument in spec.command)
    if not spec.takes_config:
        return f'exec "${{glacierhpc[@]}}" {arguments} "$@"'
    workers = '"cluster.workers=${SLURM_CPUS_PER_TASK:-1}"'
    return f'exec "${{glacierhpc[@]}}" {arguments} "$config" {workers} "$@"'
