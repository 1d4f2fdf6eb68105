"""Machines made up for the doctor's tests: files below a root, programs in a folder, and nothing else of this one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from glacierhpc.hpc.doctor import Machine
from glacierhpc.hpc.site import Site


def made(
    folder: Path,
    /,
    *,
    commands: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    site: Mapping[str, Any] | None = None,
    **more: Any,
) -> Machine:
    """A machine with these programs (as texts for sh), files and variables."""
    for name, text in (commands or {}).items():
        shim(folder / "bin" / name, text)
    for name, text in (files or {}).items():
        path = folder / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "home").mkdir(exist_ok=True)
    surroundings = {"PATH": str(folder / "bin"), "HOME": str(folder / "home"), **(environ or {})}
    given = {"user": "gh", "host": "here", "folder": folder, "root": folder / "root", "patience": 10, **more}
    return Machine(environ=surroundings, site=Site.model_validate(dict(site or {})), **given)


def shim(path: Path, text: str) -> str:
    """Write a program of sh, which needs no PATH to be found by."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def says(text: str, code: int = 0) -> str:
    """A program that says something and ends."""
    return f"/bin/cat <<'END'\n{text}\nEND\nexit {code}"


def complains(text: str, code: int = 1) -> str:
    """A program that fails with words."""
    return f"/bin/cat >&2 <<'END'\n{text}\nEND\nexit {code}"


def in_namespace(before: str, code: str) -> str:
    """Run a line of shell, then a program text of this Python, as root of a user and mount namespace of its own."""
    words = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("user namespaces cannot be made here")
    done = subprocess.run(
        [*words, "bash", "-c", f'{before} && exec "$0" -c "$1"', sys.executable, code], capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
