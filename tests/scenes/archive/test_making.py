"""The embedded archive is what it says: the form of the real archive, the physics stated, the truth true."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from rasterio.features import geometry_mask
from scipy import ndimage

from glacierhpc.errors import InputError
from glacierhpc.grid import Grid
from glacierhpc.scenes import archive
from glacierhpc.scenes.archive.sensor import PixelToGround, quality_bits

SCALE, OFFSET = 2.75e-05, -0.2
CLEAN = {"cloud_share": 0.0, "noise": 0.0, "nodata_wedges": False}


def scene_ids(folder: Path) -> list[str]:
    return sorted(
        (path.stem for path in (folder / "items").glob("*.json")), key=lambda name: name.split("_")[3]
    )


def asset(folder: Path, scene: str, name: str) -> Path:
    item = json.loads((folder / "items" / f"{scene}.json").read_text(encoding="utf-8"))
    return (folder / "items" / item["assets"][name]["href"]).resolve()


def numbers(folder: Path, scene: str, name: str) -> np.ndarray:
    with rasterio.open(asset(folder, scene, name)) as source:
        return source.read(1)


def reflectance(folder: Path, scene: str, name: str) -> np.ndarray:
    values = numbers(folder, scene, name)
    return np.where(values == 0, np.nan, SCALE * values + OFFSET)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def clear_year(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clear, noiseless, well pointed scenes, a quarter of a year apart from each other."""
    folder = tmp_path_factory.mktemp("clear") / "series"
    archive.create(folder, seed=3, scenes=5, size_px=160, every_days=91, misregistration_px=0.0, **CLEAN)
    return folder


def test_same_parameters_give_same_bytes_and_another_seed_other_bytes(tmp_path) -> None:
    options = {"scenes": 2, "size_px": 64, "utm_zones": 2, "motion": "euclidean"}
    first = digest(archive.create(tmp_path / "a", seed=1, **options).folder)
    assert digest(archive.create(tmp_path / "b", seed=1, **options).folder) == first
    other = digest(archive.create(tmp_path / "c", seed=2, **options).folder)
    assert all(first[name] != other[name] for name in first if name.endswith((".TIF", ".gpkg", ".parquet")))


def test_an_archive_is_kept_if_it_is_the_one_asked_for_and_never_overwritten(tmp_path) -> None:
    options = {"scenes": 1, "size_px": 64}
    made = archive.create(tmp_path / "a", **options)
    stamp = (made.folder / "catalog.json").stat().st_mtime_ns
    assert archive.create(tmp_path / "a", **options) == made
    assert (made.folder / "catalog.json").stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match="another seed"):
        archive.create(tmp_path / "a", seed=5, **options)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="not empty"):
        archive.create(tmp_path / "full", **options)
    assert (tmp_path / "full" / "letter.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bands": ("gren",)}, "did you mean 'green'"),
        ({"bands": ()}, "at least one"),
        ({"motion": "affine"}, "euclidean"),
        ({"size_px": 8}, "from 64"),
        ({"start": "10.1.2015"}, "like 2015-01-10"),
        ({"bbox_centre_lonlat": (0.0, 80.0)}, "daylight"),
    ],
)
def test_wrong_parameters_say_what_to_write(tmp_path, options, words) -> None:
    with pytest.raises(InputError, match=words):
        archive.create(tmp_path / "a", **options)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing_in_the_folder(tmp_path) -> None:
    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archive.create(tmp_path / "a", scenes=3, size_px=64, progress=stop)
    assert not (tmp_path / "a").exists()
    assert archive.create(tmp_path / "a", scenes=3, size_px=64).scenes == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_items_have_the_form_of_planetary_computers(archive_folder, real_data) -> None:
    path = real_data("stac-responses") / "planetary-computer" / "landsat-c2-l2-items.json"
    real = json.loads(path.read_text(encoding="utf-8"))[0]
    made = json.loads(next((archive_folder / "items").glob("*.json")).read_text(encoding="utf-8"))
    assert made["collection"] == real["collection"] and made["stac_version"] == real["stac_version"]
    own = {"proj:code", "glacierhpc:synthetic"}
    assert set(made["properties"]) - own <= set(real["properties"])
    for name, entry in made["assets"].items():
        assert (
            entry["type"] == real["assets"][name]["type"] and entry["roles"] == real["assets"][name]["roles"]
        )
        assert set(entry["raster:bands"][0].items()) <= set(real["assets"][name]["raster:bands"][0].items())
        for band in entry.get("eo:bands", []):
            assert band.items() <= real["assets"][name]["eo:bands"][0].items()
    bits = {(field["name"], field["offset"], field["length"]) for field in made["assets"]["qa_pixel"][KEY]}
    assert bits == {(f["name"], f["offset"], f["length"]) for f in real["assets"]["qa_pixel"][KEY]}


