"""A sweep as a chain of jobs: what trials share, a job array of them, what they gave; one training is in `chain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from glacierhpc.hpc.chain import IMAGERY, Link, array_jobs, first_to_do, names_of, specs, wished
from glacierhpc.hpc.reading import ACQUIRE, SEARCH
from glacierhpc.hpc.site import ArrayWish, Site
from glacierhpc.hpc.slurm.job import JobSpec
from glacierhpc.hpc.slurm.script import render

TRIALS = JobSpec(
    "trials", "Train and score one trial of the sweep in each task of the array.",
    ("sweep",), ("train.backend=single",), numbered="--trial", memory_gb=32, hours=24, kind="gpu",
)  # fmt: skip
GATHER = JobSpec(
    "gather", "Write down what the trials gave.", ("sweep", "--gather"), cpus=1, memory_gb=4, hours=1
)


def trials_to_do(
    sequences: Mapping[str, Any], trials: Sequence[Mapping[str, Mapping[str, Any]]]
) -> list[int]:
    """Return the numbers of the trials that are not trained and scored on the sequences as they are now.

    Parameters
    ----------
    sequences : mapping
        What the base run has on record of that step.
    trials : sequence of mapping
        What each trial has on record of ``train`` and ``evaluate``.
    """
    steps = ("sequences", "train", "evaluate")
    return [
        number
        for number, records in enumerate(trials)
        if first_to_do(steps, {**records, "sequences": sequences}) < len(steps)
    ]


def plan(
    site: Site,
    *,
    name: str,
    run: str,
    imagery: bool,
    to_do: Sequence[int],
    array_size: int,
    folder: str,
    before: Sequence[Link] = (),
) -> list[Link]:
    """Return the jobs of a sweep: what trials share, if it is to do, the trials, and what they gave.

    Trials that fail keep no other from being trained and written down.

    Parameters
    ----------
    name, run, folder, before :
        As of `chain.plan`.
    imagery : bool
        Whether what trials share is to do.
    to_do : sequence of int
        Numbers of the trials that are to do.
    array_size : int
        MaxArraySize of the scheduler; longer lists become several arrays, one after the other.
    """

    def link(spec: JobSpec, after: tuple[str, ...] = (), ended: tuple[str, ...] = ()) -> Link:
        own = replace(spec, label=f"{name}-{spec.name}", config=run, folder=folder)
        return Link(own, render(own, site), after, ended)

    links = [link(wished(IMAGERY, site.jobs.imagery), names_of(before))] if imagery else []
    first, arrays = names_of(links), array_jobs(_trials(site), to_do, array_size)
    waits = [(), *((spec.name,) for spec in arrays)]
    links += [link(spec, first, ended) for spec, ended in zip(arrays, waits, strict=False)]
    gather = link(wished(GATHER, site.jobs.gather), first, tuple(spec.name for spec in arrays))
    return [*before, *links, gather]


def asked_by_itself(key: str, site: Site) -> Any:
    """Return what a job asks for where the site says nothing, by a key as ``jobs.train.hours``, or None."""
    first, job, field = (*key.split("."), "", "")[:3]
    known = specs("single", site) | {each.name: each for each in (SEARCH, ACQUIRE, _trials(site), GATHER)}
    asks = first == "jobs" and job in known and field in JobSpec.__dataclass_fields__
    return getattr(known[job], field) if asks else None


def _trials(site: Site) -> JobSpec:
    """Return the job of the trials: it asks for what training asks for, in one process, where nothing else is said."""
    of_training = site.jobs.train.model_dump(exclude_none=True, exclude={"nodes", "tasks_per_node"})
    if of_training.get("gpus"):
        of_training["gpus"] = 1
    own = site.jobs.trials.model_dump(exclude_none=True)
    return wished(TRIALS, ArrayWish.model_validate(of_training | own))
