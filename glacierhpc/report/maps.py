"""The area on maps drawn from the run's own images: where it lies, what was imaged, where the glacier is.

No web tiles; the choice of scenes and their dates is the timeline's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.path import Path as MplPath

from glacierhpc.report import drawing, losses
from glacierhpc.report.blocks import Block, Note, Picture, plural
from glacierhpc.report.drawing import BLUE, ORANGE, PANEL, RED
from glacierhpc.report.run_files import NotMade, RunFiles, cube_crs, setting

MAP_SIDE_PX = 700
BARE_CANDIDATES = 20  # as many scenes are looked at for one without snow
# Short-wave infrared, near infrared, green as red, green, blue: snow and ice turn cyan, rock brown.
FALSE_COLOUR = (("swir16", "swir22"), ("nir08", "nir"), ("green", "red"))


def area_map(run: RunFiles) -> list[Block]:
    """Draw the area on its own grid, with graticule, scale bar, north and the glacier outlines."""
    name, scene, image, label, index_image = _base_image(run)
    crs = cube_crs(scene)
    left, right, bottom, top = extent = _extent(scene)
    rings, said = outlines(run, crs)
    aspect = (top - bottom) / (right - left)
    height_in = min(7.5, max(3.2, 6.6 * aspect + 0.5))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        options: dict[str, Any] = {"cmap": "cividis"} if index_image else {}
        shown = drawing.raster(axes, image, extent=extent, **options)
        if index_image:
            drawing.colour_bar(figure, shown, axes, label)
        axes.set(xlim=(left, right), ylim=(bottom, top))
        for ring in rings:
            axes.plot(*ring.T, color=PANEL, linewidth=2.4, solid_joinstyle="round")
            axes.plot(*ring.T, color="#f0e442", linewidth=1.2, solid_joinstyle="round")
        if crs is not None:
            _graticule(axes, crs, extent)
        _scale_bar(axes, extent)
        _north(axes, crs, extent)

    source = drawing.draw(paint, width_in=7.6, height_in=height_in)
    size_km = f"{(right - left) / 1000:.1f} by {(top - bottom) / 1000:.1f} km"
    caption = (
        f"The area, {size_km}, as {label}. Dotted lines: longitude and latitude. "
        f"{said} Hatched grey: no data."
    )
    return [Picture(source, f"Map of the area, {size_km}, drawn from {name}", caption, layout="map")]


def paint_clearest(axes: Axes, run: RunFiles) -> str:
    """Draw the clearest scene and the glacier outlines without decoration; returns what it shows."""
    _, scene, image, label, index_image = _base_image(run)
    drawing.raster(axes, image, extent=_extent(scene), **({"cmap": "cividis"} if index_image else {}))
    for ring in outlines(run, cube_crs(scene))[0]:
        axes.plot(*ring.T, color="#f2e45c", linewidth=1.0, scalex=False, scaley=False)
    return label


def footprints(run: RunFiles) -> list[Block]:
    """Draw the outline of every scene found around the area, in longitude and latitude."""
    items = run.json("items.json", keys=("features",))
    with run.understanding("items.json"):
        rings = {str(item["id"]): _rings(item["geometry"]) for item in items["features"]}
    kept = _used_scenes(run) if run.has("scenes.parquet") else set(rings)
    box = setting(run.settings(), "area.bbox_lonlat")
    everything = [ring for group in rings.values() for ring in group]
    if not everything:
        return [Note("The search found no scene with a footprint.", "bad")]
    centre = float(box[0] + box[2]) / 2 if box else float(everything[0][:, 0].mean())
    for ring in everything:
        ring[:, 0] = _near(ring[:, 0], centre)

    used = [ring for scene in sorted(rings) if scene in kept for ring in rings[scene]]
    lost = [ring for scene in sorted(rings) if scene not in kept for ring in rings[scene]]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        if used:
            counts, extent = _coverage(used)
            shown = axes.imshow(counts, extent=extent, cmap="Blues", vmin=0, vmax=1.6 * np.nanmax(counts))
            bar = drawing.colour_bar(figure, shown, axes, "used scenes that cover the place")
            bar.ax.set_ylim(0, np.nanmax(counts))
        for group, colour, style in ((used, BLUE, "-"), (lost, ORANGE, "--")):
            opacity = max(0.06, min(0.9, 12 / max(1, len(group))))
            for ring in group:
                axes.plot(*ring.T, color=colour, linestyle=style, linewidth=0.9, alpha=opacity)
        _handles(axes, bool(lost), box, centre)
        latitude = float(np.mean([ring[:, 1].mean() for ring in everything]))
        axes.set_aspect(1 / max(0.05, math.cos(math.radians(latitude))), adjustable="datalim")
        axes.autoscale()
        axes.margins(0.08)
        axes.grid(True)
        axes.set(xlabel="longitude, degrees east", ylabel="latitude, degrees north")
        figure.legend(loc="outside lower center", ncols=3)

    caption = (
        f"Footprints of {plural(len(rings), 'scene')} found, as the catalogue states them, "
        "and the area asked for."
    )
    alt = f"Footprints of {len(rings)} scenes in longitude and latitude around the area"
    return [Picture(drawing.draw(paint, width_in=6.4, height_in=4.4), alt, caption, layout="map")]


def _coverage(
    rings: list[np.ndarray], *, cells: int = 150
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Return how many rings hold each cell, (row, col) float with NaN for none, and its extent."""
    corners = np.concatenate(rings)
    (west, south), (east, north) = corners.min(axis=0), corners.max(axis=0)
    columns, rows = np.meshgrid(np.linspace(west, east, cells), np.linspace(north, south, cells))
    places = np.column_stack([columns.ravel(), rows.ravel()])
    counts = np.zeros(len(places))
    for ring in rings:
        counts += MplPath(ring).contains_points(places)
    image = np.where(counts > 0, counts, np.nan).reshape(cells, cells)
    return image, (float(west), float(east), float(south), float(north))


