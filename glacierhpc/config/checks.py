"""Rules that join several fields of a configuration; every rule is a function of the sections it needs.

Those of what is learnt are in `learning_checks`. What a single field may hold is said in `schema`; nothing here reads
files other than to see that they exist.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from glacierhpc.config.fault import Fault
from glacierhpc.config.learning import Sequences
from glacierhpc.config.learning_checks import LEARNING_RULES
from glacierhpc.config.schema import (
    INDEX_BANDS,
    Acquire,
    Align,
    Archive,
    Area,
    Composite,
    Input,
    Period,
)
from glacierhpc.errors import unknown_name

METRES_PER_DEGREE = 111_320.0  # of latitude, mean of the WGS 84 ellipsoid to 0.2 %
MAX_SIDE_PX = 40_000  # a larger side is a mistyped resolution or box, not a glacier

SOURCE = ("area", "period", "archive")
"""Sections that say which scenes are looked for; a cube made elsewhere stands in their place."""

NO_REFLECTANCE = ("lwir", "lwir11", "lwir12", "pan", "cirrus")
"""Bands that are temperatures, or that surface reflectance products leave out."""


def check_sections(sections: dict[str, Any]) -> list[Fault]:
    """Return the faults of all rules whose sections are present.

    Parameters
    ----------
    sections : dict
        Section name to its model; sections too broken to be read are simply absent.
    """
    faults: list[Fault] = []
    for names, rule in RULES:
        if all(name in sections for name in names):
            faults.extend(rule(*(sections[name] for name in names)))
    return faults


def check_bbox(area: Area) -> Iterator[Fault]:
    """Check order and ranges of the box, with a hint where longitude and latitude were swapped."""
    west, south, east, north = area.bbox_lonlat
    path = ("area", "bbox_lonlat")
    given = list(area.bbox_lonlat)
    if max(abs(south), abs(north)) > 90 or max(abs(west), abs(east)) > 180:
        swapped = [south, west, north, east]
        in_range = max(abs(west), abs(east)) <= 90 and max(abs(south), abs(north)) <= 180
        hint = f"; longitude and latitude look swapped, write {swapped}" if in_range else ""
        yield Fault(path, f"{given} is off the globe: longitude is -180 to 180, latitude -90 to 90{hint}")
        return
    if west >= east or south >= north:
        ordered = [min(west, east), min(south, north), max(west, east), max(south, north)]
        axis = "west must be less than east" if west >= east else "south must be less than north"
        repair = (
            f"write [west, south, east, north], perhaps {ordered}"
            if _has_extent(ordered)
            else "the box is empty"
        )
        if west > east and west - east > 180:
            repair = "a box over the 180th meridian is two runs, one on each side"
        yield Fault(path, f"{given}: {axis}; {repair}")


def _has_extent(bbox: list[float]) -> bool:
    return bbox[0] < bbox[2] and bbox[1] < bbox[3]


def grid_size_px(area: Area) -> tuple[int, int]:
    """Return the approximate rows and columns of the area's grid, to a few percent."""
    west, south, east, north = area.bbox_lonlat
    metres_per_lon = METRES_PER_DEGREE * math.cos(math.radians((south + north) / 2))
    rows = (north - south) * METRES_PER_DEGREE / area.resolution_m
    columns = (east - west) * metres_per_lon / area.resolution_m
    return max(1, round(rows)), max(1, round(columns))


def check_size(area: Area) -> Iterator[Fault]:
    """Refuse a grid that is too large to be meant."""
    if any(check_bbox(area)):
        return
    rows, columns = grid_size_px(area)
    if max(rows, columns) > MAX_SIDE_PX:
        yield Fault(
            ("area", "resolution_m"),
            f"{area.resolution_m:g} m gives about {rows} x {columns} px, more than {MAX_SIDE_PX} on a side; "
            "write a coarser resolution in metres or a smaller box",
        )


