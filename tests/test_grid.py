"""The grid covers what was asked for, in metres that are metres."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glacierhpc.errors import InputError
from glacierhpc.grid import Grid, utm_zone

PARVATI = (77.488, 31.993, 77.821, 32.225)
ALETSCH = (7.8896, 46.3825, 8.2226, 46.5716)


def test_parvati_lies_in_zone_43_north_and_is_covered() -> None:
    grid = Grid.from_bbox(PARVATI, 30)
    west, south, east, north = grid.bounds_lonlat()
    assert grid.crs == "EPSG:32643"
    assert west <= PARVATI[0] and south <= PARVATI[1] and east >= PARVATI[2] and north >= PARVATI[3]


@settings(max_examples=40, deadline=None)
@given(st.floats(-179, 179), st.floats(-79, 83), st.sampled_from([10.0, 15.0, 30.0]))
def test_every_grid_covers_its_box_and_round_trips(lon: float, lat: float, resolution: float) -> None:
    box = (lon - 0.05, lat - 0.05, lon + 0.05, lat + 0.05)
    grid = Grid.from_bbox(box, resolution)
    west, south, east, north = grid.bounds_lonlat()
    assert west <= box[0] + 1e-6 and south <= box[1] + 1e-6
    assert east >= box[2] - 1e-6 and north >= box[3] - 1e-6
    assert Grid.from_dict(grid.to_dict()) == grid
    assert grid.bounds[0] % resolution == 0 and grid.bounds[3] % resolution == 0


def test_an_archive_anchor_shifts_the_pixel_corners() -> None:
    grid = Grid.from_bbox(PARVATI, 30, anchor_m=(15.0, 15.0))
    assert grid.bounds[0] % 30 == 15 and grid.bounds[3] % 30 == 15


def test_a_crs_that_stretches_the_area_is_refused_unless_forced() -> None:
    # Aletsch in the UTM zone of Parvati: 59.6 degrees of convergence and pixels of 39 m for 30
    with pytest.raises(InputError, match=r"scale of 1\.29.*EPSG:32632"):
        Grid.from_bbox(ALETSCH, 30, crs="EPSG:32643")
    assert Grid.from_bbox(ALETSCH, 30, crs="EPSG:32643", allow_distortion=True).crs == "EPSG:32643"


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:999999", "nonsense"])
def test_a_crs_that_is_unknown_or_in_degrees_is_refused(crs: str) -> None:
    with pytest.raises(InputError, match="auto"):
        Grid.from_bbox(PARVATI, 30, crs=crs)


def test_the_poles_have_no_utm_zone() -> None:
    with pytest.raises(InputError, match="EPSG:3413"):
        utm_zone(0, 85)
