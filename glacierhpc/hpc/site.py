"""What a computing centre asks of its jobs; the profiles themselves are YAML files, found and laid over in `sites`."""

from __future__ import annotations

import shlex
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from glacierhpc.errors import InputError
from glacierhpc.hpc.quoting import directive, name, one_line, variable


def _checked(text: str) -> str:
    try:
        return one_line(text)
    except InputError as err:
        raise ValueError(str(err)) from err


def _named(text: str) -> str:
    try:
        return name(text, "name")
    except InputError as err:
        raise ValueError(str(err)) from err


def _options(values: dict[str, str]) -> dict[str, str]:
    try:
        for option, value in values.items():
            directive(option, value)
    except InputError as err:
        raise ValueError(str(err)) from err
    return values


def _variables(values: dict[str, str]) -> dict[str, str]:
    try:
        for key, value in values.items():
            variable(key)
            one_line(value)
    except InputError as err:
        raise ValueError(str(err)) from err
    return values


def _shell_words(text: str) -> str:
    if not _split(text):
        raise ValueError("it has no words; leave it out, or write null")
    return text


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as err:
        raise ValueError(f"its quotes do not close ({err})") from err


Text = Annotated[str, AfterValidator(_checked)]
Options = Annotated[dict[str, str], AfterValidator(_options)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Partition(_Part):
    """What one partition gives at most; null where the centre does not say or the scheduler decides."""

    max_hours: float | None = Field(None, gt=0, description="longest walltime, hours")
    max_nodes: int | None = Field(None, gt=0, description="most nodes of one job")
    cores: int | None = Field(None, gt=0, description="cores of a node")
    memory_gb: float | None = Field(None, gt=0, description="memory of a node that jobs can have, GiB")
    gpus: int | None = Field(None, ge=0, description="GPUs of a node")


class JobWish(_Part):
    """What one job of the chain asks for; null = what its script asks for by itself."""

    nodes: int | None = Field(None, gt=0, description="nodes; only training uses more than one")
    tasks_per_node: int | None = Field(None, gt=0, description="processes of each node: one per GPU")
    cpus: int | None = Field(None, gt=0, description="cores of each process")
    memory_gb: int | None = Field(None, gt=0, description="memory of each node, GiB")
    gpus: int | None = Field(None, ge=0, description="GPUs of each node")
    hours: float | None = Field(None, gt=0, description="walltime, hours")
    partition: Text | None = Field(None, description="partition; null = that of the job's kind")


class ArrayWish(JobWish):
    """What each task of a job array asks for."""

    at_once: int | None = Field(None, gt=0, description="how many of them run at the same time at most")


class AcquireWish(ArrayWish):
    """What each task asks for where scenes are read by a job array."""

    tasks: int | None = Field(
        None, gt=1, description="how many tasks of a job array read the scenes; null = the job imagery does"
    )


class Jobs(_Part):
    """The jobs of a chain, and of that of a sweep; a trial asks for what training does where nothing else is said."""

    search: JobWish = JobWish()
    acquire: AcquireWish = AcquireWish()
    imagery: JobWish = JobWish()
    train: JobWish = JobWish()
    results: JobWish = JobWish()
    trials: ArrayWish = ArrayWish()
    gather: JobWish = JobWish()


class Site(_Part):
    """A computing centre, as a job script needs to know it."""

    title: Text = Field("a Slurm cluster", description="name of the centre and machine")
    verified: Text | None = Field(None, description="when and by what this was tried there; null = never")
    documentation: tuple[Text, ...] = Field((), description="where the centre says so")
    account: Text | None = Field(None, description="project that is billed")
    account_needed: bool = Field(False, description="whether jobs without an account are refused")
    partitions: dict[Text, Partition] = Field({}, description="limits of the partitions, by name")
    use: dict[Literal["cpu", "gpu", "network"], Text] = Field(
        {}, description="partition of jobs without GPU, with GPU, and of those that read over the network"
    )
    directives: dict[Literal["all", "cpu", "gpu", "network"], Options] = Field(
        {}, description="further options of sbatch, for all jobs and by kind of job"
    )
    memory: Literal["mem", "mem-per-cpu", "none"] = Field("mem", description="option that asks for memory")
    gpus: Literal["gres", "gpus-per-node", "none"] = Field("gres", description="option that asks for GPUs")
    gpu_type: Text | None = Field(None, description="type in that option, as in gpu:v100:4")
    ntasks: bool = Field(False, description="ask for the number of processes in all, too")
    max_hours: float | None = Field(None, gt=0, description="longest walltime of any job, hours")
    max_array: int | None = Field(
        None, gt=1, description="MaxArraySize of the scheduler, if it does not say so itself"
    )
    warning_s: int = Field(
        300, ge=60, le=65535, description="time before the end at which a job is told to save its work, s"
    )
    again: Literal["requeue", "successor", "none"] = Field(
        "requeue",
        description="how a job that met its walltime goes on: requeue, successor (a new job) or none",
    )
    attempts: int = Field(10, ge=1, le=1000, description="how often one job is started at most")
    modules: tuple[Text, ...] = Field((), description="modules that jobs load")
    environment: Annotated[dict[str, str], AfterValidator(_variables)] = Field(
        {}, description="variables that jobs set"
    )
    container: Literal["apptainer", "singularity", "none"] | None = Field(
        None, description="program that runs images; null = whichever is there"
    )
    image: Text | None = Field(None, description="image that jobs run in; null = GLACIERHPC_IMAGE or none")
    signed_by: tuple[Text, ...] = Field(
        (),
        description="public keys, files in PEM, of which one must have signed the image, else it is not used; keyring "
        "stands for those of your keyring; empty = no signature is asked for",
    )
    binds: tuple[Text, ...] = Field(
        (), description="folders that are seen inside the image, such as /scratch/$SLURM_JOB_ACCOUNT"
    )
    scratch: Text | None = Field(None, description="folder of a job's own for what is not kept, on the node")
    quota_command: Annotated[Text, AfterValidator(_shell_words)] | None = Field(
        None,
        description="command that tells the quota where runs are, such as lfs quota -q -u $USER /scratch; "
        "null = lfs itself, if it is there",
    )
    diskless: bool = Field(False, description="whether nodes have no disk: workers spill nothing then")
    interface: Text | None = Field(None, description="network interface between nodes, such as hsn0 or ib0")
    horovod: Literal["gloo", "mpi"] = Field("gloo", description="how Horovod's processes find each other")
    mpi: Annotated[str, AfterValidator(_named)] = Field("pmix", description="MPI of srun: srun --mpi=list")
    srun: tuple[Text, ...] = Field((), description="further options of srun")
    jobs: Jobs = Jobs()


PLAIN = Site()
"""What is asked where nothing is known of a site: what the scripts in jobs/ say."""
