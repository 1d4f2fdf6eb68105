"""Where the ready configurations lie: in a checkout's ``configs/``, or inside the installed package."""

from __future__ import annotations

from pathlib import Path

from glacierhpc.errors import unknown_name

_PACKAGE = Path(__file__).resolve().parents[1]
FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def preset_path(name: str) -> Path:
    """Return the file of a ready configuration, such as ``demo`` or ``forecast``."""
    found = {path.stem: path for folder in FOLDERS for path in folder.glob("*.yaml")}
    if name not in found:
        raise unknown_name("preset", name, found)
    return found[name]
