"""What the program that started this process tells it of the others; nothing is opened here, nothing imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from glacierhpc.errors import InputError

PORTS = range(20_000, 32_000)
"""Where ranks that were given no port meet: below the ports that systems hand out by themselves (from 32768)."""


@dataclass(frozen=True)
class Launch:
    """The place of this process among those started together."""

    launcher: str = ""
    """Program that started it: torchrun, horovodrun, mpirun or srun; empty where none did."""
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Number among the processes of this machine."""
    local_size: int = 1
    address: str = ""
    """Machine of rank 0; empty where the launcher does not tell."""
    port: int = 0
    """Port on it that all ranks know; 0 where the launcher does not tell."""
    run: str = ""
    """Tells this start from others at the same time; empty where the launcher does not."""

    @property
    def one_machine(self) -> bool:
        """Whether all processes run on this machine."""
        return self.local_size >= self.size


_VARIABLES = {
    # launcher: rank, size, rank on this machine, processes on this machine
    # https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "horovodrun": ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"),
    # OpenMPI; then MPICH and Intel MPI
    "mpirun": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "mpiexec": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    # of a step: in a batch script outside srun SLURM_PROCID and SLURM_NTASKS are set too, for one process
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", ""),
}
"""In the order in which they are asked: one that was started inside another comes first."""


def read_launch(environment: Mapping[str, str]) -> Launch:
    """Return the place of this process from the environment its launcher gave it.

    Raises
    ------
    InputError
        If a variable of the launcher is not a number, or the rank is not one of the ranks.
    """
    for launcher, names in _VARIABLES.items():
        if names[0] in environment and names[1] in environment:
            return _launch(launcher, names, environment)
    return Launch()


def _launch(launcher: str, names: tuple[str, ...], environment: Mapping[str, str]) -> Launch:
    rank, size = _number(names[0], environment), _number(names[1], environment)
    if not 0 <= rank < size:
        raise InputError(
            f"{launcher} says that this is rank {rank} of {size} ({names[0]}, {names[1]}): they go from 0 to {size - 1}"
        )
    local_rank = _number(names[2], environment) if names[2] in environment else rank
    if launcher == "srun":
        local_size = _tasks_here(environment, size)
    else:
        local_size = _number(names[3], environment) if names[3] in environment else size
    place = _address(environment), _port(environment)
    # what others start by ssh may have the variables of a job on one machine only
    run = _run(environment) if launcher in ("srun", "mpirun") else ""
    return Launch(launcher, rank, size, local_rank, local_size, *place, run)


def _number(name: str, environment: Mapping[str, str]) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise InputError(
            f"the environment variable {name} is {environment[name]!r}, not a number: "
            "start the ranks with torchrun, horovodrun, mpirun or srun, or unset it"
        ) from None


def _tasks_here(environment: Mapping[str, str], size: int) -> int:
    """Return how many tasks of the step run here, from a list such as ``4(x2),3``."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(count)] * int(times or 1)
    node = int(environment.get("SLURM_NODEID", "0"))
    return counts[node] if node < len(counts) else size


def _address(environment: Mapping[str, str]) -> str:
    """Return the machine of rank 0: as told, or the first of a Slurm step's."""
    if "MASTER_ADDR" in environment:
        return environment["MASTER_ADDR"]
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", ""))
    first = re.match(r"([^\[,]*)(?:\[(\d+)[^\]]*\]([^,\[]*))?", nodes)
    return "".join(part or "" for part in first.groups()) if first else ""


def _port(environment: Mapping[str, str]) -> int:
    """Return the port where ranks meet: as told, or made of what tells this start from others on the machine."""
    if "MASTER_PORT" in environment:
        return _number("MASTER_PORT", environment)
    digits = re.sub(r"\D", "", _run(environment))
    return PORTS[int(digits) % len(PORTS)] if digits else 0


def _run(environment: Mapping[str, str]) -> str:
    """Return the name of this start: of MPI, else of the job and its step."""
    job = f"{environment.get('SLURM_JOB_ID', '')}.{environment.get('SLURM_STEP_ID', '')}".strip(".")
    return environment.get("PMIX_NAMESPACE", environment.get("OMPI_MCA_ess_base_jobid", job))