def _handles(axes: Axes, any_lost: bool, box: list[float] | None, centre: float) -> None:
    axes.plot([], [], color=BLUE, linewidth=2, label="footprint, scene used")
    if any_lost:
        axes.plot(
            [], [], color=ORANGE, linewidth=2, linestyle="--", label="footprint, scene dropped or failed"
        )
    if box:
        west, south, east, north = (float(value) for value in box)
        corner = (float(_near(np.array([west]), centre)[0]), south)
        width = (east - west) % 360 or 360
        axes.add_patch(
            Rectangle(
                corner, width, north - south, fill=False, edgecolor=RED, linewidth=2.2, label="area", zorder=5
            )
        )


def _base_image(run: RunFiles) -> tuple[str, xr.Dataset, np.ndarray, str, bool]:
    """Return the clearest image there is: false colour of a cleaned scene, else a composite's index."""
    for name in ("aligned.zarr", "clean.zarr"):
        if not run.has(name):
            continue
        cube = run.cube(name, variables=("data",))
        bands = [
            next((band for band in choice if band in cube["band"].values), None) for choice in FALSE_COLOUR
        ]
        if None not in bands and cube.sizes["time"]:
            best = _barest(run, name, cube, bands)
            stack = run.pixels(name, cube["data"].isel(time=best).sel(band=bands), max_side_px=MAP_SIDE_PX)
            day = np.datetime_as_string(cube["time"].values[best], unit="D")
            image = _false_colour(stack)
            return name, cube, image, f"false colour ({', '.join(map(str, bands))}) of {day}", False
    if not run.has("composite.zarr"):
        raise NotMade("clean.zarr")
    cube = run.cube("composite.zarr", variables=("data", "looks"))
    with run.understanding("composite.zarr"):
        looks = cube["looks"].mean(("y", "x")).values
    best = int(np.argmax(looks))
    image = run.pixels("composite.zarr", cube["data"].isel(time=best, band=0), max_side_px=MAP_SIDE_PX)
    day = np.datetime_as_string(cube["time"].values[best], unit="D")
    return "composite.zarr", cube, image, f"{cube['band'].values[0]} of the composite around {day}", True


