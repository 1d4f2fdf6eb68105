"""The whole-pixel shifts that two small images may have between them; `ecc` refines them."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from glacierhpc.kernels.sampling import FAST

LINE_PX = 512  # are added up in float32
LEAST_ENERGY = 1e-5  # of the largest: rounding leaves about 1e-7 where there is no contrast


def coarse_shifts(
    reference: np.ndarray,
    moving: np.ndarray,
    *,
    max_shift_px: float,
    min_overlap_share: float = 0.05,
    most: int = 1,
) -> list[tuple[float, float, float]]:
    """Return the shifts with the highest masked normalised cross-correlation.

    Every candidate shift is scored by the correlation coefficient of exactly the pixels that are valid in
    both images at this shift, so that nodata, clouds and unequal shapes do not pull. Meant for the top of a
    pyramid, where few shifts are left: the cost is that of all pixels for each.

    Parameters
    ----------
    reference, moving : (y, x) float32
        NaN is invalid; of about zero mean.
    max_shift_px : float
        Largest shift considered in x and in y.
    min_overlap_share : float
        Shifts with fewer common pixels than this share of the smaller valid area are not considered.
    most : int
        How many local maxima to return.

    Returns
    -------
    list of (x, y, correlation)
        Best first: reference pixel (x, y) shows what moving pixel (x + shift x, y + shift y) shows. Empty where no
        shift has enough overlap and contrast.

    References
    ----------
    Padfield (2012), IEEE TIP 21(5), doi:10.1109/TIP.2011.2181402
    """
    reach = int(np.ceil(min(max_shift_px, max(*reference.shape, *moving.shape) - 1)))
    least = max(16.0, min_overlap_share * min(np.isfinite(image).sum() for image in (reference, moving)))
    scores = _scores(np.ascontiguousarray(reference), np.ascontiguousarray(moving), reach, least)
    peaks = _peaks(scores)
    highest = np.argsort(-scores[tuple(peaks.T)], kind="stable")[:most]
    return [(float(x - reach), float(y - reach), float(scores[y, x])) for y, x in peaks[highest]]


@njit(cache=True, nogil=True, error_model="numpy")
def _scores(reference, moving, reach, least):
    """Return the correlation coefficients (shifts y, shifts x); minus infinity for fewer pixels or no contrast."""
    ref, ref_ok = _framed(reference, reference.shape, reach)
    mov, mov_ok = _framed(moving, reference.shape, reach)
    n, sum_r, sum_i, rr, ii, ri = _correlate(ref, ref_ok, mov, mov_ok, reach)
    pixels = np.maximum(n, 1.0)
    energy_r, energy_i = rr - sum_r**2 / pixels, ii - sum_i**2 / pixels
    least_r, least_i = LEAST_ENERGY * energy_r.max(), LEAST_ENERGY * energy_i.max()
    out = np.full(n.shape, -np.inf)
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            if n[y, x] >= least and energy_r[y, x] > least_r and energy_i[y, x] > least_i:
                covariance = ri[y, x] - sum_r[y, x] * sum_i[y, x] / n[y, x]
                out[y, x] = covariance / math.sqrt(energy_r[y, x] * energy_i[y, x])
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _framed(image, shape, reach):
    """Return what lies within reach of a shape (rows, columns): values, 0 for none, and where there are any, 0 or 1."""
    values = np.zeros((shape[0] + 2 * reach, shape[1] + 2 * reach), np.float32)
    valid = np.zeros(values.shape, np.float32)
    for y in range(min(image.shape[0], shape[0] + reach)):
        for x in range(min(image.shape[1], shape[1] + reach)):
            if math.isfinite(image[y, x]):
                values[reach + y, reach + x], valid[reach + y, reach + x] = image[y, x], 1.0
    return values, valid


@njit(cache=True, nogil=True, error_model="numpy")
def _peaks(scores):
    """Return the rows and columns (n, 2) of the finite local maxima."""
    rows, columns = scores.shape
    highest = np.isfinite(scores)
    for y in range(rows):
        for x in range(columns):
            around = scores[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            highest[y, x] &= scores[y, x] >= around.max()
    return np.argwhere(highest)


@njit(cache=True, nogil=True, error_model="numpy")
def _correlate(ref, ref_ok, mov, mov_ok, reach):
    """Sums (6, shifts y, shifts x) over the common pixels: n, r, i, r^2, i^2, r i.

    Both images have a frame of nothing as wide as the reach, so that a shift is a distance in memory, the same for
    all pixels.
    """
    side, width = 2 * reach + 1, ref.shape[1]
    out = np.zeros((6, side, side))
    first, end = reach * width + reach, (ref.shape[0] - reach) * width - reach
    ref, ref_ok, mov, mov_ok = ref.ravel(), ref_ok.ravel(), mov.ravel(), mov_ok.ravel()
    for dy in range(side):
        for dx in range(side):
            away = (dy - reach) * width + dx - reach
            for a in range(first, end, LINE_PX):
                b = min(a + LINE_PX, end)
                sums = _line(ref[a:b], ref_ok[a:b], mov[a + away : b + away], mov_ok[a + away : b + away])
                for place in range(6):
                    out[place, dy, dx] += sums[place]
    return out


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _line(ref, ref_ok, mov, mov_ok):
    n = sum_r = sum_i = rr = ii = ri = np.float32(0)
    for x in range(ref.size):
        n += ref_ok[x] * mov_ok[x]
        sum_r += ref[x] * mov_ok[x]
        sum_i += mov[x] * ref_ok[x]
        rr += ref[x] * ref[x] * mov_ok[x]
        ii += mov[x] * mov[x] * ref_ok[x]
        ri += ref[x] * mov[x]
    return n, sum_r, sum_i, rr, ii, ri
