"""A user's own files become a catalogue that search and acquisition understand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio

from glacierhpc.cube import open_cube
from glacierhpc.errors import InputError
from glacierhpc.files import read_table
from glacierhpc.grid import Grid
from glacierhpc.scenes.acquire import acquire
from glacierhpc.scenes.archive.index import index
from glacierhpc.scenes.indices import ndvi
from glacierhpc.scenes.quality import FLAGS
from glacierhpc.scenes.stac import search_scenes
from tests.scenes.rasters import GRID, numbers, write_raster

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


def items_of(catalogue: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((catalogue.parent / "items").glob("*.json"))]


def cube_of(catalogue: Path, bands: list[str], out: Path, **options: Any) -> Any:
    """Go the whole way: search, acquire on the files' own grid, open."""
    first = items_of(catalogue)[0]
    asset = next(iter(first["assets"].values()))
    grid = Grid(asset["proj:code"], tuple(asset["proj:transform"]), tuple(asset["proj:shape"]))
    found = search_scenes(
        str(catalogue),
        collections=["local"],
        bbox_lonlat=grid.bounds_lonlat(),
        start="1980-01-01",
        end="2030-01-01",
    )
    acquire(
        found.items,
        grid,
        out / "cube.zarr",
        bands=bands,
        manifest=out / "manifest.parquet",
        scenes_table=out / "scenes.parquet",
        read_threads=2,
        **options,
    )
    return open_cube(out / "cube.zarr")


def copied(folder: Path, pattern: str, target: Path) -> Path:
    target.mkdir()
    for path in folder.glob(pattern):
        shutil.copyfile(path, target / path.name)
    return target


def test_a_real_landsat_scene_from_files_to_reflectance(real_data, tmp_path):
    """Independent answers: CLOUD_COVER in the scene's metadata and the medians in the data set's README."""
    folder = copied(real_data("landsat-c2l2-greenland-icesheet"), "*.TIF", tmp_path / "in")
    catalogue = index(folder)
    (item,) = items_of(catalogue)
    assert item["properties"]["platform"] == "landsat-8" and item["properties"]["datetime"].startswith(
        "2015-07-10"
    )
    cube = cube_of(catalogue, ["blue", "swir16"], tmp_path / "run")
    valid, quality = cube.valid.values[0], cube.quality.values[0]
    assert valid.sum() == 137372
    cloud = (quality & FLAGS["cloud"]) > 0
    assert 100 * cloud[valid].mean() == pytest.approx(54.67, abs=0.005)
    medians = {
        band: float(np.median(cube.data.sel(band=band).values[0][valid])) for band in ("blue", "swir16")
    }
    assert medians == pytest.approx({"blue": 0.978, "swir16": 0.219}, abs=0.0005)
    assert "Collection 2" in json.loads(cube.attrs["radiometry"])["source"]
    # snow is brighter than digital numbers could ever say
    assert np.nanmax(cube.data.sel(band="blue").values) > 1


def test_real_sentinel2_files_drop_cloudy_dates_and_give_the_published_ndvi(real_data, tmp_path):
    folder = real_data("slovenia-sentinel2-timeseries")
    scenes = copied(folder / "l1c_scenes", "*.tif", tmp_path / "in")
    with np.load(folder / "ndvi_cloudmask_68dates.npz", allow_pickle=False) as series:
        days = [str(text)[:10].replace("-", "") for text in series["timestamps"]]
        ndvi_by_day = dict(zip(days, series["ndvi"]))
        clouds = dict(zip(days, series["clm"]))
    for path in sorted(scenes.glob("*.tif")):
        day = path.stem[-8:]
        with rasterio.open(path) as source:
            profile = {**source.profile, "count": 1, "dtype": "uint8", "nodata": None}
        with rasterio.open(scenes / f"{path.stem}_clm.tif", "w", **profile) as target:
            target.write(clouds[day].astype(np.uint8).reshape(101, 100), 1)
    catalogue = index(
        scenes, pattern=r"(?P<scene>S2_L1C_(?P<date>\d{8}))(?:_(?P<band>clm))?", quality={"clm": "cloud_mask"}
    )
    cube = cube_of(catalogue, ["red", "nir"], tmp_path / "run", min_clear_share=0.2)
    rows = read_table(tmp_path / "run" / "scenes.parquet")
    dropped = rows[rows.state == "dropped"]
    assert [str(time)[:10] for time in dropped.time] == ["2015-07-31", "2015-08-20"]
    assert dropped.reason.str.contains("is clear").all()
    assert cube.sizes["time"] == 3 and str(cube.time.values[0])[:19] == "2015-07-11T10:00:08"
    for number, time in enumerate(cube.time.values):
        bands = {name: cube.data.sel(band=name).values[number] for name in ("red", "nir")}
        published = ndvi_by_day[str(time)[:10].replace("-", "")].reshape(101, 100)
        np.testing.assert_array_equal(ndvi(bands), published.astype(np.float32))


def test_the_catalogue_is_valid_stac(tmp_path):
    write_raster(tmp_path / "a_2015-07-11_green.tif", numbers(0))
    catalogue = index(tmp_path, pattern="{scene}_{date}_{band}", scale=1e-4)
    opened = pystac.Catalog.from_file(str(catalogue))
    (item,) = opened.get_items(recursive=True)
    assert item.id == "a_2015-07-11" and item.collection_id == "local"
    assert item.assets["green"].get_absolute_href() == str(tmp_path / "a_2015-07-11_green.tif")


