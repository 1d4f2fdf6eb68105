"""What the values of each index mean to a forecast, its scores and its motion; not how an index is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import xarray as xr

from glacierhpc.config import Config


@dataclass(frozen=True)
class IndexFacts:
    """What the values of an index mean to a forecast and its scores."""

    shows: str
    value_range: tuple[float, float]
    threshold: float | None
    """Above it a pixel counts as covered, for the overlap score; None where there is no such thing."""
    units: str = "1"
    """Of every index and of reflectance."""

    @property
    def data_range(self) -> float:
        """Width of the range of values."""
        return self.value_range[1] - self.value_range[0]

    def to_attributes(self) -> dict[str, Any]:
        """Return what a cube made elsewhere carries along, see `image_facts`."""
        covered = {} if self.threshold is None else {"covered_above": self.threshold}
        return {"shows": self.shows, "units": self.units, "valid_range": list(self.value_range), **covered}


INDEX_FACTS = {
    # Hall et al. (1995), doi:10.1016/0034-4257(95)00137-P: snow has an NDSI over 0.4
    "ndsi": IndexFacts("snow and ice cover (NDSI values), not ice motion", (-1.0, 1.0), 0.4),
    # McFeeters (1996), doi:10.1080/01431169608948714: water has an NDWI over 0
    "ndwi": IndexFacts("open water (NDWI values), not ice motion", (-1.0, 1.0), 0.0),
    "ndvi": IndexFacts("vegetation (NDVI values), not ice motion", (-1.0, 1.0), 0.4),
    "albedo": IndexFacts("albedo of the surface, not ice motion", (0.0, 1.0), 0.4),
}
REFLECTANCE = IndexFacts("surface reflectance, not ice motion", (0.0, 1.0), 0.4)


def index_facts(index: str) -> IndexFacts:
    """Return what the values of an index mean; without an index they are reflectance."""
    return INDEX_FACTS.get(index, REFLECTANCE)


def image_facts(config: Config, composites: xr.Dataset) -> IndexFacts:
    """Return what the values of a run's composites mean: those of the index, or what a cube made elsewhere says."""
    if config.input.cube is None:
        return index_facts(config.composite.index)
    told = composites.attrs
    low, high = (float(value) for value in told["valid_range"])
    threshold = told.get("covered_above")
    return IndexFacts(
        str(told["shows"]), (low, high), None if threshold is None else float(threshold), str(told["units"])
    )