KEY = "classification:bitfields"


def test_files_are_cogs_on_the_grid_that_the_item_states(archive_folder) -> None:
    for scene in scene_ids(archive_folder)[:3]:
        item = json.loads((archive_folder / "items" / f"{scene}.json").read_text(encoding="utf-8"))
        for name in item["assets"]:
            with rasterio.open(asset(archive_folder, scene, name)) as source:
                assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                assert source.dtypes == ("uint16",) and source.compression.value == "DEFLATE"
                assert source.crs.to_epsg() == item["properties"]["proj:epsg"]
                assert list(source.transform)[:6] == item["properties"]["proj:transform"]
                assert list(source.shape) == item["properties"]["proj:shape"]


def test_large_scenes_are_tiled_and_have_overviews(tmp_path) -> None:
    folder = archive.create(tmp_path / "a", scenes=1, size_px=520, bands=("green",)).folder
    with rasterio.open(asset(folder, scene_ids(folder)[0], "green")) as source:
        assert source.block_shapes == [(256, 256)] and source.overviews(1)


def test_snow_ice_and_rock_have_their_indices(clear_year) -> None:
    winter, summer = scene_ids(clear_year)[0], scene_ids(clear_year)[2]
    green, swir = (reflectance(clear_year, winter, name) for name in ("green", "swir16"))
    snow = (numbers(clear_year, winter, "qa_pixel") & 32) > 0
    assert snow.mean() > 0.8
    assert 0.6 < np.median(green[snow]) < 1.1 and np.median(swir[snow]) < 0.13
    ndsi = (green - swir) / (green + swir)
    assert np.median(ndsi[snow]) > 0.75
    with rasterio.open(clear_year / "truth" / "terrain.tif") as source:
        glacier, debris, water = source.read([2, 3, 4])
    green, swir = (reflectance(clear_year, summer, name) for name in ("green", "swir16"))
    ndsi = (green - swir) / (green + swir)
    bare = ((numbers(clear_year, summer, "qa_pixel") & 32) == 0) & (glacier == 0) & (water < 0.1)
    assert np.median(ndsi[bare]) < -0.1
    assert (
        np.median(ndsi[(debris > 0.8) & (glacier > 0)])
        < 0.2
        < 0.6
        < np.median(ndsi[(glacier > 0) & (debris < 0.1)])
    )


def test_snow_lies_lowest_in_winter_and_highest_in_summer(clear_year) -> None:
    share = [((numbers(clear_year, scene, "qa_pixel") & 32) > 0).mean() for scene in scene_ids(clear_year)]
    assert share[0] > share[2] + 0.3 and share[4] > share[2] + 0.3


def test_the_snow_line_is_a_season_plus_a_memory() -> None:
    from glacierhpc.scenes.archive.weather import snow_season

    times = np.datetime64("1980-01-01T00:00:00") + np.arange(40 * 24) * np.timedelta64(15, "D")
    season = snow_season(times, latitude=30.0, seed=5)
    lagged = [np.corrcoef(season.anomaly[:-lag], season.anomaly[lag:])[0, 1] for lag in (6, 12, 48)]
    assert lagged[0] > 0.4 and lagged[0] > lagged[1] > lagged[2] and lagged[2] < 0.3  # 3, 6, 24 months
    assert 0.05 < season.anomaly.std() < 0.16 < (season.line - season.anomaly).std()
    south = snow_season(times, latitude=-30.0, seed=5)
    assert np.corrcoef(season.line - season.anomaly, south.line - south.anomaly)[0, 1] < -0.6


