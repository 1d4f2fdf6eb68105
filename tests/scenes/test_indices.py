"""Indices on reflectance: values, invariants, and that digital numbers would give others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glacierhpc.errors import InputError
from glacierhpc.scenes.indices import INDICES, check_bands, find_index, ndsi, normalised_difference

SCALE, OFFSET = 2.75e-05, -0.2
reflectance = st.floats(0.001, 1.6)


@settings(max_examples=50, deadline=None)
@given(reflectance, reflectance)
def test_a_ratio_lies_within_one_and_flips_its_sign(a, b):
    first, second = np.array([a]), np.array([b])
    value = normalised_difference(first, second)[0]
    assert -1 <= value <= 1
    assert normalised_difference(second, first)[0] == -value


def test_meaningless_ratios_are_not_numbers():
    first, second = np.array([0.1, np.nan, -0.02, 0.0]), np.array([-0.2, 0.1, 0.01, 0.0])
    assert np.isnan(normalised_difference(first, second)).all()


def test_ndsi_of_digital_numbers_is_bounded_and_ours_is_not():
    """Reflectance 0 is stored as 7273, so raw numbers never pass (65535 - 7273) / (65535 + 7273) = 0.800."""
    zero = round(-OFFSET / SCALE)
    bound = (65535 - zero) / (65535 + zero)
    assert zero == 7273 and bound == pytest.approx(0.800, abs=0.0005)
    green, swir = np.arange(zero, 65536, 7, dtype=np.float64), np.full(8324, float(zero))
    raw = normalised_difference(green, swir[: green.size])
    assert raw.max() <= bound
    snow = {"green": np.array([0.85]), "swir16": np.array([0.04])}
    assert ndsi(snow)[0] == pytest.approx(0.91, abs=0.005) and ndsi(snow)[0] > bound


def test_albedo_of_fresh_snow_and_of_bare_ice():
    """Reflectance of snow and ice after Dozier; Liang's coefficients add up to 1.016."""
    snow = dict(zip(INDICES["albedo"].bands, map(np.array, (0.97, 0.96, 0.88, 0.12, 0.10)), strict=True))
    value = float(INDICES["albedo"].compute(snow))
    assert value == pytest.approx(
        0.356 * 0.97 + 0.13 * 0.96 + 0.373 * 0.88 + 0.085 * 0.12 + 0.072 * 0.1 - 0.0018
    )
    assert 0.75 < value < 0.9


def test_near_infrared_may_be_the_broad_band():
    assert check_bands("ndvi", ["red", "nir"]) == ("red", "nir")
    bands = {"red": np.array([0.05]), "nir": np.array([0.45])}
    assert find_index("ndvi").compute(bands)[0] == pytest.approx(0.8)
    with pytest.raises(InputError, match="add 'swir16' to acquire.bands"):
        check_bands("ndsi", ["green", "red"])
    with pytest.raises(InputError, match="'snow' is not known.*ndsi, ndvi"):
        find_index("snow")


def test_a_band_stands_for_itself_and_for_no_other():
    found = find_index("green")
    green = np.array([0.3, np.nan], np.float32)
    assert found.compute({"green": green}) is green and found.bands == ("green",)
    assert found.long_name == "surface reflectance, green"
    assert check_bands("nir08", ["red", "nir08"]) == ("nir08",)
    with pytest.raises(InputError, match="add 'nir08' to acquire.bands"):
        check_bands("nir08", ["red", "nir"])
