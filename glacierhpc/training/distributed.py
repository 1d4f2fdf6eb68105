"""How a training run is spread over processes, behind one small protocol; the loop knows its own process only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from glacierhpc.errors import unknown_name


class Backend(Protocol):
    """What the loop needs from a way of running on several processes."""

    rank: int
    """Number of this process, from 0."""
    size: int
    """Number of processes."""
    device: torch.device
    """Where this process computes."""

    def wrap_model(self, model: nn.Module) -> nn.Module:
        """Return the model on the device, its weights those of rank 0, ready to share gradients."""
        ...

    def wrap_optimizer(self, optimizer: Optimizer, model: nn.Module) -> Optimizer:
        """Return the optimiser, its state that of rank 0, averaging gradients over the ranks if the model does not."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the ranks of a tensor of any shape."""
        ...

    def barrier(self) -> None:
        """Wait until every rank is here."""
        ...

    def close(self) -> None:
        """Leave the group of processes."""
        ...


class Single:
    """One process: every operation is the obvious one."""

    rank = 0
    size = 1

    def __init__(self, device: str | None = None) -> None:
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.device = torch.device(chosen)

    def wrap_model(self, model: nn.Module) -> nn.Module:
        return model.to(self.device)

    def wrap_optimizer(self, optimizer: Optimizer, model: nn.Module) -> Optimizer:
        return optimizer

    def sum(self, values: Tensor) -> Tensor:
        return values

    def barrier(self) -> None:
        return None

    def close(self) -> None:
        return None


BACKENDS: dict[str, Callable[..., Backend]] = {"single": Single}


def open_backend(name: str, *, device: str | None = None) -> Backend:
    """Return a backend by name.

    Parameters
    ----------
    name : str
        A key of `BACKENDS`.
    device : str, optional
        ``"cpu"`` or ``"cuda"``; by default CUDA where there is one.
    """
    if name not in BACKENDS:
        raise unknown_name("train.backend", name, BACKENDS)
    return BACKENDS[name](device=device)