def test_each_scene_is_the_perfect_picture_moved_by_its_matrix(tmp_path) -> None:
    options = {"seed": 4, "scenes": 3, "size_px": 128, "motion": "euclidean", "bands": ("nir08",), **CLEAN}
    perfect = archive.create(tmp_path / "perfect", misregistration_px=0.0, **options).folder
    moved = archive.create(tmp_path / "moved", misregistration_px=2.0, **options).folder
    truth = archive.read_truth(moved)
    y, x = np.mgrid[12:116, 12:116].astype(float)
    for scene in scene_ids(moved):
        matrix = truth.matrix(scene)
        at_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
        at_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
        assert np.hypot(at_x - x, at_y - y).max() > 0.5
        picture = reflectance(moved, scene, "nir08")
        back = ndimage.map_coordinates(picture, (at_y, at_x), order=5)
        plain = reflectance(perfect, scene, "nir08")[12:116, 12:116]
        unmoved = np.abs(picture[12:116, 12:116] - plain).mean()
        assert np.abs(back - plain).mean() < 0.1 * unmoved
        # A matrix read the other way round would be found out.
        inverse = np.linalg.inv(matrix)
        wrong = ndimage.map_coordinates(
            picture,
            (
                inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2],
                inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2],
            ),
            order=5,
        )
        assert np.abs(wrong - plain).mean() > unmoved
    shifts = np.stack([truth.matrix(scene)[:2] @ [63.5, 63.5, 1] - 63.5 for scene in scene_ids(moved)])
    np.testing.assert_allclose(shifts.mean(axis=0), 0.0, atol=1e-9)


def test_the_second_zone_shows_the_same_ground(tmp_path) -> None:
    options = {
        "seed": 4,
        "scenes": 2,
        "size_px": 128,
        "every_days": 1,
        "misregistration_px": 0.0,
        "bands": ("nir08",),
    }
    folder = archive.create(tmp_path / "a", utm_zones=2, **options, **CLEAN).folder
    truth = archive.read_truth(folder)
    first, second = scene_ids(folder)
    assert {grid.crs for grid in truth.grids} == {"EPSG:32643", "EPSG:32644"}
    here, there = truth.grids
    to_there = PixelToGround(here, there.crs, (0.0, 0.0))
    x, y = np.meshgrid(np.arange(20.0, 108.0), np.arange(20.0, 108.0))
    east, north = to_there(x, y)
    a, _, c, _, e, f = there.transform
    seen = ndimage.map_coordinates(
        reflectance(folder, second, "nir08"), ((north - f) / e - 0.5, (east - c) / a - 0.5), order=5
    )
    assert np.corrcoef(seen.ravel(), reflectance(folder, first, "nir08")[20:108, 20:108].ravel())[0, 1] > 0.99


def test_a_matrix_is_carried_to_a_cubes_grid(tmp_path) -> None:
    folder = archive.create(tmp_path / "a", scenes=4, size_px=96, utm_zones=2, motion="euclidean").folder
    truth = archive.read_truth(folder)
    cube = Grid.from_bbox(truth.bbox_lonlat, 30.0, crs="EPSG:32643")
    own = {grid.crs: grid for grid in truth.grids}
    from pyproj import Transformer

    for row in truth.scenes.itertuples():
        on_cube = truth.matrix(row.scene, cube)
        # The long way round: cube pixel, ground, scene pixel, pointing error, ground, cube pixel.
        grid = own[row.crs]
        there = Transformer.from_crs(cube.crs, grid.crs, always_xy=True)
        points = np.array([[5.0, 7.0], [60.0, 11.0], [33.0, 64.0]])
        x, y = there.transform(
            cube.transform[2] + 30 * (points[:, 0] + 0.5), cube.transform[5] - 30 * (points[:, 1] + 0.5)
        )
        pixel = np.stack(
            [
                (np.array(x) - grid.transform[2]) / 30 - 0.5,
                (grid.transform[5] - np.array(y)) / 30 - 0.5,
                [1, 1, 1],
            ]
        )
        moved = truth.matrix(row.scene) @ pixel
        x, y = there.transform(
            grid.transform[2] + 30 * (moved[0] + 0.5),
            grid.transform[5] - 30 * (moved[1] + 0.5),
            direction="INVERSE",
        )
        expected = np.stack(
            [(np.array(x) - cube.transform[2]) / 30 - 0.5, (cube.transform[5] - np.array(y)) / 30 - 0.5]
        )
        np.testing.assert_allclose(
            (on_cube @ np.column_stack([points, [1, 1, 1]]).T)[:2], expected, atol=2e-3
        )
    with pytest.raises(InputError, match="not in the archive"):
        truth.matrix("LC08_nothing")
    with pytest.raises(InputError, match="archive create"):
        archive.read_truth(tmp_path)


