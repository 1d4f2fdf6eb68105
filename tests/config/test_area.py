"""A box drawn on a map becomes an `area` section that loads."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from glacierhpc.config.area import area_yaml, bbox_of
from glacierhpc.config.checks import check_bbox
from glacierhpc.config.schema import Area
from glacierhpc.errors import InputError


def rectangle(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    ring = [[west, south], [west, north], [east, north], [east, south], [west, south]]
    return {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}


@settings(max_examples=50, deadline=None)
@given(
    west=st.floats(-180, 178),
    south=st.floats(-89, 88),
    width=st.floats(0.01, 1),
    height=st.floats(0.01, 1),
    turns=st.integers(-2, 2),
)
def test_the_section_loads_and_is_the_box(
    west: float, south: float, width: float, height: float, turns: int
) -> None:
    drawn = rectangle(west + 360 * turns, south, west + width + 360 * turns, south + height)
    area = Area.model_validate(yaml.safe_load(area_yaml(bbox_of(drawn)))["area"])
    assert area.bbox_lonlat == pytest.approx((west, south, west + width, south + height), abs=1e-5)
    assert not any(check_bbox(area))


@pytest.mark.parametrize(
    ("drawn", "words"),
    [
        ({"type": "Feature", "geometry": None}, "no coordinates"),
        ({"type": "Point", "coordinates": [77.0, 32.0]}, "no extent"),
        (rectangle(179, 60, 181, 61), "180th meridian"),
    ],
)
def test_shapes_that_are_no_area(drawn: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        bbox_of(drawn)
