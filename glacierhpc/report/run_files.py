"""The files of a run as the report reads them: present, not made yet, or damaged.

Nothing here draws or words results; nothing is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyproj
import xarray as xr
import yaml

from glacierhpc.cube import open_cube
from glacierhpc.errors import GlacierError, InputError

STEP_OF = {
    "config.yaml": "search",
    "provenance.json": "search",
    "steps": "search",
    "items.json": "search",
    "scenes.parquet": "acquire",
    "manifest.parquet": "acquire",
    "cube.zarr": "acquire",
    "clean.zarr": "clean",
    "clean.parquet": "clean",
    "aligned.zarr": "align",
    "alignment.parquet": "align",
    "alignment_links.parquet": "align",
    "alignment_vectors.parquet": "align",
    "composite.zarr": "composite",
    "sequences.parquet": "sequences",
    "split.json": "sequences",
    "history.csv": "train",
    "metrics.json": "evaluate",
    "prediction.zarr": "predict",
    "flow.json": "flow",
    "flow.zarr": "flow",
}

# What readers of JSON, Parquet, CSV, YAML and Zarr raise on a file that is cut off, empty or overwritten.
UNREADABLE = (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, EOFError, yaml.YAMLError)


class NotMade(GlacierError):
    """A file of the run does not exist yet."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not there yet: the step “{STEP_OF[name]}” makes it.")


class Damaged(GlacierError):
    """A file of the run exists and cannot be used."""

    def __init__(self, path: Path, why: str) -> None:
        step = STEP_OF.get(path.name, path.stem)
        super().__init__(f"{str(path)!r} is damaged ({why}); remove it and run the step “{step}” again.")


@dataclass(frozen=True)
class RunFiles:
    """Reader of one run directory; each method raises `NotMade` or `Damaged`, which name the file."""

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise InputError(f"there is no run directory at {str(self.path)!r}; give the folder of a run")
        if not any(self.has(name) for name in STEP_OF):
            raise InputError(
                f"{str(self.path)!r} holds none of a run's files (config.yaml, items.json, scenes.parquet, ...); "
                "give the folder that a run wrote, such as runs/demo"
            )

    def has(self, name: str) -> bool:
        """Say whether the file exists, in whatever condition."""
        return (self.path / name).exists()

    @contextmanager
    def understanding(self, name: str) -> Iterator[None]:
        """Turn what goes wrong inside into `NotMade` or `Damaged` with the name of the file."""
        if not self.has(name):
            raise NotMade(name)
        try:
            yield
        except GlacierError:
            raise
        except UNREADABLE as err:
            raise Damaged(self.path / name, _first_line(err)) from err

    def text(self, name: str) -> str:
        """Return a text file."""
        with self.understanding(name):
            return (self.path / name).read_text(encoding="utf-8")

    def json(self, name: str, *, keys: Sequence[str] = ()) -> dict[str, Any]:
        """Return a JSON object that has at least `keys`."""
        with self.understanding(name):
            value = _json_object(self.path / name)
            _require("keys", keys, value)
            return value

    def step(self, name: str) -> dict[str, Any]:
        """Return what a step recorded about itself in ``steps/``."""
        try:
            return _json_object(self.path / "steps" / name)
        except UNREADABLE as err:
            raise Damaged(self.path / "steps" / name, _first_line(err)) from err

    def table(self, name: str, *, columns: Sequence[str] = ()) -> pd.DataFrame:
        """Return a Parquet or CSV table that has at least `columns`."""
        with self.understanding(name):
            path = self.path / name
            frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
            _require("columns", columns, frame.columns)
            if "time" in frame:
                frame["time"] = utc(frame["time"])
            return frame

    def cube(self, name: str, *, variables: Sequence[str] = ()) -> xr.Dataset:
        """Return a cube, opened lazily, that has at least `variables`."""
        with self.understanding(name):
            try:
                dataset = open_cube(self.path / name)
            except InputError as err:
                raise ValueError("it is not a complete cube") from err
            _require("variables", variables, dataset.data_vars)
            return dataset

    def pixels(self, name: str, array: xr.DataArray, *, max_side_px: int | None = None) -> np.ndarray:
        """Read an image or a stack of images of a cube: ``(..., y, x)``, floats as float32.

        Parameters
        ----------
        name : str
            The cube that `array` comes from, for the error.
        max_side_px : int, optional
            Every n-th pixel is taken so that no side is longer; reading stays small on any cube.
        """
        if max_side_px:
            step = max(1, -(-max(array.sizes["y"], array.sizes["x"]) // max_side_px))
            array = array.isel(y=slice(None, None, step), x=slice(None, None, step))
        with self.understanding(name):
            values = array.values
        return values.astype(np.float32) if values.dtype.kind == "f" else values

    def settings(self) -> dict[str, Any]:
        """Return the configuration as plain nested mappings; empty before there is one."""
        if not self.has("config.yaml"):
            return {}
        with self.understanding("config.yaml"):
            value = yaml.safe_load(self.text("config.yaml")) or {}
            if not isinstance(value, dict):
                raise ValueError("it holds no sections")
            return value


def shows(run: RunFiles) -> str:
    """Return what the values of the run's images mean, as its metrics or composites state it."""
    try:
        if run.has("metrics.json") and (stated := run.json("metrics.json").get("shows")):
            return str(stated)
        if run.has("composite.zarr") and (stated := run.cube("composite.zarr").attrs.get("shows")):
            return str(stated)
    except Damaged:
        pass  # the part that reads the file tells so
    return "index values, not ice motion"


def on_stable_ground(run: RunFiles) -> bool:
    """Return whether the scenes were aligned and judged on ground outside the glaciers alone."""
    try:
        return run.has("aligned.zarr") and bool(run.cube("aligned.zarr").attrs.get("stable_ground", False))
    except Damaged:
        return False


def utc(times: Any) -> pd.Series:
    """Return times as UTC without a zone, whatever a table stored."""
    return pd.to_datetime(pd.Series(times), utc=True, format="mixed").dt.tz_localize(None)


def median(values: pd.Series) -> float:
    """Return the median of the values that are known; NaN, without a warning, where none is."""
    known = values.astype(float).dropna()
    return float(known.median()) if len(known) else float("nan")


def cube_crs(cube: xr.Dataset) -> pyproj.CRS | None:
    """Return the CRS that a cube's ``spatial_ref`` states, if it does."""
    text = cube["spatial_ref"].attrs.get("crs_wkt") if "spatial_ref" in cube.coords else None
    return pyproj.CRS.from_wkt(text) if text else None


def setting(settings: dict[str, Any], dotted: str, default: Any = None) -> Any:
    """Return ``section.key`` of the configuration, or the default."""
    value: Any = settings
    for key in dotted.split("."):
        if not isinstance(value, dict) or value.get(key) is None:
            return default
        value = value[key]
    return value


def _json_object(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not an object")
    return value


def _require(what: str, names: Sequence[str], present: Any) -> None:
    missing = [name for name in names if name not in present]
    if missing:
        raise ValueError(f"{what} missing: {', '.join(missing)}")


def _first_line(err: BaseException) -> str:
    lines = str(err).strip().splitlines()
    return f"{type(err).__name__}: {lines[0]}" if lines else type(err).__name__
