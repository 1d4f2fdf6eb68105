"""One process: every operation between ranks is the obvious one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Single:
    """One process.

    Parameters
    ----------
    device : str, optional
        ``"cpu"`` or ``"cuda"``; by default CUDA where there is one.
    """

    rank = 0
    size = 1
    elastic = False

    def __init__(self, device: str | None = None) -> None:
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.device = torch.device(chosen)

    def wrap_model(self, model: nn.Module) -> nn.Module:
        return model.to(self.device)

    def wrap_optimizer(self, optimizer: Optimizer, model: nn.Module) -> Optimizer:
        return optimizer

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def synchronize(self, optimizer: Optimizer) -> None:
        return None

    def sum(self, values: Tensor) -> Tensor:
        return values

    def any(self, flag: bool) -> bool:
        return bool(flag)

    def gather(self, value: Tensor) -> list[Tensor]:
        return [value]

    def barrier(self) -> None:
        return None

    def let_in(self) -> None:
        return None

    def close(self) -> None:
        return None
