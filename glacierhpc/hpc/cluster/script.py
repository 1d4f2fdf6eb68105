"""How a worker is started, as words and lines of a script: pure functions, every value in quotes.

What a batch system's header looks like is in `queues`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence

from distributed import Security

from glacierhpc.errors import InputError
from glacierhpc.hpc.apptainer import HANDED_IN, PROGRAMS, Runtime, exec_command
from glacierhpc.hpc.cluster.wish import DEATH_TIMEOUT_S, WORKER_ENVIRONMENT, Worker
from glacierhpc.hpc.quoting import path_word, variable, word
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


def arguments(worker: Worker, *, ends: bool = True) -> list[str]:
    """Return what the worker's command gets besides address, name, threads and certificates.

    Parameters
    ----------
    ends : bool
        Whether it has a job of its own, whose walltime it must not meet.
    """
    lifetime_s, stagger_s = worker.lifetime_s
    lifetime = ["--lifetime", f"{lifetime_s}s", "--lifetime-stagger", f"{stagger_s}s"]
    return [
        # the page of a worker has no password either
        "--dashboard-address", "127.0.0.1:0", "--no-dashboard", "--memory-limit", f"{worker.memory_mib}MiB",
        *(lifetime if ends else []),
    ]  # fmt: skip


def step_script(
    worker: Worker, address: str, name: str, security: Security | None, folders: Sequence[str]
) -> str:
    """Return the text by which a shell becomes a worker, without the header of a job."""
    files = security.get_tls_config_for_role("worker") if security else {}
    tls = [
        part
        for key in ("ca_file", "cert", "key")
        if files.get(key)
        for part in (f"--tls-{key.replace('_', '-')}", str(files[key]))
    ]
    interface = ["--interface", worker.jobs.site.interface] if worker.jobs.site.interface else []
    options = [
        "-m", WORKER, address, "--name", name, "--nthreads", str(worker.cores), "--nanny",
        "--death-timeout", str(DEATH_TIMEOUT_S), *arguments(worker, ends=False), *interface, *tls,
    ]  # fmt: skip
    command = [*python_words(worker, folders), *map(word, options), "--local-directory", '"$TMPDIR"']
    return "\n".join([*prologue(worker), f"exec {' '.join(command)}"]) + "\n"


def python_words(worker: Worker, folders: Sequence[str]) -> list[str]:
    """Return the words of a shell, quotes and all, that start Python for a worker: this one, or that of the image.

    Parameters
    ----------
    folders : sequence of str
        What a worker in an image must see besides the folders of the site.

    Raises
    ------
    InputError
        If a folder cannot be bound, or the site has no program that runs images.
    """
    image, site = worker.jobs.own_image, worker.jobs.site
    if image is None:
        return [word(sys.executable)]
    if site.container == "none":
        raise InputError(
            f"image {image!r} cannot be used: the site has container=none; write container: apptainer (or singularity) "
            "into its profile"
        )
    binds = [*map(word, folders), *map(path_word, site.binds), '"$TMPDIR"']
    return exec_command(
        Runtime('"$container"', site.container or "apptainer", ()), path_word(image), ["python3"],
        binds=list(dict.fromkeys(binds)),
    )  # fmt: skip


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
    programs = [worker.jobs.site.container] if worker.jobs.site.container else PROGRAMS
    found = " || ".join(f"command -v {program}" for program in programs)
    lines = [f"container=$({found}) || {{ echo 'there is no {' or '.join(programs)} here' >&2; exit 2; }}"]
    named = {**environment(worker), "PYTHONNOUSERSITE": "1"}
    lines += [
        "export " + " ".join(f"{prefix}ENV_{name}={word(value)}" for prefix in ("APPTAINER", "SINGULARITY"))
        for name, value in named.items()
    ]
    if shell == "bash":
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
    asked.pop("signal", None)
    # a job that came back by itself would be a second one of its name
    return {**asked, "no-requeue": "", **jobs.options}
