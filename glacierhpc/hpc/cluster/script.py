"""How a worker is started, as words and lines of a script: pure functions, every value in quotes.

What a batch system's header looks like is in `queues`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence

from glacierhpc.errors import InputError
from glacierhpc.hpc.apptainer import HANDED_IN, Runtime, exec_command
from glacierhpc.hpc.cluster.wish import DEATH_TIMEOUT_S, WORKER_ENVIRONMENT, Worker
from glacierhpc.hpc.quoting import one_line, path_word, variable, word
from glacierhpc.hpc.slurm.job import JobSpec
from glacierhpc.hpc.slurm.script import directives

WORKER = "distributed.cli.dask_worker"
_EXPANDED = re.compile(r"\$\{?[A-Za-z_]")

DASK = {
    # a login node under load answers late
    "DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "120s",
    "DISTRIBUTED__COMM__TIMEOUTS__TCP": "120s",
    "DISTRIBUTED__COMM__RETRY__COUNT": "3",
}
"""Settings of Dask on a worker, as the variables that it reads, without ``DASK_``."""

DISKLESS = {
    # what is spilled to a disk made of memory is not out of memory
    "DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
    "DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DISTRIBUTED__WORKER__MEMORY__PAUSE": "0.8",
    "DISTRIBUTED__WORKER__MEMORY__TERMINATE": "0.95",
}


def shell_word(text: str) -> str:
    """Return one word of a shell in which at most variables are replaced, quoted only where it must be."""
    return path_word(text) if _EXPANDED.search(text) else word(text)


def environment(worker: Worker) -> dict[str, str]:
    """Return the variables that a worker is started with."""
    settings = {**DASK, **(DISKLESS if worker.jobs.site.diskless else {})}
    return {**WORKER_ENVIRONMENT, **{f"DASK_{name}": value for name, value in settings.items()}}


def arguments(worker: Worker) -> list[str]:
    """Return what the worker's command gets besides name, threads, memory and certificates."""
    lifetime_s, stagger_s = worker.lifetime_s
    return [
        # the page of a worker has no password either
        "--dashboard-address", "127.0.0.1:0", "--no-dashboard",
        "--lifetime", f"{lifetime_s}s", "--lifetime-stagger", f"{stagger_s}s",
    ]  # fmt: skip


def python_words(worker: Worker, folders: Sequence[str]) -> list[str]:
    """Return the command that starts Python for a worker: that of this process, or that of the image.

    Parameters
    ----------
    folders : sequence of str
        What a worker in an image must see besides the folders of the site.
    """
    image = worker.jobs.own_image
    if image is None:
        return [sys.executable]
    program = runtime_name(worker)
    binds = [*dict.fromkeys([*folders, *worker.jobs.site.binds]), "$TMPDIR"]
    return exec_command(Runtime(program, program, ()), image, ["python3"], binds=binds)


def runtime_name(worker: Worker) -> str:
    """Return the name of the program that runs images on the nodes, looked for there."""
    named = worker.jobs.site.container
    if named == "none":
        raise InputError(
            f"image {worker.jobs.own_image!r} cannot be used: the site has container=none; write "
            "container: apptainer (or singularity) into its profile"
        )
    return named or "apptainer"


def prologue(worker: Worker, *, shell: str = "bash") -> list[str]:
    """Return the lines of a script before the worker's command.

    Parameters
    ----------
    shell : {"bash", "sh"}
        Which one will read them; HTCondor's is the latter.
    """
    site = worker.jobs.site
    lines = [f"module load {word(module)}" for module in site.modules]
    lines += [f"export {variable(key)}={word(value)}" for key, value in site.environment.items()]
    if site.scratch:
        lines.append(f"export TMPDIR={path_word(site.scratch)}")
        lines.append('mkdir -p "$TMPDIR"')
    lines.append('export TMPDIR="${TMPDIR:-/tmp}"')
    lines += [f"export {name}={word(value)}" for name, value in environment(worker).items()]
    return lines + (_handed_in(worker, shell) if worker.jobs.own_image else [])


def _handed_in(worker: Worker, shell: str) -> list[str]:
    """Return the lines that let a program in the image know what it may of the job, by name."""
    named = {**environment(worker), "PYTHONNOUSERSITE": "1"}
    lines = [
        "export " + " ".join(f"{prefix}ENV_{name}={word(value)}" for prefix in ("APPTAINER", "SINGULARITY"))
        for name, value in named.items()
    ]
    if shell == "bash":
        # SC2016: it is this shell that is to replace the name
        lines.append(
            f"for name in $(compgen -e); do case $name in {' | '.join(HANDED_IN)}) "
            'export "APPTAINERENV_$name=${!name}" "SINGULARITYENV_$name=${!name}" ;; esac; done'
        )
    return lines


def slurm_directives(worker: Worker, name: str, log: str) -> dict[str, str]:
    """Return the options of ``sbatch`` of a worker's job: those of every job of the site, with its memory in MiB."""
    jobs, mib = worker.jobs, worker.memory_mib
    memory = {
        "mem": {"mem": f"{mib}M"},
        "mem-per-cpu": {"mem-per-cpu": f"{math.ceil(mib / jobs.cpus)}M"},
        "none": {},
    }[jobs.site.memory]
    spec = JobSpec(
        "worker", "A worker.", (), goes_on=False, label=name, kind=jobs.kind, cpus=jobs.cpus,
        memory_gb=math.ceil(mib / 1024), hours=jobs.hours, directives={"output": log, **memory},
    )  # fmt: skip
    asked = directives(spec, jobs.site)
    # the time before the end is known to the worker, and the signal would end the script that waits for it
    del asked["signal"]
    # a job that came back by itself would be a second one of its name
    return {**asked, "no-requeue": "", **jobs.options}


def words(command: Sequence[str]) -> str:
    """Return words of a shell, one for each text, in which at most variables are replaced."""
    return " ".join(shell_word(text) for text in command)


def lines_of(values: Mapping[str, str]) -> list[str]:
    """Return what a script is refused for, were it to hold these values: nothing, or an error."""
    return [one_line(text) for text in values.values()]


__all__ = ["DEATH_TIMEOUT_S", "arguments", "prologue", "python_words", "shell_word", "slurm_directives", "words"]
