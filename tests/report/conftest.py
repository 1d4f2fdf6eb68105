"""A small run directory, every file of it, with numbers that are known: what the report is tried on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import ndimage

from glacierhpc.cube import Variable, create_cube, finish_cube, write_time
from glacierhpc.grid import Grid
from glacierhpc.report import drawing

BOX = [77.52, 32.03, 77.58, 32.075]
BANDS = ("green", "red", "nir08", "swir16")
SCENES = 16
LEADS = 4
CONFIG = f"""\
task: forecast
name: parvati-small
area:
  bbox_lonlat: {BOX}
  resolution_m: 30
  outlines: outlines.geojson
period:
  start: 2015-01-01
  end: 2017-12-31
archive:
  catalogue: http://127.0.0.1:8080
  collections: [landsat-c2-l2]
align:
  band: nir08
composite:
  index: ndsi
  window_months: 3
"""


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which every step is done. Read only: copy it to change it."""
    return write_run(tmp_path_factory.mktemp("runs") / "parvati-small")


@pytest.fixture
def copied_run(finished_run: Path, tmp_path: Path) -> Path:
    """A run that a test may damage."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the canvases empty: for tests of what is read and said, in a tenth of the time."""
    monkeypatch.setattr(drawing, "draw", lambda paint, **size: "data:image/svg+xml;base64,PHN2Zy8+")
    monkeypatch.setattr(drawing, "frame", lambda paint, **size: np.zeros((4, 4, 3), np.uint8))


