"""Quality bits of all archives in one set of flags."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from glacierhpc.errors import InputError
from glacierhpc.scenes.quality import (
    FLAGS,
    clean_mask,
    decode_landsat_qa,
    decode_sentinel2_scl,
    flags,
    quality_flags,
)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 65535))
def test_every_pattern_of_landsat_bits(pattern):
    decoded = {
        name: bool(where[0]) for name, where in decode_landsat_qa(np.array([pattern], np.uint16)).items()
    }
    text = f"{pattern:016b}"[::-1]
    for name, bit in {
        "dilated_cloud": 1,
        "cirrus": 2,
        "cloud": 3,
        "cloud_shadow": 4,
        "snow": 5,
        "water": 7,
    }.items():
        assert decoded[name] == (text[bit] == "1" and text[0] == "0"), name
    assert decoded["fill"] == (text[0] == "1")


def test_the_fast_table_equals_the_decoder_on_all_patterns():
    qa = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(quality_flags(qa, "landsat-qa"), flags(decode_landsat_qa(qa)))


def test_sentinel_classes():
    scl = np.arange(12, dtype=np.uint8)
    names = {
        int(value): [name for name, where in decode_sentinel2_scl(scl).items() if where[value]]
        for value in scl
    }
    assert names == {
        0: ["fill"], 1: ["saturated"], 2: [], 3: ["cloud_shadow"], 4: [], 5: [], 6: ["water"], 7: [],
        8: ["cloud"], 9: ["cloud"], 10: ["cirrus"], 11: ["snow"],
    }  # fmt: skip
    np.testing.assert_array_equal(quality_flags(scl, "sentinel2-scl"), flags(decode_sentinel2_scl(scl)))


def test_a_cloud_mask_of_ones():
    found = quality_flags(np.array([0, 1, 7, 255], np.uint8), "cloud-mask")
    assert found.tolist() == [0, FLAGS["cloud"], FLAGS["cloud"], FLAGS["fill"]]


def test_clean_mask_rejects_what_is_named_and_fill():
    quality = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128], np.uint16)
    assert clean_mask(quality, ["cloud", "saturated"]).tolist() == [
        True, False, False, True, True, True, True, True, False,
    ]  # fmt: skip
    with pytest.raises(InputError, match="'clouds' is not known; did you mean 'cloud'"):
        clean_mask(quality, ["clouds"])


def test_cloud_share_of_a_real_scene(real_data):
    """Independent answer in the scene's own metadata: CLOUD_COVER = 54.65 %."""
    folder = real_data("landsat-c2l2-greenland-icesheet")
    with rasterio.open(next(folder.glob("*_QA_PIXEL.TIF"))) as source:
        decoded = decode_landsat_qa(source.read(1))
    valid = ~decoded["fill"]
    assert valid.sum() == 137372
    assert 100 * decoded["cloud"].sum() / valid.sum() == pytest.approx(54.67, abs=0.005)
    assert 100 * decoded["snow"].sum() / valid.sum() == pytest.approx(40.34, abs=0.005)
    assert 100 * decoded["cloud_shadow"].sum() / valid.sum() == pytest.approx(4.99, abs=0.005)
