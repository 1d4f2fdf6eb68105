"""What the tests of job scripts share: programs that stand where a cluster's stand, and a script run by a real bash."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from glacierhpc.hpc.slurm import JobSpec

SPEC = JobSpec("test", "A test.", ("run",), pools=True)


def program(folder: Path, name: str, text: str) -> None:
    """Write a bash script as a program."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return an environment in which the folder's programs come first and nothing of a job is set."""
    outside = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "GLACIERHPC"))
    }
    return {
        **outside,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(folder),
        **more,
    }


def run_script(text: str, arguments: list[str], environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a job script to its end."""
    command = ["bash", "-c", text, "job", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
