"""A run as a chain of jobs: which, in what order, asking for what; submitting them is in `submission`.

The chain of a sweep, with an array of jobs in it, is in `trials`; scenes read by an array, before either, in `reading`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from glacierhpc.errors import InputError
from glacierhpc.hpc.site import JobWish, Site
from glacierhpc.hpc.slurm.arrays import parted
from glacierhpc.hpc.slurm.job import JobSpec, Launch
from glacierhpc.hpc.slurm.limits import faults, partition_limits, partition_of, qos_faults
from glacierhpc.hpc.slurm.script import render

IMAGERY = JobSpec(
    "imagery", "From the catalogue to training sequences; reads over the network.",
    ("run", "--to", "sequences"), pools=True, kind="network",
)  # fmt: skip
"""What every chain begins with."""


@dataclass(frozen=True)
class Link:
    """One job of a chain."""

    spec: JobSpec
    script: str
    after: tuple[str, ...] = ()
    """Names of the jobs that must end well before it starts."""
    ended: tuple[str, ...] = ()
    """Names of the jobs that must have ended before it starts, well or not."""


def first_to_do(steps: Sequence[str], records: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the position of the first step that never ended well, or that one before it has run after.

    Parameters
    ----------
    steps : sequence of str
        All steps of the run, in order.
    records : mapping
        What the run directory has on record of each: ``state``, ``started``.
    """
    before = ""
    for position, step in enumerate(steps):
        record = records.get(step, {})
        started = str(record.get("started", ""))
        if record.get("state") != "done" or started < before:
            return position
        before = started
    return len(steps)


def plan(
    site: Site,
    *,
    name: str,
    run: str,
    steps: Sequence[str],
    to_do: int,
    backend: str,
    folder: str,
    before: Sequence[Link] = (),
) -> list[Link]:
    """Return the jobs of what is still to do, in the order in which each waits for the one before.

    Parameters
    ----------
    name : str
        Name of the run, for the queue.
    run : str
        The run directory, which the jobs take as their configuration.
    steps, to_do :
        All steps of the run, and the position of the first that is to do.
    backend : {"single", "ddp", "horovod"}
        How training runs.
    folder : str
        Where scripts, logs and exit files of the jobs are.
    before : sequence of Link, optional
        Jobs that must end well before the first of these starts.
    """
    left = list(steps[to_do:])
    found = []
    for job, spec in specs(backend, site).items():
        own = _own_steps(job, steps)
        if not any(step in left for step in own):
            continue
        sized = wished(spec, getattr(site.jobs, job), backend)
        found.append(replace(sized, label=f"{name}-{job}", config=run, folder=folder))
    waits = [names_of(before), *((spec.name,) for spec in found)]
    links = [Link(spec, render(spec, site), after) for spec, after in zip(found, waits, strict=False)]
    return [*before, *links]


def names_of(links: Sequence[Link]) -> tuple[str, ...]:
    """Return the names of jobs, as others wait for them."""
    return tuple(link.spec.name for link in links)


def array_jobs(spec: JobSpec, numbers: Sequence[int], size: int) -> list[JobSpec]:
    """Return a job as the arrays that together have these tasks: ``NAME``, ``NAME-2``, ...

    Parameters
    ----------
    numbers : sequence of int
        Of the tasks.
    size : int
        MaxArraySize of the scheduler.
    """
    found: list[JobSpec] = []
    for offset, array in parted(numbers, size):
        name = f"{spec.name}-{len(found) + 1}" if found else spec.name
        found.append(replace(spec, name=name, array=array, offset=offset))
    return found


def _own_steps(job: str, steps: Sequence[str]) -> Sequence[str]:
    first, last = steps.index("sequences") + 1, steps.index("train") + 1
    return {"imagery": steps[:first], "train": steps[first:last]}.get(job, steps[last:])


def specs(backend: str, site: Site) -> dict[str, JobSpec]:
    """Return the jobs of a training before a site says what it asks for them, by name."""
    launch: dict[str, Launch] = {
        "single": "alone",
        "ddp": "srun",
        "horovod": "gloo" if site.horovod == "gloo" else "mpi",
    }
    return {
        "imagery": IMAGERY,
        "train": JobSpec(
            "train", "Training.", ("train",), memory_gb=32, hours=24, kind="gpu", launch=launch[backend],
        ),
        "results": JobSpec(
            "results", "Evaluation, forecast of the whole area, flow, report.", ("run",), hours=4, pools=True,
        ),
    }  # fmt: skip


def wished(spec: JobSpec, wish: JobWish, backend: str = "single") -> JobSpec:
    """Return a job with what a site asks for it.

    Raises
    ------
    InputError
        If several processes are asked for where one works.
    """
    asked = wish.model_dump(exclude_none=True)
    partition = asked.pop("partition", None)
    several = asked.get("nodes", 1) * asked.get("tasks_per_node", 1) > 1
    if several and spec.name != "train":
        raise InputError(
            f"jobs.{spec.name} is one process on one node; nodes and tasks_per_node are for jobs.train"
        )
    if several and backend == "single":
        raise InputError(
            "jobs.train asks for several processes, train.backend='single' is one; write train.backend=ddp or horovod"
        )
    sized = replace(spec, **asked)
    if sized.kind == "gpu" and not sized.gpus:
        sized = replace(sized, kind="cpu")
    return replace(sized, directives={"partition": partition}) if partition else sized


def check(links: Sequence[Link], site: Site) -> None:
    """Refuse a chain that a partition would refuse, or keep waiting for ever.

    Raises
    ------
    InputError
        With every fault on a line of its own.
    """
    found: list[str] = []
    for link in links:
        # of several partitions, a,b, the job goes into one that takes it
        names = (partition_of(link.spec, site) or "").split(",")
        of_each = [faults(link.spec, site, partition_limits(name, site)) for name in names]
        fewest: list[str] = min(of_each, key=len)
        found += fewest
    found += qos_faults([link.spec for link in links], site)
    if found:
        raise InputError("\n".join(dict.fromkeys(found)))
