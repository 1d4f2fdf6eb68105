"""Forecasts by a network: of batches of sequences, and of full scenes by blended tiles; scores are in `score`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from glacierhpc import tiling
from glacierhpc.errors import InputError
from glacierhpc.tiling import Block, Mosaic, TilePlan

Window = tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]
"""images (T, C, h, w) float32 and validity (T, h, w) bool of a part of a scene, what stands at invalid pixels does not
matter; what is usual at each step, (T + T', C, h, w) and (T + T', h, w), or None twice."""


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


class Scene(Protocol):
    """A scene of which any part can be read, in memory or on disk."""

    @property
    def shape(self) -> tuple[int, int]:
        """(Y, X)."""
        ...

    @property
    def years(self) -> np.ndarray | None:
        """(T + T',) float, dates of inputs and targets, years since 2000."""
        ...

    def read(self, rows: slice, cols: slice) -> Window:
        """Return a part of the scene."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayScene:
    """A scene in memory; see `predict_scene` for its parts."""

    images: np.ndarray
    images_valid: np.ndarray
    years: np.ndarray | None = None
    climatology: tuple[np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or (len(self.images), *self.images.shape[2:]) != self.images_valid.shape:
            raise InputError(
                f"images of shape {self.images.shape!r} and a mask of shape {self.images_valid.shape!r} do not fit: "
                "give (T, C, Y, X) and (T, Y, X)"
            )

    @property
    def shape(self) -> tuple[int, int]:
        return self.images.shape[-2:]  # type: ignore[return-value]

    def read(self, rows: slice, cols: slice) -> Window:
        usual, usual_valid = self.climatology or (None, None)
        parts = (self.images, self.images_valid, usual, usual_valid)
        return tuple(None if part is None else part[..., rows, cols] for part in parts)  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class BlockForecast:
    """The forecast of a part of a scene."""

    rows: slice
    cols: slice
    values: np.ndarray
    """(T', C, h, w) float32, NaN where not valid."""
    valid: np.ndarray
    """(T', h, w) bool: pixels that were valid in at least one input."""


@dataclass(frozen=True, eq=False)
class SceneForecast:
    """The forecast of a full scene."""

    values: np.ndarray
    """(T', C, Y, X) float32, NaN where not valid."""
    valid: np.ndarray
    """(T', Y, X) bool: pixels that were valid in at least one input."""
    tiles: TilePlan
    """How the scene was cut, for `tiling.seam_ratio`."""


def scene_tiles(
    shape: tuple[int, int], size: int, *, overlap_px: int | None = None, rim_px: int = 0
) -> TilePlan:
    """Return how a scene is cut for a forecast.

    Parameters
    ----------
    shape : (Y, X)
    size : int
        Edge length of a tile, pixels. A smaller scene is filled up with invalid pixels.
    overlap_px : int, optional
        By default half of what remains of a tile without its rims, and two rims: there the blend leaves no seams.
    rim_px : int, default 0
        Width of the rim of a tile that is left out: for a network that is worse where it sees only one side. The
        networks of this project, trained on the demo, forecast no better with than without.
    """
    overlap = size // 2 + rim_px if overlap_px is None else overlap_px
    return tiling.plan(shape, size, overlap=overlap, edge="pad" if size > min(shape) else "shift")


def forecast_blocks(
    model: nn.Module,
    scene: Scene,
    tiles: TilePlan,
    *,
    blend: str = "cosine",
    rim_px: int = 0,
    block_px: int | None = None,
    batch_size: int = 16,
    device: str = "cpu",
) -> Iterator[BlockForecast]:
    """Forecast a scene block by block, in memory that depends on the block's size and not on the scene's.

    Each block is complete when it is yielded, and the same as in a forecast of the whole at once. Tiles on the border
    of blocks are computed for each of them: blocks much larger than tiles cost little more than one.

    Parameters
    ----------
    model : nn.Module
        A sequence model.
    scene : Scene
    tiles : TilePlan
        See `scene_tiles`.
    blend : str
        Name in ``tiling.BLENDS``.
    rim_px : int, default 0
        See `scene_tiles`.
    block_px : int, optional
        Edge length of a block, pixels; the whole scene is one by default.
    batch_size : int
        Tiles per batch.
    """
    model = model.to(device).eval()
    for block in tiling.blocks(tiles, block_px or max(tiles.shape)):
        parts = scene.read(block.reach_rows, block.reach_cols)
        batches = _forecast_tiles(model, parts, scene.years, tiles, block, batch_size, device)
        mosaic: Mosaic | None = None
        for numbers, forecast in batches:
            mosaic = mosaic or Mosaic(
                tiles, forecast.shape[1:-2], blend=blend, rim_px=rim_px, rows=block.rows, cols=block.cols
            )
            mosaic.add(numbers, forecast)
        values = mosaic.result().astype(np.float32)  # type: ignore[union-attr]
        seen = np.any(_inner(parts[1], block), axis=0, keepdims=True)
        valid = np.repeat(seen, len(values), axis=0)
        yield BlockForecast(block.rows, block.cols, np.where(valid[:, None], values, np.nan), valid)


def predict_scene(
    model: nn.Module,
    images: np.ndarray,
    images_valid: np.ndarray,
    *,
    years: np.ndarray | None = None,
    climatology: tuple[np.ndarray, np.ndarray] | None = None,
    size: int,
    overlap_px: int | None = None,
    rim_px: int = 0,
    blend: str = "cosine",
    batch_size: int = 16,
    device: str = "cpu",
) -> SceneForecast:
    """Forecast a full scene in memory with the tiles a model was trained on, blended where they overlap.

    `forecast_blocks` does the same for scenes that memory does not hold.

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
        Edge length of a tile, pixels; the training patches' is sensible.
    overlap_px, rim_px : int, optional
        See `scene_tiles`.
    blend : str
        Name in ``tiling.BLENDS``.
    batch_size : int
        Tiles per batch: memory is that of one scene and one batch.
    """
    scene = ArrayScene(images, images_valid, years, climatology)
    tiles = scene_tiles(scene.shape, size, overlap_px=overlap_px, rim_px=rim_px)
    (whole,) = forecast_blocks(
        model, scene, tiles, blend=blend, rim_px=rim_px, batch_size=batch_size, device=device
    )
    return SceneForecast(whole.values, whole.valid, tiles)


@torch.no_grad()
def _forecast_tiles(
    model: nn.Module,
    parts: Window,
    years: np.ndarray | None,
    tiles: TilePlan,
    block: Block,
    batch_size: int,
    device: str,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield numbers of tiles and their forecasts (k, T', C, size, size), for tiles with any valid pixel."""
    images, images_valid, usual, usual_valid = parts
    named = {
        "images": np.where(images_valid[:, None], images, 0).astype(np.float32, copy=False),
        "images_valid": images_valid,
        "climatology": usual,
        "climatology_valid": usual_valid,
    }
    dates = None if years is None else torch.from_numpy(np.asarray(years, dtype=np.float32)).to(device)
    numbers = [n for n in block.numbers if _read(images_valid, tiles, [n], block).any()] or [block.numbers[0]]
    for first in range(0, len(numbers), batch_size):
        some = numbers[first : first + batch_size]
        given = {
            name: torch.from_numpy(_read(part, tiles, some, block)).to(device)
            for name, part in named.items()
            if part is not None
        }
        when = None if dates is None else dates.expand(len(some), -1)
        yield some, model(given.pop("images"), given.pop("images_valid"), dates=when, **given).cpu().numpy()


def _read(array: np.ndarray, tiles: TilePlan, numbers: list[int], block: Block) -> np.ndarray:
    """Return some tiles (k, ..., size, size) of a block's reach, zero or False beyond the scene's rim."""
    size = tiles.size
    batch = np.zeros((len(numbers), *array.shape[:-2], size, size), dtype=array.dtype)
    for position, number in enumerate(numbers):
        row, col = tiles.origins[number] - [block.reach_rows.start, block.reach_cols.start]
        part = array[..., row : row + size, col : col + size]
        batch[position, ..., : part.shape[-2], : part.shape[-1]] = part
    return batch


def _inner(array: np.ndarray, block: Block) -> np.ndarray:
    """Return the block's own pixels out of its reach."""
    rows, cols = (
        slice(own.start - reach.start, own.stop - reach.start)
        for own, reach in ((block.rows, block.reach_rows), (block.cols, block.reach_cols))
    )
    return array[..., rows, cols]