def check_crs(area: Area) -> Iterator[Fault]:
    """Check that the CRS exists, is projected and counts in metres."""
    if area.crs == "auto":
        return
    from pyproj import CRS  # deferred: 0.2 s that most commands do not need
    from pyproj.exceptions import CRSError

    path, advice = (
        ("area", "crs"),
        "write auto (the UTM zone of the area) or a projected CRS such as EPSG:32643",
    )
    try:
        crs = CRS.from_user_input(area.crs)
    except CRSError:
        yield Fault(path, f"{area.crs!r} is not a coordinate reference system; {advice}")
        return
    if not crs.is_projected:
        yield Fault(
            path, f"{area.crs!r} ({crs.name}) is not projected, so pixels have no size in metres; {advice}"
        )
    elif any(axis.unit_name != "metre" for axis in crs.axis_info):
        yield Fault(path, f"{area.crs!r} counts in {crs.axis_info[0].unit_name}, not in metres; {advice}")


def check_outlines(area: Area) -> Iterator[Fault]:
    """Check that the outlines exist."""
    if area.outlines is not None and not area.outlines.exists():
        yield Fault(
            ("area", "outlines"),
            f"{str(area.outlines)!r} does not exist; write the path of a GeoPackage, or null",
        )


def check_period(period: Period) -> Iterator[Fault]:
    """Check the order of the dates and the months."""
    if period.start > period.end:
        yield Fault(("period", "start"), f"{period.start} is after period.end {period.end}; exchange them")
    if period.start.year < 1972:
        yield Fault(
            ("period", "start"), f"{period.start} is before the first Landsat; write a day from 1972-07-23 on"
        )
    wrong = [month for month in period.months if not 1 <= month <= 12]
    if wrong:
        yield Fault(("period", "months"), f"{wrong} are not months; write numbers from 1 to 12")


def check_archive(archive: Archive) -> Iterator[Fault]:
    """Check the scene lists and the way of signing."""
    both = sorted(set(archive.include) & set(archive.exclude))
    if both:
        yield Fault(
            ("archive", "exclude"), f"{both} stand in archive.include too; take them out of one of the two"
        )
    ways = ("auto", "none", "planetary-computer")
    if archive.signing not in ways and not archive.signing.startswith(("http://", "https://", "bearer:")):
        yield Fault(
            ("archive", "signing"),
            str(unknown_name("signing", archive.signing, ways)) + " Or a URL, or bearer:HOST.",
        )


def check_align_band(acquire: Acquire, align: Align) -> Iterator[Fault]:
    """Check that the band the alignment looks at is read."""
    if align.band not in acquire.bands:
        yield Fault(
            ("align", "band"),
            f"{align.band!r} is not read; add it to acquire.bands or choose one of: {', '.join(acquire.bands)}",
        )


def check_align_kernel(align: Align) -> Iterator[Fault]:
    """Check that what is only moved is not to be turned or stretched."""
    if align.kernel == "none" and align.motion != "translation":
        yield Fault(
            ("align", "kernel"),
            f"'none' moves scenes by whole pixels, which align.motion {align.motion!r} does not allow; write "
            "align.motion: translation, or align.kernel: cubic",
        )


def check_index_bands(acquire: Acquire, composite: Composite) -> Iterator[Fault]:
    """Check that the bands of the index, or the band that stands for one, are read."""
    if composite.index in NO_REFLECTANCE:
        yield Fault(
            ("composite", "index"),
            f"band {composite.index!r} has no surface reflectance in these archives; choose one of: "
            f"{', '.join((*INDEX_BANDS, *(band for band in acquire.bands if band not in NO_REFLECTANCE)))}",
        )
        return
    if composite.index not in INDEX_BANDS:
        if composite.index not in acquire.bands:
            yield Fault(
                ("composite", "index"),
                f"band {composite.index!r} is not read; add it to acquire.bands, or choose one of: "
                f"{', '.join((*INDEX_BANDS, *acquire.bands))}",
            )
        return
    read = {*acquire.bands, *(("nir08",) if "nir" in acquire.bands else ())}
    missing = [band for band in INDEX_BANDS[composite.index] if band not in read]
    if missing:
        yield Fault(
            ("composite", "index"),
            f"{composite.index!r} is made of {', '.join(INDEX_BANDS[composite.index])}, but acquire.bands lacks "
            f"{', '.join(missing)}; add them to acquire.bands",
        )


