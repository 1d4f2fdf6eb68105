"""How every figure of the report looks: colours, type, rasters with gaps, and data addresses.

What is drawn is decided by the modules named after their subject; nothing here knows a run.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colorbar import Colorbar
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

INK, MUTED, RULE = "#1c2833", "#5a6873", "#ccd4db"
# Okabe & Ito (2008), "Color Universal Design": told apart by all common forms of colour vision.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
NO_DATA, HATCH = "#c5cbd1", "#9aa3ab"
PANEL = "#16212b"  # ground of animations, which cannot follow the reader's light or dark setting

FULL_IN, HALF_IN = 9.2, 4.5  # the column of the page and half of it, at 96 px per inch
RASTER_DPI = 130
MANY_MARKS = 600  # a mark takes about 100 bytes of SVG: from here on a picture of them is smaller

# A figure follows the reader's setting: each of these colours has a twin for dark pages.
_DARK = {INK: "#e4eaef", MUTED: "#9fb0bd", RULE: "#33424f", BLUE: "#4fa9dd", RED: "#ee7d3a"}
_STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "normal",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.facecolor": "none",
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "hatch.linewidth": 0.5,
    "hatch.color": HATCH,
    "svg.fonttype": "path",
    "svg.hashsalt": "glacierhpc",
}


def styled() -> AbstractContextManager[None]:
    """Return the context in which a figure looks like those of the report."""
    return matplotlib.rc_context(_STYLE)


def draw(paint: Callable[[Figure], None], *, width_in: float = FULL_IN, height_in: float) -> str:
    """Return a figure as an SVG data address that follows light and dark pages.

    Parameters
    ----------
    paint : callable
        Draws on the empty figure it is given.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained", dpi=RASTER_DPI)
        paint(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
    return data_uri(_follow_theme(buffer.getvalue()).encode(), "image/svg+xml")


def frame(paint: Callable[[Figure], None], *, width_in: float, height_in: float) -> np.ndarray:
    """Return a figure as one frame of an animation: (row, col, 3) uint8 on a dark panel."""
    light = "#eef3f6"
    dark_panel: Any = {
        **_STYLE,
        "figure.facecolor": PANEL,
        "text.color": light,
        "axes.titlecolor": light,
        "axes.labelcolor": light,
        "axes.edgecolor": "#3a4a58",
        "xtick.labelcolor": light,
        "ytick.labelcolor": light,
    }
    with matplotlib.rc_context(dark_panel):
        figure = Figure(figsize=(width_in, height_in), layout="constrained", dpi=100)
        canvas = FigureCanvasAgg(figure)
        paint(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def data_uri(content: bytes, media_type: str) -> str:
    """Return bytes as a ``data:`` address."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def panels(count: int) -> tuple[float, float]:
    """Return the width of each of `count` images side by side and that of their figure with labels, inches."""
    panel_in = min(2.9, (FULL_IN - 1.3) / count)
    return panel_in, panel_in * count + 1.3


def raster(axes: Axes, image: np.ndarray, **options: Any) -> AxesImage:
    """Draw an image, (y, x) or (y, x, 3), without ticks; pixels without data are hatched grey."""
    no_data(axes)
    shown = axes.imshow(image, interpolation="nearest", **options)
    axes.set_xticks([])
    axes.set_yticks([])
    return shown


def no_data(axes: Axes) -> None:
    """Fill the axes with the pattern that means: no data."""
    axes.set_facecolor(NO_DATA)
    axes.add_patch(
        Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, hatch="/////", linewidth=0, zorder=0)
    )


def colour_bar(figure: Figure, shown: Any, axes: Any, label: str, **options: Any) -> Colorbar:
    """Add a slim colour bar with its label and unit."""
    bar = figure.colorbar(shown, ax=axes, label=label, **{"fraction": 0.035, "pad": 0.015, **options})
    bar.outline.set_visible(False)  # type: ignore[operator]
    return bar


def flatten_many(axes: Axes, count: int) -> None:
    """Turn marks and lines of more than `MANY_MARKS` things into pixels, so that long series keep the page small."""
    if count > MANY_MARKS:
        for marks in axes.collections:
            marks.set_rasterized(True)


def date_axis(axes: Axes, *, max_ticks: int = 9) -> None:
    """Label x with dates, in as few words as are needed."""
    locator = AutoDateLocator(minticks=3, maxticks=max_ticks)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def count_axis(axes: Axes) -> None:
    """Label x with whole numbers only: epochs, leads."""
    # one tick will do: with one lead two whole numbers would be out of sight
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def plain_log_axis(axes: Axes) -> None:
    """Label a logarithmic y with plain numbers at 1, 2 and 5 times the powers of ten."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def robust_range(
    images: Sequence[np.ndarray], *, low: float = 1.0, high: float = 99.0
) -> tuple[float, float]:
    """Return the percentiles of all finite values, rounded outwards to tenths: one scale for all images."""
    finite = [image[np.isfinite(image)] for image in images]
    values = np.concatenate(finite) if finite else np.empty(0, np.float32)
    if values.size == 0:
        return 0.0, 1.0
    bottom, top = np.percentile(values, [low, high])
    return float(np.floor(bottom * 10) / 10), float(
        max(np.ceil(top * 10) / 10, np.floor(bottom * 10) / 10 + 0.1)
    )


def nice(length: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is not longer."""
    power = 10 ** math.floor(math.log10(length))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= length * (1 + 1e-9))


def symmetric_limit(images: Sequence[np.ndarray]) -> float:
    """Return the bound of a scale that is symmetric about zero and holds 99 % of the values."""
    low, high = robust_range([np.abs(image) for image in images])
    return max(abs(low), abs(high))


def stretch(image: np.ndarray) -> np.ndarray:
    """Return an image scaled to [0, 1] between its 2nd and 98th percentile; NaN stays NaN."""
    finite = image[np.isfinite(image)]
    if finite.size == 0:
        return image
    low, high = np.percentile(finite, [2, 98])
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1)


def _follow_theme(svg: str) -> str:
    names = {light: f"--c{index}" for index, light in enumerate(_DARK)}
    for light, name in names.items():
        svg = svg.replace(light, f"var({name})")
    here = "".join(f"{names[light]}:{light};" for light in _DARK)
    dark = "".join(f"{names[light]}:{twin};" for light, twin in _DARK.items())
    style = f"<style>svg{{{here}}}@media (prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    return svg.replace("<defs>", f"{style}<defs>", 1)
