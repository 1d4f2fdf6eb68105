"""How fast gaps are filled: ns per empty pixel, against the same method pixel by pixel, with SciPy, and with OpenCV.

Run it on an idle machine::

    python benchmarks/gaps.py

The pixel loop in plain Python is how the method was published; it is measured on a small image and compared per
empty pixel. SciPy and OpenCV convolve the whole image once per pass, with the separable kernel.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from harness import Result, Row, arguments, medians, report
from scipy.ndimage import convolve1d

from glacierhpc.kernels.gaps import fill_gaps

WEIGHTS = np.array([1, 2, 3, 2, 1], np.float32) / 9  # outer([1, 2, 3, 2, 1]) / 81, one direction at a time


def with_scipy(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Fill by whole-image convolutions of SciPy."""
    return _by_passes(image, valid, _scipy)


def with_opencv(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Fill by whole-image convolutions of OpenCV."""
    return _by_passes(image, valid, _opencv)


def _scipy(image: np.ndarray) -> np.ndarray:
    rows = convolve1d(image, WEIGHTS, axis=1, mode="constant")
    return np.asarray(convolve1d(rows, WEIGHTS, axis=0, mode="constant"))


def _opencv(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.sepFilter2D(image, -1, WEIGHTS, WEIGHTS, borderType=cv2.BORDER_CONSTANT))


def _by_passes(
    image: np.ndarray, valid: np.ndarray, smooth: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    values, known = np.where(valid, image, np.float32(0)), valid.copy()
    while not known.all():
        weight, total = smooth(known.astype(np.float32)), smooth(values)
        new = ~known & (weight > 1e-4)  # the smallest weight is 1/81
        values[new] = total[new] / weight[new]
        known |= new
    return values


def with_python(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Fill pixel by pixel, as the method was published: loops over the pixels, NumPy within the 5 x 5 window."""
    kernel = np.outer(WEIGHTS, WEIGHTS)
    values = np.pad(np.where(valid, image, np.nan), 2, constant_values=np.nan)
    while True:
        empty = np.argwhere(np.isnan(values[2:-2, 2:-2]))
        if len(empty) == 0:
            return values[2:-2, 2:-2]
        before = values.copy()
        for y, x in empty:
            window = before[y : y + 5, x : x + 5]
            seen = ~np.isnan(window)
            if seen.any():
                weights = kernel[seen]
                values[y + 2, x + 2] = (window[seen] * weights).sum() / weights.sum()


def gaps(size_px: int) -> dict[str, np.ndarray]:
    """Return where there are data in three kinds of image."""
    rng = np.random.default_rng(0)
    block = np.ones((size_px, size_px), bool)
    edge = size_px // 8
    block[edge : size_px // 2, edge : size_px // 2] = False
    return {
        "10 % of single pixels": rng.random(block.shape) >= 0.1,
        "50 % of single pixels": rng.random(block.shape) >= 0.5,
        "one block, 14 % of the image": block,
    }


def measure(*, size_px: int, small_px: int, repeats: int) -> Result:
    """Measure all kinds of gaps."""
    rows = []
    for name, valid in gaps(size_px).items():
        image = np.random.default_rng(1).random(valid.shape, np.float32)
        _check(image, valid)
        runs = {
            "ours": lambda image=image, valid=valid: fill_gaps(image, valid),
            "SciPy, whole-image passes": lambda image=image, valid=valid: with_scipy(image, valid),
            "OpenCV, whole-image passes": lambda image=image, valid=valid: with_opencv(image, valid),
        }
        seconds = medians(runs, repeats=repeats)
        ns = {peer: 1e9 * value / np.count_nonzero(~valid) for peer, value in seconds.items()}
        ns["Python pixel loop"] = _python_ns(name, small_px)
        ours = ns.pop("ours")
        what = f"fill gaps, {name}"
        rows += [
            Row(what, ours, peer, value, "ns per empty pixel", in_readme="SciPy" not in peer)
            for peer, value in ns.items()
        ]
    return Result("gaps", f"{size_px}^2 px (Python loop: {small_px}^2), one thread, {repeats} repeats", rows)


def _python_ns(kind: str, size_px: int) -> float:
    valid = gaps(size_px)[kind]
    image = np.random.default_rng(1).random(valid.shape, np.float32)
    seconds = medians({"loop": lambda: with_python(image, valid)}, repeats=1, warm_up=False)["loop"]
    return float(1e9 * seconds / np.count_nonzero(~valid))


def _check(image: np.ndarray, valid: np.ndarray) -> None:
    """Compare nothing that does not give the same numbers."""
    ours = fill_gaps(image, valid)[0]
    for peer in (with_scipy, with_opencv):
        if not np.allclose(ours, peer(image, valid), atol=1e-4):
            raise SystemExit(f"{peer.__name__} and fill_gaps do not agree")


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--size-px", type=int, default=1000)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    if asked.quick:
        report(measure(size_px=64, small_px=16, repeats=1), asked)
    else:
        report(measure(size_px=asked.size_px, small_px=120, repeats=asked.repeats), asked)


if __name__ == "__main__":
    main()