@pytest.fixture
def partial_run(finished_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a run with only some files."""

    def make(*names: str) -> Path:
        folder = tmp_path / "partial"
        folder.mkdir()
        for name in names:
            source = finished_run / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
        return folder

    return make


def write_run(path: Path) -> Path:
    """Write the files of a finished run."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    grid = Grid.from_bbox(BOX, 30.0)
    (path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    table = _scene_table(rng)
    table.drop(columns="index").to_parquet(path / "scenes.parquet")
    _write_items(path, table)
    _write_manifest(path, table)
    _write_outlines(path)
    terrain = ndimage.gaussian_filter(rng.standard_normal(grid.shape), 2) * 2
    terrain += ndimage.gaussian_filter(rng.standard_normal(grid.shape), 12) * 18
    kept = table[table["state"] == "kept"].reset_index(drop=True)
    _write_clean_and_aligned(path, grid, kept, terrain, rng)
    _write_composites(path, grid, terrain, rng)
    _write_sequences(path)
    _write_metrics(path)
    _write_forecast(path, grid, terrain, rng)
    _write_record(path)
    return path


def _scene_table(rng: np.random.Generator) -> pd.DataFrame:
    times = pd.date_range("2015-01-10", periods=SCENES, freq="61D", tz="UTC")
    states = ["kept"] * SCENES
    states[3], states[8], states[11] = "dropped", "failed", "dropped"
    reasons = [""] * SCENES
    reasons[3] = "valid share 0.12 is under acquire.min_valid_share 0.30"
    reasons[8] = "nir08: HTTP 503 after 5 attempts"
    reasons[11] = "valid share 0.21 is under acquire.min_valid_share 0.30"
    valid = rng.uniform(0.85, 1.0, SCENES)
    valid[[3, 11]] = 0.12, 0.21
    cover = rng.uniform(0, 58, SCENES)
    cover[6] = np.nan
    return pd.DataFrame(
        {
            "index": range(SCENES),
            "scene": [f"LC08_147038_{time:%Y%m%d}" for time in times],
            "time": times,
            "platform": "landsat-8",
            "collection": "landsat-c2-l2",
            "cloud_cover": cover,
            "crs": "EPSG:32643",
            "valid_share": valid,
            "clear_share": valid * rng.uniform(0.5, 1, SCENES),
            "state": states,
            "reason": reasons,
        }
    )


def _write_items(path: Path, table: pd.DataFrame) -> None:
    rng = np.random.default_rng(1)
    features = []
    for row in table.itertuples():
        dx, dy = rng.uniform(-0.05, 0.05, 2)
        corners = [(76.4, 32.9), (78.3, 32.55), (77.9, 30.9), (76.0, 31.2), (76.4, 32.9)]
        ring = [[x + dx, y + dy] for x, y in corners]
        features.append(
            {"type": "Feature", "id": row.scene, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        )
    search = {
        "matched": 18,
        "dropped": [{"scene": "LE07_147038_20150203", "reason": "platform landsat-7 was not asked for"}],
    }
    (path / "items.json").write_text(
        json.dumps({"type": "FeatureCollection", "features": features, "search": search})
    )


def _write_manifest(path: Path, table: pd.DataFrame) -> None:
    rows = []
    for row in table.itertuples():
        for asset in BANDS:
            failed = row.state == "failed" and asset == "nir08"
            rows.append(
                (
                    row.scene,
                    asset,
                    "failed" if failed else "done",
                    "HTTP 503 after 5 attempts" if failed else "",
                )
            )
    pd.DataFrame(rows, columns=["scene", "asset", "state", "reason"]).to_parquet(path / "manifest.parquet")


def _write_outlines(path: Path) -> None:
    angle = np.linspace(0, 2 * np.pi, 60)
    radius = 0.011 * (1 + 0.25 * np.sin(3 * angle))
    outer = np.column_stack([77.55 + radius * np.cos(angle), 32.052 + 0.9 * radius * np.sin(angle)])
    hole = np.column_stack([77.55 + 0.002 * np.cos(angle), 32.052 + 0.002 * np.sin(angle)])
    geometry = {"type": "Polygon", "coordinates": [outer.tolist(), hole.tolist()]}
    feature = {"type": "Feature", "properties": {"rgi_id": "x"}, "geometry": geometry}
    (path / "outlines.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))


def _reflectance(terrain: np.ndarray, season: float, rng: np.random.Generator) -> np.ndarray:
    """Rock with snow above a line that moves with the season, (band, y, x)."""
    snow = 1 / (1 + np.exp(-(terrain - 1.2 * season) * 6))
    rock = 0.18 + 0.03 * ndimage.gaussian_filter(rng.standard_normal(terrain.shape), 1)
    relief = np.gradient(terrain)[1] * 0.25
    bands = [
        (1 - snow) * rock * gain + snow * bright + relief
        for gain, bright in ((0.8, 0.85), (0.9, 0.8), (1.3, 0.7), (1.6, 0.1))
    ]
    return np.clip(np.stack(bands), 0.01, 1.0).astype(np.float32)


def _cube(path: Path, grid: Grid, kept: pd.DataFrame, names: dict[str, Variable]) -> None:
    coords = {
        name: kept[name].to_numpy()
        for name in ("scene", "platform", "collection", "cloud_cover", "valid_share")
    }
    create_cube(
        path,
        grid,
        times=kept["time"].dt.tz_localize(None).to_numpy(),
        bands=BANDS,
        variables=names,
        coords=coords,
    )


def _write_clean_and_aligned(
    path: Path, grid: Grid, kept: pd.DataFrame, terrain: np.ndarray, rng: np.random.Generator
) -> None:
    image = Variable(("time", "band", "y", "x"), "float32")
    mask = Variable(("time", "y", "x"), "bool")
    ok = np.ones(len(kept), bool)
    ok[5] = False
    shifts = rng.normal(0, 1.5, (len(kept), 2))
    _cube(path / "clean.zarr", grid, kept, {"data": image, "valid": mask, "filled": mask})
    _cube(path / "aligned.zarr", grid, kept[ok], {"data": image, "valid": mask, "filled": mask})
    position = 0
    for index, row in enumerate(kept.itertuples()):
        still = _reflectance(terrain, np.cos(row.time.dayofyear / 58), rng)
        moved = ndimage.shift(still, (0, *shifts[index]), order=1, mode="nearest")
        valid = ndimage.gaussian_filter(rng.standard_normal(grid.shape), 8) > -0.05
        for name, data, place in (("clean.zarr", moved, index), ("aligned.zarr", still, position)):
            if name == "aligned.zarr" and not ok[index]:
                continue
            arrays = {"data": np.where(valid, data, np.nan), "valid": valid, "filled": np.zeros_like(valid)}
            write_time(path / name, place, arrays)
        position += int(ok[index])
    finish_cube(path / "clean.zarr")
    finish_cube(path / "aligned.zarr")
    table = _alignment_table(kept, ok, shifts, rng)
    table.to_parquet(path / "alignment.parquet")
    _write_vectors(path, grid, table, rng)
    _write_links(path, table)


def _alignment_table(
    kept: pd.DataFrame, ok: np.ndarray, shifts: np.ndarray, rng: np.random.Generator
) -> pd.DataFrame:
    length = np.where(ok, np.hypot(*shifts.T), np.nan)
    reasons = np.where(ok, "", "correlation 0.11 is under align.min_correlation 0.20")
    frame = pd.DataFrame(
        {"scene": kept["scene"], "time": kept["time"], "ok": ok, "reason": reasons, "motion": "translation"}
    )
    frame["shift_px"], frame["shift_m"] = length, 30 * length
    frame["shift_row_px"], frame["shift_col_px"] = np.where(ok, shifts.T, np.nan)
    frame["residual_before_px"] = np.where(ok, length * rng.uniform(0.9, 1.1, len(ok)), np.nan)
    frame["residual_px"] = np.where(ok, rng.uniform(0.03, 0.12, len(ok)), np.nan)
    frame["rho_before"], frame["rho"] = 0.6, np.where(ok, 0.9, 0.11)
    frame["iterations"], frame["seconds"] = 12, 0.25
    frame["error_px"] = np.where(ok, rng.uniform(0.02, 0.04, len(ok)), np.nan)
    frame["season"] = np.where(kept["time"].dt.month.isin([11, 12, 1, 2, 3, 4]), "winter", "summer")
    frame["links"] = np.where(ok, 3, 0)
    frame["closure_px"] = np.where(ok, rng.uniform(0.02, 0.05, len(ok)), np.nan)
    return frame


def _write_vectors(path: Path, grid: Grid, table: pd.DataFrame, rng: np.random.Generator) -> None:
    """A vector every 16 px for each aligned scene: noise as long as its misfit."""
    rows, columns = (places.ravel() for places in np.mgrid[8 : grid.shape[0] : 16, 8 : grid.shape[1] : 16])
    scenes = []
    for scene in table[table["ok"]].itertuples():
        noise = rng.normal(0, scene.residual_px / 1.18, (2, len(rows)))  # Rayleigh: the median is 1.18 sigma
        offsets = {"dx_px": noise[0], "dy_px": noise[1], "weight": rng.uniform(0.2, 1, len(rows))}
        scenes.append(pd.DataFrame({"scene": scene.scene, "x": columns, "y": rows, **offsets}))
    pd.concat(scenes).to_parquet(path / "alignment_vectors.parquet")


def _write_links(path: Path, table: pd.DataFrame) -> None:
    """A link of each scene to its reference, and one to the next scene; the refused scene has none that was used."""
    links = [(f"reference:{r.season}", r.scene, "reference", r.ok, r.reason) for r in table.itertuples()]
    for first, second in pairwise(table.itertuples()):
        used = first.ok and second.ok
        links.append(
            (first.scene, second.scene, "neighbour", used, "" if used else "overlap 0.01 is below 0.05")
        )
    frame = pd.DataFrame(links, columns=["first", "second", "kind", "used", "reason"])
    known = frame["used"].to_numpy()
    frame["rho"], frame["error_px"] = np.where(known, 0.8, 0.1), np.where(known, 0.03, np.nan)
    frame["misfit_px"] = np.where(known, np.linspace(0.01, 0.05, len(frame)), np.nan)
    frame.to_parquet(path / "alignment_links.parquet")


def _write_composites(path: Path, grid: Grid, terrain: np.ndarray, rng: np.random.Generator) -> None:
    starts = pd.date_range("2015-01-01", periods=12, freq="3MS")
    ends = starts + pd.DateOffset(months=3)
    middles = starts + (ends - starts) / 2
    create_cube(
        path / "composite.zarr",
        grid,
        times=middles.to_numpy(),
        bands=["ndsi"],
        variables={
            "data": Variable(("time", "band", "y", "x"), "float32"),
            "looks": Variable(("time", "y", "x"), "int16"),
            "valid": Variable(("time", "y", "x"), "bool"),
        },
        coords={"window_start": starts.to_numpy(), "window_end": ends.to_numpy()},
    )
    for index, middle in enumerate(middles):
        data = _ndsi(terrain, middle.dayofyear, rng)
        looks = (
            (3 * ndimage.gaussian_filter(rng.standard_normal(grid.shape), 9) * 9 + 1.5)
            .clip(0, 6)
            .astype(np.int16)
        )
        looks[:] = 0 if index == 4 else looks
        data[0][looks == 0] = np.nan
        write_time(path / "composite.zarr", index, {"data": data, "looks": looks, "valid": looks > 0})
    finish_cube(path / "composite.zarr")


def _ndsi(terrain: np.ndarray, day_of_year: int, rng: np.random.Generator) -> np.ndarray:
    green, _, _, swir = _reflectance(terrain, np.cos(day_of_year / 58), rng)
    return ((green - swir) / (green + swir))[None]


def _write_sequences(path: Path) -> None:
    starts = pd.date_range("2015-01-01", periods=12, freq="3MS")
    rows = []
    for index, name in enumerate(["train", "train", "unused", "validation", "test"]):
        for row in range(3):
            dates = [starts[index], starts[index + 3], starts[index + 4], starts[index + 7]]
            rows.append((f"s{index}-{row}", index, 32 * row, 0, name, *dates, 0.9))
    columns = [
        "sequence",
        "time_index",
        "row",
        "col",
        "split",
        "first_input",
        "last_input",
        "first_target",
        "last_target",
        "valid_share",
    ]
    pd.DataFrame(rows, columns=columns).to_parquet(path / "sequences.parquet")
    audit = {"ok": True, "checked": 1234, "leaks": []}
    counts = {
        name: {"target_times": [], "count": count}
        for name, count in (("train", 6), ("validation", 3), ("test", 3))
    }
    (path / "split.json").write_text(
        json.dumps({"method": "time", "gap_steps": 3, "audit": audit, "hash": "ab12", **counts})
    )
    epochs = np.arange(1, 16)
    history = pd.DataFrame(
        {
            "epoch": epochs,
            "train_loss": 0.3 / epochs + 0.02,
            "valid_loss": 0.3 / epochs + 0.03 + 0.001 * epochs,
        }
    )
    history.assign(learning_rate=1e-3, seconds=2.5).to_csv(path / "history.csv", index=False)


def score(by_lead: list[float], reach: float) -> dict[str, object]:
    """Return one figure of metrics.json with symmetric intervals."""
    middle = float(np.mean(by_lead))
    return {
        "all": middle,
        "interval": [middle - reach, middle + reach],
        "by_lead": by_lead,
        "by_lead_interval": [[value - 1.5 * reach, value + 1.5 * reach] for value in by_lead],
    }


def _write_metrics(path: Path) -> None:
    errors = {
        "convlstm": [0.010, 0.014, 0.018, 0.021],
        "persistence": [0.012, 0.026, 0.038, 0.030],
        "same_season_last_year": [0.019, 0.020, 0.021, 0.020],
        "climatology": [0.012, 0.0135, 0.0145, 0.015],
    }
    models = {
        name: {
            "mse": score(values, 0.0015),
            "mae": score([value**0.5 * 0.8 for value in values], 0.004),
            "ssim": score([0.8 - 8 * value for value in values], 0.02),
        }
        for name, values in errors.items()
    }
    model = np.array(errors["convlstm"])
    skill = {
        name: score((1 - model / values).tolist(), 0.08)
        for name, values in errors.items()
        if name != "convlstm"
    }
    metrics = {
        "shows": "snow and ice cover (index values), not ice motion",
        "split": "test",
        "n_sequences": 3,
        "leads": [1, 2, 3, 4],
        "models": models,
        "skill": skill,
        "bootstrap": {"samples": 1000, "confidence": 0.95, "blocks": 12},
    }
    (path / "metrics.json").write_text(json.dumps(metrics))


def _write_forecast(path: Path, grid: Grid, terrain: np.ndarray, rng: np.random.Generator) -> None:
    steps = pd.date_range("2016-02-15", periods=4 + LEADS, freq="91D")
    truth = np.stack([_ndsi(terrain, time.dayofyear, rng) for time in steps]).astype(np.float32)
    predictions = np.stack(
        [ndimage.gaussian_filter(one, (0, 2, 2)) + 0.05 * lead for lead, one in enumerate(truth[4:])]
    )
    valid = np.stack(
        [ndimage.gaussian_filter(rng.standard_normal(grid.shape), 9) > -0.06 for _ in range(LEADS)]
    )
    dims = ("lead", "band", "y", "x")
    dataset = xr.Dataset(
        {
            "prediction": (dims, predictions.astype(np.float32)),
            "target": (dims, truth[4:]),
            "target_valid": (("lead", "y", "x"), valid),
            "inputs": (("step_in", "band", "y", "x"), truth[:4]),
        },
        coords={
            "lead_time": ("lead", steps[4:].to_numpy()),
            "input_time": ("step_in", steps[:4].to_numpy()),
            "band": np.array(["ndsi"], object),
            "y": grid.y,
            "x": grid.x,
            "spatial_ref": ((), np.int32(0), grid.cf_attributes()),
        },
    )
    dataset.to_zarr(path / "prediction.zarr", zarr_format=3, consolidated=False)
    finish_cube(path / "prediction.zarr")
    rows, columns = np.mgrid[: grid.shape[0], : grid.shape[1]]
    swirl = np.stack([np.sin(rows / 25 + lead) for lead in range(LEADS)]).astype(np.float32)
    names = {
        "u_target": swirl,
        "v_target": np.cos(columns / 30)[None] * swirl,
        "u_prediction": 0.6 * swirl,
        "v_prediction": 0.5 * swirl,
    }
    flow = xr.Dataset(
        {name: (("lead", "y", "x"), values.astype(np.float32)) for name, values in names.items()}
    )
    flow.assign_coords(y=grid.y, x=grid.x).to_zarr(path / "flow.zarr", zarr_format=3, consolidated=False)
    finish_cube(path / "flow.zarr")
    leads = [
        {
            "lead": lead,
            "median_px_target": 0.9,
            "median_px_prediction": 0.6,
            "epe_px": 0.5 + 0.15 * lead,
            "epe_zero_flow_px": 0.95,
        }
        for lead in range(1, LEADS + 1)
    ]
    (path / "flow.json").write_text(
        json.dumps({"shows": "apparent motion of the index image, not ice velocity", "leads": leads})
    )


def _write_record(path: Path) -> None:
    (path / "steps").mkdir()
    for index, name in enumerate(
        (
            "search",
            "acquire",
            "clean",
            "align",
            "composite",
            "sequences",
            "train",
            "evaluate",
            "predict",
            "flow",
        )
    ):
        step = {
            "state": "done",
            "started": f"2026-01-05T10:{index:02d}:00+00:00",
            "seconds": 3.2 * index + 1,
            "error": None,
        }
        (path / "steps" / f"{name}.json").write_text(json.dumps(step))
    provenance = {
        "config_hash": "9f2c1e",
        "commit": "0123456789abcdef0123",
        "host": "node-17",
        "job_id": None,
        "seeds": {"train": 0},
        "versions": {"numpy": "2.4", "torch": "2.13.0"},
        "inputs": [f"LC08_{index}" for index in range(60)],
    }
    (path / "provenance.json").write_text(json.dumps(provenance))
