"""The demo: the forecast task, small and offline, on synthetic scenes read through a real STAC API over HTTP."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from glacierhpc.config import Config, load_config
from glacierhpc.config.presets import preset_path
from glacierhpc.cube import open_cube
from glacierhpc.errors import InputError
from glacierhpc.grid import Grid
from glacierhpc.rundir import RunDirectory, read_table
from glacierhpc.scenes import archive
from glacierhpc.scenes.archive.truth import corner_offsets
from glacierhpc.workflows.runner import run_steps
from glacierhpc.workflows.tasks import Summary

log = logging.getLogger(__name__)

SCENES = 274  # six years of one scene every EVERY_DAYS days: three and a half to learn from, one to test on
EVERY_DAYS = 8  # two satellites that take turns; clouds leave about half of the months well covered at 16
SIZE_PX = 160
MARK = ".demo"
"""The file that tells a demo's folder, which may be removed, from a run of one's own."""


def demo(folder: Path = Path("runs/demo")) -> Summary:
    """Make the archive, serve it, run every step on it, and check the result against the known truth.

    Parameters
    ----------
    folder : path
        The run; one of an earlier demo is removed, and all is done again. The archive lies beside it,
        ``<folder>-archive``, and is used again.

    Raises
    ------
    InputError
        If the folder holds anything but an earlier demo.
    """
    _clear(folder)
    scenes = _archive(folder.with_name(f"{folder.name}-archive"))
    with archive.serve(scenes) as served:
        config = _config(folder, scenes, served.stac_url)
        summary = run_steps(config)
    truth = _alignment_truth(RunDirectory(folder), scenes)
    rows = [*summary["table"], *truth, ["report", str(folder / "report.html")]]
    return {**summary, "table": rows, "report": str(folder / "report.html")}


def _clear(folder: Path) -> None:
    """Remove the run of an earlier demo, and nothing else; mark the new folder as a demo's."""
    if folder.exists() and not (folder / MARK).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"folder {str(folder)!r} is not that of an earlier demo; give a new one, or remove it"
        )
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARK).touch()


def _archive(folder: Path) -> Path:
    """Write the scenes; those of an earlier demo are used again."""
    log.info("writing %d synthetic scenes to %s", SCENES, folder)
    archive.create(folder, scenes=SCENES, every_days=EVERY_DAYS, size_px=SIZE_PX, seed=0)
    return folder


def _config(folder: Path, scenes: Path, catalogue: str) -> Config:
    overrides = {
        "run_dir": folder.resolve(),
        "archive.catalogue": catalogue,
        "area.outlines": (scenes / "outlines.gpkg").resolve(),
    }
    return load_config(preset_path("demo"), [f"{key}={value}" for key, value in overrides.items()])


def _alignment_truth(run: RunDirectory, scenes: Path) -> list[list[Any]]:
    """Return how far the estimated matrices are from those the scenes were made with."""
    aligned = read_table(run.alignment).query("ok")
    grid = Grid.from_dataset(open_cube(run.clean))
    offsets_px = corner_offsets(aligned, archive.read_truth(scenes), grid)
    rms_px = np.sqrt((offsets_px**2).sum(axis=1).mean(axis=1))
    return [
        ["alignment against the known truth, median", f"{np.median(rms_px):.3f} px at the corners"],
        ["alignment against the known truth, worst", f"{rms_px.max():.3f} px at the corners"],
    ]
