"""Stored numbers: what they mean, and that cubes store them exactly."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glacierhpc.errors import InputError
from glacierhpc.scenes.collections import BandAsset, find_band
from glacierhpc.scenes.radiometry import Radiometry, common_storage, radiometry, to_storage

OLD = Radiometry(1e-4, 0.0, 0.0, "uint16", "old")
NEW = Radiometry(1e-4, -0.1, 0.0, "uint16", "new")
LANDSAT = Radiometry(2.75e-05, -0.2, 0.0, "uint16", "landsat")


def test_earth_search_says_offset_applied_and_is_believed(real_data):
    path = real_data("stac-responses") / "earth-search-v1" / "search-mixed-cloudcover.exchange.json"
    items = {item["id"]: item for item in json.loads(path.read_text())["response"]["features"]}
    applied, own = items["S2B_24MVV_20250731_0_L2A"], items["S2B_T24MWV_20250731T130245_L2A"]
    assert radiometry(applied, find_band(applied, "red")).offset == 0.0
    assert radiometry(own, find_band(own, "red")).offset == -0.1


@pytest.mark.parametrize(
    ("baseline", "offset"), [("02.12", 0.0), ("03.01", 0.0), ("04.00", -0.1), ("05.10", -0.1)]
)
def test_sentinel2_offset_depends_on_the_baseline(baseline, offset):
    item = {
        "id": "S2B_x",
        "collection": "sentinel-2-l2a",
        "properties": {"platform": "Sentinel-2B", "s2:processing_baseline": baseline},
        "assets": {"B04": {"href": "b.tif"}},
    }
    found = radiometry(item, BandAsset("B04", "b.tif"))
    assert (found.scale, found.offset, found.nodata) == (1e-4, offset, 0.0)
    assert baseline in found.source


def test_numbers_of_unknown_meaning_are_refused():
    item = {"id": "x", "collection": "mine", "properties": {}, "assets": {"red": {"href": "r.tif"}}}
    with pytest.raises(InputError, match="'x'.*'red'.*archive index"):
        radiometry(item, BandAsset("red", "r.tif"))
    s2 = {"id": "x", "properties": {"platform": "sentinel-2a"}, "assets": {"red": {"href": "r.tif"}}}
    with pytest.raises(InputError, match="does not say"):
        radiometry(s2, BandAsset("red", "r.tif"))


def test_thermal_bands_have_their_own_scale():
    item = {"id": "LC08_L2SP_x", "properties": {}, "assets": {"lwir11": {"href": "t.tif"}}}
    assert radiometry(item, BandAsset("lwir11", "t.tif")).scale == 0.00341802


def test_one_archive_keeps_its_integers():
    storage = common_storage([LANDSAT, LANDSAT])
    assert (storage.dtype, storage.scale, storage.offset, storage.fill) == ("uint16", 2.75e-05, -0.2, 0.0)
    stored = np.array([[0, 1, 65535]], np.uint16)
    assert to_storage(stored, stored != 0, LANDSAT, storage) is stored


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60000), st.integers(1, 60000))
def test_sentinel_baselines_share_a_cube_exactly(old, new):
    storage = common_storage([OLD, NEW])
    assert (storage.scale, storage.offset) == (1e-4, -0.1)
    for count, meaning in ((old, OLD), (new, NEW)):
        stored = np.array([[count]], np.uint16)
        kept = int(to_storage(stored, stored != 0, meaning, storage)[0, 0])
        assert kept == round((count * meaning.scale + meaning.offset - storage.offset) / storage.scale)


def test_fill_stays_fill_and_a_real_number_never_becomes_it():
    storage = common_storage([OLD, NEW])
    stored = np.array([[0, 500, 65000]], np.uint16)
    assert to_storage(stored, stored != 0, OLD, storage).tolist() == [[0, 1500, 65535]]
    no_nodata = Radiometry(1e-4, -0.1, None, "uint16", "x")
    assert to_storage(np.array([[0, 7]], np.int32), np.ones((1, 2), bool), no_nodata, storage).tolist() == [
        [1, 7]
    ]


def test_a_fill_at_the_end_of_the_range_makes_no_bright_number_dark():
    storage = replace(common_storage([OLD, NEW]), fill=65535.0)
    stored = np.array([[500, 65000]], np.uint16)
    assert to_storage(stored, np.ones((1, 2), bool), OLD, storage).tolist() == [[1500, 65534]]


def test_archives_that_differ_in_scale_become_floats():
    storage = common_storage([LANDSAT, NEW])
    assert (storage.dtype, storage.fill) == ("float32", None)
    stored = np.array([[0, 20000]], np.uint16)
    values = to_storage(stored, stored != 0, LANDSAT, storage)
    assert np.isnan(values[0, 0]) and values[0, 1] == pytest.approx(0.35)
