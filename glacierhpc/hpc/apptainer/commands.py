"""Command lines for images, each a list of arguments that apptainer and singularity take alike; nothing is run here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from glacierhpc.errors import InputError
from glacierhpc.hpc.apptainer.runtime import Runtime

HANDED_IN = (
    "SLURM_*", "PMI*", "OMPI_*", "HOROVOD_*", "MASTER_*", "NCCL_*", "GLOO_*", "UCX_*", "FI_*", "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES", "OMP_*", "GDAL_*", "WANDB_*", "PC_SDK_*", "EARTHDATA_TOKEN", "GLACIERHPC_*", "*_proxy",
    "*_PROXY", "LANG", "TZ",
)  # fmt: skip
"""Variables of the job that a program in the image may know; the same list as in the job scripts."""

KEPT_OUT = ("GDAL_DATA", "GDAL_DRIVER_PATH")
"""Variables that name files of the host's GDAL, which that of the image must not read."""


def build_command(
    runtime: Runtime, image: str | Path, definition: str | Path, *, arguments: Mapping[str, str] | None = None,
    fakeroot: bool = True,
) -> list[str]:  # fmt: skip
    """Return the command that builds an image from a definition file.

    Raises
    ------
    InputError
        If there are arguments, and the program is too old to know them.
    """
    if arguments and not runtime.builds:
        raise InputError(
            f"{runtime.name} {'.'.join(map(str, runtime.version))} knows no build arguments, which {definition} has; "
            "use Apptainer 1.2 or SingularityCE 4.0, or newer"
        )
    given = [word for key, value in (arguments or {}).items() for word in ("--build-arg", f"{key}={value}")]
    return [runtime.path, "build", *(["--fakeroot"] if fakeroot else []), *given, str(image), str(definition)]


def origin_arguments(arguments: Mapping[str, str], *, commit: str | None) -> dict[str, str]:
    """Return build arguments with what deeplearning.def cannot know of itself, as containers/build.sh gives it.

    Parameters
    ----------
    arguments : mapping
        Those that are typed; they win.
    commit : str, optional
        The source's commit.

    Returns
    -------
    dict
        With ``COMMIT`` and ``BASE_DIGEST``, the hash of a base that is a file or named by its digest.
    """
    base = arguments.get("FROM", "")
    _, named, digest = base.rpartition("@sha256:")
    if named:
        known = f"sha256:{digest}"
    elif base and Path(base).is_file():
        with Path(base).open("rb") as file:
            known = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    else:
        known = "unknown"
    return {"COMMIT": commit or "unknown", "BASE_DIGEST": known, **arguments}


def exec_command(
    runtime: Runtime, image: str | Path, command: Sequence[str], *, binds: Sequence[str | Path] = (), gpu: bool = False,
    devices: Path = Path("/dev"),
) -> list[str]:  # fmt: skip
    """Return the command that runs another one in an image, apart from the user's home and environment.

    What it may know of the environment is handed in by `inside_environment`.

    Parameters
    ----------
    gpu : bool
        Whether it gets the machine's GPUs, with their driver: NVIDIA's, or AMD's where only those are.
    devices : path
        Where the machine's devices are, which tell whose they are.

    Raises
    ------
    InputError
        If a folder cannot be named to the program.
    """
    bound = [word for folder in binds for word in ("--bind", _bindable(str(folder)))]
    drivers = [_drivers(devices)] if gpu else []
    return [runtime.path, "exec", "--cleanenv", "--no-home", *bound, *drivers, str(image), *command]


def _drivers(devices: Path) -> str:
    """Return the option that shows an image the drivers of the GPUs; job scripts ask the same of their node."""
    # a processor of AMD with graphics has a kfd, too, beside a card of NVIDIA
    amd = (devices / "kfd").exists() and not (devices / "nvidiactl").exists()
    return "--rocm" if amd else "--nv"


def inside_environment(
    environ: Mapping[str, str] = os.environ, *, handed_in: Sequence[str] = HANDED_IN
) -> dict[str, str]:
    """Return the environment to call `exec_command` with: all of this one, and what the image gets, by its prefix.

    The prefix rather than ``--env``, which would part values at commas.
    """
    named = {
        name: text for name, text in environ.items()
        if name not in KEPT_OUT and any(fnmatchcase(name, each) for each in handed_in)
    }  # fmt: skip
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


def sign_command(runtime: Runtime, image: str | Path, *, key: str | Path | None = None) -> list[str]:
    """Return the command that signs an image, with a private key in PEM or that of the user's keyring."""
    return [runtime.path, "sign", *_with(runtime, key), str(image)]


def verify_command(runtime: Runtime, image: str | Path, *, key: str | Path | None = None) -> list[str]:
    """Return the command that checks the signatures of an image, by a public key in PEM or the user's keyring.

    Only that: unless told, the programs also take keys from a server to which everybody may upload one.
    """
    return [runtime.path, "verify", *(_with(runtime, key) or ["--local"]), str(image)]


def _with(runtime: Runtime, key: str | Path | None) -> list[str]:
    if key is None:
        return []
    if not runtime.takes_pem:
        raise InputError(
            f"{runtime.name} {'.'.join(map(str, runtime.version))} takes no keys in PEM files; use Apptainer 1.2 or "
            "SingularityCE 3.11, or newer, or the keyring: leave --key out"
        )
    return ["--key", str(key)]
