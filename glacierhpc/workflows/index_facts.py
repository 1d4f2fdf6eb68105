"""What the values of each index mean to a forecast, its scores and its motion; not how an index is computed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IndexFacts:
    """What the values of an index mean to a forecast and its scores."""

    shows: str
    value_range: tuple[float, float]
    threshold: float
    """Above it a pixel counts as covered, for the overlap score."""


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