def test_the_area_lies_inside_every_scene(archive_folder, tmp_path) -> None:
    two = archive.create(tmp_path / "a", scenes=2, size_px=128, utm_zones=2).folder
    for folder in (archive_folder, two):
        truth = archive.read_truth(folder)
        for grid in truth.grids:
            cube = Grid.from_bbox(truth.bbox_lonlat, 30.0, crs=grid.crs)
            left, bottom, right, top = cube.bounds
            outer = grid.bounds
            assert (
                left > outer[0] + 90
                and bottom > outer[1] + 90
                and right < outer[2] - 90
                and top < outer[3] - 90
            )
            # Corners on the same lattice: a cube on the default grid copies pixels.
            assert (left - outer[0]) % 30 == 0 and (top - outer[3]) % 30 == 0


def test_ice_moves_by_the_velocity_of_the_truth(tmp_path) -> None:
    import cv2

    folder = archive.create(
        tmp_path / "a", seed=2, scenes=2, size_px=256, every_days=365, max_speed_m_per_year=120.0,
        misregistration_px=0.0, bands=("nir08",), start="2015-08-20", **CLEAN,
    ).folder  # fmt: skip
    with rasterio.open(folder / "truth" / "velocity.tif") as source:
        vx, vy = source.read()
    first, second = (reflectance(folder, scene, "nir08").astype(np.float32) for scene in scene_ids(folder))
    snowy = np.zeros(first.shape, bool)
    for scene in scene_ids(folder):
        shares = archive.read_truth(folder).scenes.set_index("scene").loc[scene, "snow_line_m"]
        with rasterio.open(folder / "truth" / "terrain.tif") as source:
            snowy |= source.read(1) > shares - 120
    speed = np.hypot(vx, vy)
    fast = np.argwhere((speed > 0.7 * speed.max()) & ~ndimage.binary_dilation(snowy, iterations=6))
    errors = []
    for row, col in fast[:: max(len(fast) // 40, 1)]:
        patch = np.ascontiguousarray(first[row - 7 : row + 8, col - 7 : col + 8])
        search = np.ascontiguousarray(second[row - 17 : row + 18, col - 17 : col + 18])
        score = cv2.matchTemplate(search, patch, cv2.TM_CCOEFF_NORMED)
        _, best, _, (at_x, at_y) = cv2.minMaxLoc(score)
        if best > 0.5:
            errors.append((at_x - 10 - vx[row, col] / 30, at_y - 10 + vy[row, col] / 30))
    assert speed.max() == pytest.approx(120.0, rel=0.25)
    assert len(errors) > 10
    # Whole-pixel matching: half a pixel is what it can tell.
    assert np.abs(np.median(errors, axis=0)).max() < 0.5


def test_velocity_is_fast_in_the_middle_and_zero_at_the_margin_and_off_the_ice(archive_folder) -> None:
    with rasterio.open(archive_folder / "truth" / "velocity.tif") as source:
        speed = np.hypot(*source.read())
        profile = source.profile
    outlines = gpd.read_file(archive_folder / "outlines.gpkg").to_crs(profile["crs"])
    ice = geometry_mask(outlines.geometry, speed.shape, profile["transform"], invert=True)
    assert speed[~ndimage.binary_dilation(ice)].max() == 0.0
    rim = ice & ~ndimage.binary_erosion(ice)
    core = ndimage.binary_erosion(ice, iterations=4)
    assert np.median(speed[core]) > 3 * np.median(speed[rim])


def test_outlines_have_rgi_attributes_and_match_the_terrain(archive_folder) -> None:
    outlines = gpd.read_file(archive_folder / "outlines.gpkg")
    assert outlines.crs.to_epsg() == 4326 and outlines.is_valid.all() and len(outlines) == 3
    assert {"rgi_id", "o1region", "cenlon", "cenlat", "area_km2", "zmin_m", "zmax_m", "src_date"} <= set(
        outlines
    )
    assert outlines.rgi_id.is_unique and (outlines.zmin_m < outlines.zmed_m).all()
    with rasterio.open(archive_folder / "truth" / "terrain.tif") as source:
        glacier, cover = source.read(2) > 0, source.read(3)
        metric = outlines.to_crs(source.crs)
        drawn = geometry_mask(metric.geometry, source.shape, source.transform, invert=True)
        debris = gpd.read_file(archive_folder / "debris.gpkg").to_crs(source.crs)
        stones = geometry_mask(debris.geometry, source.shape, source.transform, invert=True)
    assert (glacier & drawn).sum() / (glacier | drawn).sum() > 0.93
    assert cover[stones].mean() > 0.6 and debris.area.sum() < 0.6 * metric.area.sum()


def test_clouds_wedges_and_bits_are_as_stated(archive_folder) -> None:
    truth = archive.read_truth(archive_folder)
    assert 0.1 < truth.scenes.cloud_share.mean() < 0.5
    assert (
        truth.scenes.fill_share.between(0.001, 0.3).sum() >= 3 and (truth.scenes.fill_share == 0).sum() >= 3
    )
    for scene in scene_ids(archive_folder):
        qa = numbers(archive_folder, scene, "qa_pixel")
        fill = numbers(archive_folder, scene, "green") == 0
        np.testing.assert_array_equal(fill, qa == 1)
        cloud = (qa & 8) > 0
        if cloud.sum() > 200:
            assert (
                np.median(reflectance(archive_folder, scene, "swir16")[cloud]) > 0.3
            )  # snow is far darker there
        assert not ((qa & 64) > 0)[cloud | ((qa & 2) > 0)].any()
        item = json.loads((archive_folder / "items" / f"{scene}.json").read_text(encoding="utf-8"))
        share = 100 * cloud[~fill].mean()
        assert item["properties"]["eo:cloud_cover"] == pytest.approx(share, abs=0.01)


def test_footprints_hold_the_pixels_with_data(archive_folder) -> None:
    from shapely.geometry import shape

    for scene in scene_ids(archive_folder):
        item = json.loads((archive_folder / "items" / f"{scene}.json").read_text(encoding="utf-8"))
        outline = gpd.GeoSeries([shape(item["geometry"])], crs=4326)
        with rasterio.open(asset(archive_folder, scene, "green")) as source:
            data = source.read(1) > 0
            inside = geometry_mask(outline.to_crs(source.crs), source.shape, source.transform, invert=True)
        # The pointing error moves the pixels, not the stated footprint.
        assert (data & inside).sum() / (data | inside).sum() > 0.94


@pytest.mark.parametrize(
    ("on", "value"),
    [
        ((), 21824),
        (("cloud",), 22280),
        (("shadow",), 23888),
        (("snow",), 30048),
        (("water",), 21952),
        (("fill",), 1),
    ],
)
def test_quality_values_are_those_of_the_product_guide(on, value) -> None:
    names = ("cloud", "shadow", "cirrus", "snow", "water", "fill")
    masks = {name: np.full((1, 1), name in on) for name in names}
    assert quality_bits(**masks)[0, 0] == value


def test_cloud_edges_are_dilated_and_not_clear() -> None:
    masks = {
        name: np.zeros((11, 11), bool) for name in ("cloud", "shadow", "cirrus", "snow", "water", "fill")
    }
    masks["cloud"][5, 5] = True
    qa = quality_bits(**masks)
    assert qa[5, 8] == 21762 and qa[5, 9] == 21824
