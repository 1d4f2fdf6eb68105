"""Index composites read window by window, from arrays in memory or a cube on disk; nothing is made of them here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import xarray as xr

from glacierhpc.cube import open_cube
from glacierhpc.errors import InputError


class Composites(Protocol):
    """A series of images of which any window can be read."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, C, Y, X)."""
        ...

    def read(self, step: int, rows: slice, cols: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the values of one step (C, H, W) float32, 0 where invalid, and its validity (H, W) bool."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayComposites:
    """Composites in memory; nothing is copied but what is read."""

    data: np.ndarray
    """(T, C, Y, X) float32."""
    usable: np.ndarray
    """(T, Y, X) bool: valid, and a number in every band."""

    @classmethod
    def build(cls, data: np.ndarray, valid: np.ndarray) -> ArrayComposites:
        """Return composites of a cube in memory, (T, C, Y, X) float and (T, Y, X) bool.

        Raises
        ------
        InputError
            If the shapes do not fit.
        """
        if data.ndim != 4 or valid.shape != (len(data), *data.shape[2:]):
            raise InputError(
                f"data {data.shape!r} and valid {valid.shape!r} do not belong together: give (T, C, Y, X) and (T, Y, X)"
            )
        usable = np.empty(valid.shape, bool)
        for step, image in enumerate(data):  # one by one: a test of all at once would need a second cube
            usable[step] = valid[step] & np.isfinite(image).all(axis=0)
        return cls(data, usable)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.data.shape  # type: ignore[return-value]

    def read(self, step: int, rows: slice, cols: slice) -> tuple[np.ndarray, np.ndarray]:
        usable = self.usable[step, rows, cols]
        return np.where(usable, self.data[step, :, rows, cols], 0).astype(np.float32, copy=False), usable


@dataclass(frozen=True, eq=False)
class StoredComposites:
    """Composites of a cube on disk, for scenes that memory does not hold."""

    cube: xr.Dataset
    """With ``data (time, band, y, x)`` and ``valid (time, y, x)``, opened lazily."""

    @classmethod
    def open(cls, path: Path) -> StoredComposites:
        """Open a cube by its path."""
        return cls(open_cube(path))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.cube["data"].shape  # type: ignore[return-value]

    def read(self, step: int, rows: slice, cols: slice) -> tuple[np.ndarray, np.ndarray]:
        image = self.cube["data"][step, :, rows, cols].values
        usable = self.cube["valid"][step, rows, cols].values & np.isfinite(image).all(axis=0)
        return np.where(usable, image, 0).astype(np.float32, copy=False), usable


def read_steps(
    composites: Composites, steps: np.ndarray, rows: slice, cols: slice
) -> tuple[np.ndarray, np.ndarray]:
    """Return a window of several steps, (k, C, H, W) float32 and (k, H, W) bool."""
    parts = [composites.read(int(step), rows, cols) for step in steps]
    return np.stack([values for values, _ in parts]), np.stack([valid for _, valid in parts])
