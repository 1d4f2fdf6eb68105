"""dask-jobqueue's classes for five batch systems, repaired: words quoted, values checked, jobs submitted once.

They take what theirs take. When workers are started and replaced is decided in `watch`.
"""

from __future__ import annotations

import asyncio
import copy
import os
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dask
import dask_jobqueue
from dask_jobqueue.htcondor import HTCondorJob as _HTCondorJob
from dask_jobqueue.lsf import LSFJob as _LSFJob
from dask_jobqueue.pbs import PBSJob as _PBSJob
from dask_jobqueue.sge import SGEJob as _SGEJob
from dask_jobqueue.slurm import SLURMJob as _SLURMJob
from distributed import Security
from distributed.core import Status
from distributed.deploy.cluster import Cluster

from glacierhpc.hpc.cluster.script import shell_word
from glacierhpc.hpc.quoting import one_line, word
from glacierhpc.hpc.slurm.client import outside
from glacierhpc.hpc.slurm.submit import _id, submit

SPOKEN = {"job_script_prologue", "env_extra", "security"}
"""What is not looked at for line breaks: lines of a script are what they are."""


class Quoted:
    """A job of dask-jobqueue whose worker command is one of words, whatever is in them; put before its class.

    The original joins the words of the command with spaces: ``;``, ``$(...)`` and blanks in a name or folder are
    then the shell's. Here each is one word; in the worker's name and in ``local_directory`` variables are replaced, as
    the original's manual has it, and nothing else.
    """

    default_config_name: Any
    job_id: str | None

    def __init__(
        self,
        scheduler: str | None = None,
        name: Any = None,
        *,
        python: str | Sequence[str] | None = None,
        local_directory: str | None = None,
        worker_extra_args: Sequence[Any] | None = None,
        worker_command: str | None = None,
        interface: str | None = None,
        security: Security | None = None,
        header: Sequence[str] | None = None,
        **rest: Any,
    ) -> None:
        """Take what the original takes.

        Parameters
        ----------
        python : str or sequence of str
            The program; or words of a shell, quotes and all, that start it in an image.
        header : sequence of str
            Lines that stand for the header the original makes.
        """
        _check_lines(rest)
        section = f"jobqueue.{rest.get('config_name') or self.default_config_name()}"

        def given(value: Any, key: str) -> Any:
            return dask.config.get(f"{section}.{key}", None) if value is None else value

        python = given(python, "python") or sys.executable
        extra, local = (
            given(worker_extra_args, "worker-extra-args"),
            given(local_directory, "local-directory"),
        )
        interface = given(interface, "interface")
        super().__init__(  # type: ignore[call-arg]
            scheduler=word(scheduler) if scheduler else scheduler,
            name=None if name is None else shell_word(str(name)),
            python=word(python) if isinstance(python, str) else " ".join(python),
            local_directory=shell_word(local) if local else local,
            worker_extra_args=None if extra is None else [word(str(text)) for text in extra],
            worker_command=word(worker_command) if worker_command else worker_command,
            interface=word(interface) if interface else interface,
            security=_quoted_paths(security),
            **rest,
        )
        self.name = name
        if header is not None:
            self.job_header = "\n".join(one_line(line) for line in header)

    @staticmethod
    async def _call(cmd: Sequence[str], *, shell: bool = False, **kwargs: Any) -> str:
        """Call a command of the scheduler without what a surrounding job has set."""
        environ = outside(os.environ)
        return await dask_jobqueue.core.Job._call(cmd, shell=shell, **{"env": environ, **kwargs})

    async def close(self) -> None:
        """Cancel the job."""
        await super().close()  # type: ignore[misc]
        self.status = Status.closed


def _check_lines(value: Any) -> None:
    """Refuse line breaks in whatever may get into a header.

    Raises
    ------
    InputError
        If there is one.
    """
    if isinstance(value, str):
        one_line(value)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if key not in SPOKEN:
                _check_lines(each)
    elif isinstance(value, Iterable):
        for each in value:
            _check_lines(each)


def _quoted_paths(security: Security | None) -> Security | None:
    """Return what the worker's command line is made of: a copy in which paths are words of a shell."""
    if security is None:
        return None
    quoted = copy.copy(security)
    for key in ("tls_ca_file", "tls_worker_cert", "tls_worker_key"):
        if path := getattr(quoted, key):
            setattr(quoted, key, word(path))
    return quoted


class SLURMJob(Quoted, _SLURMJob):
    """A worker as a job of Slurm, submitted once whatever `sbatch` does or says."""

    submit_command = "sbatch --parsable"

    def __init__(self, scheduler: str | None = None, name: Any = None, **rest: Any) -> None:
        """Take what the original takes."""
        super().__init__(scheduler, name, **rest)
        # in the queue no other job has it: by that a job is found whose `sbatch` lost its answer
        self.label = f"{self.job_name or 'dask-worker'}-{secrets.token_hex(4)}"

    async def start(self) -> None:
        """Submit the job."""
        with self.job_file() as path:
            self.job_id = await asyncio.to_thread(submit, path, self.label)
        self.status = Status.running

    def _job_id_from_submit_output(self, out: str) -> str:
        return _id(out) or super()._job_id_from_submit_output(out)


class PBSJob(Quoted, _PBSJob):
    """A worker as a job of PBS."""


class LSFJob(Quoted, _LSFJob):
    """A worker as a job of LSF."""


class SGEJob(Quoted, _SGEJob):
    """A worker as a job of Grid Engine."""


class HTCondorJob(Quoted, _HTCondorJob):
    """A worker as a job of HTCondor."""

    def __init__(self, scheduler: str | None = None, name: Any = None, **rest: Any) -> None:
        """Take what the original takes."""
        super().__init__(scheduler, name, **rest)
        # in a submit file $(NAME) is a macro; one of them is the dollar itself
        self._command_template = self._command_template.replace("$(", "$(DOLLAR)(")


class Watched:
    """A cluster of dask-jobqueue that leaves lost workers to its watch, where it has one; put before its class."""

    watched = False

    def _update_worker_status(self, op: str, msg: Any) -> None:
        if self.watched:
            # the original ends the job of a lost worker, and would start another one of the same name
            Cluster._update_worker_status(self, op, msg)  # type: ignore[arg-type]
        else:
            super()._update_worker_status(op, msg)  # type: ignore[misc]


class SLURMCluster(Watched, dask_jobqueue.SLURMCluster):  # noqa: D101
    __doc__ = str(dask_jobqueue.SLURMCluster.__doc__)
    job_cls: Any = SLURMJob


class PBSCluster(Watched, dask_jobqueue.PBSCluster):  # noqa: D101
    __doc__ = str(dask_jobqueue.PBSCluster.__doc__)
    job_cls: Any = PBSJob


class LSFCluster(Watched, dask_jobqueue.LSFCluster):  # noqa: D101
    __doc__ = str(dask_jobqueue.LSFCluster.__doc__)
    job_cls: Any = LSFJob


class SGECluster(Watched, dask_jobqueue.SGECluster):  # noqa: D101
    __doc__ = str(dask_jobqueue.SGECluster.__doc__)
    job_cls: Any = SGEJob


class HTCondorCluster(Watched, dask_jobqueue.HTCondorCluster):  # noqa: D101
    __doc__ = str(dask_jobqueue.HTCondorCluster.__doc__)
    job_cls: Any = HTCondorJob


QUEUES: dict[str, Any] = {
    "slurm": SLURMCluster,
    "pbs": PBSCluster,
    "lsf": LSFCluster,
    "sge": SGECluster,
    "htcondor": HTCondorCluster,
}
"""The cluster class of each batch system."""
