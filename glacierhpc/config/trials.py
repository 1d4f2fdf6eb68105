"""What a sweep lists, one configuration for each trial: every variation with every seed; running them is elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glacierhpc.config.schema import Config
from glacierhpc.errors import InputError

UNCHANGED = "unchanged"
FOLDER = "sweep"
"""Of the trials, in the folder of the base run."""


@dataclass(frozen=True)
class Trial:
    """One variation with one seed."""

    name: str
    """Of its folder; the same for the same variation and seed, whatever else is in the list."""
    variation: str
    """What is changed, in words."""
    changes: Mapping[str, Any]
    config: Config


def has_sweep(config: Config) -> bool:
    """Return whether a configuration lists variations or seeds."""
    return bool(config.sweep.variations or config.sweep.seeds)


def trials_of(config: Config) -> list[Trial]:
    """Return every variation with every seed.

    Raises
    ------
    InputError
        If the configuration lists neither variations nor seeds.
    """
    if not has_sweep(config):
        raise InputError(
            "there is nothing to vary: write sweep.seeds, such as [0, 1, 2], or sweep.variations, such as "
            "[{train.learning_rate: 0.01}]"
        )
    values = config.model_dump() | {"sweep": {}}
    trials = []
    for changes in config.sweep.variations or ({},):
        for seed in config.sweep.seeds or (config.train.seed,):
            varied = {**values, **{name: dict(values[name]) for name in ("model", "train")}}
            for key, value in {**changes, "train.seed": seed}.items():
                section, _, name = key.partition(".")
                varied[section][name] = value
            variation = ", ".join(f"{key}={_short(value)}" for key, value in changes.items()) or UNCHANGED
            folder = f"{_slug(variation, changes)}-seed{seed}"
            varied |= {"name": folder, "run_dir": config.run_path / FOLDER / folder}
            trials.append(Trial(folder, variation, changes, Config.model_validate(varied)))
    return trials


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return Path(text).name if "/" in text else text


def _slug(variation: str, changes: Mapping[str, Any]) -> str:
    """Return a folder's name: readable, and different for different changes."""
    digest = hashlib.sha256(json.dumps(dict(changes), sort_keys=True, default=str).encode()).hexdigest()[:6]
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", variation.replace("train.", "").replace("model.", "")).strip(
        "-._"
    )
    return f"{readable[:40]}-{digest}" if changes else UNCHANGED
