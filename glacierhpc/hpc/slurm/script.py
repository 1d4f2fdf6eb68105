"""A job script as text: a pure function of the job and of the site; nothing here submits or runs one."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping

from glacierhpc.errors import InputError
from glacierhpc.hpc import quoting
from glacierhpc.hpc.quoting import one_line, path_word, word, words
from glacierhpc.hpc.site import PLAIN, Site
from glacierhpc.hpc.slurm import parts
from glacierhpc.hpc.slurm.arrays import numbers_text
from glacierhpc.hpc.slurm.job import JobSpec

INTERFACES = ("GLOO_SOCKET_IFNAME", "HOROVOD_GLOO_IFACE", "NCCL_SOCKET_IFNAME")
"""Who asks which network lies between the nodes: torch, Horovod, NCCL."""


def render(spec: JobSpec, site: Site = PLAIN) -> str:
    """Return the script of a job, to be given to ``sbatch``.

    The script needs bash and Slurm's commands, and no Python where it is submitted. It runs the image named by
    ``GLACIERHPC_IMAGE`` where that is set, else the ``.venv`` of the folder it starts in, else what is on the path.
    Near the end of its time it passes the scheduler's signal on, and queues itself again when glacierhpc has saved
    its work. Every value is quoted.

    Raises
    ------
    InputError
        If a value cannot stand in a script: a line break in a directive, an option name that is none.
    """
    quoting.name(spec.name, "job name")
    lines = [
        "#!/usr/bin/env bash",
        *(quoting.directive(option, value) for option, value in directives(spec, site).items()),
        "",
        *_words_to_the_reader(spec),
        "",
        "# shellcheck disable=SC2016,SC2034,SC2317  # a text for another shell; not every job needs all of this",
        "set -euo pipefail",
        *_settings(spec, site),
        *_blocks(spec, site),
    ]
    return "\n".join(lines) + "\n"


def directives(spec: JobSpec, site: Site = PLAIN) -> dict[str, str]:
    """Return the options of ``sbatch`` that stand in the script, in their order."""
    own = "%A_%a" if spec.array else "%j"
    log = f"{quoting.file_pattern(spec.folder)}/{spec.name}-{own}.log" if spec.folder else f"%x-{own}.log"
    asked = {
        "job-name": spec.label or f"glacierhpc-{spec.name}",
        "output": log,
        "open-mode": "append",  # a job that starts again keeps its log
        **({"requeue": ""} if spec.goes_on and site.again == "requeue" else {}),
        **({"no-kill": ""} if spec.launch == "elastic" else {}),
        **_array(spec),
        "nodes": str(spec.nodes),
        **_tasks(spec, site),
        "cpus-per-task": str(spec.cpus),
        **_memory(spec, site),
        "time": quoting.walltime(spec.hours),
        "signal": f"B:USR2@{site.warning_s}",
        **_gpus(spec, site),
        **({"account": site.account} if site.account else {}),
        **({"partition": site.use[spec.kind]} if spec.kind in site.use else {}),
        **site.directives.get("all", {}),
        **site.directives.get(spec.kind, {}),
        **spec.directives,
    }
    return asked


def _array(spec: JobSpec) -> Mapping[str, str]:
    throttle = f"%{spec.at_once}" if spec.at_once else ""
    return {"array": numbers_text(spec.array) + throttle} if spec.array else {}


def _tasks(spec: JobSpec, site: Site) -> Mapping[str, str]:
    if spec.tasks == 1:
        return {"ntasks": "1"}
    # without the number in all, `sbatch --nodes=4` at the command line changes it rightly
    return {
        **({"ntasks": str(spec.tasks)} if site.ntasks else {}),
        "ntasks-per-node": str(spec.tasks_per_node),
    }


def _memory(spec: JobSpec, site: Site) -> Mapping[str, str]:
    if site.memory == "mem":
        return {"mem": f"{spec.memory_gb}G"}
    if site.memory == "mem-per-cpu":
        return {"mem-per-cpu": f"{math.ceil(spec.memory_gb * 1024 / (spec.cpus * spec.tasks_per_node))}M"}
    return {}


def _gpus(spec: JobSpec, site: Site) -> Mapping[str, str]:
    if not spec.gpus or site.gpus == "none":
        return {}
    count = ":".join([*([site.gpu_type] if site.gpu_type else []), str(spec.gpus)])
    return {"gres": f"gpu:{count}"} if site.gpus == "gres" else {"gpus-per-node": count}


def _words_to_the_reader(spec: JobSpec) -> list[str]:
    if spec.config is None:
        given = "CONFIG [section.key=value ...]" if spec.takes_config else spec.takes
        use = [f"# Use: sbatch jobs/{spec.name}.sbatch {given}"]
    else:
        use = ["# Made by: glacierhpc submit; can be submitted again by hand, too."]
    if spec.goes_on:
        again = [
            "# Runs out of time: it saves its work and queues itself again. Is killed or fails: submit it again,",
            "# it goes on where it stopped. To end it with its work saved: scancel --batch --signal=USR1 JOBID",
        ]
    else:
        again = ["# Runs out of time, is killed, or fails: submit it again, it starts again."]
    return [f"# {one_line(spec.about)}", *use, *again]


def _settings(spec: JobSpec, site: Site) -> list[str]:
    """Return the variables of the script; all that a user writes is in these lines, in quotes."""
    for folder in (*site.binds, *([spec.config] if spec.config and site.image else [])):
        if "," in folder or ":" in folder:
            raise InputError(
                f"folder {folder!r} cannot be bound into an image: commas and colons part such lists; use another name"
            )
    record = f"{spec.folder}/{spec.name}" if spec.folder else ""
    lines = [
        f"job={word(spec.name)}",
        *_image(spec, site),
        f"binds=({' '.join(path_word(folder) for folder in site.binds)})",
        *([f"keys=({' '.join(path_word(key) for key in site.signed_by)})"] if site.signed_by else []),
        f"again={word(site.again if spec.goes_on else 'none')} attempts={site.attempts} record={word(record)}",
        'arguments=("$@")',
    ]
    if spec.config is not None:
        lines.append(f"config={word(spec.config)}")
    if spec.numbered:
        lines += [f"offset={spec.offset} number=()", parts.NUMBER.format(option=word(spec.numbered))]
    return lines


def _image(spec: JobSpec, site: Site) -> list[str]:
    image = path_word(site.image or "")
    if (
        spec.config is not None
    ):  # what a run was submitted with stays, whatever is set where it is queued again
        return [f"image={image}"]
    return [f"default_image={image}", "image=${GLACIERHPC_IMAGE:-$default_image}"]


def _blocks(spec: JobSpec, site: Site) -> list[str]:
    needs_config = spec.takes_config and spec.config is None
    blocks = [
        parts.NO_CONFIG if needs_config else "",
        'cd "${SLURM_SUBMIT_DIR:-$PWD}"\n',
        _surroundings(site),
        _quota(site) if spec.pools else "",
        parts.THREADS,
        _runner(site),
        parts.SIGNED if site.signed_by else "",
        parts.TASK,
        _launch(spec, site),
        parts.TOLD,
        parts.RUN + _call(spec) + parts.WAIT,
        parts.ENDED if spec.launch == "elastic" else "",
        parts.AGAIN,
    ]
    return "\n".join(block for block in blocks if block).rstrip("\n").split("\n")


def _surroundings(site: Site) -> str:
    lines = [f"module load {word(module)}" for module in site.modules]
    if lines:
        lines = [
            "# what a site defines as `module` may read variables that are not set",
            "set +u",
            *lines,
            "set -u",
        ]
    lines += [f"export {quoting.variable(key)}={word(value)}" for key, value in site.environment.items()]
    if site.scratch:
        lines.append(f"export TMPDIR={path_word(site.scratch)}")
    if site.interface:
        lines += [f"export {key}={word(site.interface)}" for key in INTERFACES]
    return "".join(f"{line}\n" for line in lines)


def _quota(site: Site) -> str:
    """Return what asks for the quota where its command is: in an image it is not."""
    if not site.quota_command:
        return ""
    command = " ".join(path_word(text) for text in shlex.split(site.quota_command))
    return parts.QUOTA.format(command=command)


def _runner(site: Site) -> str:
    runtimes, names = parts.RUNTIMES[None if site.container == "none" else site.container]
    return parts.RUNNER.format(runtimes=runtimes, names=names)


def _launch(spec: JobSpec, site: Site) -> str:
    if spec.launch == "alone":
        return "launch=()\n"
    options = [f"--mpi={site.mpi}" if spec.launch == "mpi" else "--mpi=none", *site.srun]
    if spec.launch == "elastic":
        options += ["--no-kill", "--wait=0"]  # neither a lost node nor a lost process ends the others
    blocks = [f"srun=({words(options)})\n{parts.SRUN}"]
    if spec.launch != "mpi":
        blocks.append(parts.MEETING)
    if spec.launch in ("gloo", "elastic"):
        meeting = parts.GLOO if spec.launch == "gloo" else parts.ELASTIC
        blocks.append(f"interface={word(site.interface or '')}\n{meeting}")
    return "\n".join(blocks)


def _call(spec: JobSpec) -> str:
    config = ['"$config"'] if spec.takes_config else []
    workers = ['"cluster.workers=${SLURM_CPUS_PER_TASK:-1}"'] if spec.pools else []
    number = ['"${number[@]}"'] if spec.numbered else []
    payload = [words(list(spec.command)), *config, *number, *workers, *map(word, spec.overrides), '"$@"']
    return " ".join(['"${launch[@]}"', 'bash -c "$task" task', '"${glacierhpc[@]}"', *payload]) + " &\n"
