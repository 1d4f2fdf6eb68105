"""How a training run is spread over processes, behind one small protocol; the loop knows its own process only."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from glacierhpc.errors import InputError, unknown_name
from glacierhpc.training.backends.ddp import DDP
from glacierhpc.training.backends.exchange import Exchange
from glacierhpc.training.backends.horovod import Horovod
from glacierhpc.training.backends.launch import Launch, read_launch
from glacierhpc.training.backends.seats import is_elastic
from glacierhpc.training.backends.single import Single
from glacierhpc.training.elastic import Result, keep_on
from glacierhpc.training.preflight import check_interfaces, check_nccl, check_pmi, fabric

__all__ = ["BACKENDS", "Backend", "Single", "open_backend", "rejoining", "surroundings", "wandb_mode"]


class Backend(Protocol):
    """What the loop needs from a way of running on several processes.

    Whatever is asked of it, every rank must ask, in the same order. One step of training is::

        optimizer.zero_grad()
        with backend.no_sync(wrapped):      # for each micro-batch but the last
            loss.backward()
        loss.backward()                     # the last
        backend.synchronize(optimizer)      # gradients are now those of all ranks together, averaged
        clip(gradients)
        optimizer.step()
    """

    rank: int
    """Number of this process, from 0."""
    size: int
    """Number of processes."""
    device: torch.device
    """Where this process computes."""
    elastic: bool
    """Whether the others go on without a rank that is lost, and let others in."""

    def wrap_model(self, model: nn.Module) -> nn.Module:
        """Return the model on the device, its weights those of rank 0, ready to share gradients."""
        ...

    def wrap_optimizer(self, optimizer: Optimizer, model: nn.Module) -> Optimizer:
        """Return the optimiser, its state that of rank 0, averaging gradients over the ranks if the model does not."""
        ...

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return a context for forward and backward of a micro-batch that is not the last one of its step.

        Gradients then add up on each rank, and cross to the others with those of the last micro-batch.
        `model` is what `wrap_model` gave.
        """
        ...

    def synchronize(self, optimizer: Optimizer) -> None:
        """Wait until the gradients are the averages over the ranks.

        Once per step, after its last backward pass, before anything looks at gradients (unscaling, clipping).
        `optimizer` is what `wrap_optimizer` gave; its ``zero_grad`` takes no argument.
        """
        ...

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the ranks of a tensor of any shape."""
        ...

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        ...

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return every rank's tensor, by rank, on every rank; one axis and one dtype, lengths may differ."""
        ...

    def barrier(self) -> None:
        """Wait until every rank is here."""
        ...

    def let_in(self) -> None:
        """Raise `RanksChanged` if others wait to come in; where all that was done is in the last checkpoint."""
        ...

    def close(self) -> None:
        """Leave the group of processes."""
        ...


def _single(launch: Launch, exchange: Exchange, device: str | None) -> Backend:
    exchange.refuse_for("single")
    return Single(device)


def _ddp(launch: Launch, exchange: Exchange, device: str | None) -> Backend:
    exchange.refuse_for("ddp")
    return DDP(launch, device=device)


def _horovod(launch: Launch, exchange: Exchange, device: str | None) -> Backend:
    return Horovod(launch, exchange, device=device)


BACKENDS: dict[str, Callable[[Launch, Exchange, str | None], Backend]] = {
    "single": _single,
    "ddp": _ddp,
    "horovod": _horovod,
}


