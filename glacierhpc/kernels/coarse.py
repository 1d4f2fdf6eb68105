"""The whole-pixel shifts that two small images may have between them; `ecc` refines them."""

from __future__ import annotations

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
    sums = _correlate(
        *_framed(reference, reference.shape, reach), *_framed(moving, reference.shape, reach), reach
    )
    n = np.maximum(sums[0], 1.0)
    covariance = sums[5] - sums[1] * sums[2] / n
    energy_r, energy_i = sums[3] - sums[1] ** 2 / n, sums[4] - sums[2] ** 2 / n
    least = min_overlap_share * min(np.count_nonzero(np.isfinite(image)) for image in (reference, moving))
    usable = (sums[0] >= max(16.0, least)) & (energy_r > LEAST_ENERGY * energy_r.max())
    usable &= energy_i > LEAST_ENERGY * energy_i.max()
    score = np.full(covariance.shape, -np.inf)
    score[usable] = covariance[usable] / np.sqrt(energy_r[usable] * energy_i[usable])
    return [(float(x - reach), float(y - reach), float(score[y, x])) for y, x in _peaks(score)[:most]]


def _framed(image: np.ndarray, shape: tuple[int, ...], reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what lies within reach of a shape (rows, columns): values, 0 for none, and where there are any, 0 or 1."""
    known = image[: shape[0] + reach, : shape[1] + reach]
    inner = (slice(reach, reach + known.shape[0]), slice(reach, reach + known.shape[1]))
    values, valid = np.zeros((2, shape[0] + 2 * reach, shape[1] + 2 * reach), np.float32)
    ok = np.isfinite(known)
    valid[inner] = ok
    np.copyto(values[inner], known, where=ok)
    return values, valid


def _peaks(score: np.ndarray) -> np.ndarray:
    """Return the rows and columns (n, 2) of the finite local maxima, highest first."""
    padded = np.pad(score, 1, constant_values=-np.inf)
    highest = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    highest = np.maximum(np.maximum(highest[:, :-2], highest[:, 1:-1]), highest[:, 2:])
    places = np.argwhere(np.isfinite(score) & (score >= highest))
    return places[np.argsort(-score[tuple(places.T)], kind="stable")]


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
