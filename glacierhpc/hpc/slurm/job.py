"""What one job is: what it runs, how it is started, what it asks for; how that is written is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Launch = Literal["alone", "srun", "gloo", "mpi", "elastic"]
"""``alone``: one process; ``srun``: one process per task, which read Slurm's variables (train.backend=ddp); ``gloo``:
likewise for Horovod without MPI; ``mpi``: for Horovod with the MPI of the site; ``elastic``: for Horovod without MPI,
whose processes may come and go."""

Kind = Literal["cpu", "gpu", "network"]


@dataclass(frozen=True)
class JobSpec:
    """One job: what it runs and what it asks the scheduler for."""

    name: str
    """Name in the queue, and of the log file."""
    about: str
    """One line for the reader of the script."""
    command: tuple[str, ...]
    """Arguments of ``glacierhpc``, before those of ``sbatch``'s caller."""
    overrides: tuple[str, ...] = ()
    """Values of the configuration that this job sets, before those of the caller."""
    goes_on: bool = True
    """Whether the command, given again, goes on where it stopped; otherwise it starts again."""
    takes_config: bool = True
    """Whether the script's first argument is a configuration."""
    takes: str = "[FOLDER]"
    """What the script's arguments are where they are no configuration, for the reader."""
    config: str | None = None
    """The configuration itself, where the script is for one run only."""
    folder: str | None = None
    """Where such a script starts and leaves its log and its exit file; else it is where ``sbatch`` was called."""
    label: str | None = None
    """Name in the queue, where another than that of the script is needed."""
    launch: Launch = "alone"
    numbered: str = ""
    """Option of the command that takes the number of a task of a job array; outside an array it is left out."""
    array: tuple[int, ...] = ()
    """Numbers of the tasks of the array; empty where the job is none, or ``sbatch --array`` says it."""
    offset: int = 0
    """What is added to these numbers: arrays count to MaxArraySize only."""
    at_once: int | None = None
    """How many tasks of the array run at the same time at most."""
    pools: bool = False
    """Whether the command starts workers of its own, one per core of the job."""
    kind: Kind = "cpu"
    """What its partition must have: nothing more, GPUs, or the network."""
    nodes: int = 1
    tasks_per_node: int = 1
    cpus: int = 8
    """Cores of each task."""
    memory_gb: int = 16
    """Memory of each node."""
    hours: float = 12.0
    """Walltime. A job that meets it has saved its work and goes on in another."""
    gpus: int = 0
    """GPUs of each node."""
    directives: Mapping[str, str] = field(default_factory=dict)
    """Further options of ``sbatch`` that a site asks for, such as ``{"partition": "gpu"}``."""

    @property
    def tasks(self) -> int:
        """Processes of the job."""
        return self.nodes * self.tasks_per_node
