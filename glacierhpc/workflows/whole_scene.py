"""The forecast of the whole area, block by block: composites in, ``prediction.zarr`` and GeoTIFFs out.

Memory is that of one block, whatever the size of the area.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from glacierhpc.datasets.climatology import Climatology
from glacierhpc.datasets.composites import StoredComposites
from glacierhpc.datasets.scene import SceneSequence
from glacierhpc.datasets.sequences import SequencePlan
from glacierhpc.evaluation.predict import forecast_blocks, scene_tiles
from glacierhpc.tiling import seam_ratio
from glacierhpc.workflows import products


@dataclass(frozen=True)
class SceneFacts:
    """What was forecast, and how well its tiles hide."""

    input_time: np.ndarray
    lead_time: np.ndarray
    maps: list[Path]
    seams: float
    """Gradient across tile borders over inside in the first lead; 1 where borders cannot be seen."""
    target_seams: float
    """The same of what was observed there: what chance gives on these borders."""


def forecast_scene(
    model: Any,
    composite: xr.Dataset,
    plan: SequencePlan,
    first: int,
    *,
    prediction: Path,
    maps: Path,
    judged: np.ndarray | None = None,
    overlap_px: int | None = None,
    rim_px: int = 0,
    block_px: int = products.BLOCK_PX,
    batch_size: int = 16,
    device: str = "cpu",
) -> SceneFacts:
    """Forecast the whole area from the sequence that starts at a time step.

    Parameters
    ----------
    model : nn.Module
        A sequence model.
    composite : Dataset
        What `open_cube` gives, not loaded.
    plan : SequencePlan
        Of these composites.
    first : int
        Time step of the first input.
    prediction, maps : Path
        The Zarr store and the folder that are written.
    judged : (T', Y, X) bool, optional
        Target pixels that may be compared with the forecast; all valid ones by default.
    overlap_px, rim_px : int, optional
        See ``predict.scene_tiles``.
    block_px : int
        Edge length of a block, pixels.
    """
    composites = StoredComposites(composite)
    times = composite.time.values
    usual = Climatology.of(composites, times, np.arange(len(times)), causal=True)
    scene = SceneSequence.of(composites, plan, first, climatology=usual)
    tiles = scene_tiles(scene.shape, plan.size, overlap_px=overlap_px, rim_px=rim_px)
    when = {"lead_time": times[scene.targets], "input_time": times[scene.inputs]}
    with products.prediction_writer(prediction, composite, **when) as writer:
        for block in forecast_blocks(
            model, scene, tiles, rim_px=rim_px, block_px=block_px, batch_size=batch_size, device=device
        ):
            place = (block.rows, block.cols)
            target, target_valid = scene.read_targets(*place)
            images, images_valid = scene.read_inputs(*place)
            writer.write(
                *place,
                prediction=block.values,
                target=target,
                target_valid=target_valid if judged is None else target_valid & judged[(slice(None), *place)],
                inputs=np.where(images_valid[:, None], images, np.nan),
            )
        written, observed = writer.read("prediction"), writer.read("target")
        paths = products.write_maps(maps, composite, written, when["lead_time"])
        seams = [seam_ratio(_Image(array), tiles) for array in (written, observed)]  # type: ignore[arg-type]
        writer.note(seam_ratio=seams[0], seam_ratio_observed=seams[1])
    return SceneFacts(when["input_time"], when["lead_time"], paths, *seams)


class _Image:
    """The first lead and band of an array on disk, as an image that is read by windows."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape = array.shape[-2:]

    def __getitem__(self, place: Any) -> np.ndarray:
        return np.asarray(self._array[(0, 0, *place[-2:])])
