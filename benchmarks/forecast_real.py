"""Forecasts of real public series, for the forecast benchmark: two glaciers, a meadow, and measured velocity.

Each is brought in by ``examples/cubes.py``, as anybody's own images would be. Nothing is claimed but who wins.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glacierhpc.config import Config
from glacierhpc.rundir import RunDirectory, read_json
from glacierhpc.workflows import run_steps
from glacierhpc.workflows.comparison import compare_runs

CUBES = Path(__file__).resolve().parents[1] / "examples" / "cubes.py"
FRONTS, NDVI, VELOCITY = (
    "greenland-fronts-landsat", "slovenia-sentinel2-timeseries", "kaskawulsh-velocity-series",
)  # fmt: skip
TURNED = "_008011_"
"""In the names of Jakobshavn's pictures of path 008: turned by 5.6 degrees and 11 % larger than the others."""

SMALL = {"parameters": {"hidden": [8], "kernel": 5, "head": 8}}
PICTURES = {"size_px": 32, "stride_px": 32, "steps_in": 3, "steps_out": 1, "min_valid_share": 0.3}
TRAIN = {
    "epochs": 12,
    "batch_size": 16,
    "learning_rate": 2e-3,
    "weight_decay": 0.1,
    "schedule": "cosine",
    "patience": 4,
}
SERIES: dict[str, dict[str, Any]] = {
    "ndvi": {
        "sequences": {"size_px": 32, "stride_px": 16, "steps_in": 4, "steps_out": 2, "min_valid_share": 0.3}
    },
    "velocity": {
        "sequences": {"size_px": 32, "stride_px": 16, "steps_in": 2, "steps_out": 1, "min_valid_share": 0.3},
        "split": {"method": "block"},
    },
}
"""Of four maps of velocity no time can be held out: other ground is."""


def real_series(
    home: Path, folder: Path, *, epochs: int | None = None, samples: int = 1000
) -> dict[str, dict[str, Any]]:
    """Train and judge on every series; the runs, and a page that compares those of the glaciers, lie in `folder`.

    Parameters
    ----------
    home : path
        Holds the data sets, in folders of the names that ``tests/DATA.md`` lists.
    folder : path
    epochs : int, optional
        In place of those of `TRAIN`.
    samples : int
        Draws of the bootstrap.

    Returns
    -------
    dict
        Name of a run -> ``mse`` of every forecaster, ``skill`` with intervals, ``windows``, ``wins`` (the name of
        the forecaster with the smallest error) and ``said``, a sentence.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train = TRAIN | ({} if epochs is None else {"epochs": epochs})
    common = {"train": train, "evaluate": {"bootstrap_samples": samples}}
    found = transfer(home / FRONTS / "images", folder, common)
    for name, source in {
        "ndvi": home / NDVI / "ndvi_cloudmask_68dates.npz",
        "velocity": home / VELOCITY,
    }.items():
        cube = cube_of(name, source, folder / f"{name}.zarr")
        found[name] = run(folder / name, cube, common, **SERIES[name])
    return found


def transfer(images: Path, folder: Path, common: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Learn on Jakobshavn; forecast Sverdrup without its own dates, from them on, with both, and from them alone."""
    upright = folder / "jakobshavn-upright"
    upright.mkdir(exist_ok=True)
    for path in sorted((images / "Jakobshavn").glob("*.png")):
        if TURNED not in path.name:
            shutil.copy(path, upright)
    first = cube_of("pictures", upright, folder / "jakobshavn.zarr")
    second = cube_of("pictures", images / "Sverdrup", folder / "sverdrup.zarr", "--easting", "597000")
    taught = folder / "jakobshavn"
    found = {"jakobshavn": run(taught, first, common, sequences=PICTURES)}
    weights = taught / "model"
    ways: dict[str, dict[str, Any]] = {
        "scratch": {},
        "zero-shot": {"model": {"weights": weights}},
        "fine-tuned": {"train": {"start_from": weights, "learning_rate": TRAIN["learning_rate"] / 4}},
        "mixed": {"train": {"also": [taught]}},
    }
    for way, changes in ways.items():
        found[f"sverdrup, {way}"] = run(
            folder / f"sverdrup-{way}", second, common, sequences=PICTURES, **changes
        )
    compare_runs([f"{way}={folder / f'sverdrup-{way}'}" for way in ways], folder / "comparison")
    return found


def cube_of(kind: str, source: Path, target: Path, *options: str) -> Path:
    """Write a cube by the example, unless it is there."""
    if not target.exists():
        subprocess.run([sys.executable, str(CUBES), kind, str(source), str(target), *options], check=True)
    return target


def run(
    folder: Path, cube: Path, common: Mapping[str, Any], /, **changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Train and judge on a cube; what is done already is not done again."""
    sections: dict[str, Any] = {
        "name": folder.name,
        "run_dir": folder,
        "input": {"cube": cube},
        "model": SMALL,
        "cluster": {"kind": "serial"},
        **common,
    }
    for name, section in changes.items():
        sections[name] = {**sections.get(name, {}), **section}
    run_steps(Config.model_validate(sections), to_step="evaluate")
    return told(read_json(RunDirectory(folder).metrics))


def told(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the errors, and who wins."""
    model = metrics["model"]
    errors = {name: entry["mse"]["all"] for name, entry in metrics["models"].items()}
    wins = min(errors, key=lambda name: errors[name])
    rival = (
        wins
        if wins != model
        else min((name for name in errors if name != model), key=lambda name: errors[name])
    )
    skill = metrics["skill"][rival]
    low, high = skill["interval"]
    sure = "no interval" if low is None else f"{low:+.2f} to {high:+.2f}"
    verdict = "not told apart" if low is None or low <= 0 <= high else f"{wins} wins"
    return {
        "mse": errors,
        "skill": {
            name: {key: entry[key] for key in ("all", "interval")} for name, entry in metrics["skill"].items()
        },
        "windows": metrics["bootstrap"]["windows"],
        "wins": wins,
        "said": f"{verdict}; MSE of {model} {errors[model]:.4g}, of {rival} {errors[rival]:.4g}, skill against it "
        f"{skill['all']:+.2f} ({sure}; {metrics['bootstrap']['windows']} windows of time)",
    }
