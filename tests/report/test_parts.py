"""Parts of the page on runs that went badly, or small: nothing found, nothing seen, one date, one lead."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

from glacierhpc.cube import finish_cube
from glacierhpc.report import (
    alignment,
    alignment_plots,
    animation,
    composites,
    flow,
    forecast,
    losses,
    maps,
    overview,
    record,
    skill_table,
    timeline,
    training,
    write_report,
)
from glacierhpc.report.blocks import Listing, Note, Picture, Table
from glacierhpc.report.run_files import RunFiles


def test_losses_are_listed_failures_first_with_their_step_and_reason(finished_run: Path) -> None:
    (table,) = losses.losses(RunFiles(finished_run))
    assert isinstance(table, Table)
    states = [row[0] for row in table.rows]
    assert states == sorted(states, key=lambda state: state != "failed")
    assert {row[1] for row in table.rows} == {"search", "acquire", "align"}
    assert all(row[4] not in ("", "–") for row in table.rows)


def test_a_scene_lost_later_is_not_shown_as_used(copied_run: Path) -> None:
    kept = pd.read_parquet(copied_run / "scenes.parquet").query("state == 'kept'")["scene"].tolist()
    clean = pd.DataFrame(
        {"scene": [kept[0]], "band": "", "state": "dropped", "reason": "3.0% of the area is clear"}
    )
    clean.to_parquet(copied_run / "clean.parquet")
    run = RunFiles(copied_run)
    fates = losses.fates(run).set_index("scene")["state"]
    assert fates[kept[0]] == "dropped"
    assert (fates == "failed").sum() == 2  # one not read, one not aligned
    assert any(tile.value == str((fates == "used").sum()) for tile in overview.tiles(run))


def test_many_losses_are_also_counted_by_reason(copied_run: Path) -> None:
    scenes = pd.read_parquet(copied_run / "scenes.parquet")
    shares = [f"only {index}.{index} % of the area is valid (limit 30 %)" for index in range(len(scenes))]
    scenes.assign(state="dropped", reason=shares).to_parquet(copied_run / "scenes.parquet")
    by_reason, listed = losses.losses(RunFiles(copied_run))
    assert isinstance(by_reason, Table)
    assert isinstance(listed, Table)
    assert (
        "dropped",
        "acquire",
        str(len(scenes)),
        "only … % of the area is valid (limit … %)",
    ) in by_reason.rows
    assert listed.folded
    assert not by_reason.folded


def test_map_shows_the_scene_with_least_snow(copied_run: Path) -> None:
    def snow_everywhere_but_in_one(cube: xr.Dataset) -> xr.Dataset:
        bare = np.arange(cube.sizes["time"]) == 4
        swir = xr.where(xr.DataArray(bare, dims="time"), 0.4, 0.02)
        data = xr.where(cube.band == "swir16", swir * xr.ones_like(cube.data.isel(band=0)), cube.data)
        return cube.assign(data=data.transpose("time", "band", "y", "x").astype("float32"))

    rewrite(copied_run / "aligned.zarr", snow_everywhere_but_in_one)
    (picture,) = maps.area_map(RunFiles(copied_run))
    day = np.datetime_as_string(xr.open_zarr(copied_run / "aligned.zarr").time.values[4], unit="D")
    assert isinstance(picture, Picture)
    assert f"false colour (swir16, nir08, green) of {day}" in picture.caption


def test_residuals_that_were_not_measured_are_said_to_be_unknown(copied_run: Path) -> None:
    rows = pd.read_parquet(copied_run / "alignment.parquet")
    rows.assign(residual_px=np.nan, residual_before_px=np.nan).to_parquet(copied_run / "alignment.parquet")
    tiles = {tile.label: tile for tile in overview.tiles(RunFiles(copied_run))}
    assert tiles["misfit to the reference"].value == "unknown"


@pytest.mark.parametrize("stable", [True, False])
def test_stable_ground_is_said_only_where_it_was_used(copied_run: Path, stable: bool) -> None:
    rewrite_json(
        copied_run / "aligned.zarr" / "zarr.json",
        lambda store: store["attributes"].update(stable_ground=stable),
    )
    run = RunFiles(copied_run)
    (picture,) = alignment_plots.residuals(run)
    assert isinstance(picture, Picture)
    labels = {tile.label for tile in overview.tiles(run)}
    assert ("misfit on stable ground" in labels) is stable
    for text in (picture.caption, alignment.intro(run)):
        assert ("outside the glaciers" in text) is stable and ("over the whole area" in text) is not stable


def test_what_an_index_shows_is_worded_from_the_run(copied_run: Path) -> None:
    water = "open water (NDWI values), not ice motion"
    rewrite_json(copied_run / "metrics.json", lambda metrics: metrics.update(shows=water))
    run = RunFiles(copied_run)
    (film,) = forecast.film(run)
    assert isinstance(film, Picture) and water in film.caption
    assert skill_table._metric_words(run, "iou") == "iou of open water ↑"
    assert water in [tile.value for tile in overview.tiles(run)]
    page = write_report(copied_run).read_text()
    assert "snow and ice cover" not in page and f"What is shown: {water}" in page


def test_no_scene_found(copied_run: Path) -> None:
    empty = pd.read_parquet(copied_run / "scenes.parquet").iloc[:0]
    empty.to_parquet(copied_run / "scenes.parquet")
    (copied_run / "items.json").write_text(json.dumps({"features": [], "search": {}}))
    run = RunFiles(copied_run)
    for part in (timeline.scenes, timeline.quality, maps.footprints):
        (note,) = part(run)
        assert isinstance(note, Note)


def test_scene_without_cloud_cover_or_shares_is_still_shown(copied_run: Path) -> None:
    scenes = pd.read_parquet(copied_run / "scenes.parquet")
    scenes.assign(cloud_cover=np.nan, valid_share=np.nan).to_parquet(copied_run / "scenes.parquet")
    (picture,) = timeline.scenes(RunFiles(copied_run))
    assert isinstance(picture, Picture)
    (note,) = timeline.quality(RunFiles(copied_run))
    assert isinstance(note, Note)


def test_composites_without_any_view(copied_run: Path) -> None:
    rewrite(
        copied_run / "composite.zarr", lambda cube: cube.assign(data=cube.data * np.nan, looks=cube.looks * 0)
    )
    run = RunFiles(copied_run)
    (thumbnails,), (looks,) = composites.thumbnails(run), composites.looks(run)
    assert isinstance(thumbnails, Picture)
    assert isinstance(looks, Picture)
    assert "12 of 12 windows have no view at all" in looks.caption


def test_map_falls_back_to_the_composite_and_says_so(copied_run: Path) -> None:
    for name in ("aligned.zarr", "clean.zarr"):
        (copied_run / name).rename(copied_run / f"away-{name}")
    (picture,) = maps.area_map(RunFiles(copied_run))
    assert isinstance(picture, Picture)
    assert "ndsi of the composite" in picture.caption
    assert "Yellow: glacier outline" in picture.caption


def test_outlines_that_are_gone_are_said(copied_run: Path) -> None:
    (copied_run / "outlines.geojson").unlink()
    (picture,) = maps.area_map(RunFiles(copied_run))
    assert isinstance(picture, Picture)
    assert "'outlines.geojson' could not be found" in picture.caption


def test_errors_are_unknown_where_the_target_is(finished_run: Path) -> None:
    shown = forecast.read_sequence(RunFiles(finished_run))
    valid = xr.open_zarr(finished_run / "prediction.zarr")["target_valid"].values
    assert np.array_equal(np.isfinite(shown.errors), valid)
    assert shown.errors[3][valid[3]].mean() == pytest.approx(0.15, abs=0.02)  # the bias that was put in


def test_seams_are_told_beside_those_of_what_was_observed(copied_run: Path) -> None:
    def told() -> str:
        return forecast.maps(RunFiles(copied_run))[-1].caption

    assert "borders" not in told()
    rewrite(
        copied_run / "prediction.zarr",
        lambda cube: cube.assign_attrs(seam_ratio=1.03, seam_ratio_observed=1.04),
    )
    assert "is 1.03 times that inside (of what was observed there 1.04)" in told()


def test_one_lead_and_no_inputs(copied_run: Path) -> None:
    rewrite(copied_run / "prediction.zarr", lambda cube: cube.drop_dims("step_in").isel(lead=[0]))
    run = RunFiles(copied_run)
    assert [type(block) for block in forecast.maps(run)] == [Picture]
    (film,) = forecast.film(run)
    assert isinstance(film, Picture)


def test_film_has_a_frame_for_each_input_and_lead(finished_run: Path) -> None:
    (film,) = forecast.film(RunFiles(finished_run))
    assert isinstance(film, Picture)
    with Image.open(io.BytesIO(base64.b64decode(film.source.split(",")[1]))) as image:
        assert image.n_frames == 8  # type: ignore[attr-defined]
        assert image.info["loop"] == 0


def test_animation_keeps_rare_colours() -> None:
    palette = animation.palette("cividis", "RdBu")
    assert palette.shape == (256, 3)
    frame = np.full((40, 40, 3), palette[60], np.uint8)
    frame[3, 3] = palette[-1]
    source = animation.gif([frame, frame[::-1]], seconds=0.5, palette=palette)
    with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as image:
        assert np.array_equal(np.asarray(image.convert("RGB"))[3, 3], palette[-1])
    with pytest.raises(ValueError, match="at least one frame"):
        animation.gif([], seconds=1, palette=palette)


def test_motion_no_better_than_none_is_said(finished_run: Path, copied_run: Path) -> None:
    note, table = flow.control(RunFiles(finished_run))
    assert isinstance(note, Note)
    assert isinstance(table, Table)
    assert note.text.startswith("At lead 3, 4 assuming no motion")
    assert [row[-1] for row in table.rows] == ["better than no motion"] * 2 + ["no better than no motion"] * 2
    given = json.loads((copied_run / "flow.json").read_text())
    for lead in given["leads"]:
        lead["epe_px"] = None
    (copied_run / "flow.json").write_text(json.dumps(given))
    note = flow.control(RunFiles(copied_run))[0]
    assert isinstance(note, Note)
    assert note.tone == "bad"


@pytest.mark.parametrize(
    ("audit", "tone", "said"),
    [
        ({"ok": True, "checked": 1234567, "leaks": []}, "good", "Audit passed (1,234,567 target pixels"),
        (
            {"ok": False, "checked": 5, "leaks": [{"time": "2016-01-01", "pixels": 4}]},
            "bad",
            "Audit failed (5",
        ),
        ({}, "bad", "The split was not audited"),
    ],
)
def test_audit_is_said_as_it_is(copied_run: Path, audit: dict[str, object], tone: str, said: str) -> None:
    split = json.loads((copied_run / "split.json").read_text())
    (copied_run / "split.json").write_text(json.dumps({**split, "audit": audit}))
    blocks = training.split(RunFiles(copied_run))
    assert isinstance(blocks[0], Note)
    assert blocks[0].tone == tone
    assert blocks[0].text.startswith(said)
    tables = [block for block in blocks if isinstance(block, Table)]
    assert (tables[-1].columns == ("time", "pixels")) == bool(audit.get("leaks"))


def test_best_epoch_is_that_of_the_validation_loss(copied_run: Path) -> None:
    history = pd.DataFrame({"epoch": [0, 1, 2], "train_loss": [3.0, 2.0, 1.0], "valid_loss": [2.0, 1.5, 1.8]})
    history.to_csv(copied_run / "history.csv", index=False)
    (picture,) = training.history(RunFiles(copied_run))
    assert isinstance(picture, Picture)
    assert "smallest validation loss 1.50 in epoch 2" in picture.caption


def test_history_without_an_epoch_is_said(copied_run: Path) -> None:
    (copied_run / "history.csv").write_text("epoch,train_loss,valid_loss\n")
    (note,) = training.history(RunFiles(copied_run))
    assert isinstance(note, Note)


def test_citation_names_the_data_that_were_used(finished_run: Path) -> None:
    (listing,) = record.citation(RunFiles(finished_run))
    assert isinstance(listing, Listing)
    assert "U.S. Geological Survey" in listing.text
    assert "Copernicus" not in listing.text
    assert "commit 0123456789ab" in listing.text


def test_failed_step_is_listed_with_its_error(copied_run: Path) -> None:
    step = {
        "state": "failed",
        "started": "2026-01-05T11:00:00+00:00",
        "seconds": 1.0,
        "error": "GlacierError: disk full",
    }
    (copied_run / "steps" / "flow.json").write_text(json.dumps(step))
    (table,) = record.steps(RunFiles(copied_run))
    assert isinstance(table, Table)
    assert table.rows[-1][1] == "failed"
    assert table.rows[-1][3] == "GlacierError: disk full"


def rewrite(path: Path, change) -> None:  # type: ignore[no-untyped-def]
    """Put a changed copy of a cube in its place."""
    with xr.open_zarr(path) as cube:
        changed = change(cube.load())
    for name in changed.variables:
        changed[name].encoding.clear()
    changed.to_zarr(path, mode="w", zarr_format=3, consolidated=False)
    finish_cube(path)


def rewrite_json(path: Path, change) -> None:  # type: ignore[no-untyped-def]
    """Change the object that a JSON file holds."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
