"""Filling of gaps from their rim inwards; which pixels are gaps is decided by the callers."""

from __future__ import annotations

import numpy as np
from numba import njit

from glacierhpc.errors import InputError

_REACH = 2  # the kernel is 5 x 5


def fill_gaps(
    image: np.ndarray, valid: np.ndarray, *, max_passes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fill invalid pixels by repeated normalised convolution with ``outer([1, 2, 3, 2, 1]) / 81``.

    Every pass fills the pixels that have data within two pixels of them; what one pass fills is used from
    the next one on, so that a gap closes by two pixels per pass from every side. The result is smooth
    invention, good for filters that cannot skip pixels; it must never be counted as an observation.

    Parameters
    ----------
    image : (y, x) float32
        Values where not `valid` are ignored; NaN is invalid.
    valid : (y, x) bool
    max_passes : int, optional
        Stop after so many passes (two pixels each); all gaps are filled by default.

    Returns
    -------
    filled : (y, x) float32
        NaN where still empty. An image without any valid pixel returns so at once.
    filled_mask : (y, x) bool
        Where a value was invented.

    Raises
    ------
    InputError
        If the shapes differ or `max_passes` is negative.

    References
    ----------
    Knutsson & Westin (1993), normalized convolution, doi:10.1109/CVPR.1993.341081
    """
    if image.ndim != 2 or valid.shape != image.shape:
        raise InputError(f"image {image.shape} and valid {valid.shape} must be (y, x) and equal in shape")
    if max_passes is not None and max_passes < 0:
        raise InputError(f"max_passes={max_passes!r} is negative; give 0 or more, or None to fill everything")
    image = np.ascontiguousarray(image, np.float32)
    good = np.logical_and(valid, image == image)
    rows, columns = image.shape
    shape = rows + 2 * _REACH, columns + 2 * _REACH
    values, known = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    empty = _pad(image, good, values, known, image.size - np.count_nonzero(good))
    if 0 < empty.size < image.size:
        _fill(values.ravel(), known.ravel(), shape[1], empty, -1 if max_passes is None else max_passes)
    return _unpad(values, known, good)


@njit(cache=True, nogil=True, error_model="numpy")
def _pad(image, good, values, known, n_empty):
    """Copy the pixels with data inside a rim of zeros; return the flat places of the empty ones."""
    places = np.empty(n_empty + 1, np.int64)
    count = 0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            ok = good[y, x]
            values[y + _REACH, x + _REACH] = image[y, x] if ok else np.float32(0)
            known[y + _REACH, x + _REACH] = ok
        first = (y + _REACH) * values.shape[1] + _REACH
        for x in range(image.shape[1]):
            # written always, kept if empty: a branch here is mispredicted at every speckle (3 times as slow)
            places[count] = first + x
            count += np.int64(not good[y, x])
    return places[:n_empty]


@njit(cache=True, nogil=True, error_model="numpy")
def _unpad(values, known, good):
    filled = np.empty(good.shape, np.float32)
    mask = np.empty(good.shape, np.bool_)
    for y in range(good.shape[0]):
        for x in range(good.shape[1]):
            has_value = known[y + _REACH, x + _REACH] != 0
            filled[y, x] = values[y + _REACH, x + _REACH] if has_value else np.float32(np.nan)
            mask[y, x] = has_value and not good[y, x]
    return filled, mask


@njit(cache=True, nogil=True, error_model="numpy")
def _fill(values, known, width, places, max_passes):
    """Fill in place, ring by ring, from work lists: every empty pixel is listed once and computed once.

    A pixel at chessboard distance d from the data is filled in pass ceil(d / 2): rings of distance 1 grow
    from each other through the eight neighbours, and two rings make a pass.
    """
    steps = np.array([-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1])
    waiting = np.zeros(values.size, np.uint8)
    order = np.empty(places.size, places.dtype)
    means = np.empty(places.size, np.float32)
    last = 0
    for i in range(places.size):
        for k in range(8):
            if known[places[i] + steps[k]] == 1:
                order[last] = places[i]
                last += 1
                break
        else:
            waiting[places[i]] = 1
    first, passes = 0, 0
    while first < last and passes != max_passes:
        end = _grow(order, first, last, waiting, steps)
        for i in range(first, end):
            means[i] = _weighted_mean(values, known, width, order[i])
        for i in range(first, end):
            values[order[i]] = means[i]
            known[order[i]] = 1
        first, last = end, _grow(order, last, end, waiting, steps)
        passes += 1


@njit(cache=True, nogil=True, error_model="numpy")
def _grow(order, first, last, waiting, steps):
    """Append the waiting neighbours of ``order[first:last]`` behind it; return the new length."""
    count = last
    for i in range(first, last):
        for k in range(8):
            place = order[i] + steps[k]
            if waiting[place] == 1:
                waiting[place] = 0
                order[count] = place
                count += 1
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _weighted_mean(values, known, width, place):
    total, weight = np.float32(0), 0
    one, two, three = np.uint64(1), np.float32(2), np.float32(3)
    for j in range(5):
        factor = 3 - abs(j - 2)
        at = np.uint64(place + (j - 2) * width - 2)  # unsigned: no test for negative indices
        a, b, c, d, e = at, at + one, at + np.uint64(2), at + np.uint64(3), at + np.uint64(4)
        total += np.float32(factor) * (
            values[a] + values[e] + two * (values[b] + values[d]) + three * values[c]  # zero where unknown
        )
        weight += factor * (known[a] + known[e] + 2 * (known[b] + known[d]) + 3 * known[c])
    return total / np.float32(weight)
