"""From a YAML file and overrides to a checked configuration, and back to text and a hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from glacierhpc.config.checks import SOURCE, check_sections, check_source
from glacierhpc.config.document import Document, Key, read_document
from glacierhpc.config.messages import section_models, sentence
from glacierhpc.config.schema import Config
from glacierhpc.errors import InputError
from glacierhpc.run_config import RunConfig

MEANING = 1
"""One more whenever a key comes to mean other results, or a new key's default is not what was done before it."""
PATHS = (
    ("run_dir",),
    ("area", "outlines"),
    ("archive", "catalogue"),
    ("input", "cube"),
    ("model", "weights"),
    ("train", "start_from"),
    ("train", "also"),
    ("evaluate", "outlines"),
)
"""Keys that hold paths, or lists of them: relative ones are relative to the file they stand in."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration in a YAML file, with overrides laid over it.

    Relative paths are relative to the file they stand in, those of overrides to the working directory; the result
    holds absolute paths and a `run_dir` in any case.

    Parameters
    ----------
    path : path
        The YAML file.
    overrides : sequence of str
        ``section.key=value`` each; the value is YAML.

    Raises
    ------
    InputError
        With every fault on a line of its own, each with its place.
    """
    document = _with_absolute_paths(read_document(Path(path), tuple(overrides)))
    faults = _document_faults(document)
    if faults:
        raise InputError("\n".join(faults))
    return Config.model_validate(document.values)


def config_hash(config: Config) -> str:
    """Return the SHA-256 of all that decides the results.

    Fields marked operational (names, threads, time-outs, the cluster) are left out, so that a run may be resumed
    with more workers.
    """
    text = json.dumps(result_fields(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def result_fields(config: Config) -> dict[str, Any]:
    """Return the fields that decide the results, as JSON values."""
    return _without_operational(config, config.model_dump(mode="json"))


def config_to_yaml(config: Config) -> str:
    """Return the complete configuration as YAML that loads to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=110)


def run_config(config: Config) -> RunConfig:
    """Return the configuration as the run directory knows it."""
    return RunConfig(config_to_yaml(config), config_hash(config), _kept, MEANING)


def _kept(text: str) -> RunConfig | None:
    """Return what a run directory kept, perhaps by an older version; None if it is no configuration of this one."""
    try:
        return run_config(Config.model_validate(yaml.safe_load(text)))
    except (yaml.YAMLError, ValueError):
        return None


def _without_operational(model: BaseModel, values: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, field in type(model).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("operational"):
            continue
        inner = getattr(model, name)
        value = _without_operational(inner, values[name]) if isinstance(inner, BaseModel) else values[name]
        if value != {} or not isinstance(inner, BaseModel):
            kept[name] = value
    return kept


def _document_faults(document: Document) -> list[str]:
    """Return field faults and faults between fields, in the order of the file."""
    found: list[tuple[Key, str]] = []
    broken: set[Key] = set()
    try:
        Config.model_validate(document.values)
    except ValidationError as err:
        for error in err.errors(include_url=False):
            found.append((tuple(error["loc"]), sentence(error)))
            broken.add(tuple(error["loc"])[:2])
    readable = _readable_sections(document.values, broken)
    for fault in (*check_source(document.values), *check_sections(readable)):
        if fault.path not in broken:
            found.append((fault.path, f"{'.'.join(map(str, fault.path))}: {fault.message}"))
    found.sort(key=lambda item: _order(document, item[0]))
    return [f"{document.place(key)}: {message}" for key, message in found]


def _order(document: Document, key: Key) -> int:
    lines = [
        document.lines[key[:length]] for length in range(len(key), 0, -1) if key[:length] in document.lines
    ]
    return lines[0] if lines else 0


def _readable_sections(values: dict[str, Any], broken: set[Key]) -> dict[str, BaseModel]:
    """Return the sections that hold without their broken keys, so that rules between fields can still speak."""
    sections = {}
    for name, model in section_models().items():
        given = values.get(name) or {}
        if not isinstance(given, dict) or (name in SOURCE and values.get(name) is None):
            continue
        kept = {key: value for key, value in given.items() if (name, key) not in broken}
        try:
            sections[name] = model.model_validate(kept)
        except ValidationError:
            continue  # a required field is missing or broken: already reported
    return sections


def _with_absolute_paths(document: Document) -> Document:
    """Resolve paths in place; an empty section is the section of defaults."""
    values = document.values
    for name in section_models():
        if name in values and values[name] is None and name not in SOURCE:
            values[name] = {}
    if values.get("run_dir") is None and isinstance(values.get("name"), str):
        values["run_dir"] = str(Path.cwd() / "runs" / values["name"])
    for key in PATHS:
        holder = values if len(key) == 1 else values.get(key[0])
        if not isinstance(holder, dict):
            continue
        base = Path.cwd() if key in document.overridden else document.path.resolve().parent
        given = holder.get(key[-1])
        if isinstance(given, list):
            holder[key[-1]] = [_absolute(text, base) for text in given]
        elif given is not None:
            holder[key[-1]] = _absolute(given, base)
    return document


def _absolute(text: Any, base: Path) -> Any:
    """Return a path as an absolute one; addresses and what is no text stay as they are."""
    if not isinstance(text, str) or "://" in text:
        return text
    return str((base / Path(text).expanduser()).resolve())