def _barest(run: RunFiles, name: str, cube: xr.Dataset, bands: Sequence[Any]) -> int:
    """Return the scene with least snow among the clearest: there the glacier stands out from the ground."""
    clouds = (
        cube["cloud_cover"].values.astype(float) if "cloud_cover" in cube else np.zeros(cube.sizes["time"])
    )
    clearest = np.argsort(np.nan_to_num(clouds, nan=50.0), kind="stable")[:BARE_CANDIDATES]
    swir_and_green = cube["data"].sel(band=[bands[0], bands[2]])
    shares, bareness = [], []
    for index in clearest:
        swir, green = run.pixels(name, swir_and_green.isel(time=index), max_side_px=64)
        known = np.isfinite(swir) & np.isfinite(green)
        shares.append(known.mean())
        bareness.append(float((swir - green)[known].mean()) if known.any() else -np.inf)
    seen = np.array(shares) >= 0.95 * max(shares)
    return int(clearest[np.argmax(np.where(seen, bareness, -np.inf))])


def _false_colour(stack: np.ndarray) -> np.ndarray:
    empty = ~np.isfinite(stack).all(axis=0)
    # One stretch for all bands keeps snow cyan and rock brown; the square root opens the shadows.
    channels = np.sqrt(np.moveaxis(drawing.stretch(np.where(empty, np.nan, stack)), 0, -1))
    opaque = np.where(empty, 0.0, 1.0)[..., None]
    return np.concatenate([np.nan_to_num(channels), opaque], axis=-1)


def _extent(cube: xr.Dataset) -> tuple[float, float, float, float]:
    x, y = cube["x"].values.astype(float), cube["y"].values.astype(float)
    half = abs(x[1] - x[0]) / 2 if len(x) > 1 else 0.5
    return x.min() - half, x.max() + half, y.min() - half, y.max() + half


def outlines(run: RunFiles, crs: pyproj.CRS | None) -> tuple[list[np.ndarray], str]:
    """Return the rings (n, 2) of the configured outlines in a CRS, and the sentence about them."""
    given = setting(run.settings(), "area.outlines")
    if not given:
        return [], "No glacier outlines were given."
    path = next(
        (p for p in (Path(given), run.path / given, run.path / Path(given).name) if p.is_file()), None
    )
    if path is None or crs is None:
        return [], f"The outlines {str(given)!r} could not be found from here."
    try:
        import geopandas
    except ImportError:
        return [], "The outlines are not drawn: geopandas is not installed (extra “mapping”)."
    shapes = geopandas.read_file(path).to_crs(crs).geometry
    lines = shapes.boundary.explode(index_parts=False)
    rings = [np.asarray(line.coords)[:, :2] for line in lines if line is not None and not line.is_empty]
    return rings, "Yellow: glacier outline."


def _used_scenes(run: RunFiles) -> set[str]:
    scenes = losses.fates(run)
    return set(scenes.loc[scenes["state"] == "used", "scene"].astype(str))


def _rings(geometry: dict[str, Any] | None) -> list[np.ndarray]:
    if not geometry:
        return []
    polygons = geometry["coordinates"]
    polygons = [polygons] if geometry["type"] == "Polygon" else polygons
    return [np.asarray(polygon[0], float)[:, :2] for polygon in polygons]


def _near(longitude: np.ndarray, centre: float) -> np.ndarray:
    """Shift longitudes by whole turns, so that a footprint across 180 degrees stays in one piece."""
    return centre + (longitude - centre + 180) % 360 - 180


