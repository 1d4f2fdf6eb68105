"""What is known about an embedded archive: where its truth lies, how it is read and carried to another grid.

The truth is written by `create`; nothing here makes scenes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyproj import Transformer

from glacierhpc.errors import InputError
from glacierhpc.grid import Grid

MATRIX_COLUMNS = ("m00", "m01", "m02", "m10", "m11", "m12", "m20", "m21", "m22")


@dataclass(frozen=True)
class Truth:
    """The known truth of an archive."""

    folder: Path
    """``<archive>/truth``: terrain.tif, velocity.tif, reference.tif lie here."""
    bbox_lonlat: tuple[float, float, float, float]
    """An area that every scene's raster covers with a margin."""
    grids: tuple[Grid, ...]
    """The perfect grid of each UTM zone; the first is that of the truth rasters."""
    scenes: pd.DataFrame
    """Row per scene: scene, time, crs, m00..m22, shift_px, snow_line_m, cloud_share, fill_share and more."""
    about: Mapping[str, Any]
    """Everything in truth.json."""

    def matrix(self, scene: str, grid: Grid | None = None) -> np.ndarray:
        """Return the (3, 3) matrix of a scene on a grid.

        It maps a pixel (x, y, 1) of the perfect picture to the pixel in which the same ground appears in the
        scene (OpenCV's convention: reference to moving), pixel centres at integers. `grid` is that of a cube
        that was read from the scenes' own georeference, so that their pointing error is still in it; the
        default is the scene's own grid. On another grid of the same zone the same motion has another matrix
        (unless it is a mere translation); in another zone it is turned by the meridian convergence, here
        linearised at the centre of `grid`, exact to 0.001 px for errors of a few pixels.

        Raises
        ------
        InputError
            If the archive has no such scene.
        """
        rows = self.scenes[self.scenes["scene"] == scene]
        if rows.empty:
            raise InputError(
                f"scene {scene!r} is not in the archive {str(self.folder.parent)!r}; see items/."
            )
        row = rows.iloc[0]
        matrix = row[list(MATRIX_COLUMNS)].to_numpy(float).reshape(3, 3)
        own = next(g for g in self.grids if g.crs == row["crs"])
        if grid is None:
            return matrix
        to_own = _linear_map(grid, own)
        return np.linalg.inv(to_own) @ matrix @ to_own


def corner_offsets(table: pd.DataFrame, truth: Truth, grid: Grid) -> np.ndarray:
    """Return estimated minus true places of a grid's corners, (scene, axis, corner), pixels; axis 0 is x.

    A reference made of the scenes lies nowhere in particular: one offset, common to all scenes, no
    co-registration can know. Its median over the scenes is taken out.

    Parameters
    ----------
    table : DataFrame
        Rows of ``alignment.parquet``: scene, m00 .. m22.
    grid : Grid
        Of the cube that was aligned.
    """
    rows, columns = grid.shape
    corners = np.array([[0, 0, 1], [columns - 1, 0, 1], [0, rows - 1, 1], [columns - 1, rows - 1, 1]]).T
    found = table[list(MATRIX_COLUMNS)].to_numpy(float).reshape(-1, 3, 3)
    known = np.array([truth.matrix(scene, grid) for scene in table["scene"]])
    places = [matrices @ corners for matrices in (found, known)]
    offsets = np.subtract(*(place[:, :2] / place[:, 2:] for place in places))
    return np.asarray(offsets - np.median(offsets, axis=0))


def read_truth(archive: Path | str) -> Truth:
    """Read the truth of an archive that `create` made.

    Raises
    ------
    InputError
        If the folder is not such an archive.
    """
    folder = Path(archive) / "truth"
    path = folder / "truth.json"
    if not path.is_file():
        raise InputError(
            f"{str(archive)!r} holds no truth/truth.json, so it is not an embedded archive; "
            "make one with: glacierhpc archive create FOLDER"
        )
    about = json.loads(path.read_text(encoding="utf-8"))
    west, south, east, north = about["bbox_lonlat"]
    return Truth(
        folder=folder,
        bbox_lonlat=(west, south, east, north),
        grids=tuple(Grid.from_dict(values) for values in about["grids"]),
        scenes=pd.read_parquet(folder / "matrices.parquet"),
        about=about,
    )


def _linear_map(source: Grid, target: Grid) -> np.ndarray:
    """Return the (3, 3) affine map from pixels of one grid to pixels of another, tangent at the source's
    centre."""
    rows, columns = source.shape
    centre = np.array([(columns - 1) / 2, (rows - 1) / 2])
    step = 10.0
    points = centre + step * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    a, _, c, _, e, f = source.transform
    x, y = a * (points[:, 0] + 0.5) + c, e * (points[:, 1] + 0.5) + f
    if source.crs != target.crs:
        x, y = Transformer.from_crs(source.crs, target.crs, always_xy=True).transform(x, y)
    a, _, c, _, e, f = target.transform
    mapped = np.column_stack([(np.asarray(x) - c) / a - 0.5, (np.asarray(y) - f) / e - 0.5])
    along_x, along_y = (mapped[1] - mapped[2]) / (2 * step), (mapped[3] - mapped[4]) / (2 * step)
    result = np.eye(3)
    result[:2, 0], result[:2, 1] = along_x, along_y
    result[:2, 2] = mapped[0] - along_x * centre[0] - along_y * centre[1]
    return result