def open_backend(
    name: str,
    *,
    device: str | None = None,
    compression: str = "none",
    backward_passes_per_step: int = 1,
    adasum: bool = False,
    watchdog_s: float = 0.0,
) -> Backend:
    """Return a backend by name, joined with the other ranks that the launcher started.

    ``ddp`` and ``horovod`` started without a launcher are one rank of one.

    =============================  ===  =======  =============================================================
    launcher                       ddp  horovod  how the ranks find each other
    =============================  ===  =======  =============================================================
    ``torchrun``                   yes  no       the store of torchrun
    ``horovodrun --gloo``          set  yes      its own server; one machine, or ssh between them
    ``mpirun``                     yes  yes      MPI; ddp on several machines: as set
    ``srun --mpi=pmix``            yes  yes      Slurm's PMI, and the MPI that Horovod was built with
    ``srun``                       yes  no       ddp: the first node of the step, a port made of the job's number
    ``jobs/train-horovod.sbatch``  yes  yes      ``glacierhpc rendezvous``, which the job script starts
    ``jobs/train-elastic.sbatch``  no   yes      ``glacierhpc members``, likewise; ranks may come and go
    ``horovodrun --min-np``        no   yes      its own server; ranks may come and go, see `elastic`
    =============================  ===  =======  =============================================================

    "set": where MASTER_ADDR and MASTER_PORT name the machine of rank 0 and a port.

    Parameters
    ----------
    name : str
        A key of `BACKENDS`.
    device : str, optional
        ``"cpu"`` or ``"cuda"``; by default CUDA where there is one.
    compression : str
        ``"none"`` or ``"fp16"``: how gradients cross between ranks. Values beyond 65504 overflow in ``"fp16"``.
    backward_passes_per_step : int
        Micro-batches of a step whose gradients add up on each rank before they cross; as many as the loop accumulates.
    adasum : bool
        Combine the ranks' steps by Adasum in place of averaging gradients; gradients are then clipped on each rank.
        The three are options of ``"horovod"``.
    watchdog_s : float
        Limit of the watch over the training, see `loop.fit`: Horovod warns of a rank that is waited for before it, and
        gives up after twice as long. 0: as Horovod does by itself.

    Raises
    ------
    InputError
        If the name or an option is not known, an option is not one of this backend, Horovod is missing, or the
        processes were started in a way that the backend cannot join.
    GlacierError
        If the ranks do not find each other.

    Examples
    --------
    The same command on two processes of a machine::

        torchrun --standalone --nproc-per-node 2 -m glacierhpc train CONFIG train.backend=ddp
        horovodrun --gloo -np 2 python -m glacierhpc train CONFIG train.backend=horovod
        mpirun -np 2 --bind-to none python -m glacierhpc train CONFIG train.backend=horovod

    and in a job of several nodes, one process per GPU (``--mpi=pmix`` for Horovod)::

        srun --ntasks-per-node 4 --gpus-per-node 4 python -m glacierhpc train CONFIG train.backend=ddp
        srun --mpi=pmix --ntasks-per-node 4 python -m glacierhpc train CONFIG train.backend=horovod
    """
    launch = _launch_for(name)
    check_interfaces(os.environ)
    if name == "horovod":
        check_pmi(launch, os.environ)
        _set_patience(watchdog_s, os.environ)
    with _nccl_log(launch, os.environ) as log:
        backend = BACKENDS[name](launch, Exchange(compression, backward_passes_per_step, adasum), device)
        if log is not None and backend.device.type == "cuda":
            backend.sum(torch.zeros(1, device=backend.device))  # NCCL joins at the first exchange
            check_nccl(log.read_text(errors="replace"), os.environ, adapters=fabric(), hosts=2)
    return backend


def surroundings(backend_name: str) -> tuple[int, int]:
    """Return rank and size of a backend that is not open yet, from the launcher's environment.

    Opens nothing: for what must be known before, such as which process claims the run directory.

    Parameters
    ----------
    backend_name : str
        A key of `BACKENDS`; ``"single"`` gives ``(0, 1)``.

    Raises
    ------
    InputError
        If the name is not known, or the launcher started several processes that this backend cannot join.
    """
    launch = _launch_for(backend_name)
    return launch.rank, launch.size


def rejoining(backend_name: str, attempt: Callable[[], Result]) -> Result:
    """Return what an attempt gives; where ranks come and go, attempt again with each change of them (`elastic`).

    Parameters
    ----------
    backend_name : str
        A key of `BACKENDS`.
    attempt : callable
        The whole of a training, which goes on from its last checkpoint and knows its rank by `surroundings` only.

    Raises
    ------
    InputError
        If the launcher lets ranks come and go, and the backend cannot.
    """
    if not is_elastic(os.environ):
        return attempt()
    if backend_name != "horovod":
        raise InputError(
            f"this process was started for an elastic training (HOROVOD_ELASTIC=1), and train.backend={backend_name!r} "
            "ends when a rank is lost: set train.backend to horovod, or use jobs/train-ddp.sbatch"
        )
    return keep_on(attempt, os.environ)


def wandb_mode() -> str:
    """Return what the user's ``WANDB_MODE`` says, else ``"offline"``: compute nodes have no way out."""
    return os.environ.get("WANDB_MODE", "offline")


def _launch_for(name: str) -> Launch:
    if name not in BACKENDS:
        raise unknown_name("train.backend", name, BACKENDS)
    launch = read_launch(os.environ)
    if name == "single" and launch.size > 1:
        raise InputError(
            f"{launch.launcher} started {launch.size} processes, and with train.backend='single' each of them would "
            "write the same run: set train.backend to ddp or horovod, or start one process"
        )
    if name == "horovod" and launch.launcher == "torchrun":
        raise InputError(
            "torchrun starts processes that Horovod does not know of: start them with horovodrun, mpirun or srun, "
            "or set train.backend to ddp"
        )
    return launch if name != "single" else Launch()


def _set_patience(watchdog_s: float, environment: MutableMapping[str, str]) -> None:
    """Let Horovod tell of a rank that is waited for within the watchdog's time, and give up only after it."""
    if watchdog_s:
        environment.setdefault("HOROVOD_STALL_CHECK_TIME_SECONDS", str(max(1, min(60, int(watchdog_s / 4)))))
        environment.setdefault("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", str(max(2, int(2 * watchdog_s))))


@contextmanager
def _nccl_log(launch: Launch, environment: MutableMapping[str, str]) -> Iterator[Path | None]:
    """Give the file in which NCCL tells of its network; None on one machine, and where the user reads it himself."""
    if launch.one_machine or "NCCL_DEBUG" in environment or not torch.cuda.is_available():
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nccl.log"
        path.touch()
        asked = {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,NET", "NCCL_DEBUG_FILE": str(path)}
        environment.update(asked)
        try:
            yield path
        finally:
            for name in asked:
                environment.pop(name, None)
