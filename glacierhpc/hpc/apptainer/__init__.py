"""Apptainer and SingularityCE by lists of arguments, with no shell in between: what is called, what it says."""

from glacierhpc.hpc.apptainer.commands import (
    HANDED_IN,
    build_command,
    exec_command,
    inside_environment,
    origin_arguments,
    sign_command,
    verify_command,
)
from glacierhpc.hpc.apptainer.image import (
    KEYRING,
    architecture,
    check_architecture,
    check_signed,
    inspect,
    packages,
    sign,
    verify,
)
from glacierhpc.hpc.apptainer.rungs import FIXES, Rung, by_profile, fakeroot_rung
from glacierhpc.hpc.apptainer.runtime import PROGRAMS, Runtime, find_runtime, version_of

__all__ = [
    "FIXES", "HANDED_IN", "KEYRING", "PROGRAMS", "Rung", "Runtime", "architecture", "build_command", "by_profile",
    "check_architecture", "check_signed", "exec_command", "fakeroot_rung", "find_runtime", "inside_environment",
    "inspect", "origin_arguments", "packages", "sign", "sign_command", "verify", "verify_command", "version_of",
]  # fmt: skip
