"""The program that runs images: which one is here, in which version, and how it is asked."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glacierhpc.errors import GlacierError, InputError

PROGRAMS = ("apptainer", "singularity")


@dataclass(frozen=True)
class Runtime:
    """A program that runs images."""

    path: str
    name: str
    """apptainer or singularity."""
    version: tuple[int, ...]

    @property
    def unprivileged(self) -> bool:
        """Whether it builds and runs without root by itself: Apptainer from 1.1, SingularityCE from 4.0."""
        return self.version >= ((1, 1) if self.name == "apptainer" else (4, 0))

    @property
    def builds(self) -> bool:
        """Whether it knows build arguments, which deeplearning.def has: Apptainer from 1.2, SingularityCE from 4.0."""
        return self.version >= ((1, 2) if self.name == "apptainer" else (4, 0))

    @property
    def takes_pem(self) -> bool:
        """Whether it signs and verifies with keys in PEM: Apptainer from 1.2, SingularityCE from 3.11."""
        return self.version >= ((1, 2) if self.name == "apptainer" else (3, 11))


def find_runtime(name: str | None = None) -> Runtime:
    """Return the program that runs images here.

    Parameters
    ----------
    name : {"apptainer", "singularity"}, optional
        Which one; by default the first that is there.

    Raises
    ------
    InputError
        If there is none.
    GlacierError
        If it does not tell its version.
    """
    for program in (name,) if name else PROGRAMS:
        if path := shutil.which(program):
            said = told([path, "--version"], timeout_s=60)
            return Runtime(
                path, "singularity" if "singularity" in said.lower() else "apptainer", version_of(said)
            )
    raise InputError(
        f"there is no {name or 'apptainer or singularity'} on the path; on a cluster try: module load apptainer"
    )


def version_of(text: str) -> tuple[int, ...]:
    """Return the version in ``apptainer version 1.3.4-1.el9`` or ``singularity-ce version 4.1.0``."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if not found:
        raise GlacierError(f"no version is in {text.strip()!r}; look which program is first on the path")
    return tuple(int(part) for part in found.groups() if part)


def told(command: Sequence[str], *, timeout_s: float, environ: Mapping[str, str] | None = None) -> str:
    """Run a command and return what it says.

    Raises
    ------
    GlacierError
        If it fails, or does not end in time.
    """
    try:
        done = subprocess.run(
            list(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=timeout_s, check=False, env=None if environ is None else dict(environ),
        )  # fmt: skip
    except subprocess.TimeoutExpired as err:
        raise GlacierError(f"{shlex.join(command)} did not end within {timeout_s:g} s") from err
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise GlacierError(f"{shlex.join(command)} ended with {done.returncode}\n{said}")
    return done.stdout or done.stderr
