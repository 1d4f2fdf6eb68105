"""From a cube of scenes to clean reflectance: mask what is not ground, fill and mark small holes.

Reading scenes is `acquire`'s; what the quality flags mean is `quality`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from glacierhpc.cube import Variable, create_like, finish_cube, open_cube, write_time
from glacierhpc.fanout import Progress, Tally, run_all
from glacierhpc.kernels.gaps import fill_gaps
from glacierhpc.scenes.quality import clean_mask

PIXELS = ("time", "y", "x")
VARIABLES = {
    "data": Variable(
        ("time", "band", "y", "x"), "float32", attrs={"long_name": "surface reflectance", "units": "1"}
    ),
    "valid": Variable(PIXELS, "bool", False, {"long_name": "observed and clear"}),
    "filled": Variable(PIXELS, "bool", False, {"long_name": "made up by gap filling in at least one band"}),
}


def clean_cube(
    cube_path: Path,
    store: Path,
    *,
    mask: Sequence[str],
    fill_passes: int | None,
    min_clear_share: float = 0.0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Mask clouds, shadows and saturation in every scene and fill what is left of small gaps.

    Parameters
    ----------
    cube_path : path
        The cube that `acquire` wrote.
    store : path
        The clean cube: ``data`` float32 reflectance, NaN where there is none; ``valid`` (time, y, x) before
        filling; ``filled`` (time, y, x) pixels made up by the filling.
    mask : sequence of str
        Quality flags to mask, see `scenes.quality`.
    fill_passes : int or None
        Passes of the filling, each growing up to two pixels inwards from the rim of a gap; 0 fills nothing, None
        all. See `glacierhpc.kernels.gaps.fill_gaps`.
    min_clear_share : float
        Scenes with fewer clear pixels, as a share of the grid, are left out.
    executor : Executor, optional
        Runs one scene per task; None runs them here.
    progress : callable, optional
        Called with what is done and what there is to do, each scene counted when judged and when cleaned.

    Returns
    -------
    DataFrame
        A row per scene and band: ``scene, band, clear_share, masked_share, filled_share, state, reason``;
        the state is ``done``, ``empty`` (the band has no valid pixel) or ``dropped``.
    """
    cube = open_cube(cube_path)
    positions = range(cube.sizes["time"])
    tally = Tally(2 * len(positions), progress)
    judged = ((cube_path, tuple(mask), index) for index in positions)
    clear = list(run_all(executor, _clear_share, judged, tally=tally))
    keep = [index for index in positions if clear[index] >= min_clear_share]
    create_like(store, cube, keep=keep, variables=VARIABLES)
    tally.add(len(positions) - len(keep))
    calls = ((cube_path, store, tuple(mask), fill_passes, index, place) for place, index in enumerate(keep))
    rows = [row for scene in run_all(executor, _clean_scene, calls, tally=tally) for row in scene]
    finish_cube(store)
    rows += [
        _dropped_row(str(cube.scene.values[i]), clear[i], min_clear_share) for i in positions if i not in keep
    ]
    return pd.DataFrame(rows).sort_values(["scene", "band"], ignore_index=True)


def _clear(cube: Any, mask: Iterable[str]) -> np.ndarray:
    valid: np.ndarray = cube.valid.values
    return valid & clean_mask(cube.quality.values, mask) if "quality" in cube else valid


def _clear_share(cube_path: Path, mask: tuple[str, ...], index: int) -> float:
    return float(_clear(open_cube(cube_path).isel(time=index), mask).mean())


def _clean_scene(
    cube_path: Path, store: Path, mask: tuple[str, ...], fill_passes: int | None, index: int, position: int
) -> list[dict[str, Any]]:
    """Clean the scene at `index` of the cube into `position` of the store; returns its rows."""
    scene = open_cube(cube_path).isel(time=index)
    clear = _clear(scene, mask)
    name = str(scene.scene.values)
    data = np.empty((scene.sizes["band"], *clear.shape), np.float32)
    made_up = np.zeros(clear.shape, bool)
    observed = clear.copy()
    rows = []
    for layer, band in enumerate(scene.band.values):
        image = scene.data[layer].values
        known = clear & np.isfinite(image)
        observed &= known
        filled = np.zeros_like(known)
        if fill_passes != 0 and known.any():
            image, filled = fill_gaps(np.where(known, image, np.nan), known, max_passes=fill_passes)
        data[layer] = np.where(known | filled, image, np.nan)
        made_up |= filled
        rows.append(_row(name, str(band), clear, known, filled))
    write_time(store, position, {"data": data, "valid": observed, "filled": made_up & ~observed})
    return rows


def _row(scene: str, band: str, clear: np.ndarray, known: np.ndarray, filled: np.ndarray) -> dict[str, Any]:
    empty = not known.any()
    return {
        "scene": scene,
        "band": band,
        "clear_share": float(clear.mean()),
        "masked_share": 1 - float(known.mean()),
        "filled_share": float(filled.mean()),
        "state": "empty" if empty else "done",
        "reason": "no valid pixel in this band: nothing to fill from" if empty else "",
    }


def _dropped_row(scene: str, clear_share: float, least: float) -> dict[str, Any]:
    return {
        "scene": scene,
        "band": "",
        "clear_share": clear_share,
        "masked_share": 1 - clear_share,
        "filled_share": 0.0,
        "state": "dropped",
        "reason": f"{clear_share:.1%} of the area is clear, under clean.min_clear_share {least:.1%}",
    }
