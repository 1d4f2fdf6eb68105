"""What is left after alignment: shifts of small windows over stable ground.

An independent check of the alignment: phase correlation sees none of the alignment's own arithmetic.
"""

from __future__ import annotations

import numpy as np
from scipy import fft

MAX_WINDOWS = 400  # more do not make a median better, only slower
MIN_WINDOWS = 4
MIN_VALID_SHARE = 0.9
WHITENING = 0.7  # power of the magnitude divided out: 1 gives all frequencies one vote, noise too
MIN_PEAK = 0.45  # of the height that equal phases give; 99 % of unrelated textures stay below 0.43 at 48 px
MAX_MIN_PEAK = 0.65  # smaller windows agree by chance more often (0.6 at 24 px in 5 % of them)


def local_offsets(
    first: np.ndarray,
    second: np.ndarray,
    *,
    window_px: int = 48,
    stable: np.ndarray | None = None,
    most: int = MAX_WINDOWS,
) -> np.ndarray:
    """Return the sub-pixel offsets of windows of `second` against `first` by phase correlation.

    Parameters
    ----------
    first, second : (y, x) float32
        On one grid; NaN is invalid.
    window_px : int, default 48
    stable : (y, x) bool, optional
        Windows must lie on it with 90 % of their pixels.
    most : int
        Windows to look at, spread evenly.

    Returns
    -------
    (n, 2) float64
        x, y offsets in pixels of those windows that have 90 % valid pixels and a clear peak: what `first` shows
        at x is at x + offset in `second`.

    References
    ----------
    Foroosh, Zerubia & Berthod (2002), IEEE TIP 11(3), doi:10.1109/83.988953
    """
    usable = np.isfinite(first) & np.isfinite(second)
    if stable is not None:
        usable &= stable
    windows = _windows(usable, window_px)
    if len(windows) > most:
        windows = windows[np.linspace(0, len(windows) - 1, most).astype(int)]
    if len(windows) == 0:
        return np.empty((0, 2))
    a = np.stack([first[y : y + window_px, x : x + window_px] for y, x in windows])
    b = np.stack([second[y : y + window_px, x : x + window_px] for y, x in windows])
    ok = np.isfinite(a) & np.isfinite(b)
    taper = np.outer(np.hanning(window_px + 2)[1:-1], np.hanning(window_px + 2)[1:-1]).astype(np.float32)
    spectra = [fft.rfft2(_centred(values, ok) * taper) for values in (a, b)]
    cross = np.conj(spectra[0]) * spectra[1]
    power = cross.real**2 + cross.imag**2
    floor = (1e-6 * np.sqrt(power).mean(axis=(1, 2), keepdims=True) + 1e-15) ** 2
    share = _low_pass(window_px) / np.maximum(power, floor) ** (WHITENING / 2)
    surface = fft.irfft2(cross * share, (window_px, window_px))
    highest = _height_of_equal_phases(np.sqrt(power) * share, window_px)
    offsets, peaks = _peaks(surface)
    least = min(MIN_PEAK * np.sqrt(48.0 / window_px), MAX_MIN_PEAK)
    return offsets[peaks > least * np.maximum(highest, 1e-30)]


def fitting_window_px(usable: np.ndarray, largest_px: int = 48) -> int:
    """Return the largest window, down to half of `largest_px`, that finds enough places on a mask (y, x)."""
    sizes = [largest_px, (2 * largest_px) // 3, largest_px // 2]
    return next((size for size in sizes if len(_windows(usable, size)) >= 2 * MIN_WINDOWS), sizes[-1])


def stable_residual_px(offsets: np.ndarray, *, least: int = MIN_WINDOWS) -> float:
    """Return the median length of local offsets, NaN from fewer than `least` windows.

    It contains the estimator's own noise, about 0.05 to 0.1 px per window on satellite scenes.
    """
    if len(offsets) < least:
        return float("nan")
    return float(np.median(np.hypot(offsets[:, 0], offsets[:, 1])))


def _windows(usable: np.ndarray, window_px: int) -> np.ndarray:
    """Upper left corners (n, 2) of the windows with enough usable pixels."""
    rows, columns = (size // window_px for size in usable.shape)
    bands = usable[: rows * window_px, : columns * window_px].reshape(rows, window_px, columns * window_px)
    # down the columns first: whole rows are added at once, three times faster than window by window
    counts = bands.sum(axis=1, dtype=np.int32).reshape(rows, columns, window_px).sum(axis=2)
    return np.asarray(np.argwhere(counts >= MIN_VALID_SHARE * window_px**2) * window_px)


def _centred(values: np.ndarray, ok: np.ndarray) -> np.ndarray:
    """Return windows without their means, of about unit deviation so that no power of them overflows float32."""
    zero = np.float32(0)
    count = ok.sum(axis=(1, 2), keepdims=True, dtype=np.float32)
    mean = np.where(ok, values, zero).sum(axis=(1, 2), keepdims=True, dtype=np.float64) / count
    centred = np.where(ok, values - mean.astype(np.float32), zero)
    centred /= max(float(np.abs(centred).mean()), 1e-30)
    return centred


def _height_of_equal_phases(magnitude: np.ndarray, size: int) -> np.ndarray:
    """Return the peaks (n,) that spectra (n, size, size // 2 + 1) would have if all phases were equal."""
    # half spectra: every column but the first, and the last of an even size, stands for two
    total = 2 * magnitude.sum(axis=(1, 2)) - magnitude[:, :, 0].sum(axis=1)
    if size % 2 == 0:
        total -= magnitude[:, :, -1].sum(axis=1)
    return np.asarray(total / size**2)


def _low_pass(size: int) -> np.ndarray:
    """Gaussian over frequencies: it widens the peak to a Gaussian of about one pixel, easy to interpolate."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    return np.asarray(np.exp(-2.0 * np.pi**2 * (fx**2 + fy**2)), np.float32)


def _peaks(surface: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sub-pixel places (n, 2) as x, y and heights of the maxima: a parabola through the logarithms."""
    count, size, _ = surface.shape
    best = surface.reshape(count, -1).argmax(axis=1)
    y, x = best // size, best % size
    n = np.arange(count)
    top = surface[n, y, x]
    offsets = np.empty((count, 2))
    for column, (place, before, after) in enumerate(
        (
            (x, surface[n, y, x - 1], surface[n, y, (x + 1) % size]),
            (y, surface[n, y - 1, x], surface[n, (y + 1) % size, x]),
        )
    ):
        low = 1e-3 * np.abs(top) + 1e-12
        log_before, log_top, log_after = (np.log(np.maximum(v, low)) for v in (before, top, after))
        bend = log_before - 2 * log_top + log_after
        step = np.where(bend < 0, 0.5 * (log_before - log_after) / np.where(bend < 0, bend, -1.0), 0.0)
        place = place + np.clip(step, -0.5, 0.5)
        offsets[:, column] = np.where(place > size / 2, place - size, place)
    return offsets, top
