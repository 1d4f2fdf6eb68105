"""How forecasts and flows are written for others to read: Zarr with coordinates, GeoTIFF per date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray as xr

from glacierhpc import __version__
from glacierhpc.cube import finish_cube
from glacierhpc.files import atomic_path
from glacierhpc.grid import Grid

Flow = tuple[np.ndarray, np.ndarray, np.ndarray]
"""u, v (y, x) float32 px, and where they are valid (y, x) bool."""

FLOW_SHOWS = "apparent motion of the index image, not ice velocity"


def write_prediction(
    path: Path,
    composite: xr.Dataset,
    *,
    prediction: np.ndarray,
    target: np.ndarray,
    target_valid: np.ndarray,
    inputs: np.ndarray,
    lead_time: np.ndarray,
    input_time: np.ndarray,
) -> None:
    """Write ``prediction.zarr``.

    Parameters
    ----------
    composite : Dataset
        Whose grid, bands and attributes are taken over.
    prediction, target : (lead, band, y, x) float32
        NaN where invalid.
    target_valid : (lead, y, x) bool
    inputs : (step_in, band, y, x) float32
    lead_time, input_time : datetime64
    """
    ahead = ("lead", "band", "y", "x")
    dataset = _on_grid(
        composite,
        {
            "prediction": (ahead, prediction.astype(np.float32)),
            "target": (ahead, np.where(target_valid[:, None], target, np.nan).astype(np.float32)),
            "target_valid": (("lead", "y", "x"), target_valid),
            "inputs": (("step_in", "band", "y", "x"), inputs.astype(np.float32)),
        },
        {
            "band": ("band", composite.band.values),
            "lead": ("lead", np.arange(1, len(lead_time) + 1)),
            "lead_time": ("lead", lead_time),
            "input_time": ("step_in", input_time),
        },
    )
    _write(path, dataset)


def open_prediction(path: Path) -> xr.Dataset:
    """Open ``prediction.zarr``."""
    return xr.open_zarr(path, chunks=None)


def write_maps(folder: Path, composite: xr.Dataset, prediction: np.ndarray, times: np.ndarray) -> list[Path]:
    """Write a cloud-optimised GeoTIFF per forecast date, float32 with NaN as nodata.

    Parameters
    ----------
    prediction : (lead, band, y, x) float32
    times : (lead,) datetime64
    """
    grid = Grid.from_dataset(composite)
    bands = [str(band) for band in composite.band.values]
    paths = []
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for image, time in zip(prediction, times, strict=True):
            name = f"{bands[0]}_{str(time)[:10]}.tif"
            with rasterio.open(
                temporary / name,
                "w",
                driver="COG",
                height=grid.shape[0],
                width=grid.shape[1],
                count=len(bands),
                dtype="float32",
                crs=grid.crs,
                transform=grid.geobox.affine,
                nodata=np.nan,
                compress="DEFLATE",
                predictor=3,
            ) as raster:
                raster.write(image.astype(np.float32))
                raster.descriptions = bands
                raster.update_tags(date=str(time)[:10], software=f"glacierhpc {__version__}", kind="forecast")
            paths.append(folder / name)
    return paths


def write_flow(path: Path, prediction: xr.Dataset, fields: dict[int, dict[str, Flow]]) -> None:
    """Write ``flow.zarr``: u and v of target and prediction, (lead, y, x) px, NaN where invalid."""
    variables = {}
    for name in ("target", "prediction"):
        for axis, letter in enumerate("uv"):
            stack = [np.where(pair[name][2], pair[name][axis], np.nan) for pair in fields.values()]
            variables[f"{letter}_{name}"] = (("lead", "y", "x"), np.stack(stack).astype(np.float32))
    coords = {"lead": ("lead", prediction.lead.values), "lead_time": ("lead", prediction.lead_time.values)}
    dataset = _on_grid(prediction, variables, coords).assign_attrs(shows=FLOW_SHOWS)
    for variable in dataset.data_vars.values():
        variable.attrs["units"] = "px"
    _write(path, dataset)


def flow_row(lead: int, target: Flow, prediction: Flow) -> dict[str, Any]:
    """Return the row of ``flow.json`` for one lead.

    The end-point error is the mean length of the difference vector; the control forecasts that nothing moves.
    """
    valid = target[2] & prediction[2]
    if not valid.any():
        nothing = ("median_px_target", "median_px_prediction", "epe_px", "epe_zero_flow_px")
        return {"lead": lead, **dict.fromkeys(nothing, float("nan")), "valid_share": 0.0}
    target_px, prediction_px = (np.hypot(u, v)[valid] for u, v, _ in (target, prediction))
    difference_px = np.hypot(target[0] - prediction[0], target[1] - prediction[1])[valid]
    return {
        "lead": lead,
        "median_px_target": float(np.median(target_px)),
        "median_px_prediction": float(np.median(prediction_px)),
        "epe_px": float(difference_px.mean()),
        "epe_zero_flow_px": float(target_px.mean()),
        "valid_share": float(valid.mean()),
    }


def _on_grid(source: xr.Dataset, variables: dict[str, Any], coords: dict[str, Any]) -> xr.Dataset:
    grid_coords = {name: source[name] for name in ("x", "y", "spatial_ref")}
    dataset = xr.Dataset(variables, coords={**grid_coords, **coords}, attrs=dict(source.attrs))
    for variable in dataset.data_vars.values():
        variable.attrs["grid_mapping"] = "spatial_ref"
    return dataset.drop_encoding()


def _write(path: Path, dataset: xr.Dataset) -> None:
    with atomic_path(path) as temporary:
        dataset.to_zarr(temporary, mode="w", zarr_format=3, consolidated=False)
        finish_cube(temporary)
