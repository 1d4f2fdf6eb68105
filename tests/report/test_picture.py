"""The picture of a run is one PNG of four panels, or an error that names the step to run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glacierhpc.errors import GlacierError
from glacierhpc.report import write_picture


def test_a_run_becomes_one_picture(finished_run: Path, tmp_path: Path) -> None:
    path = write_picture(finished_run, tmp_path / "picture.png")
    image = np.asarray(Image.open(path).convert("RGB"))
    height, width, _ = image.shape
    assert width > 3 * height
    for panel in np.array_split(image[height // 3 : 2 * height // 3], 4, axis=1):
        assert len(np.unique(panel.reshape(-1, 3), axis=0)) > 20, "each quarter shows something"


def test_a_run_without_forecast_names_the_step(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes((finished_run / "config.yaml").read_bytes())
    with pytest.raises(GlacierError, match="prediction.zarr"):
        write_picture(tmp_path, tmp_path / "picture.png")
