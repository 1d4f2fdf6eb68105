"""Ranks joined by Horovod, over MPI, Gloo or NCCL, as they were launched and as Horovod was built.

Horovod is imported when this backend is opened; the rest of the package does without it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from glacierhpc.errors import InputError
from glacierhpc.training.backends.exchange import Exchange
from glacierhpc.training.backends.launch import Launch
from glacierhpc.training.backends.ranks import Statistics, ending_at_once, rank_device, share_state
from glacierhpc.training.backends.seats import RanksChanged, own_seat

logger = logging.getLogger(__name__)

NEVER = 2**31
"""Backward passes after which Adasum's optimiser would step by itself, before gradients are clipped."""


class Horovod:
    """Processes that average gradients by Horovod's DistributedOptimizer.

    Batch normalisation is treated as by `DDP`.

    Parameters
    ----------
    launch : Launch
        This process among the others.
    exchange : Exchange
        Compression, passes per step, Adasum.
    device : str, optional
        ``"cpu"`` or ``"cuda"``; by default CUDA where there is one. Each rank of a machine takes its own GPU.

    Raises
    ------
    InputError
        If Horovod is not installed, was started by something that it does not know, or was built without what is
        asked of it.

    References
    ----------
    Sergeev & Del Balso (2018), Horovod, arXiv:1802.05799; Maleki et al. (2021), Adasum, arXiv:2006.02924
    """

    def __init__(self, launch: Launch, exchange: Exchange, *, device: str | None = None) -> None:
        self._hvd = import_horovod()
        with ending_at_once():
            self._hvd.init()
        self.rank, self.size = self._hvd.rank(), self._hvd.size()
        self._seat = own_seat()
        self.elastic = self._seat is not None
        _check_launch(self._hvd, launch)
        self.device = rank_device(launch, device)
        _check_build(self._hvd, exchange, self.device)
        self._exchange = exchange
        self._optimizer: Any = None
        self._statistics = Statistics(nn.Identity(), self)
        self._passes_per_step = NEVER if exchange.adasum else exchange.backward_passes_per_step
        self._passes = 0
        self._skipping = ExitStack()
        controller = "MPI" if self._hvd.mpi_enabled() else "Gloo"
        if self.size == 1:
            logger.info("train.backend='horovod' was started alone: one rank of one")
        else:
            logger.info(
                "rank %d of %d (%s, %s) on %s", self.rank, self.size, launch.launcher, controller, self.device
            )

    def wrap_model(self, model: nn.Module) -> nn.Module:
        if not all(parameter.is_contiguous() for parameter in model.parameters()):
            raise InputError(
                "train.channels_last lays weights out in a way that Horovod does not exchange: set it to false, "
                "or set train.backend to ddp"
            )
        model = model.to(self.device)
        self._hvd.broadcast_parameters(model.state_dict(), root_rank=0)
        self._statistics = Statistics(model, self)
        return model

    def wrap_optimizer(self, optimizer: Optimizer, model: nn.Module) -> Optimizer:
        share_state(optimizer, self)
        adasum = self._exchange.adasum
        self._optimizer = self._hvd.DistributedOptimizer(
            optimizer,
            named_parameters=model.named_parameters(),
            compression=getattr(self._hvd.Compression, self._exchange.compression),
            backward_passes_per_step=self._passes_per_step,
            op=self._hvd.Adasum if adasum else self._hvd.Average,
        )
        if optimizer.state:
            self._optimizer.load_state_dict(optimizer.state_dict())
        return self._optimizer

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        self._passes += 1
        if self._passes < self._passes_per_step:
            return nullcontext()  # Horovod's own count holds the gradients back
        return self._one_more_pass()

    @contextmanager
    def _one_more_pass(self) -> Iterator[None]:
        self._optimizer.set_backward_passes_per_step(2)
        yield
        self._optimizer.set_backward_passes_per_step(1)

    def synchronize(self, optimizer: Optimizer) -> None:
        self._statistics.average()
        self._passes = 0
        self._optimizer.set_backward_passes_per_step(self._passes_per_step)
        if self.size == 1:
            return
        if self._exchange.adasum:
            self._agree_on_failure()
            # what the hooks noted keeps step() from sending all tensors before it waits for the first
            self._optimizer._handles.clear()
            return  # ranks step apart, and step() combines what they changed
        finite_here = self._exchange.compression == "none" or _finite(self._optimizer)
        self._skipping.close()
        self._optimizer.synchronize()
        # for the step() to come; loading a state would have ended an earlier one
        self._skipping.enter_context(self._optimizer.skip_synchronize())
        if self._exchange.compression != "none":
            self._look_for_overflow(finite_here)

    def _agree_on_failure(self) -> None:
        """Let gradients that are not finite on one rank be so on all: what follows is then decided alike."""
        if self.any(not _finite(self._optimizer)):
            for parameter in _parameters(self._optimizer):
                if parameter.grad is not None:
                    parameter.grad.fill_(torch.inf)

    def _look_for_overflow(self, finite_here: bool) -> None:
        if not _finite(self._optimizer) and not self.any(not finite_here) and self.rank == 0:
            logger.warning(
                "gradients overflowed on their way between the ranks, where train.compression='fp16' ends at 65504: "
                "set train.compression to none, or lower train.learning_rate if the loss grows"
            )

    def sum(self, values: Tensor) -> Tensor:
        total = self._hvd.allreduce(values.to(self.device), op=self._hvd.Sum, name="sum")
        return total.to(values.device)

    def any(self, flag: bool) -> bool:
        return bool(self.sum(torch.tensor([int(flag)])).item())

    def gather(self, value: Tensor) -> list[Tensor]:
        lengths = self._hvd.allgather(torch.tensor([len(value)], device=self.device), name="lengths").tolist()
        together = self._hvd.allgather(value.to(self.device), name="values").to(value.device)
        return list(together.split(lengths))

    def broadcast(self, tensor: Tensor) -> None:
        """Write rank 0's tensor into this one; on the ranks' device."""
        self._hvd.broadcast_(tensor, root_rank=0, name="broadcast")

    def barrier(self) -> None:
        self._hvd.barrier()

    def let_in(self) -> None:
        if self._seat is not None and self.any(self._seat.changed):
            raise RanksChanged("other processes come in, or are to go: ranks are given out anew")

    def close(self) -> None:
        self._skipping.close()
        self._hvd.shutdown()


