"""From items to the cube: exact, resumable, and with a row for everything that went wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine

from glacierhpc.cube import open_cube
from glacierhpc.errors import GlacierError, InputError
from glacierhpc.files import read_table
from glacierhpc.grid import Grid
from glacierhpc.scenes import fetch, parts
from glacierhpc.scenes.acquire import AcquireSummary, acquire, plan_acquisition
from glacierhpc.scenes.quality import FLAGS
from tests.scenes.rasters import GRID, OFFSET, SCALE, landsat_item, numbers, write_raster

# odc-geo writes transforms the way affine 2 wanted it
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

BANDS = ["green", "swir16"]
CLEAR = np.full(GRID.shape, 1 << 6, np.uint16)


def run(items: list[dict[str, Any]], folder: Path, **options: Any) -> AcquireSummary:
    asked: dict[str, Any] = {"bands": BANDS, "read_threads": 2, "backoff_s": 0.01, **options}
    grid = asked.pop("grid", GRID)
    return acquire(
        items,
        grid,
        folder / "cube.zarr",
        manifest=folder / "manifest.parquet",
        scenes_table=folder / "scenes.parquet",
        **asked,
    )


def scenes(folder: Path) -> dict[str, Any]:
    table = read_table(folder / "scenes.parquet")
    return {row.scene: row for row in table.itertuples()}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def three(tmp_path) -> list[dict[str, Any]]:
    """Three scenes out of order: a clear one, one of which a tenth is covered, one with a cloud."""
    little, cloud = np.ones(GRID.shape, np.uint16), CLEAR.copy()
    little[:4] = 1 << 6
    cloud[:10, :10] = 1 << 3
    images = [{band: numbers(seed + number) for number, band in enumerate(BANDS)} for seed in (0, 10, 20)]
    return [
        landsat_item(tmp_path / "in", "C", "2016-03-01T05:00:00Z", images[2], qa=cloud),
        landsat_item(tmp_path / "in", "A", "2015-01-01T05:00:00Z", images[0], qa=CLEAR),
        landsat_item(tmp_path / "in", "B", "2015-06-01T05:00:00Z", images[1], qa=little),
    ]


def test_the_cube_holds_the_archives_numbers(three, tmp_path):
    summary = run(three, tmp_path)
    assert (summary.kept, summary.dropped, summary.failed) == (2, 1, {})
    raw = xr.open_zarr(tmp_path / "cube.zarr", mask_and_scale=False)
    assert raw.data.dtype == np.uint16
    np.testing.assert_array_equal(raw.data[0, 0], numbers(0))
    np.testing.assert_array_equal(raw.data[1, 1], numbers(21))
    cube = open_cube(tmp_path / "cube.zarr")
    np.testing.assert_allclose(cube.data[0, 0], numbers(0) * SCALE + OFFSET, atol=1e-6)
    assert list(cube.scene.values) == ["A", "C"] and list(cube.band.values) == BANDS
    assert str(cube.time.values[0]) == "2015-01-01T05:00:00.000000000"
    assert (cube.quality.values[1, :10, :10] == FLAGS["cloud"]).all()
    assert cube.quality.values[0].max() == 0 and cube.valid.values.all()
    assert cube.platform.values[0] == "landsat-8" and cube.level.values.shape == (2,)
    radiometry = json.loads(cube.attrs["radiometry"])
    assert (radiometry["scale"], radiometry["offset"]) == (SCALE, OFFSET) and radiometry["source"]
    assert not (tmp_path / ".parts").exists()


def test_scenes_with_too_little_are_dropped_before_the_rest_is_read(three, tmp_path):
    run(three, tmp_path)
    rows = scenes(tmp_path)
    assert [row.state for row in rows.values()] == ["kept", "dropped", "kept"]
    assert rows["B"].valid_share == pytest.approx(0.1) and "10.0 % of the area is valid" in rows["B"].reason
    assert rows["C"].clear_share == pytest.approx(1 - 100 / 2000)
    manifest = read_table(tmp_path / "manifest.parquet")
    states = manifest[manifest.scene == "B"].set_index("asset").state.to_dict()
    assert states == {"quality": "done", "green": "skipped", "swir16": "skipped"}
    done = manifest[manifest.state == "done"]
    assert (done.bytes > 0).all() and done.checksum.str.len().eq(64).all() and (done.attempts == 1).all()


def test_cloudy_scenes_can_be_dropped_too(three, tmp_path):
    run(three, tmp_path, min_clear_share=0.96)
    assert scenes(tmp_path)["C"].reason == "only 95.0 % of the area is clear (limit 96 %)"


def test_without_a_quality_raster_the_first_band_decides(tmp_path):
    hole = numbers(1)
    hole[:30] = 0
    items = [
        landsat_item(tmp_path / "in", "A", "2015-01-01", {"green": numbers(0), "swir16": numbers(5)}),
        landsat_item(tmp_path / "in", "B", "2015-02-01", {"green": hole, "swir16": numbers(2)}),
        landsat_item(tmp_path / "in", "C", "2015-03-01", {"green": numbers(3), "swir16": hole}),
    ]
    run(items, tmp_path)
    rows = scenes(tmp_path)
    assert [rows[name].state for name in "ABC"] == ["kept", "dropped", "dropped"]
    assert (
        read_table(tmp_path / "manifest.parquet").state.tolist() == ["done"] * 3 + ["skipped"] + ["done"] * 2
    )
    run(items, tmp_path / "all", min_valid_share=0.2)
    cube = open_cube(tmp_path / "all" / "cube.zarr")
    assert not cube.valid.values[2, :30].any() and (cube.quality.values[2, :30] == FLAGS["fill"]).all()
    assert np.isnan(cube.data.values[2, 1, :30]).all()


def test_saturated_pixels_are_flagged_by_band(tmp_path):
    item = landsat_item(
        tmp_path / "in", "LC08_A", "2015-01-01", {band: numbers(0) for band in BANDS}, qa=CLEAR
    )
    radsat = np.zeros(GRID.shape, np.uint16)
    radsat[0, 0], radsat[0, 1], radsat[0, 2] = 1 << 2, 1 << 5, 1 << 1  # green, swir16, blue
    item["assets"]["qa_radsat"] = {
        "href": str(write_raster(tmp_path / "r.tif", radsat)),
        "type": "image/tiff",
    }
    run([item], tmp_path)
    flags = open_cube(tmp_path / "cube.zarr").quality.values[0, 0, :4] & FLAGS["saturated"]
    assert (flags > 0).tolist() == [True, True, False, False]


def test_southern_scenes_in_northern_codes_are_copied_not_resampled(tmp_path):
    north = Grid("EPSG:32655", (30.0, 0.0, 520185.0, 0.0, -30.0, -4663485.0), GRID.shape)
    south = Grid("EPSG:32755", (30.0, 0.0, 520185.0, 0.0, -30.0, 1e7 - 4663485.0), GRID.shape)
    item = landsat_item(tmp_path / "in", "A", "2015-01-01", {band: numbers(4) for band in BANDS}, grid=north)
    for loader in ("odc", "stackstac"):
        run([item], tmp_path / loader, grid=south, loader=loader)
        raw = xr.open_zarr(tmp_path / loader / "cube.zarr", mask_and_scale=False)
        np.testing.assert_array_equal(raw.data[0, 0], numbers(4))


def ramp(grid: Grid) -> np.ndarray:
    """Numbers that grow with true place on the ground (here: eastings and northings of zone 43), whatever the grid."""
    from pyproj import Transformer

    x, y = np.meshgrid(grid.x, grid.y)
    x, y = Transformer.from_crs(grid.crs, "EPSG:32643", always_xy=True).transform(x, y)
    return np.round(20000 + (x - 700000) * 0.5 + (y - 3540000) * 0.3).astype(np.uint16)


@pytest.mark.parametrize("loader", ["odc", "stackstac"])
def test_scenes_of_another_zone_are_reprojected(tmp_path, loader):
    home = Grid("EPSG:32643", (30.0, 0.0, 700000.0, 0.0, -30.0, 3540000.0), (60, 60))
    other = Grid.from_bbox(home.bounds_lonlat(), 30.0, crs="EPSG:32644", allow_distortion=True)
    item = landsat_item(tmp_path / "in", "A", "2015-01-01", {band: ramp(other) for band in BANDS}, grid=other)
    run([item], tmp_path, grid=home, loader=loader)
    raw = xr.open_zarr(tmp_path / "cube.zarr", mask_and_scale=False)
    values, truth = raw.data[0, 0].values.astype(float), ramp(home).astype(float)
    inside = raw.valid[0].values
    assert inside.mean() > 0.9
    # half a count of rounding on each side, and GDAL's 1/8 pixel of approximated transformation
    assert np.abs(values - truth)[inside].max() <= 1 + 0.125 * 30 * 0.6


def test_stackstac_gives_the_same_cube(three, tmp_path):
    run(three, tmp_path / "a")
    run(three, tmp_path / "b", loader="stackstac")
    first, second = (
        xr.open_zarr(tmp_path / name / "cube.zarr", mask_and_scale=False).load() for name in "ab"
    )
    xr.testing.assert_equal(first, second)


def test_an_integer_file_without_nodata_keeps_its_zeros_apart_from_its_outside(tmp_path):
    values = numbers(0)
    values[0, :] = 0
    small = Grid(GRID.crs, GRID.transform, (30, 50))
    path = write_raster(tmp_path / "g.tif", values[:30], grid=small, nodata=None)
    item = landsat_item(tmp_path / "in", "A", "2015-01-01", {"swir16": numbers(1)})
    item["assets"]["green"] = {
        "href": str(path),
        "type": "image/tiff",
        "raster:bands": [{"scale": SCALE, "offset": OFFSET, "data_type": "uint16"}],
    }
    run([item], tmp_path)
    cube = open_cube(tmp_path / "cube.zarr")
    assert cube.valid.values[0, :30].all() and not cube.valid.values[0, 30:].any()
    np.testing.assert_allclose(cube.data.values[0, 0, 1:30], values[1:30] * SCALE + OFFSET, atol=1e-6)
    np.testing.assert_allclose(cube.data.values[0, 0, 0], OFFSET, atol=2 * SCALE)


def test_an_executor_and_threads_give_the_same_bytes(three, tmp_path):
    run(three, tmp_path / "a")
    with ThreadPoolExecutor(3) as pool:
        run(three, tmp_path / "b", executor=pool, threads_per_task=2, in_flight=2)
    assert files_of(tmp_path / "a" / "cube.zarr") == files_of(tmp_path / "b" / "cube.zarr")


def test_a_finished_cube_is_not_read_again(three, tmp_path):
    run(three, tmp_path)
    before = files_of(tmp_path / "cube.zarr")
    shutil.rmtree(tmp_path / "in")
    again = run(three, tmp_path)
    assert (again.kept, again.dropped, again.assets_read) == (2, 1, 0)
    assert files_of(tmp_path / "cube.zarr") == before


def test_a_broken_scene_is_a_row_and_is_tried_again_next_time(three, tmp_path):
    whole = tmp_path / "whole"
    run(three, whole)
    broken = Path(three[0]["assets"]["swir16"]["href"])
    good = broken.read_bytes()
    broken.write_bytes(good[: len(good) // 2])
    summary = run(three, tmp_path)
    assert summary.kept == 1 and list(summary.failed) == ["C"]
    row = scenes(tmp_path)["C"]
    assert row.state == "failed" and row.reason.startswith("swir16: ") and "\n" not in row.reason
    manifest = read_table(tmp_path / "manifest.parquet").set_index(["scene", "asset"])
    assert manifest.loc[("C", "swir16")].state == "failed" and manifest.loc[("C", "green")].state == "done"
    broken.write_bytes(good)
    again = run(three, tmp_path)
    assert again.failed == {} and again.assets_read == 1 and again.assets_resumed == 6
    assert files_of(tmp_path / "cube.zarr") == files_of(whole / "cube.zarr")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"<html><body>Sign in</body></html>", "not an image"), (None, "not there"), (b"", "not an image")],
    ids=["html", "missing", "empty"],
)
def test_what_is_not_an_image_is_said_plainly(three, tmp_path, content, reason):
    path = Path(three[1]["assets"]["green"]["href"])
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert reason in run(three, tmp_path).failed["A"]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("loader", ["odc", "stackstac"])
def test_a_file_without_its_place_is_an_error_not_nodata(three, tmp_path, loader):
    path = Path(three[1]["assets"]["green"]["href"])
    with rasterio.open(path) as source:
        values, profile = source.read(), {**source.profile, "crs": None, "transform": Affine.identity()}
    with rasterio.open(path, "w", **profile) as target:
        target.write(values)
    assert "damaged or was cut short" in run(three, tmp_path, loader=loader).failed["A"]


def test_nothing_left_is_one_clear_error(three, tmp_path):
    with pytest.raises(GlacierError, match="none of 3 scenes could be used .*valid .limit 200 %") as caught:
        run(three, tmp_path, min_valid_share=2.0)
    assert caught.value.exit_code == 1 and not (tmp_path / "cube.zarr").exists()


def test_wrong_input_is_refused_before_anything_is_read(three, tmp_path):
    with pytest.raises(InputError, match="has no band 'blue'.*green, swir16"):
        run(three, tmp_path, bands=["green", "blue"])
    with pytest.raises(InputError, match="acquire.loader 'gdal' is not known.*odc, stackstac"):
        run(three, tmp_path, loader="gdal")
    with pytest.raises(InputError, match="nothing to acquire"):
        run([], tmp_path)
    assert not (tmp_path / ".parts").exists()


def test_one_scene_without_a_band_does_not_stop_the_others(three, tmp_path):
    del three[0]["assets"]["swir16"]
    summary = run(three, tmp_path)
    assert (summary.kept, summary.dropped, summary.failed) == (1, 2, {})  # running again would not help
    assert "has no band 'swir16'" in scenes(tmp_path)["C"].reason
    assert run(three, tmp_path).assets_read == 0


@pytest.mark.parametrize("loader", ["odc", "stackstac"])
@pytest.mark.parametrize("stated", [{}, {"proj:code": GRID.crs}, {"proj:code": None, "proj:epsg": None}])
def test_a_catalogue_may_state_no_projection_or_the_newer_one_only(three, tmp_path, loader, stated):
    for item in three:
        kept = {name: value for name, value in item["properties"].items() if not name.startswith("proj:")}
        item["properties"] = {**kept, **stated}
    run(three, tmp_path, loader=loader)
    raw = xr.open_zarr(tmp_path / "cube.zarr", mask_and_scale=False)
    np.testing.assert_array_equal(raw.data[0, 0], numbers(0))


def test_pieces_of_another_acquisition_are_refused(three, tmp_path):
    Path(three[0]["assets"]["swir16"]["href"]).unlink()
    run(three, tmp_path)
    with pytest.raises(InputError, match="another acquisition .other bands"):
        run(three, tmp_path, bands=["green"])


def test_a_damaged_piece_is_read_again(three, tmp_path):
    path = Path(three[0]["assets"]["swir16"]["href"])
    kept = path.read_bytes()
    path.unlink()
    run(three, tmp_path)
    shard = tmp_path / ".parts" / "C" / "green" / "data.0.0"
    shard.write_bytes(shard.read_bytes()[:-1])
    path.write_bytes(kept)
    assert run(three, tmp_path).assets_read == 2


def test_same_id_in_two_collections(three, tmp_path):
    twin = {**three[0], "collection": "other"}
    run([*three, twin], tmp_path)
    assert list(open_cube(tmp_path / "cube.zarr").collection.values) == [
        "landsat-c2-l2",
        "landsat-c2-l2",
        "other",
    ]


def test_the_plan_counts_without_reading(three, tmp_path):
    plan = plan_acquisition(three, GRID, bands=BANDS)
    assert plan.to_dict()["scenes"] == 3 and plan.to_dict()["assets"] == 9
    assert plan.cube_bytes == 3 * 2000 * (2 * 2 + 3)
    assert 0 < plan.bytes_to_read_estimate < 3 * 2000 * 5
    assert ["scenes", 3] in plan.table()
    far = Grid(GRID.crs, (30.0, 0.0, 900000.0, 0.0, -30.0, 3000000.0), GRID.shape)
    assert plan_acquisition(three, far, bands=BANDS).bytes_to_read_estimate == 0
    run(three, tmp_path)
    written = len(files_of(tmp_path / "cube.zarr"))
    assert abs(plan.files - written) <= 15


def test_a_full_disk_is_one_clear_error_and_nothing_is_lost(three, tmp_path, monkeypatch):
    real, calls = parts.write_band, []

    def full(*arguments: Any) -> Path:
        calls.append(arguments)
        if len(calls) == 3:
            raise parts.disk_error(OSError(28, "No space left on device"), tmp_path)
        return real(*arguments)

    monkeypatch.setattr(parts, "write_band", full)
    with pytest.raises(GlacierError, match="No space left on device; free some space"):
        run(three, tmp_path, read_threads=1)
    monkeypatch.setattr(parts, "write_band", real)
    assert run(three, tmp_path).assets_resumed >= 4


def test_progress_reaches_the_end(three, tmp_path):
    """Also that of a run which goes on: what was there before is done, and was needed."""
    seen: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        seen.append((done, total))
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(three, tmp_path, progress=tell)
    assert run(three, tmp_path, progress=tell).assets_resumed > 0
    assert seen[-1] == (9, 9) and all(done <= total for done, total in seen)


def test_bytes_are_the_same_every_time(three, tmp_path):
    make: Callable[[str], dict[str, bytes]] = lambda name: files_of(run(three, tmp_path / name).cube)  # noqa: E731
    assert make("a") == make("b")
    assert fetch.QUALITY == "quality"