def _graticule(axes: Axes, crs: pyproj.CRS, extent: tuple[float, float, float, float]) -> None:
    left, right, bottom, top = extent
    to_lonlat = pyproj.Transformer.from_crs(crs, 4326, always_xy=True)
    columns, rows = np.meshgrid(np.linspace(left, right, 60), np.linspace(bottom, top, 60))
    longitude, latitude = to_lonlat.transform(columns, rows)
    for values, axis in ((longitude, "x"), (latitude, "y")):
        step = drawing.nice((values.max() - values.min()) / 3)
        levels = np.arange(math.ceil(values.min() / step), values.max() / step) * step
        edge, along = (values[0], columns[0]) if axis == "x" else (values[:, 0], rows[:, 0])
        margin = 0.03 * (edge.max() - edge.min())  # labels at the corner would meet those of the other axis
        inside = levels[(levels > edge.min() + margin) & (levels < edge.max() - margin)]
        if len(inside) == 0 or not np.all(np.diff(edge) > 0):
            continue  # near a pole meridians are no graph over the frame
        axes.contour(columns, rows, values, levels=inside, colors="white", linewidths=0.9, linestyles=":")
        positions = np.interp(inside, edge, along)
        names = [_degrees(level, step, "EW" if axis == "x" else "NS") for level in inside]
        getattr(axes, f"set_{axis}ticks")(positions, names)
    axes.tick_params(axis="y", labelrotation=90)
    for label in axes.get_yticklabels():
        label.set_verticalalignment("center")


def _degrees(value: float, step: float, letters: str) -> str:
    places = max(0, math.ceil(-math.log10(step) - 1e-9))
    return f"{abs(value):.{places}f}° {letters[0] if value >= 0 else letters[1]}"


def _scale_bar(axes: Axes, extent: tuple[float, float, float, float]) -> None:
    left, right, bottom, top = extent
    length = drawing.nice((right - left) * 0.28)
    x, y, thick = left + (right - left) * 0.04, bottom + (top - bottom) * 0.045, (top - bottom) * 0.012
    axes.add_patch(
        Rectangle((x, y), length, thick, facecolor="white", edgecolor=PANEL, linewidth=0.8, zorder=5)
    )
    axes.add_patch(
        Rectangle((x, y), length / 2, thick, facecolor=PANEL, edgecolor=PANEL, linewidth=0.8, zorder=6)
    )
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axes.text(
        x + length / 2, y + 1.8 * thick, text, ha="center", va="bottom", color=PANEL, zorder=6, **_label()
    )


def _north(axes: Axes, crs: pyproj.CRS | None, extent: tuple[float, float, float, float]) -> None:
    left, right, bottom, top = extent
    x, y, length = right - (right - left) * 0.06, top - (top - bottom) * 0.16, (top - bottom) * 0.1
    angle = _convergence(crs, (left + right) / 2, (bottom + top) / 2)
    tip = (x + length * math.sin(angle), y + length * math.cos(angle))
    arrow = {"arrowstyle": "-|>,head_width=0.35,head_length=0.7", "color": PANEL, "linewidth": 1.6}
    axes.annotate("", xy=tip, xytext=(x, y), arrowprops=arrow, zorder=6)
    axes.text(x, y, "N", ha="center", va="top", color=PANEL, zorder=6, **_label())


def _convergence(crs: pyproj.CRS | None, x: float, y: float) -> float:
    """Return the angle from grid north to true north, radians clockwise."""
    if crs is None:
        return 0.0
    to_lonlat = pyproj.Transformer.from_crs(crs, 4326, always_xy=True)
    longitude, latitude = to_lonlat.transform(x, y)
    north_x, north_y = to_lonlat.transform(longitude, min(latitude + 0.01, 90.0), direction="INVERSE")
    return math.atan2(north_x - x, north_y - y)


def _label() -> dict[str, Any]:
    box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "boxstyle": "round,pad=0.2"}
    return {"bbox": box, "fontsize": 8}
