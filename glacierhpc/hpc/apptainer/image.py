"""What an image says of itself, what is in it, and who signed it."""

from __future__ import annotations

import json
import os
import platform
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.hpc.apptainer.commands import exec_command, sign_command, verify_command
from glacierhpc.hpc.apptainer.runtime import Runtime, find_runtime, told

SBOM = "/opt/glacierhpc/sbom.json"
"""Written by deeplearning.def: what ``pip inspect`` says."""

ARCHITECTURES = {
    b"01": "386", b"02": "amd64", b"03": "arm", b"04": "arm64", b"05": "ppc64", b"06": "ppc64le", b"12": "s390x",
    b"13": "riscv64",
}  # fmt: skip
"""Machines as the header of an image names them.

References
----------
https://github.com/apptainer/sif, pkg/sif/arch.go
"""

KEYRING = "keyring"
"""Stands for the user's keyring among keys that are files."""

_MAGIC = slice(32, 41)  # after the line that starts it
_ARCHITECTURE = slice(45, 47)


def architecture(image: str | Path) -> str:
    """Return the machine that an image file is made for, such as amd64, without running anything.

    Raises
    ------
    InputError
        If it cannot be read, or is no image in a file (SIF).
    """
    try:
        with Path(image).open("rb") as file:
            header = file.read(64)
    except OSError as err:
        raise InputError(f"image {str(image)!r} cannot be read: {err.strerror}") from err
    if header[_MAGIC] != b"SIF_MAGIC":
        raise InputError(f"{str(image)!r} is no image file (SIF); build one with: glacierhpc container build")
    return ARCHITECTURES.get(header[_ARCHITECTURE], "unknown")


def check_architecture(image: str | Path) -> None:
    """Refuse an image file that is made for another machine, before it fails with less to read.

    Raises
    ------
    InputError
        If it is made for another, or is no image file.
    """
    here = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    if not Path(image).is_dir() and (made_for := architecture(image)) != here:
        raise InputError(
            f"image {str(image)!r} is made for {made_for} machines, and this is one of {here}; build it on one"
        )


def inspect(runtime: Runtime, image: str | Path) -> dict[str, Any]:
    """Return the labels of an image."""
    said = told([runtime.path, "inspect", "--json", "--labels", str(image)], timeout_s=300)
    try:
        return dict(json.loads(said)["data"]["attributes"]["labels"])
    except (ValueError, KeyError, TypeError) as err:
        raise GlacierError(f"what {runtime.name} says of {image} is not understood: {said[:200]!r}") from err


def packages(runtime: Runtime, image: str | Path) -> dict[str, str]:
    """Return the Python packages in an image with their versions; a program of the image is run for it.

    Raises
    ------
    GlacierError
        If the image does not start, or was not built from deeplearning.def.
    """
    said = told(exec_command(runtime, image, ["cat", SBOM]), timeout_s=300)
    try:
        found = [each["metadata"] for each in json.loads(said)["installed"]]
        return {each["name"]: each["version"] for each in sorted(found, key=lambda one: one["name"].lower())}
    except (ValueError, KeyError, TypeError) as err:
        raise GlacierError(f"{SBOM} in {image} is not understood: {said[:200]!r}") from err


def sign(runtime: Runtime, image: str | Path, *, key: str | Path | None = None) -> str:
    """Sign an image, in its file, and return what was said.

    Parameters
    ----------
    key : path, optional
        Private key in PEM; by default that of the user's keyring.

    Raises
    ------
    InputError
        If others could read the key.
    GlacierError
        If it cannot be signed.
    """
    if key is not None:
        check_private(Path(key))
    return told(sign_command(runtime, image, key=key), timeout_s=600)


def check_private(key: Path) -> None:
    """Refuse a private key that others may read: what they sign with it passes for one's own.

    Raises
    ------
    InputError
        With the command that closes it.
    """
    try:
        mode = key.stat().st_mode
    except OSError as err:
        raise InputError(f"key {str(key)!r} cannot be read: {err.strerror}") from err
    if stat.S_IMODE(mode) & 0o077:
        raise InputError(f"key {str(key)!r} can be read by others; close it with: chmod 600 {str(key)!r}")


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
    return told(verify_command(runtime, image, key=key), timeout_s=600)


def check_signed(image: str, keys: Sequence[str], environ: Mapping[str, str] = os.environ) -> None:
    """Refuse an image that none of a site's keys has signed, or that was changed since; nothing where there are none.

    Parameters
    ----------
    image : str
        With the variables of the site, as are the keys.
    keys : sequence of str
        Public keys, files in PEM, or `KEYRING`.

    Raises
    ------
    InputError
        If it is refused, or nothing here can tell.
    """
    if not keys:
        return
    runtime, path = find_runtime(), Template(image).safe_substitute(environ)
    for key in keys:
        by = None if key == KEYRING else Template(key).safe_substitute(environ)
        try:
            verify(runtime, path, key=by)
        except GlacierError as err:
            said = str(err)
        else:
            return
    raise InputError(
        f"image {path!r} is not signed by any of signed_by: {', '.join(keys)}; name another one, or have it signed by "
        f"who has such a key: glacierhpc container sign {path} --key PRIVATE.pem\n{said}"
    )
