"""Ranks joined by torch.distributed, sharing gradients through DistributedDataParallel: gloo on CPUs, NCCL on GPUs."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.training.backends.launch import PORTS, Launch
from glacierhpc.training.backends.meeting import follow, signpost
from glacierhpc.training.backends.ranks import Statistics, ending_at_once, rank_device, share_state

logger = logging.getLogger(__name__)

JOIN_TIMEOUT = timedelta(minutes=5)
"""For all ranks to come up: a job's nodes read the environment from one shared file system at the same time."""
WAIT_TIMEOUT = timedelta(hours=1)
"""For one exchange: longer than the watch waits, which says more, shorter than a wasted night."""


class DDP:
    """Processes that average gradients while the backward pass still runs.

    A model whose forward pass does not use all its parameters says so with ``unused_parameters = True``;
    looking for them costs a walk of the graph at every step. Batch normalisation takes the statistics of each
    rank's own share of a batch, so that a model with it learns a little differently on more ranks; its running ones
    are averaged over the ranks.

    Parameters
    ----------
    launch : Launch
        This process among the others.
    device : str, optional
        ``"cpu"`` or ``"cuda"``; by default CUDA where there is one. Each rank of a machine takes its own GPU.

    Raises
    ------
    InputError
        If the ranks have no place to meet, or a machine has fewer GPUs than ranks.
    GlacierError
        If the ranks do not find each other in time.

    References
    ----------
    Li et al. (2020), PyTorch Distributed, VLDB 13(12), doi:10.14778/3415478.3415530
    """

    elastic = False

    def __init__(self, launch: Launch, *, device: str | None = None) -> None:
        self.rank, self.size = launch.rank, launch.size
        self.device = rank_device(launch, device)
        self._statistics = Statistics(nn.Identity(), self)
        with ending_at_once():
            _join(launch, self.device)
        if self.size == 1:
            logger.info("train.backend='ddp' was started alone: one rank of one")
        else:
            logger.info("rank %d of %d (%s) on %s", self.rank, self.size, launch.launcher, self.device)

    def wrap_model(self, model: nn.Module) -> nn.Module:
        model = model.to(self.device)
        self._statistics = Statistics(model, self)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            return model  # nothing to share, which DistributedDataParallel refuses
        return DistributedDataParallel(
            model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            find_unused_parameters=getattr(model, "unused_parameters", False),
            gradient_as_bucket_view=True,  # else gradients are in memory twice
        )

    def wrap_optimizer(self, optimizer: Optimizer, model: nn.Module) -> Optimizer:
        share_state(optimizer, self)
        return optimizer

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def synchronize(self, optimizer: Optimizer) -> None:
        self._statistics.average()  # the backward pass ended with averaged gradients

    def sum(self, values: Tensor) -> Tensor:
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def any(self, flag: bool) -> bool:
        return bool(self.sum(torch.tensor(int(flag))).item())

    def gather(self, value: Tensor) -> list[Tensor]:
        own = value.to(self.device)
        lengths = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(own)], device=self.device))
        longest = max(int(length) for length in lengths)
        padded = torch.cat([own, own.new_zeros(longest - len(own))])
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return [part[: int(length)].to(value.device) for part, length in zip(parts, lengths)]

    def broadcast(self, tensor: Tensor) -> None:
        """Write rank 0's tensor into this one; on the ranks' device."""
        dist.broadcast(tensor, src=0)

    def barrier(self) -> None:
        dist.barrier()

    def let_in(self) -> None:
        return None

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def _join(launch: Launch, device: torch.device) -> None:
    kind = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    place: dict[str, Any] = {"rank": launch.rank, "world_size": launch.size}
    where = "torchrun's store" if launch.launcher == "torchrun" or launch.size == 1 else None
    try:
        where = where or "{}:{}".format(*meeting_place(launch))
        with ExitStack() as stack:
            store = _store(launch, stack)
            _wait_for_all(store, launch)
            dist.init_process_group(kind, store=store, **place, timeout=WAIT_TIMEOUT)
    except InputError:
        raise
    except (RuntimeError, ValueError, OSError, GlacierError) as err:
        raise GlacierError(
            f"rank {launch.rank} of {launch.size} did not find the others at {where} in "
            f"{JOIN_TIMEOUT.total_seconds():.0f} s ({err}): look whether all ranks started, "
            "or set MASTER_ADDR and MASTER_PORT"
        ) from err


def _wait_for_all(store: dist.Store, launch: Launch) -> None:
    """Wait until all ranks have come; what joins them then has the patience of an exchange, which is longer."""
    store.set(f"came/{launch.rank}", "")
    store.wait([f"came/{rank}" for rank in range(launch.size)], JOIN_TIMEOUT)


def _store(launch: Launch, stack: ExitStack) -> dist.Store:
    """Return the store through which ranks exchange their addresses; the stack ends what leads to it."""
    if launch.size == 1:
        return dist.HashStore()
    if launch.launcher == "torchrun":  # keeps the meeting place itself
        store: dist.Store = next(dist.rendezvous("env://", launch.rank, launch.size, timeout=JOIN_TIMEOUT))[0]
        return store
    address, port = meeting_place(launch)
    run = launch.run or (f"port {port}" if launch.port else f"parent {os.getppid()}")
    open_to = address if launch.one_machine else ""  # else a machine may have several names
    if launch.rank > 0:
        port = follow(address, port, run=run, timeout_s=JOIN_TIMEOUT.total_seconds())
        return dist.TCPStore(address, port, launch.size, False, JOIN_TIMEOUT, wait_for_workers=False)
    listener = socket.create_server((open_to, 0), backlog=1024)
    own, descriptor = int(listener.getsockname()[1]), listener.detach()
    store = dist.TCPStore(
        address, own, launch.size, True, JOIN_TIMEOUT, wait_for_workers=False, master_listen_fd=descriptor
    )
    told = stack.enter_context(signpost(open_to, port, run=run, store=own))
    if told != port:
        logger.info("port %d of %s is another program's; the ranks meet at %d", port, address, told)
    return store


def meeting_place(launch: Launch) -> tuple[str, int]:
    """Return the address and port where the ranks meet, from what mpirun or srun tell.

    Raises
    ------
    InputError
        If there are several machines and the launcher does not tell where rank 0 is.
    """
    if launch.one_machine:
        # the launcher is the parent of all its ranks: two runs at once on a machine do not meet
        port = launch.port or PORTS[os.getppid() % len(PORTS)]
        return launch.address or "127.0.0.1", port
    if not launch.address or not launch.port:
        raise InputError(
            f"{launch.launcher} started {launch.size} ranks on several machines and does not tell them where rank 0 "
            "is: set MASTER_ADDR to its machine and MASTER_PORT to a free port, or use srun"
        )
    return launch.address, launch.port
