"""What is looked at before the first step on several ranks: what differs here would hang, or train something else.

That as many ranks have found each other as were started, the backends look at themselves.
"""

from __future__ import annotations

import hashlib
import json
import logging
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from glacierhpc.errors import InputError
from glacierhpc.training.backends.launch import Launch

logger = logging.getLogger(__name__)

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "HOROVOD_GLOO_IFACE")
"""Variables by which torch, NCCL and Horovod are told a network."""
FABRICS = ("/sys/class/infiniband", "/sys/class/cxi")
"""Where Linux lists the adapters of InfiniBand and RoCE, and of Slingshot."""


class Ranks(Protocol):
    """What the preflight needs of a backend."""

    rank: int
    size: int
    device: torch.device

    def gather(self, value: Tensor) -> list[Tensor]: ...


@dataclass(frozen=True)
class Seen:
    """What one rank tells of itself before the first step."""

    host: str
    device: str
    gpus: int
    """Those that torch sees."""
    facts: dict[str, str]
    """Hashes of what must be alike, by name."""


def check_ranks(ranks: Ranks, facts: Mapping[str, Any]) -> list[str]:
    """Compare what the ranks are about to do; all ranks call it together.

    Parameters
    ----------
    facts : mapping
        What must be alike on all, by name: version, configuration, data, settings; JSON values.

    Returns
    -------
    list of str
        The host of each rank.

    Raises
    ------
    InputError
        If a fact differs on some rank, or ranks of a host share a GPU. Every rank raises it.
    """
    if ranks.size == 1:
        return [socket.gethostname()]
    hashes = {name: _hash(value) for name, value in facts.items()}
    gpus = torch.cuda.device_count() if ranks.device.type == "cuda" else 0
    seen = _exchanged(ranks, Seen(socket.gethostname(), str(ranks.device), gpus, hashes))
    for fault in (*_differing(seen), *_sharing(seen)):
        raise InputError(fault)
    hosts = Counter(each.host for each in seen)
    if ranks.rank == 0:
        counts = ", ".join(f"{count} on {host}" for host, count in hosts.items())
        logger.info("%d ranks on %d hosts: %s", ranks.size, len(hosts), counts)
    return [each.host for each in seen]


def check_interfaces(environment: Mapping[str, str]) -> None:
    """Refuse a network interface that this machine has not; the libraries would only say that nobody answers.

    Raises
    ------
    InputError
        Naming the variable and the interfaces there are.
    """
    there = [name for _, name in socket.if_nameindex()]
    for variable in INTERFACES:
        given = environment.get(variable, "")
        # NCCL takes a list of beginnings of names, of exact ones after =, and of those to leave out after ^
        exact = variable != "NCCL_SOCKET_IFNAME" or given.startswith("=")
        wanted = [] if given.startswith("^") else given.removeprefix("=").split(",")
        found = any(
            name == each or (not exact and name.startswith(each)) for name in there for each in wanted
        )
        if any(wanted) and not found:
            raise InputError(
                f"{variable}={given!r} names no network interface of {socket.gethostname()}: there are "
                f"{', '.join(there)}; set the one between the nodes (the interface of the site's profile), or unset it"
            )


def check_pmi(launch: Launch, environment: Mapping[str, str]) -> None:
    """Refuse tasks of srun that MPI cannot join, before it ends them with a page about something else.

    Raises
    ------
    InputError
        If there are several tasks and nothing of PMI in their environment.
    """
    if launch.launcher != "srun" or launch.size == 1 or any(name.startswith("PMI") for name in environment):
        return
    given = environment.get("SLURM_MPI_TYPE", "none")
    raise InputError(
        f"srun started {launch.size} tasks without PMI (--mpi={given}), so that MPI makes each of them rank 0 of 1: "
        f"size 1 is not the {launch.size} tasks. Write srun --mpi=pmix (srun --mpi=list says what there is), or use "
        "jobs/train-horovod.sbatch, whose ranks find each other without MPI"
    )


def nccl_networks(log: str) -> set[str]:
    """Return the networks between hosts that NCCL says it uses, from what it writes with ``NCCL_DEBUG=INFO``.

    Such as ``{"Socket"}`` for plain TCP, ``{"IB"}``, ``{"AWS Libfabric"}``; empty where it says nothing of one.
    """
    marks = ("Using network ", "via NET/")
    found = set()
    for line in log.splitlines():
        for mark in marks:
            if mark in line:
                name = line.split(mark, 1)[1].strip()
                found.add(name.split("/")[0] if mark == "via NET/" else name)
    return found


def fabric(folders: Iterable[str] = FABRICS) -> list[str]:
    """Return the fast network adapters of this machine."""
    return sorted(path.name for folder in folders if Path(folder).is_dir() for path in Path(folder).iterdir())


def check_nccl(log: str, environment: Mapping[str, str], *, adapters: list[str], hosts: int) -> None:
    """Refuse NCCL on plain sockets between hosts that have something faster, unless it was asked for.

    Raises
    ------
    InputError
        Saying what to load or to set.
    """
    networks = nccl_networks(log)
    if hosts < 2 or "Socket" not in networks or environment.get("NCCL_NET") == "Socket":
        return
    if adapters:
        raise InputError(
            f"NCCL exchanges gradients over plain sockets although this host has {', '.join(adapters)}: several times "
            "slower than the network can. Bind the host's network plugin into the image (InfiniBand: libibverbs; "
            "Slingshot: aws-ofi-nccl with NCCL_NET='AWS Libfabric'), or set NCCL_NET=Socket if it is meant so"
        )
    logger.warning(
        "NCCL exchanges gradients over plain sockets; no faster network adapter was found on this host"
    )


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _exchanged(ranks: Ranks, own: Seen) -> list[Seen]:
    text = json.dumps(vars(own)).encode()
    told = ranks.gather(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    return [Seen(**json.loads(bytes(each.tolist()))) for each in told]


def _differing(seen: list[Seen]) -> Iterable[str]:
    first = seen[0]
    for name in first.facts:
        other = [rank for rank, each in enumerate(seen) if each.facts.get(name) != first.facts[name]]
        if other:
            told = ", ".join(f"rank {rank} on {seen[rank].host}" for rank in other[:5])
            more = f" and {len(other) - 5} more" if len(other) > 5 else ""
            yield (
                f"the ranks do not train the same: {name} of {told}{more} is not that of rank 0 on {first.host}: start "
                "all of them with the same code, configuration and environment, on a file system that all nodes share"
            )


def _sharing(seen: list[Seen]) -> Iterable[str]:
    places = Counter((each.host, each.device) for each in seen if each.device.startswith("cuda"))
    for (host, device), count in places.items():
        own = [each for each in seen if each.host == host]
        # with one GPU visible to each rank, every one calls it number 0
        if count > 1 and max(each.gpus for each in own) > 1:
            yield (
                f"{count} ranks of {host} would train on {device}, and {own[0].gpus} GPUs are seen there: start one "
                "rank per GPU (srun --ntasks-per-node with --gpus-per-node)"
            )
