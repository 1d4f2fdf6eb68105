"""How ranks are started, on this machine or on the nodes of a job, and ended; what they do is in `scaling_train`."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from glacierhpc.errors import InputError
from glacierhpc.hpc.rendezvous import Store, address_of
from glacierhpc.hpc.slurm.parts import GLOO_RANK

END_S = 60.0
"""How long a launcher that was asked to end may take to end its ranks."""


@dataclass(frozen=True)
class Launcher:
    """What starts ranks."""

    backends: tuple[str, ...]
    """That its ranks are joined by."""
    program: str
    """Needed for it; empty where Python alone will do."""
    of_job: bool = False
    """Whether it needs a job of Slurm."""


LAUNCHERS = {
    "torchrun": Launcher(("ddp",), ""),
    "horovodrun": Launcher(("horovod",), ""),
    "srun": Launcher(("ddp", "horovod"), "srun", of_job=True),
    "pmix": Launcher(("horovod",), "srun", of_job=True),
    "mpirun": Launcher(("horovod",), "mpirun"),
}
"""``srun``: Horovod's ranks meet by Gloo; ``pmix``: by the MPI that they were built with, started by ``srun``;
``mpirun``: likewise, here or on the nodes of the job."""


def in_job() -> bool:
    """Return whether this process may start others on the nodes of its job; inside an image it may not."""
    return "SLURM_JOB_ID" in os.environ and shutil.which("srun") is not None


def launcher_for(backend: str, asked: str | None = None) -> str:
    """Return what starts the ranks of a backend here: what was asked for, else srun in a job, else on this machine.

    Raises
    ------
    InputError
        If it cannot, or is not there.
    """
    own = "torchrun" if backend == "ddp" else "horovodrun"
    name = asked or ("srun" if in_job() else own)
    launcher = LAUNCHERS[name]
    if backend not in launcher.backends:
        can = ", ".join(each for each, one in LAUNCHERS.items() if backend in one.backends)
        raise InputError(f"--launcher {name} does not join ranks by {backend}: give one of {can}")
    if launcher.of_job and not in_job():
        raise InputError(
            f"--launcher {name} starts ranks in a job of Slurm, and this is none: submit it, or give {own}"
        )
    if launcher.program and not shutil.which(launcher.program):
        raise InputError(
            f"--launcher {name} needs {launcher.program}, which is not here: load its module, or give {own}"
        )
    if backend == "horovod" and importlib.util.find_spec("horovod") is None:
        raise InputError(
            "--backend horovod: Horovod is not installed here: build it with `make horovod`, or give ddp"
        )
    return name


def nodes_for(ranks: int, backend: str) -> int:
    """Return on how many nodes of the job some ranks are started: on as few as hold them, one after the other.

    Raises
    ------
    InputError
        If the job has not as many tasks, or Horovod's ranks cannot be as many on one node as on the other.
    """
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", 1))
    tasks = int(os.environ.get("SLURM_NTASKS", nodes))
    if ranks > tasks:
        raise InputError(
            f"--workers {ranks}: the job has {tasks} tasks; ask for more with sbatch --nodes and --ntasks-per-node"
        )
    fewest = math.ceil(ranks / math.ceil(tasks / nodes))
    if backend == "ddp":
        return fewest
    even = [count for count in range(fewest, nodes + 1) if ranks % count == 0]
    if not even:
        raise InputError(
            f"--workers {ranks}: Horovod needs as many ranks on one node as on the other, and {nodes} nodes of "
            f"{tasks} tasks cannot hold {ranks} so: leave it out, or give --backend ddp"
        )
    return even[0]


def words_of(launcher: str, backend: str, ranks: int) -> list[str]:
    """Return the words before those of a rank, which are Python's."""
    if launcher == "torchrun":
        # its module, as the script of that name may be of another Python; it starts that Python by itself
        module = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        return [sys.executable, *module, "--no-python", sys.executable]
    if launcher == "horovodrun":
        found = Path(sys.executable).with_name("horovodrun")
        program = str(found) if found.exists() else "horovodrun"
        return [program, "--gloo", "--network-interfaces", "lo", "-np", str(ranks), sys.executable]
    nodes = nodes_for(ranks, backend) if in_job() else 1
    each = math.ceil(ranks / nodes)
    if launcher == "mpirun":
        place = f"ppr:{each}:node:oversubscribe"  # outside a job it counts cores and would refuse more ranks
        return ["mpirun", "--bind-to", "none", "--map-by", place, "-np", str(ranks), sys.executable]
    cores = os.environ.get("SLURM_CPUS_PER_TASK", "1")
    mpi = "pmix" if launcher == "pmix" else "none"
    counts = [
        f"--nodes={nodes}",
        f"--ntasks={ranks}",
        f"--ntasks-per-node={each}",
        f"--cpus-per-task={cores}",
    ]
    rank = ["bash", "-c", GLOO_RANK + 'exec "$@"', "rank"] if _by_gloo(launcher, backend) else []
    return ["srun", f"--mpi={mpi}", *counts, "--kill-on-bad-exit=1", *rank, sys.executable]


def _by_gloo(launcher: str, backend: str) -> bool:
    return (launcher, backend) == ("srun", "horovod")


@contextmanager
def meeting(launcher: str, backend: str) -> Iterator[dict[str, str]]:
    """Give the variables by which ranks find each other; where they need a server for that, it is up meanwhile."""
    # ranks that read their libraries from one busy disk meet late; Gloo's own limit is half a minute
    wait_s = os.environ.get("HOROVOD_GLOO_TIMEOUT_SECONDS", "300")
    patience = {"HOROVOD_GLOO_TIMEOUT_SECONDS": wait_s} if backend == "horovod" else {}
    if not _by_gloo(launcher, backend):
        yield patience
        return
    own = address_of(os.environ.get("SLURMD_NODENAME", "localhost"), os.environ.get("HOROVOD_GLOO_IFACE", ""))
    with Store(own) as store:
        address, port = store.start()
        place = {"HOROVOD_GLOO_RENDEZVOUS_ADDR": address, "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port)}
        try:
            yield {"HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo", **place, **patience}
        finally:
            store.shutdown()


def run(command: Sequence[str], log: TextIO, environment: dict[str, str], limit_s: float) -> int:
    """Return the exit code of a launcher; neither it nor its ranks outlive this call, whatever ends it."""
    quiet = subprocess.DEVNULL  # srun and mpirun would read what is typed in an interactive job
    process = subprocess.Popen(
        command, stdin=quiet, stdout=log, stderr=log, env=environment, start_new_session=True
    )
    try:
        return process.wait(limit_s)
    finally:
        if process.poll() is None:
            process.terminate()  # ranks have sessions of their own: only the launcher can end them
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