def test_templates_group_bands_by_scene(tmp_path):
    for day in ("20150101", "20150117"):
        for band in ("green", "swir16"):
            write_raster(tmp_path / day / f"glacier_{band}_{day}_v1.tif", numbers(int(day) % 7 + len(band)))
    catalogue = index(tmp_path, pattern="*_{band}_{date}_v1", scale=1e-4, offset=-0.1)
    assert [sorted(item["assets"]) for item in items_of(catalogue)] == [["green", "swir16"]] * 2
    cube = cube_of(catalogue, ["green", "swir16"], tmp_path / "run")
    np.testing.assert_allclose(cube.data.values[0, 0], numbers(20150101 % 7 + 5) * 1e-4 - 0.1, atol=1e-6)


def test_one_grey_band_per_date_like_a_converted_picture_series(tmp_path):
    """Eight-bit images of one band: named by `bands`, scaled by the caller, 0 is no data."""
    for number, day in enumerate(("19940712", "20000323")):
        grey = (numbers(number) // 256).astype(np.uint8)
        grey[:5, :5] = 0
        write_raster(tmp_path / f"LE07_L1TP_008011_{day}_20170212_01_T1_B2_Subset.tif", grey, nodata=None)
    catalogue = index(tmp_path, bands=["green"], scale=1 / 255, nodata=0)
    cube = cube_of(catalogue, ["green"], tmp_path / "run")
    assert [str(time)[:10] for time in cube.time.values] == ["1994-07-12", "2000-03-23"]
    assert not cube.valid.values[:, :5, :5].any() and cube.valid.values[:, 5:, 5:].all()
    assert float(cube.data.max()) <= 1


def test_bands_in_one_file_by_description_or_by_name(tmp_path):
    stack = np.stack([numbers(0), numbers(1)])
    path = write_raster(tmp_path / "in" / "scene_20150711.tif", stack)
    with pytest.raises(InputError, match="no names that are known here; name them in order: --bands"):
        index(tmp_path / "in")
    with pytest.raises(InputError, match="has 2 bands, and 1 names were given"):
        index(tmp_path / "in", bands=["green"])
    with rasterio.open(path, "r+") as target:
        target.descriptions = ("green", "swir16")
    for number, options in enumerate(({}, {"bands": ["green", "swir16"]})):
        cube = cube_of(index(tmp_path / "in", scale=1e-4, **options), ["swir16"], tmp_path / str(number))
        np.testing.assert_allclose(cube.data.values[0, 0], numbers(1) * 1e-4, atol=1e-6)


def test_numbers_without_a_scale_are_refused_later_with_the_way_out(tmp_path):
    write_raster(tmp_path / "green_20150711.tif", numbers(0))
    catalogue = index(tmp_path, bands=["green"])
    with pytest.raises(InputError, match="does not say what the numbers.*--scale"):
        cube_of(catalogue, ["green"], tmp_path / "run")


def test_what_cannot_be_indexed_says_why(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        index(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no image"):
        index(tmp_path)
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(InputError, match="1 pictures such as 'a.png'.*gdal_translate"):
        index(tmp_path)
    write_raster(tmp_path / "undated.tif", numbers(0))
    with pytest.raises(InputError, match="'undated' has no date.*--pattern"):
        index(tmp_path, bands=["green"])
    with pytest.raises(InputError, match="does not fit the pattern"):
        index(tmp_path, pattern="{scene}_{date}")
    with pytest.raises(InputError, match="names neither"):
        index(tmp_path, pattern="*_{band}")
    (tmp_path / "undated.tif").write_bytes(b"<html>")
    with pytest.raises(InputError, match="undated.tif cannot be read as an image"):
        index(tmp_path)
    with pytest.raises(InputError, match="'cloudmask' is not known; did you mean 'cloud_mask'"):
        index(tmp_path, quality={"clm": "cloudmask"})
    assert not (tmp_path / "catalog.json").exists()


def test_two_files_for_one_band_are_refused(tmp_path):
    for folder in "ab":
        write_raster(tmp_path / folder / "S_20150101_green.tif", numbers(0))
    with pytest.raises(InputError, match="both hold band 'green'"):
        index(tmp_path, pattern="{scene}_{date}_{band}")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_geotiff_without_place_is_refused(tmp_path):
    with rasterio.open(tmp_path / "a_20150101.tif", "w", "GTiff", 4, 4, 1, dtype="uint8") as target:
        target.write(np.ones((1, 4, 4), np.uint8))
    with pytest.raises(InputError, match="no CRS"):
        index(tmp_path)


def test_jpeg2000_of_sentinel2(tmp_path):
    source = write_raster(tmp_path / "x.tif", numbers(0), block=16)
    with rasterio.open(source) as opened:
        profile = {"driver": "JP2OpenJPEG", "count": 1, "dtype": "uint16", "height": 40, "width": 50}
        place = {"crs": opened.crs, "transform": opened.transform, "QUALITY": 100, "REVERSIBLE": "YES"}
        folder = tmp_path / "in"
        folder.mkdir()
        with rasterio.open(folder / "T43SFR_20200714T053701_B03_10m.jp2", "w", **profile, **place) as target:
            target.write(opened.read())
    (item,) = items_of(index(folder, scale=1e-4))
    assert item["id"] == "T43SFR_20200714T053701" and item["properties"]["platform"] == "sentinel-2"
    assert item["properties"]["datetime"] == "2020-07-14T05:37:01Z"
    assert GRID.shape == tuple(item["assets"]["B03"]["proj:shape"])
