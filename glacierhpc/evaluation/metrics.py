"""Metrics of masked forecasts as pure functions on arrays; which forecasts are compared on what, `score` decides.

Everything is first reduced to sums per sequence and lead (`error_sums`): pooling over sequences, leads and
bootstrap samples is then adding rows, and every pixel counts the same however the sequences are batched.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter

SUMS = (
    "count",
    "squared",
    "absolute",
    "ssim",
    "ssim_count",
    "both",
    "either",
    "observed",
    "observed_squared",
)
"""Last axis of the sums: valid values; their squared and absolute errors; SSIM and its pixels; pixels above the
threshold in both the forecast and the target, and in at least one; the observed values and their squares."""

METRICS = ("mse", "mae", "rmse", "ssim", "psnr", "nse", "iou")

SSIM_WINDOW_PX = 7
"""Width of the uniform SSIM window: the 7 x 7 of common implementations of Wang et al.'s index."""

SSIM_MIN_VALID = 0.5
"""Least valid share of a window for its SSIM to count."""


def error_sums(
    prediction: np.ndarray,
    target: np.ndarray,
    valid: np.ndarray,
    *,
    data_range: float,
    threshold: float,
) -> np.ndarray:
    """Return the sums from which every metric follows.

    Parameters
    ----------
    prediction, target : (..., C, H, W) float
        What stands at invalid pixels does not matter.
    valid : (..., H, W) bool
    data_range : float
        Width of the range of possible values, 2 for a normalised difference; enters SSIM and PSNR.
    threshold : float
        Values above it count as snow or ice in the intersection over union (first band only).

    Returns
    -------
    (..., 9) float64, in the order of `SUMS`
    """
    mask = np.broadcast_to(valid[..., None, :, :], prediction.shape)
    prediction, target = (np.where(mask, values, 0).astype(np.float64) for values in (prediction, target))
    error = prediction - target
    similarity, similar = ssim_map(prediction, target, valid, data_range=data_range)
    above, truly_above = (values[..., 0, :, :] > threshold for values in (prediction, target))
    values = (
        mask.sum(axis=(-3, -2, -1)),
        (error**2).sum(axis=(-3, -2, -1)),
        np.abs(error).sum(axis=(-3, -2, -1)),
        np.where(similar[..., None, :, :], similarity, 0).sum(axis=(-3, -2, -1)),
        similar.sum(axis=(-2, -1)) * prediction.shape[-3],
        (above & truly_above & valid).sum(axis=(-2, -1)),
        ((above | truly_above) & valid).sum(axis=(-2, -1)),
        target.sum(axis=(-3, -2, -1)),
        (target**2).sum(axis=(-3, -2, -1)),
    )
    return np.stack([np.asarray(value, dtype=np.float64) for value in values], axis=-1)


def metrics_of(sums: np.ndarray, *, data_range: float) -> dict[str, np.ndarray]:
    """Return every metric of pooled sums (..., 9); NaN where nothing was valid.

    mse, mae, rmse in the data's unit; ``psnr = 10 log10(data_range^2 / mse)`` dB, infinite for a perfect
    forecast; iou is NaN where neither forecast nor target is anywhere above the threshold. For nse see `nse_of`.
    """
    part = {name: sums[..., position] for position, name in enumerate(SUMS)}
    with np.errstate(divide="ignore", invalid="ignore"):
        mse = part["squared"] / part["count"]
        return {
            "mse": mse,
            "mae": part["absolute"] / part["count"],
            "rmse": np.sqrt(mse),
            "ssim": part["ssim"] / part["ssim_count"],
            "psnr": 10 * np.log10(data_range**2 / mse),
            "nse": nse_of(sums),
            "iou": part["both"] / part["either"],
        }


def nse_of(sums: np.ndarray) -> np.ndarray:
    """Return the Nash-Sutcliffe efficiency of pooled sums (..., 9); NaN where all observed values are the same.

    ``1 - sum (forecast - observed)^2 / sum (observed - mean observed)^2``: the skill against one number, the mean of
    all that was pooled, places and dates alike. A map that never changes may come close to 1; only the skill against
    a baseline says more than that snow lies high.

    References
    ----------
    Nash & Sutcliffe (1970), J. Hydrol. 10(3), doi:10.1016/0022-1694(70)90255-6, equation 3
    """
    part = {name: sums[..., position] for position, name in enumerate(SUMS)}
    with np.errstate(divide="ignore", invalid="ignore"):
        scatter = part["observed_squared"] - part["observed"] ** 2 / part["count"]
        # the difference of two sums of n terms is noise below n times the last bit
        known = scatter > 1e-12 * part["observed_squared"]
        return np.where(known, 1 - part["squared"] / np.where(known, scatter, 1.0), np.nan)


