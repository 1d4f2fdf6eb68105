"""How fast and how exact pairs are aligned: a first version, against OpenCV's `findTransformECC` on the same pairs.

Run it on an idle machine::

    python benchmarks/align.py

Both images are sums of plane waves evaluated where the known matrix puts each pixel, so the truth is exact and no
interpolation favours a side; both get the same noise. OpenCV starts at the identity, within the reach of its search
(shifts under two pixels), and runs without its smoothing, which biases the result. Ours finds its own start.
"""

from __future__ import annotations

import cv2
import numpy as np
from harness import Result, Row, arguments, medians, report

from glacierhpc.coreg import align_pair

WAVES = 80
WAVELENGTHS_PX = (5.0, 160.0)
MOTIONS = {
    "translation": cv2.MOTION_TRANSLATION,
    "euclidean": cv2.MOTION_EUCLIDEAN,
    "affine": cv2.MOTION_AFFINE,
    "homography": cv2.MOTION_HOMOGRAPHY,
}
ITERATIONS, EPSILON = 100, 1e-6


def truth(motion: str, size_px: int) -> np.ndarray:
    """Return the (3, 3) matrix from reference pixel to moving pixel: under two pixels at the corners of 800 px."""
    angle = 0.0 if motion == "translation" else 1.0 / size_px
    matrix = np.array([[np.cos(angle), -np.sin(angle), 1.3], [np.sin(angle), np.cos(angle), -0.6], [0, 0, 1]])
    if motion in ("affine", "homography"):
        matrix[:2, :2] += np.array([[0.7, 0.3], [-0.2, -0.5]]) / size_px
    if motion == "homography":
        matrix[2, :2] = np.array([0.5, -0.4]) / size_px**2
    return matrix


def pair(matrix: np.ndarray, size_px: int, *, noise: float = 0.03) -> tuple[np.ndarray, np.ndarray]:
    """Return a reference and a moving image, float32 in about [0, 1]: ``reference(p) = moving(matrix p)``."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size_px, :size_px].astype(np.float64)
    lengths = np.geomspace(*WAVELENGTHS_PX, WAVES)
    angles, phases = rng.uniform(0, 2 * np.pi, (2, WAVES))
    inverse = np.linalg.inv(matrix)
    u, v, w = (inverse[i, 0] * x + inverse[i, 1] * y + inverse[i, 2] for i in range(3))
    images = []
    for px, py in ((x, y), (u / w, v / w)):
        image = np.zeros(x.shape)
        for length, angle, phase in zip(lengths, angles, phases):
            image += np.sqrt(length) * np.sin(
                2 * np.pi / length * (px * np.cos(angle) + py * np.sin(angle)) + phase
            )
        images.append(image)
    spread = 6 * images[0].std()
    return (
        (images[0] / spread + 0.5 + rng.normal(scale=noise, size=x.shape)).astype(np.float32),
        (images[1] / spread + 0.5 + rng.normal(scale=noise, size=x.shape)).astype(np.float32),
    )


def with_opencv(reference: np.ndarray, moving: np.ndarray, motion: str) -> np.ndarray:
    """Return the matrix that `findTransformECC` finds."""
    start = np.eye(3 if motion == "homography" else 2, 3, dtype=np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ITERATIONS, EPSILON)
    _, found = cv2.findTransformECC(reference, moving, start, MOTIONS[motion], stop, None, 1)
    return np.vstack([found, [0, 0, 1]])[:3].astype(np.float64)


def with_ours(reference: np.ndarray, moving: np.ndarray, motion: str) -> np.ndarray:
    """Return the matrix that `align_pair` finds."""
    result = align_pair(
        reference, moving, motion=motion, max_iterations=ITERATIONS, epsilon=EPSILON, max_shift_px=8
    )
    return result.matrix


def corner_rms_px(matrix: np.ndarray, true: np.ndarray, size_px: int) -> float:
    """Return the root mean square distance of the corners' images, pixels."""
    end = size_px - 1
    corners = np.array([[0, end, 0, end], [0, 0, end, end], [1, 1, 1, 1]], float)
    there, ours = true @ corners, matrix @ corners
    return float(np.sqrt((((ours / ours[2] - there / there[2])[:2]) ** 2).sum(axis=0).mean()))


def measure(*, size_px: int, repeats: int) -> Result:
    """Measure all motions."""
    rows, errors = [], {}
    for motion in MOTIONS:
        true = truth(motion, size_px)
        reference, moving = pair(true, size_px)
        seconds = medians(
            {
                "ours": lambda a=reference, b=moving, m=motion: with_ours(a, b, m),
                "OpenCV": lambda a=reference, b=moving, m=motion: with_opencv(a, b, m),
            },
            repeats=repeats,
        )
        error = {
            "ours": corner_rms_px(with_ours(reference, moving, motion), true, size_px),
            "OpenCV": corner_rms_px(with_opencv(reference, moving, motion), true, size_px),
        }
        peer = "OpenCV findTransformECC"
        rows += [
            Row(f"align a pair, {motion}", seconds["ours"], peer, seconds["OpenCV"], "s", in_readme=True),
            Row(
                f"align a pair, {motion}: corner error",
                error["ours"],
                peer,
                error["OpenCV"],
                "px",
                in_readme=True,
            ),
        ]
        errors[motion] = error
    return Result(
        "align",
        f"{size_px}^2 px, one thread, {repeats} repeats",
        rows,
        {"corner_rms_px": errors, "first_version": True},
    )


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--size-px", type=int, default=800)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    report(
        measure(size_px=128, repeats=1)
        if asked.quick
        else measure(size_px=asked.size_px, repeats=asked.repeats),
        asked,
    )


if __name__ == "__main__":
    main()
