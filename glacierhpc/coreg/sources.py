"""Where the images of a stack come from: arrays in memory, or one band of a cube on disk.

Tasks on workers read what they need themselves; what they do with it is in `stack_tasks` and `reference`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import xarray as xr

from glacierhpc.coreg.prepared import Prepared, as_float32, prepare
from glacierhpc.cube import open_cube
from glacierhpc.fanout import run_all
from glacierhpc.kernels.filters import gradient_size
from glacierhpc.kernels.pyramid import halve

WHOLE = slice(None)
_GRADIENT_REACH = 2  # pixels that a gradient sees
_HALVE_REACH = 2  # pixels that a halved pixel sees beyond its own two, rounded up to even


class ImageSource(Protocol):
    """Images by their position, all on one grid."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    def read(self, index: int, y: slice = WHOLE, x: slice = WHOLE) -> np.ndarray:
        """Return an image or a part of it, (y, x) float32, NaN where invalid; not to be written to."""

    def only(self, indices: Sequence[int]) -> ImageSource:
        """Return what a task on these images has to be sent."""

    def halved(self, executor: Executor | None) -> ImageSource:
        """Return the same images at half the resolution."""


class ArrayImages:
    """Images in memory; a masked copy of each is made when it is first read and kept.

    Parameters
    ----------
    images : mapping of position to (y, x)
        NaN is invalid, and what a masked array masks.
    valid : mapping of position to (y, x) bool, optional
    """

    def __init__(
        self, images: Mapping[int, np.ndarray], valid: Mapping[int, np.ndarray] | None = None
    ) -> None:
        self._images, self._valid = images, valid or {}
        self._masked: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_masked": {}}

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = next(iter(self._images.values())).shape
        return rows, columns

    def read(self, index: int, y: slice = WHOLE, x: slice = WHOLE) -> np.ndarray:
        """Return an image or a part of it."""
        if index not in self._masked:
            image = as_float32(self._images[index])
            if index in self._valid:
                image = np.where(self._valid[index], image, np.float32(np.nan))
            self._masked[index] = image
        return self._masked[index][y, x]

    def only(self, indices: Sequence[int]) -> ArrayImages:
        """Return the same images without those that a task does not look at."""
        some = ArrayImages(
            {i: self._images[i] for i in indices}, {i: self._valid[i] for i in indices if i in self._valid}
        )
        some._masked = self._masked
        return some

    def halved(self, executor: Executor | None) -> ArrayImages:
        """Return the images at half the resolution, all made now."""
        calls = ((self.only([i]), i) for i in self._images)
        return ArrayImages(dict(zip(self._images, run_all(executor, _halved_image, calls))))


class CubeImages:
    """Images from a cube on disk, observed pixels only; opened once in every task, closed files travel.

    Parameters
    ----------
    path : str
        The Zarr folder.
    bands : sequence of str
        One band, or two: their normalised difference.
    gradient : bool
        Whether to take the length of the gradient.
    shape : (rows, columns)
    order : sequence of int
        Place on the cube's time axis of each position.
    """

    def __init__(
        self,
        path: str,
        bands: Sequence[str],
        shape: tuple[int, int],
        order: Sequence[int],
        *,
        gradient: bool = False,
    ) -> None:
        self.path, self.bands, self.shape, self.order = path, list(bands), shape, tuple(order)
        self.gradient = gradient
        self._opened: tuple[xr.DataArray, xr.DataArray] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": None}

    def read(self, index: int, y: slice = WHOLE, x: slice = WHOLE) -> np.ndarray:
        """Return an image or a part of it."""
        if self._opened is None:
            cube = open_cube(self.path)
            self._opened = cube["data"].sel(band=self.bands), cube["valid"]
        if self.gradient:
            (rows, inner_y), (columns, inner_x) = (_wider(part) for part in (y, x))
            return gradient_size(self._observed(index, rows, columns))[inner_y, inner_x]
        return self._observed(index, y, x)

    def _observed(self, index: int, y: slice, x: slice) -> np.ndarray:
        assert self._opened is not None
        at = {"time": self.order[index], "y": y, "x": x}
        data, valid = (array.isel(at).to_numpy() for array in self._opened)
        image = data[0] if len(data) == 1 else _normalised_difference(data[0], data[1])
        return np.where(valid, image, np.float32(np.nan)).astype(np.float32, copy=False)

    def only(self, indices: Sequence[int]) -> CubeImages:  # noqa: ARG002 a path is small
        """Return itself."""
        return self

    def halved(self, executor: Executor | None) -> HalvedImages:  # noqa: ARG002 made when read
        """Return the images at half the resolution, each made when it is read."""
        return HalvedImages(self)


def _wider(part: slice) -> tuple[slice, slice]:
    """Return a part with the pixels that a gradient at its rim needs, and where the part lies in that."""
    start = part.start or 0
    first = max(0, start - _GRADIENT_REACH)
    end = None if part.stop is None else part.stop + _GRADIENT_REACH
    length = None if part.stop is None else part.stop - first
    return slice(first, end), slice(start - first, length)


def _normalised_difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    total = first + second
    return np.divide(first - second, total, out=np.full_like(total, np.nan), where=total > 0)


@dataclass(frozen=True)
class HalvedImages:
    """Images of another source at half the resolution."""

    source: ImageSource

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.source.shape
        return rows // 2, columns // 2

    def read(self, index: int, y: slice = WHOLE, x: slice = WHOLE) -> np.ndarray:
        """Return an image or a part of it: the same pixels as of the whole image halved."""
        parts = [slice(*part.indices(size)) for part, size in zip((y, x), self.shape)]
        first = [max(0, 2 * part.start - _HALVE_REACH) for part in parts]
        seen = [
            slice(start, min(size, 2 * part.stop + _HALVE_REACH))
            for start, part, size in zip(first, parts, self.source.shape)
        ]
        small = halve(self.source.read(index, *seen))
        inside = tuple(
            slice(part.start - start // 2, part.stop - start // 2) for part, start in zip(parts, first)
        )
        return np.ascontiguousarray(small[inside])

    def only(self, indices: Sequence[int]) -> HalvedImages:
        """Return what a task on these images has to be sent."""
        return HalvedImages(self.source.only(indices))

    def halved(self, executor: Executor | None) -> HalvedImages:  # noqa: ARG002 made when read
        """Return the images at half the resolution again."""
        return HalvedImages(self)


def _halved_image(source: ImageSource, index: int) -> np.ndarray:
    return np.asarray(halve(source.read(index)))


@dataclass(frozen=True)
class Raster:
    """An array in memory, or in a file as raw bytes: reading the header of .npy fails now and then in threads."""

    values: np.ndarray | str
    """(y, x), or the path."""
    shape: tuple[int, int]
    dtype: str

    def load(self) -> np.ndarray:
        """Return the array (y, x)."""
        if isinstance(self.values, str):
            return np.fromfile(self.values, self.dtype).reshape(self.shape)
        return self.values


class Reference:
    """A reference image, prepared once for all that look at it in one process; it travels as it is stored."""

    def __init__(self, raster: Raster) -> None:
        self.raster = raster
        self._prepared: Prepared | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"raster": self.raster, "_prepared": None}

    @property
    def prepared(self) -> Prepared:
        """What `align_pair` takes in its place."""
        if self._prepared is None:
            self._prepared = prepare(self.raster.load())
        return self._prepared
