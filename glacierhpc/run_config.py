"""Which configuration a run directory is of: the text it keeps, and the hash of what decides its results.

Standard library and YAML only: whoever submits a job asks, too. What the keys mean is known to `config`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from glacierhpc.atomic import write_text
from glacierhpc.errors import InputError

logger = logging.getLogger(__name__)

TEXT, RECORD = "config.yaml", "provenance.json"


@dataclass(frozen=True)
class RunConfig:
    """A configuration as a run directory knows it."""

    text: str
    """All of it, as YAML."""
    hash: str
    """Of what decides the results."""
    read: Callable[[str], RunConfig | None] = lambda text: None
    """Gives what this version makes of another text, with its defaults for what is not there; None if nothing."""
    meaning: int = 1
    """Higher than in versions to which the same keys meant other results."""


def refuse_another(folder: Path, config: RunConfig) -> None:
    """Return if a folder is new, or what it holds is what this configuration makes.

    A folder that an older version has begun is gone on with if the keys that were not there then have their defaults.

    Raises
    ------
    InputError
        If it is of another configuration, or of a version to which the keys meant something else.
    """
    record = _record(folder)
    if record.get("config_meaning", config.meaning if not record else 1) != config.meaning:
        raise InputError(
            f"run directory {str(folder)!r} was begun by a version to which keys of the configuration meant something "
            f"else ({RECORD} names it); go on with that version, or give this run its own folder with name=..."
        )
    text = (folder / TEXT).read_text("utf-8") if (folder / TEXT).is_file() else None
    if record.get("config_hash") == config.hash or (text is None and not record):
        return
    if text is None or record.get("config_sha256") not in (None, _sha256(text)):
        raise InputError(
            f"run directory {str(folder)!r} is of another configuration, and its {TEXT} does not say which: it is "
            "gone, or was changed after results had been made; undo that, or give this run its own folder with name=..."
        )
    now = config.read(text)
    if now is None or now.hash != config.hash:
        raise InputError(_other(folder, text if now is None else now.text, config.text))
    if new := sorted(_flat(config.text).keys() - _flat(text).keys()):
        logger.info("%s was begun by an older version: the defaults hold for %s", folder, ", ".join(new))


def keep(folder: Path, config: RunConfig) -> None:
    """Write the configuration into the folder, where `refuse_another` finds it."""
    told = {
        "config_hash": config.hash,
        "config_sha256": _sha256(config.text),
        "config_meaning": config.meaning,
    }
    # in this order: a command killed between the two leaves a folder that the same configuration may have
    write_text(folder / RECORD, json.dumps({**_record(folder), **told}, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / TEXT, config.text)


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text("utf-8"))
    except ValueError as err:
        raise InputError(f"{path} is not JSON ({err}); mend it, or remove it") from err
    return dict(record)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _other(folder: Path, old_text: str, new_text: str) -> str:
    old, new = _flat(old_text), _flat(new_text)
    keys = [
        key for key in sorted(old.keys() | new.keys()) if key != "run_dir" and old.get(key) != new.get(key)
    ]
    shown = "; ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in keys[:5])
    more = f"; and {len(keys) - 5} more" if len(keys) > 5 else ""
    return (
        f"run directory {str(folder)!r} is of another configuration ({shown}{more}); restore these values, "
        "or give this run its own folder with name=... or run_dir=..."
    )


def _flat(text: str) -> dict[str, Any]:
    """Return the values of a YAML text by their dotted keys."""
    found: dict[str, Any] = {}

    def walk(value: Any, prefix: str) -> None:
        if not isinstance(value, dict) or not value:
            found[prefix] = value
            return
        for name, inner in value.items():
            walk(inner, f"{prefix}.{name}" if prefix else str(name))

    walk(yaml.safe_load(text), "")
    return found
