"""How good the forecasts are: every family of models against all baselines, on synthetic years that none has seen.

    python benchmarks/forecast.py
    python benchmarks/forecast.py --models convlstm,unet --keep build/forecast
    python benchmarks/forecast.py --real ../shared/data      # on public series of real images, too

Embedded archives of so many years, with weather of their own, are made, read, aligned and composited as any other, and
each model is trained on each with the settings below, chosen by the validation loss. The last fifth of the years tests.
One archive is not enough: in some years the snow line keeps close to what is usual, and nothing beats the climatology.
What can be known beyond the climatology was put into the archive on purpose (`glacierhpc.scenes.archive.weather`): that
a model finds it shows that it learns what there is, not how well real glaciers can be forecast.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import xarray as xr
from forecast_plots import draw_skill
from forecast_real import real_series
from harness import Result, Row, arguments, report
from pyproj import CRS
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from glacierhpc.config import Config, load_config
from glacierhpc.config.presets import preset_path
from glacierhpc.evaluation.bootstrap import Resampling, time_windows
from glacierhpc.evaluation.entries import lead_entry
from glacierhpc.evaluation.metrics import metrics_of, skill_of
from glacierhpc.evaluation.table import Scored, from_table
from glacierhpc.rundir import RunDirectory, read_json, read_table
from glacierhpc.scenes import archive
from glacierhpc.scenes.archive.weather import snow_season
from glacierhpc.workflows.sweep import sweep

SCENE_PX, RESOLUTION_M, EVERY_DAYS = 80, 60, 12
"""The valley of the demo in pixels of twice the size: a quarter of the work, and the snow line is as well seen."""
BANDS = ("green", "red", "nir08", "swir16")
LAST_YEAR = 2020
MIN_VALID = 0.25
"""Of a sequence: at a scene in 12 days clouds leave 57 % of all months."""


@dataclass(frozen=True)
class Family:
    """How one model is built and trained."""

    parameters: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)

    def variation(self, name: str, epochs: int | None) -> dict[str, Any]:
        """Return it as `sweep.variations` takes it; `epochs` in place of its own, if given."""
        train = self.train | ({} if epochs is None else {"epochs": epochs, "warmup_epochs": 0.0})
        keys = {f"train.{key}": value for key, value in train.items()}
        return {"model.name": name, "model.parameters": self.parameters, **keys}


FAMILIES: dict[str, Family] = {
    "convlstm": Family({"hidden": [12], "kernel": 5, "reduction": 4, "head": 8}, {"learning_rate": 3e-3}),
    "unet": Family({"base": 8, "levels": 3, "head": 8}, {"learning_rate": 3e-3, "batch_size": 4}),
    "simvp": Family({"width": 8, "hidden": 32, "blocks": 2, "levels": 2, "head": 8, "dropout": 0.1}),
    "lstm": Family({"patch": 8, "width": 32, "layers": 1, "head": 8, "dropout": 0.1}),
    "attention_lstm": Family({"patch": 8, "width": 32, "head": 8, "dropout": 0.1}),
}
"""Chosen by the validation loss on 25 years among two or three settings each; small, as decades hold few months."""

COMMON = {
    "learning_rate": 2e-3,
    "weight_decay": 0.1,
    "batch_size": 8,
    "epochs": 6,
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    "patience": None,
}


@dataclass(frozen=True)
class Size:
    """How much is made and learnt from."""

    years: int = 40
    seed: int = 0
    """Of the archive: other weather over another valley."""
    patch_px: int = 32
    epochs: int | None = None
    """In place of each family's own."""

    @property
    def first_year(self) -> int:
        """The archive begins on its 10th of January."""
        return LAST_YEAR + 1 - self.years

    @property
    def scenes(self) -> int:
        """So many fill the years."""
        return int((self.years * 365.25 - 10) / EVERY_DAYS)


QUICK = Size(years=8, patch_px=16, epochs=1)


def configuration(size: Size, names: list[str], folder: Path, source: Mapping[str, Any]) -> Config:
    """Return the demo's configuration with images from `source`, and each model as a variation."""
    settings = {
        "run_dir": folder / "run",
        "sequences.size_px": size.patch_px,
        "sequences.stride_px": size.patch_px,
        "sequences.min_valid_share": MIN_VALID,
        "evaluate.bootstrap_samples": 1000,
        **source,
    }
    read = load_config(preset_path("demo"), [f"{key}={value}" for key, value in settings.items()])
    values = read.model_dump()
    values["model"]["parameters"] = {}
    values["train"] |= COMMON
    values["sweep"] = {"variations": [FAMILIES[name].variation(name, size.epochs) for name in names]}
    return Config.model_validate(values)


