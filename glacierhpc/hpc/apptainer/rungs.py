"""How an unprivileged user can pose as root to build an image: the rungs of a ladder, best first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from glacierhpc.hpc.apptainer.runtime import PROGRAMS

RESTRICTED = "proc/sys/kernel/apparmor_restrict_unprivileged_userns"
STARTERS = (
    "usr/lib*/apptainer",
    "usr/lib*/singularity",
    "usr/local/lib*/apptainer",
    "usr/local/lib*/singularity",
)
"""Where packages and builds from source put what runs with root's rights, if it does."""

Rung = Literal["subuid", "user namespace", "setuid", "none"]

FIXES: dict[Rung, str] = {
    "subuid": "",
    "user namespace": "builds work for most packages; for all of them ask to be put into /etc/subuid and /etc/subgid",
    "setuid": "images run but are not built here: build where you are root, and copy the image",
    "none": "ask the site for user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone); "
    "where AppArmor restricts them, for the package of Apptainer or SingularityCE, which brings its profile",
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
        starters = (path for place in STARTERS for path in root.glob(f"{place}/bin/starter-suid"))
        return "setuid" if any(_setuid(path) for path in starters) else "none"
    ranges = [root / "etc/subuid", root / "etc/subgid"]
    named = all(
        path.is_file() and re.search(rf"^{re.escape(user)}:\d+:\d+", path.read_text(), re.M)
        for path in ranges
    )
    return "subuid" if named else "user namespace"


def by_profile(root: Path = Path("/")) -> bool:
    """Return whether AppArmor lets only named programs make user namespaces, that which runs images among them.

    References
    ----------
    https://github.com/sylabs/singularity/pull/2853
    """
    switch = root / RESTRICTED
    if not switch.is_file() or switch.read_text().strip() == "0":
        return False
    return any(found for name in PROGRAMS for found in (root / "etc/apparmor.d").glob(f"*{name}*"))


def _namespaces(root: Path) -> bool:
    """Return whether the program that runs images may make user namespaces, as far as the kernel's settings tell."""
    switches = {
        "proc/sys/user/max_user_namespaces": lambda text: int(text) > 0,
        "proc/sys/kernel/unprivileged_userns_clone": lambda text: text == "1",
        RESTRICTED: lambda text: text == "0" or by_profile(root),
    }
    found = {name: root / name for name in switches}
    return all(not path.is_file() or switches[name](path.read_text().strip()) for name, path in found.items())


def _setuid(path: Path) -> bool:
    return path.is_file() and bool(path.stat().st_mode & 0o4000)
