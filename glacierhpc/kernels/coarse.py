"""The whole-pixel shift between two images, over a wide range; `ecc` refines it."""

from __future__ import annotations

import numpy as np


def coarse_shift(
    reference: np.ndarray,
    moving: np.ndarray,
    *,
    max_shift_px: float,
    min_overlap_share: float = 0.05,
) -> tuple[float, float, float] | None:
    """Return the shift that maximises the masked normalised cross-correlation.

    Every candidate shift is scored by the correlation coefficient of exactly the pixels that are valid in
    both images at this shift, so that nodata, clouds and unequal shapes do not pull. All shifts at once by
    Fourier transforms, zero-padded so that nothing wraps around.

    Parameters
    ----------
    reference, moving : (y, x) float32
        NaN is invalid; of about zero mean.
    max_shift_px : float
        Largest shift considered in x and in y.
    min_overlap_share : float
        Shifts with fewer common pixels than this share of the smaller valid area are not considered.

    Returns
    -------
    (x, y, correlation) or None
        Reference pixel (x, y) shows what moving pixel (x + shift x, y + shift y) shows; None where no shift
        has enough overlap and contrast.

    References
    ----------
    Padfield (2012), IEEE TIP 21(5), doi:10.1109/TIP.2011.2181402
    """
    reach = int(np.ceil(min(max_shift_px, max(*reference.shape, *moving.shape))))
    shape = tuple(_fast_length(max(reference.shape[axis], moving.shape[axis]) + reach) for axis in (0, 1))
    ref, ref_ok = _zero_filled(reference)
    mov, mov_ok = _zero_filled(moving)
    f_ref, f_ref_ok, f_ref2 = (np.fft.rfft2(a, shape) for a in (ref, ref_ok, ref * ref))
    f_mov, f_mov_ok, f_mov2 = (np.fft.rfft2(a, shape) for a in (mov, mov_ok, mov * mov))

    def correlate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(np.conj(a) * b, shape)

    count = np.maximum(np.rint(correlate(f_ref_ok, f_mov_ok)), 1.0)
    sum_ref, sum_mov = correlate(f_ref, f_mov_ok), correlate(f_ref_ok, f_mov)
    covariance = correlate(f_ref, f_mov) - sum_ref * sum_mov / count
    energy_ref = correlate(f_ref2, f_mov_ok) - sum_ref**2 / count
    energy_mov = correlate(f_ref_ok, f_mov2) - sum_mov**2 / count

    dy = _signed(shape[0], moving.shape[0])
    dx = _signed(shape[1], moving.shape[1])
    enough = count >= max(16.0, min_overlap_share * min(ref_ok.sum(), mov_ok.sum()))
    # rounding leaves about 1e-7 of the total energy where there is none
    contrast = (energy_ref > 1e-5 * energy_ref.max()) & (energy_mov > 1e-5 * energy_mov.max())
    in_range = (np.abs(dy) <= max_shift_px)[:, None] & (np.abs(dx) <= max_shift_px)[None, :]
    usable = enough & contrast & in_range
    if not usable.any():
        return None
    score = np.full(shape, -np.inf)
    score[usable] = covariance[usable] / np.sqrt(energy_ref[usable] * energy_mov[usable])
    row, column = np.unravel_index(int(np.argmax(score)), shape)
    return float(dx[column]), float(dy[row]), float(score[row, column])


def _zero_filled(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ok = np.isfinite(image)
    return np.where(ok, image, np.float32(0)).astype(np.float32), ok.astype(np.float32)


def _signed(length: int, moving: int) -> np.ndarray:
    """Shift that each place of a circular correlation stands for."""
    shift = np.arange(length)
    return np.where(shift < moving, shift, shift - length)


def _fast_length(length: int) -> int:
    """Return the next number whose only prime factors are 2, 3 and 5."""
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1
