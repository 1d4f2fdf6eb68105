"""Every real item maps to common names, whatever its dialect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glacierhpc.errors import InputError
from glacierhpc.grid import Grid
from glacierhpc.scenes.collections import (
    archive_anchor,
    asset_grid,
    band_assets,
    find_band,
    item_crs,
    processing_level,
    quality_asset,
    saturation_asset,
    saturation_bits,
    sensor_family,
    southern_twin,
)
from glacierhpc.scenes.radiometry import radiometry

SIX = {"blue", "green", "red", "nir08", "swir16", "swir22"}


def items_of(path: Path) -> list[dict[str, Any]]:
    """Return the items of a recorded response, item list, feature collection or single item."""
    content = json.loads(path.read_text())
    content = content.get("response", content) if isinstance(content, dict) else content
    content = json.loads(content) if isinstance(content, str) else content
    if isinstance(content, list):
        return content
    return content["features"] if "features" in content else [content] if content["type"] == "Feature" else []


@pytest.fixture(scope="module")
def responses(real_data) -> dict[str, list[dict[str, Any]]]:
    folder = real_data("stac-responses")
    files = sorted(folder.rglob("*.json")) + sorted(folder.rglob("*.geojson"))
    return {str(path.relative_to(folder)): items_of(path) for path in files}


def test_every_real_item_maps_to_common_names(responses):
    items = [item for found in responses.values() for item in found]
    assert len(items) == 70
    for item in items:
        family = sensor_family(item)
        assert family in ("tm", "etm", "oli", "msi"), item["id"]
        assert set(band_assets(item)) >= SIX, item["id"]
        assert item_crs(item).startswith("EPSG:32"), item["id"]
        level1 = "l1c" in item["collection"].lower()
        assert (quality_asset(item) is None) == level1, item["id"]
        meaning = radiometry(item, find_band(item, "swir16"))
        assert (meaning.scale, meaning.offset) in {(2.75e-05, -0.2), (1e-4, 0.0), (1e-4, -0.1)}, item["id"]
        assert meaning.nodata == 0
        grid = asset_grid(item, find_band(item, "red").key)
        assert grid is not None and grid[1][0] in (10.0, 30.0)


def one(responses, name: str, starts: str = "") -> dict[str, Any]:
    return next(item for item in responses[name] if item["id"].startswith(starts))


@pytest.mark.parametrize(
    ("file", "scene", "family", "files"),
    [
        ("stactools-landsat/LT04_L2SP_002026_19830110_02_T1.json", "LT04", "tm", {"nir08": "SR_B4", "swir16": "SR_B5"}),
        ("usgs-landsatlook/LE07_L2SP_044033_20210329_20210424_02_T1_SR.json", "LE07", "etm", {"red": "SR_B3"}),
        ("usgs-landsatlook/LC08_L2SP_028030_20200114_20200824_02_T1_SR.json", "LC08", "oli", {"nir08": "SR_B5"}),
        ("stactools-landsat/LC09_L2SP_010065_20220129_02_T1.json", "LC09", "oli", {"swir22": "SR_B7"}),
        ("planetary-computer/landsat-c2-l2-items.json", "LC09", "oli", {"green": "SR_B3"}),
        ("earth-search-v0/S2A_28QCH_20200714_0_L2A.json", "S2A", "msi", {"nir": "B08", "nir08": "B8A"}),
        ("planetary-computer/sentinel-2-l2a-items.json", "S2B", "msi", {"nir08": "B8A", "swir16": "B11"}),
    ],
)  # fmt: skip
def test_bands_lie_in_the_right_files(responses, file, scene, family, files):
    item = one(responses, file, scene)
    assert sensor_family(item) == family
    for band, stem in files.items():
        assert stem in find_band(item, band).href.rsplit("/", 1)[1]


def test_geotiff_wins_over_jpeg2000_and_file_over_composite(responses):
    item = one(responses, "earth-search-v1/search-mixed-cloudcover.exchange.json", "S2B_24MVV_20250731_0_L2A")
    found = band_assets(item)
    assert found["red"].key == "red" and found["red"].href.endswith("B04.tif")
    assert {"rededge1", "rededge2", "rededge3", "nir", "nir08"} <= set(found)
    assert quality_asset(item).key == "scl"


def test_planetary_computers_four_rededges_are_told_apart(responses):
    found = band_assets(one(responses, "planetary-computer/sentinel-2-l2a-items.json"))
    keys = [found[name].key for name in ("rededge1", "rededge2", "rededge3", "nir08")]
    assert keys == ["B05", "B06", "B07", "B8A"]
    assert "rededge" not in found


def test_bands_of_stac_1_1_in_one_file_are_found_by_position():
    item = {
        "id": "S2_L1C_20150711",
        "properties": {},
        "assets": {
            "image": {
                "href": "a.tif",
                "bands": [{"name": "B04"}, {"name": "anything", "eo:common_name": "swir16"}, {"name": "B8A"}],
            }
        },
    }
    found = {name: (asset.key, asset.index) for name, asset in band_assets(item).items()}
    assert found == {"red": ("image", 1), "swir16": ("image", 2), "nir08": ("image", 3)}


def test_unknown_band_names_the_nearest(responses):
    item = one(responses, "planetary-computer/landsat-c2-l2-items.json")
    with pytest.raises(InputError, match="swir61.*did you mean 'swir16'.*blue"):
        find_band(item, "swir61")
    assert find_band(item, "nir").key == "nir08"


def test_saturation_bits_follow_the_band_numbers(responses):
    oli = one(responses, "planetary-computer/landsat-c2-l2-items.json")
    tm = one(responses, "stactools-landsat/LT04_L2SP_002026_19830110_02_T1.json")
    assert saturation_asset(oli).key == "qa_radsat"
    assert saturation_bits(oli, ["blue", "swir16"]) == 0b100010
    assert saturation_bits(tm, ["blue", "swir16"]) == 0b010001


def test_southern_scenes_in_northern_codes(responses):
    item = one(responses, "planetary-computer/landsat-c2-l2-items.json")
    assert item_crs(item) == "EPSG:32655"
    assert asset_grid(item, "red")[1][5] < 0
    assert southern_twin("EPSG:32755", "EPSG:32655") == 1e7
    assert southern_twin("EPSG:32655", "EPSG:32755") == -1e7
    assert southern_twin("EPSG:32655", "EPSG:32655") == 0
    assert southern_twin("EPSG:32755", "EPSG:32656") is None
    assert southern_twin("EPSG:3031", "EPSG:32656") is None


def test_the_anchor_lets_southern_pixels_be_copied(responses):
    items = responses["planetary-computer/landsat-c2-l2-items.json"]
    same_zone = [item for item in items if item_crs(item) == "EPSG:32655"]
    anchor = archive_anchor(same_zone, "EPSG:32755", 30.0, band="red")
    grid = Grid.from_bbox((147.0, -42.3, 147.05, -42.25), 30.0, crs="EPSG:32755", anchor_m=anchor)
    a, _, left, _, e, top = asset_grid(same_zone[0], "red")[1]
    assert (grid.transform[2] - left) % 30 == 0
    assert (grid.transform[5] - (top + 1e7)) % 30 == 0
    assert archive_anchor(items, "EPSG:3031", 30.0, band="red") == (0.0, 0.0)


def test_processing_level(responses):
    assert processing_level(one(responses, "planetary-computer/landsat-c2-l2-items.json")) == "L2SP"
    assert processing_level(one(responses, "earth-search-v0/S2A_28QCH_20200714_0_L2A.json")) == "L2A"
