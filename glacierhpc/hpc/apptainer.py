"""Apptainer and SingularityCE by lists of arguments: build, run inside, look into, verify; no shell is in between.

Both programs take the same words for what is done here; which one is there is found out, or said.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from glacierhpc.errors import GlacierError, InputError

PROGRAMS = ("apptainer", "singularity")

HANDED_IN = (
    "SLURM_*", "PMI*", "OMPI_*", "HOROVOD_*", "MASTER_*", "NCCL_*", "GLOO_*", "UCX_*", "FI_*", "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES", "OMP_*", "GDAL_*", "WANDB_*", "PC_SDK_*", "GLACIERHPC_*", "*_proxy", "*_PROXY", "LANG",
    "TZ",
)  # fmt: skip
"""Variables of the job that a program in the image may know; the same list as in the job scripts."""


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
            said = _told([path, "--version"], timeout_s=60)
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


def build_command(
    runtime: Runtime, image: str | Path, definition: str | Path, *, arguments: Mapping[str, str] | None = None,
    fakeroot: bool = True,
) -> list[str]:  # fmt: skip
    """Return the command that builds an image from a definition file."""
    given = [word for key, value in (arguments or {}).items() for word in ("--build-arg", f"{key}={value}")]
    return [runtime.path, "build", *(["--fakeroot"] if fakeroot else []), *given, str(image), str(definition)]


def exec_command(
    runtime: Runtime, image: str | Path, command: Sequence[str], *, binds: Sequence[str | Path] = (), gpu: bool = False,
) -> list[str]:  # fmt: skip
    """Return the command that runs another one in an image, apart from the user's home and environment.

    What it may know of the environment is handed in by `inside_environment`.

    Raises
    ------
    InputError
        If a folder cannot be named to the program.
    """
    bound = [word for folder in binds for word in ("--bind", _bindable(str(folder)))]
    return [
        runtime.path, "exec", "--cleanenv", "--no-home", *bound, *(["--nv"] if gpu else []), str(image), *command,
    ]  # fmt: skip


def inside_environment(
    environ: Mapping[str, str] = os.environ, *, handed_in: Sequence[str] = HANDED_IN
) -> dict[str, str]:
    """Return the environment to call `exec_command` with: all of this one, and what the image gets, by its prefix.

    The prefix rather than ``--env``, which would part values at commas.
    """
    named = {
        name: text for name, text in environ.items() if any(fnmatchcase(name, each) for each in handed_in)
    }
    named["PYTHONNOUSERSITE"] = "1"
    prefixed = {
        f"{prefix}ENV_{name}": text for prefix in ("APPTAINER", "SINGULARITY") for name, text in named.items()
    }
    return {**environ, **prefixed}


def _bindable(folder: str) -> str:
    if "," in folder or ":" in folder:
        raise InputError(
            f"folder {folder!r} cannot be bound into an image: commas and colons part such lists; use another name"
        )
    return folder


def inspect(runtime: Runtime, image: str | Path) -> dict[str, Any]:
    """Return the labels of an image."""
    said = _told([runtime.path, "inspect", "--json", "--labels", str(image)], timeout_s=300)
    try:
        return dict(json.loads(said)["data"]["attributes"]["labels"])
    except (ValueError, KeyError, TypeError) as err:
        raise GlacierError(f"what {runtime.name} says of {image} is not understood: {said[:200]!r}") from err


def verify(runtime: Runtime, image: str | Path, *, key: str | Path | None = None) -> str:
    """Check the signatures of an image and return what was said.

    Parameters
    ----------
    key : path, optional
        Public key in PEM; by default those of the user's keyring.

    Raises
    ------
    GlacierError
        If it is not signed, or by another key, or has been changed since.
    """
    with_key = ["--key", str(key)] if key else []
    return _told([runtime.path, "verify", *with_key, str(image)], timeout_s=600)


Rung = Literal["subuid", "user namespace", "setuid", "none"]

FIXES: dict[Rung, str] = {
    "subuid": "",
    "user namespace": "builds work for most packages; for all of them ask to be put into /etc/subuid and /etc/subgid",
    "setuid": "images run but are not built here: build where you are root, and copy the image",
    "none": "ask the site for user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone)",
}
"""What to do about the rung of `fakeroot_rung`."""


def fakeroot_rung(user: str, *, root: Path = Path("/")) -> Rung:
    """Return how an unprivileged user can pose as root for a build, best first.

    Parameters
    ----------
    user : str
        Name of the user.
    root : path
        Where ``etc`` and ``proc`` are.

    References
    ----------
    https://apptainer.org/docs/user/main/fakeroot.html
    """
    if not _namespaces(root):
        starters = (root / f"usr/{place}/apptainer/bin/starter-suid" for place in ("libexec", "lib"))
        return "setuid" if any(_setuid(path) for path in starters) else "none"
    ranges = [root / "etc/subuid", root / "etc/subgid"]
    named = all(
        path.is_file() and re.search(rf"^{re.escape(user)}:\d+:\d+", path.read_text(), re.M)
        for path in ranges
    )
    return "subuid" if named else "user namespace"


def _namespaces(root: Path) -> bool:
    """Return whether users may make namespaces, as far as the kernel's settings tell."""
    switches = {
        "proc/sys/user/max_user_namespaces": lambda text: int(text) > 0,
        "proc/sys/kernel/unprivileged_userns_clone": lambda text: text == "1",
        "proc/sys/kernel/apparmor_restrict_unprivileged_userns": lambda text: text == "0",
    }
    found = {name: root / name for name in switches}
    return all(not path.is_file() or switches[name](path.read_text().strip()) for name, path in found.items())


def _setuid(path: Path) -> bool:
    return path.is_file() and bool(path.stat().st_mode & 0o4000)


def _told(command: Sequence[str], *, timeout_s: float) -> str:
    try:
        done = subprocess.run(
            list(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as err:
        raise GlacierError(f"{shlex.join(command)} did not end within {timeout_s:g} s") from err
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise GlacierError(f"{shlex.join(command)} ended with {done.returncode}\n{said}")
    return done.stdout or done.stderr
