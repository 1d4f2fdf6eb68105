"""How forecasts and flows are written for others to read: Zarr with coordinates, GeoTIFF per date.

Forecasts are written and read by blocks, so that a scene of any size needs the memory of one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import xarray as xr
import zarr
from rasterio.windows import Window

from glacierhpc import __version__
from glacierhpc.cube import CHUNK_PX, finish_cube
from glacierhpc.files import atomic_path, plain
from glacierhpc.grid import Grid

Flow = tuple[np.ndarray, np.ndarray, np.ndarray]
"""u, v (y, x) float32 px, and where they are valid (y, x) bool."""

FLOW_SHOWS = "apparent motion of the index image, not ice velocity"


BLOCK_PX = 2 * CHUNK_PX  # 4 MB a band and date: one file, and much larger than a tile


@dataclass(frozen=True)
class PredictionWriter:
    """Writes ``prediction.zarr`` block by block; blocks that start at multiples of `BLOCK_PX` are whole files."""

    path: Path

    def write(
        self,
        rows: slice,
        cols: slice,
        *,
        prediction: np.ndarray,
        target: np.ndarray,
        target_valid: np.ndarray,
        inputs: np.ndarray,
    ) -> None:
        """Write a block.

        Parameters
        ----------
        prediction, target : (lead, band, h, w) float32
            NaN where invalid; what stands at invalid pixels of the target does not matter.
        target_valid : (lead, h, w) bool
        inputs : (step_in, band, h, w) float32
        """
        hidden = np.where(target_valid[:, None], target, np.nan)
        parts = {"prediction": prediction, "target": hidden, "target_valid": target_valid, "inputs": inputs}
        for name, values in parts.items():
            array = zarr.open_array(self.path / name, mode="r+")
            array[..., rows, cols] = values.astype(array.dtype)

    def note(self, **facts: float) -> None:
        """Keep figures about the whole forecast as attributes of the store; null where they are no number."""
        zarr.open_group(self.path, mode="r+", use_consolidated=False).attrs.update(plain(facts))

    def read(self, name: str) -> Any:
        """Return an array of the store, which is sliced to be read."""
        return zarr.open_array(self.path / name, mode="r")


@contextmanager
def prediction_writer(
    path: Path, composite: xr.Dataset, *, lead_time: np.ndarray, input_time: np.ndarray
) -> Iterator[PredictionWriter]:
    """Yield a writer of ``prediction.zarr``, which stands at `path` when the block has ended well.

    Parameters
    ----------
    composite : Dataset
        Whose grid, bands and attributes are taken over.
    lead_time, input_time : datetime64
    """
    coords = {
        "band": ("band", composite.band.values),
        "lead": ("lead", np.arange(1, len(lead_time) + 1)),
        "lead_time": ("lead", lead_time),
        "input_time": ("step_in", input_time),
    }
    sizes = {**composite.sizes, "lead": len(lead_time), "step_in": len(input_time)}
    with atomic_path(path) as temporary:
        _on_grid(composite, coords).to_zarr(temporary, mode="w", zarr_format=3, consolidated=False)
        group = zarr.open_group(temporary, mode="r+", use_consolidated=False)
        for name, (dtype, dims) in PREDICTION.items():
            _create_array(group, name, dtype, dims, sizes)
        yield PredictionWriter(temporary)
        finish_cube(temporary)


PREDICTION = {
    "prediction": ("float32", ("lead", "band", "y", "x")),
    "target": ("float32", ("lead", "band", "y", "x")),
    "target_valid": ("bool", ("lead", "y", "x")),
    "inputs": ("float32", ("step_in", "band", "y", "x")),
}
"""Type and axes of each array of ``prediction.zarr``."""


def _create_array(
    group: zarr.Group,
    name: str,
    dtype: str,
    dims: tuple[str, ...],
    sizes: dict[Any, int],
    attrs: dict[str, Any] | None = None,
) -> None:
    plane = [min(CHUNK_PX, sizes[dim]) for dim in dims[-2:]]
    files = [side * min(BLOCK_PX // CHUNK_PX, -(-sizes[dim] // side)) for side, dim in zip(plane, dims[-2:])]
    before = [1] * (len(dims) - 2)
    group.create_array(
        name,
        shape=tuple(sizes[dim] for dim in dims),
        dtype=dtype,
        chunks=(*before, *plane),
        shards=(*before, *files),
        fill_value=False if dtype == "bool" else np.nan,
        dimension_names=dims,
        attributes={"grid_mapping": "spatial_ref", **(attrs or {})},
    )


def open_prediction(path: Path) -> xr.Dataset:
    """Open ``prediction.zarr``."""
    return xr.open_zarr(path, chunks=None)


def write_maps(folder: Path, composite: xr.Dataset, prediction: Any, times: np.ndarray) -> list[Path]:
    """Write a cloud-optimised GeoTIFF per forecast date, float32 with NaN as nodata, and overviews.

    Parameters
    ----------
    prediction : (lead, band, y, x) float32
        An array, or anything that is sliced like one: it is read by blocks.
    times : (lead,) datetime64
    """
    bands = [str(band) for band in composite.band.values]
    if prediction.shape[0] != len(times):
        raise ValueError(f"{prediction.shape[0]} images and {len(times)} times: give one time per image")
    paths = []
    # GDAL keeps what it has written, up to a twentieth of the machine's memory, unless it is told
    with atomic_path(folder) as temporary, rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        temporary.mkdir()
        for lead, time in enumerate(times):
            name = f"{bands[0]}_{str(time)[:10]}.tif"
            tags = {"date": str(time)[:10], "software": f"glacierhpc {__version__}", "kind": "forecast"}
            if "shows" in composite.attrs:
                tags["shows"] = str(composite.attrs["shows"])
            # a cloud-optimised file is written from the whole image: GDAL copies it by blocks from a plain one
            plain = temporary / f"plain-{name}"
            _write_plain(plain, Grid.from_dataset(composite), bands, prediction, lead, tags)
            rasterio.shutil.copy(plain, temporary / name, driver="COG", **_COG)
            plain.unlink()
            paths.append(folder / name)
    return paths


CACHE_MB = 32
_COG = {
    "compress": "DEFLATE",
    "predictor": "FLOATING_POINT",
    "overview_resampling": "AVERAGE",
    "bigtiff": "IF_SAFER",
}


def _write_plain(
    path: Path, grid: Grid, bands: list[str], prediction: Any, lead: int, tags: dict[str, str]
) -> None:
    rows, cols = grid.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=rows,
        width=cols,
        count=len(bands),
        dtype="float32",
        crs=grid.crs,
        transform=grid.geobox.affine,
        nodata=np.nan,
        tiled=True,
        blockxsize=CHUNK_PX,
        blockysize=CHUNK_PX,
        bigtiff="IF_SAFER",
    ) as raster:
        for row in range(0, rows, BLOCK_PX):
            for col in range(0, cols, BLOCK_PX):
                height, width = min(BLOCK_PX, rows - row), min(BLOCK_PX, cols - col)
                part = np.asarray(prediction[lead, :, row : row + height, col : col + width])
                raster.write(part.astype(np.float32), window=Window(col, row, width, height))
        raster.descriptions = bands
        raster.update_tags(**tags)


@dataclass(frozen=True)
class FlowWriter:
    """Writes ``flow.zarr`` lead by lead, so that no more than one lead is held."""

    path: Path

    def write(self, position: int, *, target: Flow, prediction: Flow) -> None:
        """Write the motion to a lead, counted from 0."""
        for name, flow in (("target", target), ("prediction", prediction)):
            for axis, letter in enumerate("uv"):
                array = zarr.open_array(self.path / f"{letter}_{name}", mode="r+")
                array[position] = np.where(flow[2], flow[axis], np.nan).astype(np.float32)


@contextmanager
def flow_writer(path: Path, prediction: xr.Dataset) -> Iterator[FlowWriter]:
    """Yield a writer of ``flow.zarr``, u and v of target and prediction (lead, y, x) px, NaN where invalid.

    It stands at `path` when the block has ended well.
    """
    coords = {"lead": ("lead", prediction.lead.values), "lead_time": ("lead", prediction.lead_time.values)}
    with atomic_path(path) as temporary:
        dataset = _on_grid(prediction, coords).assign_attrs(shows=FLOW_SHOWS)
        dataset.to_zarr(temporary, mode="w", zarr_format=3, consolidated=False)
        group = zarr.open_group(temporary, mode="r+", use_consolidated=False)
        for name in ("u_target", "v_target", "u_prediction", "v_prediction"):
            _create_array(group, name, "float32", ("lead", "y", "x"), dict(prediction.sizes), {"units": "px"})
        yield FlowWriter(temporary)
        finish_cube(temporary)


def flow_row(lead: int, target: Flow, prediction: Flow) -> dict[str, Any]:
    """Return the row of ``flow.json`` for one lead.

    The end-point error is the length of the difference vector (Baker et al. 2011, doi:10.1007/s11263-010-0390-2),
    here its mean and median over pixels with both motions; the control forecasts that nothing moves.
    """
    valid = target[2] & prediction[2]
    if not valid.any():
        nothing = (
            "median_px_target",
            "median_px_prediction",
            "epe_px",
            "epe_median_px",
            "epe_zero_flow_px",
            "epe_zero_flow_median_px",
        )
        return {"lead": lead, **dict.fromkeys(nothing, float("nan")), "valid_share": 0.0}
    target_px, prediction_px = (np.hypot(u, v)[valid] for u, v, _ in (target, prediction))
    difference_px = np.hypot(target[0] - prediction[0], target[1] - prediction[1])[valid]
    return {
        "lead": lead,
        "median_px_target": float(np.median(target_px)),
        "median_px_prediction": float(np.median(prediction_px)),
        "epe_px": float(difference_px.mean()),
        "epe_median_px": float(np.median(difference_px)),
        "epe_zero_flow_px": float(target_px.mean()),
        "epe_zero_flow_median_px": float(np.median(target_px)),
        "valid_share": float(valid.mean()),
    }


def _on_grid(source: xr.Dataset, coords: dict[str, Any]) -> xr.Dataset:
    grid_coords = {name: source[name] for name in ("x", "y", "spatial_ref")}
    return xr.Dataset(coords={**grid_coords, **coords}, attrs=dict(source.attrs)).drop_encoding()