def check_repeats(acquire: Acquire) -> Iterator[Fault]:
    """Refuse a band that is listed twice."""
    repeated = sorted({band for band in acquire.bands if acquire.bands.count(band) > 1})
    if repeated:
        yield Fault(
            ("acquire", "bands"), f"{', '.join(repeated)} is listed more than once; list each band once"
        )


def check_enough_windows(period: Period, composite: Composite, sequences: Sequences) -> Iterator[Fault]:
    """Check that the period holds at least one sequence."""
    months = (period.end.year - period.start.year) * 12 + period.end.month - period.start.month + 1
    windows = math.ceil(months / composite.window_months)
    needed = sequences.steps_in + sequences.steps_out
    if period.start <= period.end and windows < needed:
        yield Fault(
            ("period", "end"),
            f"{period.start} to {period.end} holds {windows} windows of {composite.window_months} months, one "
            f"sequence needs {needed} (sequences.steps_in + steps_out); write a longer period or shorter windows",
        )


def check_patch_fits(area: Area, sequences: Sequences) -> Iterator[Fault]:
    """Check that a patch is not larger than the area."""
    if any(check_bbox(area)):
        return
    rows, columns = grid_size_px(area)
    if sequences.size_px > 1.1 * min(rows, columns):  # the estimate of the grid is good to a few percent
        yield Fault(
            ("sequences", "size_px"),
            f"{sequences.size_px} px does not fit into the area, about {rows} x {columns} px at "
            f"{area.resolution_m:g} m; write a smaller patch or a larger area.bbox_lonlat",
        )


def check_input(given: Input) -> Iterator[Fault]:
    """Check the cube made elsewhere and what is said of its values."""
    if given.cube is None:
        for key in ("value_range", "threshold", "units", "shows"):
            if getattr(given, key) is not None:
                yield Fault(
                    ("input", key),
                    "is about a cube made elsewhere, but none is given; write input.cube, or null here",
                )
        return
    if not given.cube.exists():
        yield Fault(
            ("input", "cube"),
            f"{str(given.cube)!r} does not exist; write the folder of a Zarr cube with data(time, band, y, x)",
        )
    if given.value_range is not None and not given.value_range[0] < given.value_range[1]:
        yield Fault(
            ("input", "value_range"), f"{list(given.value_range)} is empty; write [least, greatest] value"
        )


def check_source(values: dict[str, Any]) -> Iterator[Fault]:
    """Check that images come from one place: scenes that are looked for, or a cube made elsewhere."""
    section = values.get("input")
    own = isinstance(section, dict) and section.get("cube") is not None
    for name in SOURCE:
        if own and values.get(name) is not None:
            yield Fault((name,), "has no meaning with input.cube, which is used as it is; leave it out")
        elif not own and values.get(name) is None:
            yield Fault((name,), f"section {name} is missing; write it, or input.cube: a cube made elsewhere")


RULES: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("area",), check_bbox),
    (("area",), check_size),
    (("area",), check_crs),
    (("area",), check_outlines),
    (("period",), check_period),
    (("archive",), check_archive),
    (("acquire",), check_repeats),
    (("acquire", "align"), check_align_band),
    (("align",), check_align_kernel),
    (("acquire", "composite"), check_index_bands),
    (("period", "composite", "sequences"), check_enough_windows),
    (("area", "sequences"), check_patch_fits),
    (("input",), check_input),
    *LEARNING_RULES,
)
"""Each rule with the sections it is a function of."""
