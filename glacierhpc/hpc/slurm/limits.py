"""What a partition gives at most, and whether a job asks for more: `sbatch --test-only` lets long walltimes pass."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from glacierhpc.errors import InputError
from glacierhpc.hpc.site import Partition, Site
from glacierhpc.hpc.slurm.client import call
from glacierhpc.hpc.slurm.job import JobSpec
from glacierhpc.hpc.slurm.script import directives


def partition_of(spec: JobSpec, site: Site) -> str | None:
    """Return the partition that the script of a job names, or None."""
    return directives(spec, site).get("partition")


def faults(spec: JobSpec, site: Site, limits: Partition | None) -> list[str]:
    """Return what a job asks for in vain, each with what to write instead; empty where nothing is known against it.

    Parameters
    ----------
    limits : Partition, optional
        What its partition gives; None if that is not known.
    """
    found = []
    if site.account_needed and not site.account:
        found.append(f"{site.title} wants to know who is billed; write: --set account=PROJECT")
    allowed = [hours for hours in (limits and limits.max_hours, site.max_hours) if hours]
    if allowed and spec.hours > min(allowed):
        found.append(_over(spec, "hours", f"{spec.hours:g} hours", f"{min(allowed):g}"))
    if limits is not None:
        found += _node_faults(spec, limits)
    return found


def _node_faults(spec: JobSpec, limits: Partition) -> list[str]:
    asked = {
        "nodes": (spec.nodes, limits.max_nodes, "nodes"),
        "cpus": (spec.cpus * spec.tasks_per_node, limits.cores, "cores of a node"),
        "memory_gb": (spec.memory_gb, limits.memory_gb, "GiB of a node"),
        "gpus": (spec.gpus, limits.gpus, "GPUs of a node"),
    }
    return [
        _over(spec, key, f"{wish:g} {what}", f"{math.floor(limit)}")
        for key, (wish, limit, what) in asked.items()
        if limit is not None and wish > limit
    ]


def _over(spec: JobSpec, key: str, asked: str, limit: str, of: str = "its partition") -> str:
    advice = f"write: --set jobs.{spec.name.partition('-')[0]}.{key}={limit}"
    return f"job {spec.name!r} asks for {asked}, and {of} gives {limit}; {advice}"


def partition_limits(name: str, site: Site, *, timeout_s: float = 30.0) -> Partition | None:
    """Return the limits of a partition: those that the scheduler tells, else those of the site's profile.

    Parameters
    ----------
    name : str
        The partition; empty for the scheduler's default.

    Raises
    ------
    InputError
        If the scheduler answers and has no such partition.
    """
    told = call(["scontrol", "show", "partition", "--oneliner"], timeout_s=timeout_s)
    if not told.ok:
        return site.partitions.get(name)
    rows = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in told.out.splitlines()]
    there = {row["PartitionName"]: row for row in rows if "PartitionName" in row}
    default = next((key for key, row in there.items() if row.get("Default") == "YES"), None)
    row = there.get(name or default or "")
    if row is None and name:
        raise InputError(
            f"partition {name!r} does not exist here; write --set use.cpu=NAME (or use.gpu, use.network) with one of: "
            f"{', '.join(sorted(there))}"
        )
    return None if row is None else _limits(row, _sizes(row["PartitionName"], timeout_s))


def _limits(row: dict[str, str], nodes: Sequence[tuple[int, float, int]]) -> Partition:
    total = row.get("TotalNodes", "")
    most = [int(text) for text in (row.get("MaxNodes", ""), total) if text.isdigit() and int(text)]
    return Partition(
        max_hours=hours_of(row.get("MaxTime", "")),
        max_nodes=min(most) if most else None,
        cores=max((cores for cores, _, _ in nodes), default=None),
        memory_gb=max((memory for _, memory, _ in nodes), default=None),
        gpus=max((gpus for _, _, gpus in nodes), default=None),
    )


def _sizes(partition: str, timeout_s: float) -> list[tuple[int, float, int]]:
    """Return cores, memory and GPUs of the kinds of nodes of a partition."""
    answer = call(
        ["sinfo", "--noheader", f"--partition={partition}", "--format=%c %m %G"], timeout_s=timeout_s
    )
    found = []
    for line in answer.out.splitlines() if answer.ok else ():
        cores, memory, resources = (*line.split(None, 2), "", "")[:3]
        if cores.rstrip("+").isdigit() and memory.rstrip("+").isdigit():
            gpus = sum(int(count) for count in re.findall(r"gpu(?::[^,:()]+)?:(\d+)", resources))
            found.append((int(cores.rstrip("+")), int(memory.rstrip("+")) / 1024, gpus))
    return found


def array_size(site: Site, *, timeout_s: float = 30.0) -> int:
    """Return the scheduler's MaxArraySize: what it tells, else what the site's profile says, else Slurm's default.

    Raises
    ------
    InputError
        If it allows no job arrays.
    """
    told = call(["scontrol", "show", "config"], timeout_s=timeout_s)
    found = re.search(r"^MaxArraySize\s*= *(\d+)", told.out, re.MULTILINE) if told.ok else None
    size = int(found[1]) if found else site.max_array or DEFAULT_ARRAY_SIZE
    if size < 2:
        raise InputError(
            f"the scheduler allows no job arrays (MaxArraySize={size}); leave jobs.acquire.tasks out, and run the "
            "trials of a sweep in one job: sbatch jobs/sweep.sbatch CONFIG"
        )
    return size


DEFAULT_ARRAY_SIZE = 1001
"""Of Slurm: slurm.conf(5), MaxArraySize."""


def qos_faults(specs: Sequence[JobSpec], site: Site, *, timeout_s: float = 30.0) -> list[str]:
    """Return what jobs ask for beyond their quality of service, where the accounting tells of it.

    Parameters
    ----------
    specs : sequence of JobSpec
        All jobs of a chain: a user may have only so many submitted, tasks of arrays counted.
    """
    asked: dict[str, list[JobSpec]] = {}
    for spec in specs:
        if qos := directives(spec, site).get("qos"):
            asked.setdefault(qos, []).append(spec)
    if not asked:
        return []
    fields = "Name,MaxWall,MaxSubmitJobsPerUser,MaxTRESPerJob"
    told = call(
        ["sacctmgr", "--noheader", "--parsable2", "show", "qos", f"format={fields}"], timeout_s=timeout_s
    )
    rows = [(*line.split("|"), "", "", "")[:4] for line in told.out.splitlines() if "|" in line]
    if not told.ok or not rows:
        return []
    there = {row[0]: row[1:] for row in rows}
    found = []
    for qos, jobs in asked.items():
        if qos not in there:
            found.append(f"quality of service {qos!r} does not exist here; known: {', '.join(sorted(there))}")
            continue
        found += _of_qos(qos, jobs, *there[qos])
    return found


def _of_qos(qos: str, specs: Sequence[JobSpec], wall: str, submit: str, most: str) -> list[str]:
    found = []
    hours = hours_of(wall)
    for spec in specs:
        if hours and spec.hours > hours:
            found.append(_over(spec, "hours", f"{spec.hours:g} hours", f"{hours:g}", f"QOS {qos!r}"))
        nodes = re.search(r"(?:^|,)node=(\d+)", most)
        if nodes and spec.nodes > int(nodes[1]):
            found.append(_over(spec, "nodes", f"{spec.nodes} nodes", nodes[1], f"QOS {qos!r}"))
    jobs = sum(max(1, len(spec.array)) for spec in specs)
    if submit.isdigit() and jobs > int(submit):
        found.append(
            f"the chain is {jobs} jobs, tasks of arrays counted, and QOS {qos!r} lets a user have {submit} submitted; "
            "list fewer trials at a time or have scenes read by fewer tasks, jobs.acquire.tasks; or write: "
            "--set directives.all.qos=OTHER"
        )
    return found


def hours_of(text: str) -> float | None:
    """Return a time of Slurm, ``[D-]HH:MM:SS`` or minutes, in hours; None for no limit."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+)(?::(\d+))?", text)
    if not match:
        return None
    days, first, second, third = (int(part) if part else 0 for part in match.groups())
    if match[4] is None and match[2] is not None:  # MM:SS, or with days HH:MM
        return days * 24 + (first + second / 60 if match[1] else (first + second / 60) / 60)
    if match[2] is None:
        return days * 24 + (second if match[1] else second / 60)
    return math.fsum((days * 24, first, second / 60, third / 3600))
