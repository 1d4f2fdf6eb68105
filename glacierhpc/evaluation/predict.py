"""Forecasts by a network: of batches of sequences, and of full scenes by blended tiles; scores are in `score`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from glacierhpc import tiling
from glacierhpc.errors import InputError
from glacierhpc.tiling import Mosaic, TilePlan


class NetworkForecaster:
    """A trained network as the evaluation calls it: with a batch, giving arrays."""

    def __init__(self, model: nn.Module, *, device: str = "cpu") -> None:
        self._model = model.to(device).eval()
        self._device = device

    @torch.no_grad()
    def __call__(self, batch: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the forecast (B, T', C, H, W) and validity (B, T', H, W): where a pixel was valid in any input."""
        forecast = self._model(**batch.to(self._device).inputs).cpu().numpy()
        seen = np.asarray(batch.images_valid).any(axis=1, keepdims=True)
        return forecast, np.repeat(seen, forecast.shape[1], axis=1)


@dataclass(frozen=True, eq=False)
class SceneForecast:
    """The forecast of a full scene."""

    values: np.ndarray
    """(T', C, Y, X) float32, NaN where not valid."""
    valid: np.ndarray
    """(T', Y, X) bool: pixels that were valid in at least one input."""
    tiles: TilePlan
    """How the scene was cut, for `tiling.seam_ratio`."""


@torch.no_grad()
def predict_scene(
    model: nn.Module,
    images: np.ndarray,
    images_valid: np.ndarray,
    *,
    years: np.ndarray | None = None,
    climatology: tuple[np.ndarray, np.ndarray] | None = None,
    size: int,
    overlap_px: int | None = None,
    blend: str = "cosine",
    batch_size: int = 16,
    device: str = "cpu",
) -> SceneForecast:
    """Forecast a full scene with the tiles a model was trained on, blended where they overlap.

    Parameters
    ----------
    model : nn.Module
        A sequence model.
    images : (T, C, Y, X) float32
        What stands at invalid pixels does not matter.
    images_valid : (T, Y, X) bool
    years : (T + T',) float, optional
        Dates of inputs and targets, years since 2000 (see ``SequencePlan.years``).
    climatology : pair of (T + T', C, Y, X) float32 and (T + T', Y, X) bool, optional
        What is usual at each step, and where it is known (see ``datasets.climatology``).
    size : int
        Edge length of a tile, pixels; the training patches' is sensible. A smaller scene is filled up with
        invalid pixels.
    overlap_px : int, optional
        Half the size by default, at which the blend leaves no seams.
    blend : str
        Name in ``tiling.BLENDS``.
    batch_size : int
        Tiles per batch: memory is that of one scene and one batch.
    """
    if images.ndim != 4 or (images.shape[0], *images.shape[2:]) != images_valid.shape:
        raise InputError(
            f"images of shape {images.shape!r} and a mask of shape {images_valid.shape!r} do not fit: "
            "give (T, C, Y, X) and (T, Y, X)"
        )
    overlap = size // 2 if overlap_px is None else overlap_px
    edge = "pad" if size > min(images.shape[-2:]) else "shift"
    tiles = tiling.plan(images.shape[-2:], size, overlap=overlap, edge=edge)
    model = model.to(device).eval()
    dates = None if years is None else torch.from_numpy(np.asarray(years, dtype=np.float32)).to(device)
    clean = np.where(images_valid[:, None], images, 0).astype(np.float32)
    mosaic: Mosaic | None = None
    for first in range(0, len(tiles), batch_size):
        numbers = range(first, min(first + batch_size, len(tiles)))
        batch, batch_valid = (
            torch.from_numpy(_read(a, tiles, numbers)).to(device) for a in (clean, images_valid)
        )
        when = None if dates is None else dates.expand(len(batch), -1)
        usual = {
            name: torch.from_numpy(_read(array, tiles, numbers)).to(device)
            for name, array in zip(("climatology", "climatology_valid"), climatology or ())
        }
        forecast = model(batch, batch_valid, dates=when, **usual).cpu().numpy()
        mosaic = mosaic or Mosaic(tiles, forecast.shape[1:-2], blend=blend)
        mosaic.add(numbers, forecast)
    values = mosaic.result().astype(np.float32)  # type: ignore[union-attr]
    valid = np.repeat(images_valid.any(axis=0, keepdims=True), len(values), axis=0)
    return SceneForecast(np.where(valid[:, None], values, np.nan), valid, tiles)


def _read(array: np.ndarray, tiles: TilePlan, numbers: range) -> np.ndarray:
    """Return some tiles (k, ..., size, size), zero or False beyond the rim."""
    size = tiles.size
    batch = np.zeros((len(numbers), *array.shape[:-2], size, size), dtype=array.dtype)
    for position, number in enumerate(numbers):
        row, col = tiles.origins[number]
        part = array[..., row : row + size, col : col + size]
        batch[position, ..., : part.shape[-2], : part.shape[-1]] = part
    return batch
