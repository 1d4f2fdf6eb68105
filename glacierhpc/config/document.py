"""YAML text as plain values plus the line each key stands on; nothing here knows which keys exist."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from glacierhpc.errors import InputError

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A parsed configuration file with the overrides of the command line laid over it."""

    values: dict[str, Any]
    lines: dict[Key, int]
    """Line of every key and list element, counted from 1."""
    overridden: frozenset[Key]
    """Keys that came from the command line."""
    path: Path

    def place(self, key: Key) -> str:
        """Return where a key stands: the file and line, or the command line."""
        if any(key[: len(given)] == given for given in self.overridden):
            return "command line"
        for length in range(len(key), 0, -1):
            if key[:length] in self.lines:
                return f"{self.path}:{self.lines[key[:length]]}"
        return str(self.path)


def read_document(path: Path, overrides: tuple[str, ...] = ()) -> Document:
    """Read a YAML file and lay ``section.key=value`` overrides over it.

    Raises
    ------
    InputError
        If the file cannot be read, is not a YAML mapping, repeats a key, or an override has no ``=``.
    """
    text = _read_text(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise InputError(_yaml_message(path, err)) from err
    except ValueError as err:  # a date that no calendar has
        raise InputError(f"{path}: a value cannot be read: {err}; write dates as year-month-day") from err
    if not isinstance(root, yaml.MappingNode):
        raise InputError(
            f"{path}: a configuration is a mapping of sections; this file holds "
            f"{'nothing' if root is None else type(values).__name__}. Write one with: glacierhpc config template"
        )
    lines: dict[Key, int] = {}
    _walk(root, (), lines, path)
    overridden = frozenset(_override(values, override) for override in overrides)
    return Document(values=values, lines=lines, overridden=overridden, path=path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as err:
        raise InputError(
            f"configuration {str(path)!r} does not exist; start one with: glacierhpc config template > my.yaml"
        ) from err
    except IsADirectoryError as err:
        raise InputError(f"configuration {str(path)!r} is a folder; give the YAML file in it") from err
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"configuration {str(path)!r} cannot be read as UTF-8 text: {err}") from err


def _yaml_message(path: Path, err: yaml.YAMLError) -> str:
    mark = getattr(err, "problem_mark", None)
    line = f":{mark.line + 1}" if mark else ""
    problem = getattr(err, "problem", None) or str(err).splitlines()[0]
    return f"{path}{line}: this is not YAML: {problem}; look for a missing colon, quote, bracket or space"


def _walk(node: yaml.Node, key: Key, lines: dict[Key, int], path: Path) -> None:
    """Record the line of every key and list element, refusing keys that stand twice."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            inner = (*key, name.value)
            if inner in lines:
                where = ".".join(map(str, inner))
                raise InputError(
                    f"{path}:{name.start_mark.line + 1}: {where!r} stands here again (first on line {lines[inner]}); "
                    "keep one of the two"
                )
            lines[inner] = name.start_mark.line + 1
            _walk(value, inner, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            lines[(*key, position)] = value.start_mark.line + 1
            _walk(value, (*key, position), lines, path)


def _override(values: dict[str, Any], override: str) -> Key:
    """Set one ``section.key=value`` in place and return its key."""
    name, equals, text = override.partition("=")
    key = tuple(name.strip().split("."))
    if not equals or not all(key):
        raise InputError(
            f"override {override!r} is not section.key=value; write for example align.motion=affine"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise InputError(f"override {override!r}: {text!r} is not a YAML value; quote it as a whole") from err
    inner = values
    for part in key[:-1]:
        if inner.get(part) is None:
            inner[part] = {}
        inner = inner[part]
        if not isinstance(inner, dict):
            raise InputError(f"override {override!r}: {part!r} holds no keys; write section.key=value")
    inner[key[-1]] = value
    return key
