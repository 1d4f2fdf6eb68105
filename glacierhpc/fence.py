"""Who may write into a folder that one command has at a time: its holder's number, looked up before every write.

A folder that is held has ``.lease/`` with one small file per holder, `0000001.json`, `0000002.json`; the highest number
holds it. How a holder comes and goes is in `lease`; here is what a writer asks, in the holder's process or in a worker
of it: am I still the last?
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glacierhpc.errors import GlacierError

FOLDER = ".lease"


class LeaseLost(GlacierError):
    """Another command has taken the folder over; exit code 1, by which no job is queued again."""


@dataclass(frozen=True)
class Fence:
    """One holder of a folder; plain values, so that it travels to workers."""

    folder: Path
    """The folder that is held, as this command names it."""
    epoch: int
    """The holder's number, higher than those of all before."""
    token: str
    """What tells this holder from one that began to count anew, after ``.lease`` was deleted."""

    @property
    def file(self) -> Path:
        """The holder's own file."""
        return epoch_file(self.folder, self.epoch)

    def check(self) -> None:
        """Return if the folder is still this holder's.

        Looks in two ways: a higher number in the listing, and the own file, which the next holder marks. A file that
        is opened by name is asked of the server on NFS, while a listing may be as old as half a minute there.

        Raises
        ------
        LeaseLost
            If it is another's by now, or its ``.lease`` is gone.
        """
        newest = max(epochs(self.folder), default=0)
        record = read_record(self.file)
        if newest > self.epoch or record.get("taken_by"):
            raise LeaseLost(_lost(self, max(newest, int(record.get("taken_by") or 0))))
        if record.get("token") != self.token:
            raise LeaseLost(
                f"{self.file}, by which {str(self.folder)!r} is this command's, is gone: nothing more is written; run "
                "again to go on"
            )


def _lost(fence: Fence, newest: int) -> str:
    holder = describe(read_record(epoch_file(fence.folder, newest)))
    if read_record(fence.file).get("gives_way"):
        return f"{str(fence.folder)!r} was taken over by {holder}, to whom this command gives way"
    return (
        f"{str(fence.folder)!r} was taken over by {holder}, because this command was believed dead: it ends and writes "
        "nothing more; what it had finished is kept, and the other one goes on from there"
    )


def epoch_file(folder: Path, epoch: int) -> Path:
    """Return the file of a holder of a folder."""
    return folder / FOLDER / f"{epoch:07d}.json"


def epochs(folder: Path) -> list[int]:
    """Return the numbers of all holders on record, unsorted."""
    try:
        names = os.listdir(folder / FOLDER)
    except FileNotFoundError:
        return []
    return [int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()]


def read_record(path: Path) -> dict[str, Any]:
    """Return what a holder says of itself; nothing if it is gone or was torn by a crash."""
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def describe(record: dict[str, Any]) -> str:
    """Return a holder in words."""
    if not record:
        return "another command"
    job = f" of job {record['job']}" if record.get("job") else ""
    start = f", start {record['restart'] + 1}" if record.get("restart") else ""
    return f"process {record.get('pid')} on {record.get('host')}{job}{start}"


# What a process may write is a fact about the process, as its open locks are: every writer, however deep, must ask, and
# none of them can be handed the holder without every signature in between knowing of it.
_held: dict[str, tuple[Fence, Callable[[], None]]] = {}


def hold(fence: Fence, check: Callable[[], None] | None = None) -> None:
    """Let every writer of this process ask `check`, by default the fence itself, before it writes into the folder."""
    for name in _names(fence.folder):
        _held[name] = (fence, check or fence.check)


def let_go(fence: Fence) -> None:
    """End that."""
    for name in [name for name, (held, _) in list(_held.items()) if held == fence]:
        _held.pop(name, None)


def check(path: Path) -> None:
    """Ask every holder whose folder `path` lies in, right before something is made visible there.

    Between this question and the rename after it another may take over: no file system has the two as one. It is a
    matter of microseconds, and what is renamed then is a whole file that the same configuration made.

    Raises
    ------
    LeaseLost
        If one of them is no longer the last.
    """
    for name in _names_above(path) if _held else ():
        if name in _held:
            _held[name][1]()


def fence_of(path: Path) -> Fence | None:
    """Return the holder of the innermost held folder that `path` lies in."""
    for name in _names_above(path) if _held else ():
        if name in _held:
            return _held[name][0]
    return None


def _names(folder: Path) -> set[str]:
    return {os.path.abspath(folder), os.path.realpath(folder)}


def _names_above(path: Path) -> list[str]:
    """Return a path and all folders above it, the innermost first."""
    here = os.path.abspath(path)
    found = [here]
    while (above := os.path.dirname(here)) != here:
        found.append(above)
        here = above
    return found


class FencedExecutor(Executor):
    """An executor whose tasks write for the holder of a folder, in whatever process they run."""

    def __init__(self, inner: Executor, fence: Fence) -> None:
        self._inner, self._fence = inner, fence

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Future:
        """Submit a task."""
        return self._inner.submit(run_fenced, self._fence, function, *arguments, **keywords)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the inner one down."""
        self._inner.shutdown(wait, cancel_futures=cancel_futures)


def run_fenced(fence: Fence, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Run a task as one of a holder's; what it does not finish in time is refused."""
    if fence_of(fence.folder) != fence:  # a worker of another process: in the holder's own it is known
        hold(fence)
    return function(*arguments, **keywords)


def fenced(executor: Executor | None, folder: Path) -> Executor | None:
    """Return an executor whose tasks write for this process's hold on a folder, the same one where there is none."""
    fence = fence_of(folder)
    return executor if executor is None or fence is None else FencedExecutor(executor, fence)