def skill_of(sums: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return 1 - MSE / MSE_reference of sums (..., 9) over the same pixels; above 0 is better than the reference.

    References
    ----------
    Murphy (1988), Mon. Wea. Rev. 116, doi:10.1175/1520-0493(1988)116<2417:SSBOTM>2.0.CO;2
    """
    squared = SUMS.index("squared")
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - sums[..., squared] / reference[..., squared]


def ssim_map(
    prediction: np.ndarray, target: np.ndarray, valid: np.ndarray, *, data_range: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the structural similarity around each pixel, and where it counts.

    Means, variances and the covariance of a window are taken over its valid pixels only (population moments);
    beyond the image there is nothing valid. A pixel counts if it is valid and at least `SSIM_MIN_VALID` of
    its window is.

    Parameters
    ----------
    prediction, target : (..., C, H, W) float
    valid : (..., H, W) bool

    Returns
    -------
    similarity : (..., C, H, W) float64, in [-1, 1]
    counts : (..., H, W) bool

    References
    ----------
    Wang et al. (2004), IEEE TIP 13(4), doi:10.1109/TIP.2003.819861, equation 13
    """
    mask = np.broadcast_to(valid[..., None, :, :], prediction.shape)
    x, y = (np.where(mask, values, 0).astype(np.float64) for values in (prediction, target))
    share = _window_mean(valid.astype(np.float64))
    weight = np.maximum(share, 1e-12)[..., None, :, :]
    mean_x, mean_y = _window_mean(x) / weight, _window_mean(y) / weight
    var_x = np.maximum(_window_mean(x * x) / weight - mean_x**2, 0)
    var_y = np.maximum(_window_mean(y * y) / weight - mean_y**2, 0)
    covariance = _window_mean(x * y) / weight - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return similarity, valid & (share >= SSIM_MIN_VALID)


def _window_mean(values: np.ndarray) -> np.ndarray:
    return uniform_filter(values, size=SSIM_WINDOW_PX, axes=(-2, -1), mode="constant")


def mse(prediction: np.ndarray, target: np.ndarray, valid: np.ndarray) -> float:
    """Return the mean squared error over valid values of (..., C, H, W) arrays."""
    return _pooled(prediction, target, valid, "mse")


def mae(prediction: np.ndarray, target: np.ndarray, valid: np.ndarray) -> float:
    """Return the mean absolute error over valid values."""
    return _pooled(prediction, target, valid, "mae")


def rmse(prediction: np.ndarray, target: np.ndarray, valid: np.ndarray) -> float:
    """Return the root of the mean squared error over valid values."""
    return _pooled(prediction, target, valid, "rmse")


def ssim(prediction: np.ndarray, target: np.ndarray, valid: np.ndarray, *, data_range: float) -> float:
    """Return the mean structural similarity, masked as `ssim_map` says."""
    return _pooled(prediction, target, valid, "ssim", data_range=data_range)


def psnr(prediction: np.ndarray, target: np.ndarray, valid: np.ndarray, *, data_range: float) -> float:
    """Return the peak signal-to-noise ratio over valid values, dB."""
    return _pooled(prediction, target, valid, "psnr", data_range=data_range)


def nse(prediction: np.ndarray, target: np.ndarray, valid: np.ndarray) -> float:
    """Return the Nash-Sutcliffe efficiency over valid values, see `nse_of`."""
    return _pooled(prediction, target, valid, "nse")


def iou(prediction: np.ndarray, target: np.ndarray, valid: np.ndarray, *, threshold: float) -> float:
    """Return the intersection over union of the areas above a threshold, first band, over valid pixels."""
    return _pooled(prediction, target, valid, "iou", threshold=threshold)


def _pooled(
    prediction: np.ndarray,
    target: np.ndarray,
    valid: np.ndarray,
    name: str,
    *,
    data_range: float = 1.0,
    threshold: float = 0.0,
) -> float:
    sums = error_sums(prediction, target, valid, data_range=data_range, threshold=threshold)
    pooled = sums.reshape(-1, len(SUMS)).sum(axis=0)
    return float(metrics_of(pooled, data_range=data_range)[name])
