"""Where a value of a configuration comes from: the command line, a line of the file, or the default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from glacierhpc.config.document import Document, read_document
from glacierhpc.config.loader import load_config
from glacierhpc.config.schema import Config
from glacierhpc.errors import unknown_name

DEFAULT = "default"


def knows(key: str) -> bool:
    """Return whether a dotted key begins with a section of a configuration."""
    return key.partition(".")[0] in Config.model_fields


def origin(key: str, path: Path, overrides: Sequence[str] = ()) -> tuple[Any, str]:
    """Return a value of a configuration file by its dotted key, and where it comes from.

    Raises
    ------
    InputError
        If the configuration has faults, or there is no such key.
    """
    found: Any = load_config(path, overrides)
    for part in key.split("."):
        names = list(type(found).model_fields) if isinstance(found, BaseModel) else []
        if part not in names:
            raise unknown_name("key of a configuration", key, names)
        found = getattr(found, part)
    value = found.model_dump(mode="json") if isinstance(found, BaseModel) else found
    return value, _source(read_document(path, tuple(overrides)), tuple(key.split(".")))


def _source(document: Document, key: tuple[str, ...]) -> str:
    length = len(key)
    typed = {given for given in document.overridden if given[:length] == key or key[: len(given)] == given}
    whole = any(len(given) <= length for given in typed)
    written = (
        {} if whole else {given: line for given, line in document.lines.items() if given[:length] == key}
    )
    # a section with nothing below it stands there, but gives no value
    lines = sorted({line for given, line in written.items() if len(given) > length}) or sorted(
        written.values()
    )
    places = ["command line"] if typed else []
    places += [f"{document.path}:{', '.join(map(str, lines))}"] if lines else []
    return ", ".join(places) or DEFAULT
