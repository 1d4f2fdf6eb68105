"""What every way of joining ranks needs: the device of a rank, and one state of optimiser and statistics on all."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.training.backends.launch import Launch

logger = logging.getLogger(__name__)


class Ranks(Protocol):
    """Joined ranks that can exchange tensors."""

    rank: int
    size: int
    device: torch.device

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the ranks."""
        ...

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return every rank's tensor, by rank."""
        ...

    def broadcast(self, tensor: Tensor) -> None:
        """Write rank 0's tensor, on the ranks' device, into this one."""
        ...


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let SIGTERM end this process while it waits, in C code, for ranks that may never come.

    A handler in Python would wait as well, and the launcher would kill it half a minute later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def rank_device(launch: Launch, device: str | None) -> torch.device:
    """Return the device of a rank: the CPU, or the GPU with the rank's number on its machine, made the current one.

    Raises
    ------
    InputError
        If the machine has fewer GPUs than ranks.
    """
    if (device or ("cuda" if torch.cuda.is_available() else "cpu")) != "cuda":
        return torch.device(device or "cpu")
    count = torch.cuda.device_count()
    if count == 0:
        raise InputError(
            "device='cuda' was asked for, but torch sees no GPU here: use 'cpu', or run where one is"
        )
    # with one GPU visible to each rank (srun --gpus-per-task=1) it is number 0 for all
    index = launch.local_rank if count > 1 else 0
    if index >= count:
        raise InputError(
            f"rank {launch.rank} is number {index} on a machine with {count} GPUs: start at most {count} ranks on each"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def share_state(optimizer: Optimizer, ranks: Ranks) -> None:
    """Give every rank the optimiser state of rank 0, tensor by tensor.

    A fresh optimiser has none, and must not be given one by a step on zeros: that would count as a step.

    Raises
    ------
    GlacierError
        If the state is not there on all ranks.
    """
    tensors = [
        value
        for group in optimizer.param_groups
        for parameter in group["params"]
        for _, value in sorted(optimizer.state.get(parameter, {}).items())
        if isinstance(value, Tensor)
    ]
    counts = ranks.gather(torch.tensor([len(tensors)]))
    if len({int(count) for count in counts}) > 1:
        raise GlacierError(
            f"the ranks hold different optimiser states ({[int(count) for count in counts]} tensors): "
            "they do not see the same checkpoint files; keep the run directory on a file system that all nodes share"
        )
    for tensor in tensors:
        on_device = tensor.to(ranks.device)
        ranks.broadcast(on_device)
        tensor.copy_(on_device)


class Statistics:
    """The running statistics of a model's batch normalisation, which gradients do not keep alike on the ranks.

    Parameters
    ----------
    model : nn.Module
        With or without such layers.
    ranks : Ranks
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self._ranks = ranks
        layers = [each for each in model.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
        buffers = [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var)]
        self._buffers = [buffer for buffer in buffers if buffer is not None]
        if self._buffers and ranks.size > 1 and ranks.rank == 0:
            logger.info(
                "the model has batch normalisation, which sees each rank's own share of a batch: it will not be quite "
                "the model that one process would train"
            )

    def average(self) -> None:
        """Set them to their means over the ranks, in one exchange."""
        if not self._buffers or self._ranks.size == 1:
            return
        means = self._ranks.sum(torch.cat(self._buffers)) / self._ranks.size
        for buffer, mean in zip(self._buffers, means.split([len(buffer) for buffer in self._buffers])):
            buffer.copy_(mean)
