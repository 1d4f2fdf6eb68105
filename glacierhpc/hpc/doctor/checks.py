"""The list of checks, and going through it: several at a time, each with a limit, none able to stop the others."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from glacierhpc.errors import redact
from glacierhpc.hpc.doctor import containers, devices, folders, network, process, scheduler, software, storage
from glacierhpc.hpc.doctor.finding import AGAIN, Finding, unknown
from glacierhpc.hpc.doctor.machine import Machine, Role

BOTH: tuple[Role, ...] = ("login", "compute")
LOGIN: tuple[Role, ...] = ("login",)
COMPUTE: tuple[Role, ...] = ("compute",)

QUICK_S, OF_COMMANDS_S, OF_PYTHON_S = 5.0, 12.0, 60.0
"""Limits of checks that look, that ask another program, and that start Python with large packages, which takes half a
minute on a busy shared file system."""
AT_ONCE = 4


@dataclass(frozen=True)
class Check:
    """One question, asked on some machines."""

    name: str
    look: Callable[[Machine], Finding]
    where: tuple[Role, ...] = BOTH
    limit_s: float = QUICK_S


CHECKS = (
    Check("python", software.python, limit_s=OF_PYTHON_S),
    Check("packages", software.packages, limit_s=OF_PYTHON_S),
    Check("foreign packages", software.leaks, limit_s=OF_PYTHON_S),
    Check("foreign libraries", software.native_leaks),
    Check("kernel cache", software.compiled),
    Check("torch", devices.torch, limit_s=OF_PYTHON_S),
    Check("horovod", devices.horovod, limit_s=OF_PYTHON_S),
    Check("mpi", devices.mpi, limit_s=OF_PYTHON_S),
    Check("two processes", devices.added, COMPUTE, OF_PYTHON_S),
    Check("gpu", devices.gpu, limit_s=OF_COMMANDS_S),
    Check("nccl transport", devices.transport),
    Check("slurm", scheduler.commands, limit_s=OF_COMMANDS_S),
    Check("controller", scheduler.controller, LOGIN, OF_COMMANDS_S),
    Check("credentials", scheduler.credentials, limit_s=OF_COMMANDS_S),
    Check("accounting", scheduler.accounting, LOGIN, OF_COMMANDS_S),
    Check("partitions", scheduler.partitions, LOGIN, OF_COMMANDS_S),
    Check("limits", scheduler.limits, LOGIN, OF_COMMANDS_S),
    Check("account", scheduler.account, LOGIN, OF_COMMANDS_S),
    Check("memory option", scheduler.memory, LOGIN, OF_COMMANDS_S),
    Check("trial", scheduler.trial, LOGIN, OF_PYTHON_S),
    Check("requeue", scheduler.requeue, COMPUTE),
    Check("container", containers.runtime, limit_s=OF_COMMANDS_S),
    Check("fakeroot", containers.fakeroot, limit_s=OF_COMMANDS_S),
    Check("fuse", containers.fuse),
    Check("image", containers.image),
    Check("signature", containers.signature, LOGIN, OF_PYTHON_S),
    Check("image of the run", containers.same_image, LOGIN, OF_PYTHON_S),
    Check("c library", containers.libraries, limit_s=OF_PYTHON_S),
    Check("room for builds", containers.space_for_builds, LOGIN),
    Check("temporary folder", storage.temporary, limit_s=OF_COMMANDS_S),
    Check("home folder", storage.home, limit_s=OF_COMMANDS_S),
    Check("run folder", storage.work, limit_s=OF_COMMANDS_S),
    Check("lustre", storage.lustre, limit_s=OF_COMMANDS_S),
    Check("locks", folders.locks, limit_s=OF_COMMANDS_S),
    Check("renames", folders.renames),
    Check("file times", folders.file_times),
    Check("file mode", folders.file_mode),
    Check("leftovers", folders.leftovers, LOGIN, OF_COMMANDS_S),
    Check("holder of the run", folders.holder, LOGIN),
    Check("open files", process.open_files),
    Check("processes", process.processes),
    Check("locked memory", process.locked_memory),
    Check("shared memory", process.shared_memory),
    Check("cores", process.cores),
    Check("threads", process.threads),
    Check("letters", process.letters),
    Check("host name", network.host_name, limit_s=OF_COMMANDS_S),
    Check("interface", network.interface),
    Check("archive", network.archive, limit_s=OF_COMMANDS_S),
)


def examine(m: Machine, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """Ask all that is asked on a machine of this role, and return the findings in their order; never raises.

    A check that does not end within its limit (a file server that is away keeps a process for ever) is left behind,
    and told as unknown.
    """
    waiting = [check for check in checks if m.role in check.where]
    order = [check.name for check in waiting]
    answers: queue.SimpleQueue[tuple[str, Finding]] = queue.SimpleQueue()
    running: dict[str, tuple[Check, float]] = {}
    found: dict[str, Finding] = {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            check = waiting.pop(0)
            running[check.name] = (check, time.monotonic() + check.limit_s * m.patience)
            threading.Thread(target=_ask, args=(check, m, answers), daemon=True).start()
        first = min(end for _, end in running.values())
        try:
            name, finding = answers.get(timeout=max(0.0, first - time.monotonic()))
        except queue.Empty:
            late = [name for name, (_, end) in running.items() if end <= time.monotonic()]
            answered = {name: _late(running.pop(name)[0], m) for name in late}
        else:
            answered = {name: finding} if running.pop(name, None) else {}
        found |= answered
    return [replace(found[name], name=name) for name in order]


def _ask(check: Check, m: Machine, answers: queue.SimpleQueue[tuple[str, Finding]]) -> None:
    try:
        finding = check.look(m)
    except Exception as err:  # noqa: BLE001 - a check that fails is a finding about the check, and the others go on
        finding = unknown(f"the check itself failed: {type(err).__name__}: {redact(str(err))}")
    answers.put((check.name, finding))


def _late(check: Check, m: Machine) -> Finding:
    return unknown(f"no answer within {check.limit_s * m.patience:g} s", AGAIN)
