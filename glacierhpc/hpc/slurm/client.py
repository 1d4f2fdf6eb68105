"""Calling the scheduler's commands: with a time limit, without what a surrounding job has set, errors kept as text."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glacierhpc.errors import GlacierError

TRANSIENT = (
    "unable to contact slurm controller", "socket timed out", "connection refused", "connection timed out",
    "communication connection failure", "zero bytes were transmitted", "temporarily", "slurm backup controller in",
    "try again", "transport endpoint is not connected", "munge",
)  # fmt: skip
"""What Slurm's commands say when the controller is away or busy, in lower case."""

OPTIONS = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_")
"""How variables begin that Slurm's commands take for options."""


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    command: tuple[str, ...]
    code: int | None
    """Exit code; None if it was not there or did not end in time."""
    out: str = ""
    err: str = ""
    missing: bool = False
    """Whether there is no such command here."""

    @property
    def ok(self) -> bool:
        """Whether it ended well."""
        return self.code == 0

    @property
    def transient(self) -> bool:
        """Whether another try may do: it did not end in time, or the controller was away."""
        said = self.err.lower()
        return not self.missing and (self.code is None or any(text in said for text in TRANSIENT))

    def error(self, what: str) -> GlacierError:
        """Return the error that tells what was called, as it can be pasted, and what it said."""
        ended = "is not installed here" if self.missing else (
            "did not end in time" if self.code is None else f"ended with {self.code}"
        )  # fmt: skip
        said = "\n".join(self.err.strip().splitlines()[-5:])
        return GlacierError(f"{what}: {shlex.join(self.command)} {ended}" + (f"\n{said}" if said else ""))


def call(command: Sequence[str], *, timeout_s: float = 60, environ: Mapping[str, str] = os.environ) -> Answer:
    """Run a command of the scheduler; never raises for what it does.

    Parameters
    ----------
    command : sequence of str
        The command and its arguments.
    timeout_s : float
        After so long it is killed, seconds.
    """
    words = tuple(command)
    try:
        done = subprocess.run(
            words, env=outside(environ), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s,
            check=False, text=True, errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired as err:
        return Answer(words, None, _text(err.stdout), _text(err.stderr))
    except OSError as err:
        return Answer(words, None, err=str(err), missing=True)
    return Answer(words, done.returncode, done.stdout, done.stderr)


def outside(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what a surrounding job has set: it would pass for options of the new one.

    Nor has it what a user has set for their own looks at the queue: with SQUEUE_PARTITION jobs elsewhere would not be
    seen, and be submitted again.
    """
    kept = {
        name: value for name, value in environ.items() if name == "SLURM_CONF" or not name.startswith(OPTIONS)
    }
    return kept | {"LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}


def _text(said: bytes | str | None) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else said or ""
