"""How an unprivileged user can pose as root to build an image: the rungs of a ladder, best first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

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
