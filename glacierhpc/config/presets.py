"""Where the ready configurations lie: in configs/ of a clone, beside this module once installed."""

from __future__ import annotations

from pathlib import Path

from glacierhpc.errors import unknown_name

FOLDERS = (Path(__file__).resolve().parents[2] / "configs", Path(__file__).resolve().parent / "presets")


def preset_path(name: str) -> Path:
    """Return the path of a configuration by name: demo, forecast, paper.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    found = {path.stem: path for folder in FOLDERS for path in sorted(folder.glob("*.yaml"))}
    if name not in found:
        raise unknown_name("preset", name, found)
    return found[name]
