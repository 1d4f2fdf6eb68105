"""Scenes read by the tasks of a job array: the jobs before the one that makes cubes of them; that one is in `chain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from glacierhpc.hpc.chain import Link, array_jobs, first_to_do, names_of, wished
from glacierhpc.hpc.site import ArrayWish, Site
from glacierhpc.hpc.slurm.job import JobSpec
from glacierhpc.hpc.slurm.script import render

SEARCH = JobSpec(
    "search", "Find the scenes; reads over the network.", ("run", "--to", "search"), cpus=1, memory_gb=4, hours=1,
    kind="network",
)  # fmt: skip
ACQUIRE = JobSpec(
    "acquire", "Read one group of the scenes in each task of the array; over the network.", ("acquire",),
    numbered="--group", pools=True, kind="network",
)  # fmt: skip


def groups_to_do(search: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the numbers of the groups that are not read since the scenes were found.

    Parameters
    ----------
    search : mapping
        What the run has on record of that step.
    groups : sequence of mapping
        What each group has on record of ``acquire``.
    """
    steps = ("search", "acquire")
    return [
        number
        for number, record in enumerate(groups)
        if first_to_do(steps, {"search": search, "acquire": record}) < len(steps)
    ]


def plan(
    site: Site, *, name: str, run: str, search: bool, to_do: Sequence[int], array_size: int, folder: str
) -> list[Link]:
    """Return the jobs that find scenes and read them in jobs.acquire.tasks groups.

    Parameters
    ----------
    name, run, folder :
        As of `chain.plan`.
    search : bool
        Whether the scenes are still to be found.
    to_do : sequence of int
        Numbers of the groups that are to be read.
    array_size : int
        MaxArraySize of the scheduler; longer lists become several arrays, one after the other.
    """

    def link(spec: JobSpec, after: tuple[str, ...] = (), ended: tuple[str, ...] = ()) -> Link:
        own = replace(spec, label=f"{name}-{spec.name}", config=run, folder=folder)
        return Link(own, render(own, site), after, ended)

    links = [link(wished(SEARCH, site.jobs.search))] if search else []
    first, arrays = names_of(links), array_jobs(_task(site), to_do, array_size)
    waits = [(), *((spec.name,) for spec in arrays)]
    return [*links, *(link(spec, first, ended) for spec, ended in zip(arrays, waits, strict=False))]


def _task(site: Site) -> JobSpec:
    wish = site.jobs.acquire.model_dump(exclude={"tasks"})
    spec = wished(ACQUIRE, ArrayWish.model_validate(wish))
    return replace(spec, command=(*spec.command, "--groups", str(site.jobs.acquire.tasks)))
