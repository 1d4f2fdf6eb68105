"""Whether the blink comparison shows the right scenes, the right place, and stands still when all is well."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from glacierhpc.report import blink, write_report
from glacierhpc.report.blocks import Blink, Note
from glacierhpc.report.run_files import RunFiles


def test_crop_is_where_the_texture_is_and_all_images_have_data() -> None:
    rng = np.random.default_rng(0)
    image = np.full((300, 400), 0.5, np.float32)
    image[180:280, 250:380] = rng.random((100, 130))
    image[0:90, 0:90] = 3 * rng.random((90, 90))  # more texture, but nearly all of it is hidden in the other
    other = image.copy()
    other[0:90, 8:120] = np.nan
    rows, columns = blink.best_crop(image, [other], size_px=80)
    assert 150 <= rows.start <= 210
    assert 220 <= columns.start <= 310


def test_crop_is_not_where_the_ice_is() -> None:
    image = np.random.default_rng(0).random((200, 200)).astype(np.float32)
    image[100:, 100:] *= 3
    ice = np.zeros((200, 200), bool)
    ice[90:, 90:] = True
    rows, columns = blink.best_crop(image, [image], moving=ice, size_px=80)
    assert not ice[rows, columns].any()
    everywhere = blink.best_crop(image, [image], moving=np.ones_like(ice), size_px=80)
    assert everywhere == blink.best_crop(image, [image], size_px=80) != (rows, columns)


def test_crop_reaches_the_last_row_and_column() -> None:
    image = np.zeros((150, 170), np.float32)
    image[-40:, -40:] = np.random.default_rng(0).standard_normal((40, 40))
    rows, columns = blink.best_crop(image, [image], size_px=40)
    assert (rows.stop, columns.stop) == (150, 170)


def test_crop_of_an_image_smaller_than_it_is_the_image() -> None:
    rows, columns = blink.best_crop(np.ones((20, 30), np.float32), [np.ones((20, 30), np.float32)])
    assert (rows.start, columns.start) == (0, 0)


def test_aligned_scenes_stand_still_and_unaligned_ones_jump(finished_run: Path) -> None:
    (block,) = blink.blink(RunFiles(finished_run))
    assert isinstance(block, Blink)
    assert [column.title.split(":")[0] for column in block.columns] == ["worst", "median", "best"]
    for column in block.columns:
        reference, before, after = map(_pixels, (column.reference, column.before, column.after))
        assert reference.shape == before.shape == after.shape == (blink.CROP_PX, blink.CROP_PX)
        assert _likeness(reference, after) > _likeness(reference, before)
    gains = [
        _likeness(_pixels(one.reference), _pixels(one.after))
        - _likeness(_pixels(one.reference), _pixels(one.before))
        for one in block.columns
    ]
    assert max(gains) > 0.1


def test_titles_state_date_misfit_and_shift(finished_run: Path) -> None:
    (block,) = blink.blink(RunFiles(finished_run))
    assert isinstance(block, Blink)
    rows = pd.read_parquet(finished_run / "alignment.parquet").query("ok")
    worst = rows.sort_values("residual_px").iloc[-1]
    first = block.columns[0]
    assert first.title == f"worst: {worst['time']:%Y-%m-%d}"
    assert first.detail.startswith(f"misfit {worst['residual_px']:.2f} px, shift ")
    assert first.detail.endswith(worst["season"])
    assert "most texture outside the glaciers, band nir08, 112 px (3.4 km) wide" in block.caption


def test_before_and_after_have_one_contrast() -> None:
    image = np.linspace(0.1, 0.9, 100, dtype=np.float32).reshape(10, 10)
    low, high = blink.contrast([image.ravel(), image[::-1].ravel()])
    assert (low, high) == (pytest.approx(0.116, abs=0.01), pytest.approx(0.884, abs=0.01))
    image[3, 4] = np.nan
    with Image.open(io.BytesIO(base64.b64decode(blink.grey(image, low, high).split(",")[1]))) as shown:
        levels, opacity = np.asarray(shown).transpose(2, 0, 1)
    assert levels[0, 0] == 0 and levels[-1, -1] == 255
    assert levels[5, 0] == pytest.approx(255 * (image[5, 0] - low) / (high - low), abs=1)
    assert opacity[3, 4] == 0 and (np.delete(opacity.ravel(), 34) == 255).all()


def test_scene_is_compared_with_others_of_its_season() -> None:
    rows = pd.DataFrame(
        {
            "scene": list("abcdefg"),
            "season": ["summer"] * 4 + ["winter"] * 3,
            "residual_px": [0.5, 0.3, 0.1, 0.2, 0.05, 0.04, np.nan],
        }
    )
    assert blink.companions(rows, rows.iloc[0]) == ["c", "d", "b"]
    # two others of its season are too few for a median without clouds
    assert blink.companions(rows, rows.iloc[4]) == ["f", "c", "d", "b", "a", "g"]
    assert blink.companions(rows.assign(season=""), rows.iloc[0].copy()) == ["f", "e", "c", "d", "b", "g"]


def test_scenes_that_were_not_resampled_are_said_to_jump(copied_run: Path) -> None:
    store = copied_run / "aligned.zarr" / "zarr.json"
    described = json.loads(store.read_text())
    described["attributes"]["alignment"] = "moved by whole pixels"
    store.write_text(json.dumps(described))
    (block,) = blink.blink(RunFiles(copied_run))
    assert isinstance(block, Blink) and "up to half a pixel is left" in block.caption
    described["attributes"]["alignment"] = "resampled once, cubic kernel"
    store.write_text(json.dumps(described))
    (block,) = blink.blink(RunFiles(copied_run))
    assert isinstance(block, Blink) and "half a pixel" not in block.caption


def test_one_scene_has_nothing_to_be_compared_with(copied_run: Path) -> None:
    rows = pd.read_parquet(copied_run / "alignment.parquet").query("ok").head(1)
    rows.to_parquet(copied_run / "alignment.parquet")
    (note,) = blink.blink(RunFiles(copied_run))
    assert isinstance(note, Note) and "fewer than two aligned scenes" in note.text


def test_page_can_hold_either_image_and_keeps_still_for_who_asked(
    finished_run: Path, copied_run: Path
) -> None:
    html = write_report(copied_run).read_text()
    assert len(re.findall(r'<input type="radio" name="blink"', html)) == 3
    style = html.split("</style>")[0]
    assert re.search(r"prefers-reduced-motion: reduce\) \{\s*\.blink \.scene \{ animation: none; \}", style)
    assert "#blink-scene:checked ~ * .scene { animation: none; }" in style
    section = html.split('id="alignment"')[1].split("</section>")[0]
    images = re.findall(r'<img (?:class="scene" )?src="data:image/png;base64,([^"]+)" alt="([^"]+)"', section)
    assert len(images) == 12
    assert sum(len(image) for image, _ in images) < 400_000
    assert {alt.rsplit(", ", 1)[1] for _, alt in images if ", " in alt} == {
        "before alignment",
        "after alignment",
    }


def _pixels(address: str) -> np.ndarray:
    """Return the grey levels of a blink image, NaN where it is clear."""
    with Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))) as image:
        levels, opacity = np.asarray(image).astype(float).transpose(2, 0, 1)
    return np.where(opacity > 0, levels, np.nan)


def _likeness(first: np.ndarray, second: np.ndarray) -> float:
    both = np.isfinite(first) & np.isfinite(second)
    return float(np.corrcoef(first[both], second[both])[0, 1])
