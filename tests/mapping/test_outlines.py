"""Outlines become masks on the cube's grid, in whatever CRS they come."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
from shapely.geometry import Polygon, box

from glacierhpc.errors import InputError
from glacierhpc.grid import Grid
from glacierhpc.mapping.outlines import glacier_labels, glacier_mask

GRID = Grid("EPSG:32645", (30.0, 0.0, 480000.0, 0.0, -30.0, 3100000.0), (100, 120))


def written(path: Path, shape: Polygon, crs: str | None = "EPSG:32645") -> Path:
    geopandas.GeoDataFrame(geometry=[shape], crs=crs).to_file(path, driver="GPKG")
    return path


def test_a_hole_stays_a_hole_and_the_crs_is_followed(tmp_path: Path) -> None:
    ring = box(480300, 3098000, 481800, 3099400).difference(box(480900, 3098600, 481200, 3098900))
    lonlat = geopandas.GeoSeries([ring], crs="EPSG:32645").to_crs("EPSG:4326")[0]
    mask = glacier_mask(written(tmp_path / "o.gpkg", lonlat, "EPSG:4326"), GRID)
    assert mask[30, 15] and not mask[40, 35] and not mask[5, 5]
    assert abs(mask.sum() * 900 / ring.area - 1) < 0.1


def test_outlines_elsewhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no polygon in the area"):
        glacier_mask(written(tmp_path / "o.gpkg", box(0, 0, 10, 10)), GRID)


def test_a_file_that_is_no_outline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "o.gpkg").write_text("not a geopackage")
    with pytest.raises(InputError, match="cannot be read"):
        glacier_mask(tmp_path / "o.gpkg", GRID)


def test_everest_is_more_than_half_glacier(real_data) -> None:
    import rasterio

    folder = real_data("everest-landsat7-rgi")
    with rasterio.open(folder / "LE71400412000304SGS00_B4.tif") as scene:
        grid = Grid(str(scene.crs), tuple(scene.transform)[:6], scene.shape)
    mask = glacier_mask(folder / "15_rgi60_glacier_outlines.gpkg", grid)
    assert np.isclose(mask.mean(), 0.54, atol=0.03)


def test_glaciers_are_numbered_by_size_and_named(tmp_path: Path) -> None:
    grid = Grid("EPSG:32643", (10.0, 0.0, 500_000.0, 0.0, -10.0, 3_600_000.0), (40, 40))

    def square(col: int, row: int, side: int) -> Polygon:
        left, top = 500_000 + 10 * col, 3_600_000 - 10 * row
        return box(left, top - 10 * side, left + 10 * side, top)

    frame = geopandas.GeoDataFrame(
        {"glac_name": ["Small", None, "Large", ""], "rgi_id": ["a", "b", "c", "d"]},
        geometry=[square(0, 0, 5), square(20, 0, 4), square(0, 20, 10), square(30, 30, 2)],
        crs=grid.crs,
    )
    frame.to_file(tmp_path / "rgi.gpkg")
    labels, names = glacier_labels(tmp_path / "rgi.gpkg", grid)
    counted = {names[label]: int((labels == label).sum()) for label in range(1, 5)}
    assert counted == {"Large": 100, "Small": 25, "b": 16, "d": 4} and labels[39, 0] == 0
    few, told = glacier_labels(tmp_path / "rgi.gpkg", grid, most=1)
    assert told[1] == "Large" and told[2] == "smaller glaciers" and (few == 2).sum() == 45