def import_horovod() -> Any:
    """Return Horovod for torch.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        import horovod.torch as hvd
    except ImportError as err:
        raise InputError(
            f"train.backend='horovod' needs Horovod, and it cannot be imported here ({err}): `make horovod` builds it "
            "for the torch that is installed (containers/horovod/build_wheel.sh); train.backend='ddp' does without it"
        ) from err
    return hvd


def _check_launch(hvd: Any, launch: Launch) -> None:
    if hvd.size() == launch.size and hvd.rank() == launch.rank:
        return
    built = "with" if hvd.mpi_built() else "without"
    raise InputError(
        f"{launch.launcher or 'nothing'} started rank {launch.rank} of {launch.size}, but Horovod (built {built} MPI) "
        f"sees rank {hvd.rank()} of {hvd.size()}: size {hvd.size()} is not the {launch.size} tasks. The MPI that it "
        "was built with must be that of the launcher (srun --mpi=pmix, or mpirun of the same MPI), or start it with "
        "jobs/train-horovod.sbatch or horovodrun --gloo, which need no MPI"
    )


def _check_build(hvd: Any, exchange: Exchange, device: torch.device) -> None:
    if device.type == "cuda" and hvd.size() > 1 and not hvd.nccl_built():
        raise InputError(
            "this Horovod was built without NCCL and cannot train on GPUs: build it where nvcc is found and torch is "
            "built for CUDA (make horovod), or set train.backend to ddp"
        )
    if exchange.adasum and hvd.size() > 1 and not hvd.mpi_enabled():
        raise InputError(
            "train.adasum needs ranks that MPI joined: start them with mpirun or horovodrun --mpi, "
            "with a Horovod built with MPI"
        )
    if exchange.adasum and hvd.size() & (hvd.size() - 1):
        raise InputError(
            f"train.adasum combines ranks in pairs, and {hvd.size()} is no power of two: start 2, 4, 8, ... ranks"
        )


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _finite(optimizer: Optimizer) -> bool:
    return all(
        bool(parameter.grad.isfinite().all())
        for parameter in _parameters(optimizer)
        if parameter.grad is not None
    )
