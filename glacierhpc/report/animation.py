"""Frames to an animated GIF inside the page; what the frames show is drawn elsewhere."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from PIL import Image

from glacierhpc.report.drawing import ORANGE, PANEL, SKY, data_uri


def palette(*maps: str) -> np.ndarray:
    """Return 256 colours, (256, 3) uint8: those of the colour maps used, of panel, text and titles.

    A palette measured from the frames gives rare colours, such as large errors, to their neighbours.
    """
    each = 216 // len(maps)
    ramps = [colormaps[name](np.linspace(0, 1, each))[:, :3] for name in maps]
    titles = np.array([to_rgb(ORANGE), to_rgb(SKY)])
    panel_to_text = np.linspace(to_rgb(PANEL), (0.95, 0.97, 0.98), 254 - len(maps) * each)
    return np.round(255 * np.concatenate([panel_to_text, titles, *ramps])).astype(np.uint8)


def gif(frames: Sequence[np.ndarray], *, seconds: float | Sequence[float], palette: np.ndarray) -> str:
    """Return an endless animation as a data address.

    Parameters
    ----------
    frames : sequence of (row, col, 3) uint8
        All of one size.
    seconds : float or one per frame
        How long each frame stays.
    palette : (256, 3) uint8
        The colours of all frames, so that nothing but the subject changes.
    """
    if not frames:
        raise ValueError("an animation needs at least one frame")
    colours = Image.new("P", (1, 1))
    colours.putpalette(palette.tobytes())
    images = [Image.fromarray(one).quantize(palette=colours, dither=Image.Dither.NONE) for one in frames]
    stay = [seconds] * len(frames) if isinstance(seconds, int | float) else list(seconds)
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=images[1:],
        duration=[round(1000 * one) for one in stay],
        loop=0,
        optimize=False,
    )
    return data_uri(buffer.getvalue(), "image/gif")


def still(frame: np.ndarray) -> str:
    """Return one frame as a PNG data address, for readers who asked for reduced motion."""
    buffer = io.BytesIO()
    Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")