def scenes(size: Size, folder: Path) -> dict[str, Any]:
    """Make the archive in `folder`, unless it is there; return the keys that make its scenes the images."""
    archive.create(
        folder,
        scenes=size.scenes,
        every_days=EVERY_DAYS,
        size_px=SCENE_PX,
        resolution_m=RESOLUTION_M,
        bands=BANDS,
        start=f"{size.first_year}-01-10",
        seed=size.seed,
    )
    return {
        "area.resolution_m": RESOLUTION_M,
        "area.outlines": folder / "outlines.gpkg",
        "period.start": f"{size.first_year}-01-01",
        "archive.catalogue": folder,
    }


def drawing(size: Size, path: Path) -> dict[str, Any]:
    """Write months of a bare slope under the archive's snow line, in place of scenes that take minutes to read."""
    months = np.arange(f"{size.first_year}", f"{LAST_YEAR + 1}", dtype="datetime64[M]")
    times = months.astype("datetime64[ns]") + np.timedelta64(15, "D")
    line = snow_season(times, latitude=32.1, seed=0).line
    edge = size.patch_px
    height = np.linspace(0, 1, edge)[:, None] + np.zeros(edge)
    noise = 0.05 * np.random.default_rng(0).standard_normal((len(times), edge, edge))
    images = np.tanh(8 * (height - line[:, None, None])) + noise
    cube = xr.Dataset(
        {"data": (("time", "band", "y", "x"), images[:, None].clip(-1, 1).astype(np.float32))},
        coords={
            "time": times,
            "band": np.array(["ndsi"], object),
            "y": 3.55e6 - RESOLUTION_M * np.arange(edge),
            "x": 7.5e5 + RESOLUTION_M * np.arange(edge),
            "spatial_ref": ((), 0, {"crs_wkt": CRS("EPSG:32643").to_wkt()}),
        },
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    cube.to_zarr(path, mode="w", zarr_format=3, consolidated=False)
    return {
        "input.cube": path,
        "input.value_range": [-1, 1],
        "area": "null",
        "period": "null",
        "archive": "null",
    }


def measure(sizes: list[Size], names: list[str], folder: Path, *, drawn: bool = False) -> Result:
    """Train and judge every model on every archive, each in a folder of its own; what is there is not made again."""
    trials: dict[str, dict[int, tuple[Path, Mapping[str, Any]]]] = {name: {} for name in names}
    train = test = 0
    for size in sizes:
        home = folder / f"seed{size.seed}"
        source = drawing(size, home / "drawn.zarr") if drawn else scenes(size, home / "archive")
        config = configuration(size, names, home, source)
        for row in sweep(config)["trials"]:
            trials[row["model"]][size.seed] = (config.run_path / "sweep" / row["trial"], row)
        counts = read_table(RunDirectory(config.run_path).sequences).split.value_counts()
        train, test = train + int(counts["train"]), test + int(counts["test"])
    found = {name: judged(by_seed) for name, by_seed in trials.items()}
    size, sequences = sizes[0], config.sequences
    windows = next(iter(found.values()))["windows"]
    return Result(
        "forecast",
        f"{len(sizes)} synthetic {'slopes' if drawn else 'archives'} of {size.years} years, {sequences.steps_in} "
        f"monthly NDSI composites of {RESOLUTION_M} m in and {sequences.steps_out} out, {train} sequences of "
        f"{size.patch_px} px to train, {test} later ones to test in {windows} windows of time",
        [row_of(name, told) for name, told in found.items()],
        {"models": found},
    )


def judged(trials: Mapping[int, tuple[Path, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return what is told of a model: errors and skill over all archives and in each, and what it took."""
    runs = {seed: RunDirectory(folder) for seed, (folder, _) in trials.items()}
    metrics = {seed: read_json(run.metrics) for seed, run in runs.items()}
    first = next(iter(runs.values()))
    return {
        "parameters": sum(part.numel() for part in load_file(first.model / "model.safetensors").values()),
        "built_with": read_json(first.model / "model.json")["parameters"],
        "seconds": sum(row["seconds"] for _, row in trials.values()),
        "best_epoch": [row["best_epoch"] + 1 for _, row in trials.values()],
        "validation_mse": [row["best_loss"] for _, row in trials.values()],
        "control": [each["control"]["verdict"] for each in metrics.values()],
        "by_seed": {
            seed: {
                name: {key: entry[key] for key in ("all", "interval")}
                for name, entry in each["skill"].items()
            }
            for seed, each in metrics.items()
        },
        **pooled([from_table(read_table(run.scores)) for run in runs.values()]),
    }


def pooled(scored: list[Scored]) -> dict[str, Any]:
    """Return errors and skill over the sequences of several archives, windows of all of them drawn alike."""
    blocks, windows = [], 0
    for each in scored:
        blocks.append(windows + time_windows(each.starts, block_steps=each.steps))
        windows = int(blocks[-1].max()) + 1
    sums = {
        name: np.concatenate([each.scores.sums[name] for each in scored]) for name in scored[0].scores.sums
    }
    draws, model = Resampling(np.concatenate(blocks)), scored[0].model
    return {
        "windows": windows,
        "mse": {
            name: float(metrics_of(part.sum(axis=(0, 1)), data_range=scored[0].scores.data_range)["mse"])
            for name, part in sums.items()
        },
        "skill": {
            name: lead_entry(skill_of, draws, sums[model], part)
            for name, part in sums.items()
            if name != model
        },
    }


def row_of(name: str, told: Mapping[str, Any]) -> Row:
    """Return a model's error beside that of the best of the baselines."""
    others = {other: mse for other, mse in told["mse"].items() if other != name}
    best = min(others, key=lambda other: others[other])
    return Row(f"forecast error, {name}", told["mse"][name], f"{best}, the best baseline", others[best], "MSE",
               in_readme=True)  # fmt: skip


def show(models: Mapping[str, Mapping[str, Any]]) -> None:
    """Print skill with its interval against every baseline, and the control."""
    others = list(dict.fromkeys(other for told in models.values() for other in told["skill"]))
    table = Table(
        "model", "parameters", "seconds", "MSE", *map(spoken, others), "control", title="skill, 95 %"
    )
    for name, told in models.items():
        skills = [words(told["skill"].get(other)) for other in others]
        table.add_row(
            name,
            f"{told['parameters']:,}",
            f"{told['seconds']:.0f}",
            f"{told['mse'][name]:.4f}",
            *skills,
            ", ".join(dict.fromkeys(told["control"])),
        )
    Console(width=160).print(table)


def spoken(name: str) -> str:
    """Return the name of a baseline for people."""
    return name.replace("_", " ")


def words(skill: Mapping[str, Any] | None) -> str:
    """Return a skill with its interval."""
    if skill is None:
        return "-"
    low, high = skill["interval"]
    return f"{skill['all']:+.2f}" if low is None else f"{skill['all']:+.2f} ({low:+.2f} to {high:+.2f})"


def asked_for() -> argparse.Namespace:
    """Return the arguments."""
    parser = arguments(__doc__)
    parser.add_argument("--years", type=int, default=Size.years, help="of the archive; the last fifth tests")
    parser.add_argument(
        "--seeds", default="0,1,2", help="of the archives, with commas: other weather and valleys"
    )
    parser.add_argument("--models", help="names, with commas; all families by default")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="work there, and go on with what lies there"
    )
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the skill as SVG or PNG")
    parser.add_argument(
        "--real", type=Path, metavar="FOLDER", help="of the data sets that tests/DATA.md lists"
    )
    return parser.parse_args()


def main() -> None:
    """Measure and report."""
    asked = asked_for()
    names = asked.models.split(",") if asked.models else list(FAMILIES)
    if unknown := [name for name in names if name not in FAMILIES]:
        raise SystemExit(f"{unknown[0]!r} has no settings here; choose from {', '.join(FAMILIES)}")
    sizes = [QUICK] if asked.quick else [Size(asked.years, int(seed)) for seed in asked.seeds.split(",")]
    torch.set_num_threads(1)
    with TemporaryDirectory() if asked.keep is None else nullcontext(str(asked.keep)) as folder:
        result = measure(
            sizes, names[:1] if asked.quick else names, Path(folder).resolve(), drawn=asked.quick
        )
        if asked.real is not None:
            result.details["real"] = real_series(asked.real, Path(folder).resolve() / "real")
    if asked.figure is not None:
        draw_skill(result.details["models"], asked.figure)
    report(result, asked)
    if not asked.json:
        show(result.details["models"])
        for name, told in result.details.get("real", {}).items():
            print(f"{name}: {told['said']}")


if __name__ == "__main__":
    main()
