"""The ways of aligning a pair that are compared, in one table: `METHODS`.

Each takes a pair and a motion and returns the (3, 3) matrix from reference pixel to moving pixel, or raises.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
from pairs import Pair, homography
from skimage.registration import phase_cross_correlation

from glacierhpc.coreg import align_pair
from glacierhpc.kernels.ecc import ecc
from glacierhpc.kernels.motions import MOTIONS

ITERATIONS, EPSILON, BLUR_PX = (
    100,
    1e-6,
    5,
)  # OpenCV's: most iterations, least rise of the coefficient, Gaussian
SUBPIXEL = 100  # phase correlation in steps of a hundredth of a pixel
FAR_PX = 100.0  # the largest shift that ours accepts where starts are far away
OPENCV_MOTIONS = {
    "translation": cv2.MOTION_TRANSLATION,
    "euclidean": cv2.MOTION_EUCLIDEAN,
    "affine": cv2.MOTION_AFFINE,
    "homography": cv2.MOTION_HOMOGRAPHY,
}


class NotAlignedError(Exception):
    """A method says that it has no answer."""


@dataclass(frozen=True)
class Method:
    """One way of aligning a pair."""

    name: str
    align: Callable[[Pair, str], np.ndarray]
    motions: tuple[str, ...]
    iterate: Callable[[Pair, str, int], int] | None = None
    """Runs some iterations at full size and returns how many they were; None where there are none to count."""
    finds_start: bool = False
    """Whether it finds shifts and turns of many pixels by itself."""
    trials_share: float = 1.0
    """Of the trials for accuracy."""
    timed: bool = True

    def __str__(self) -> str:
        """Return the name."""
        return self.name


def with_ours(pair: Pair, motion: str, **more: float) -> np.ndarray:
    """Align with `align_pair`, its defaults and the pair's masks."""
    result = align_pair(
        pair.reference,
        pair.moving,
        motion=motion,
        reference_valid=pair.reference_valid,
        moving_valid=pair.moving_valid,
        **more,
    )
    if not result.ok:
        raise NotAlignedError(result.reason)
    return result.matrix


def iterate_ours(pair: Pair, motion: str, iterations: int) -> int:
    """Iterate at full size from the identity."""
    images = (
        image if valid is None else np.where(valid, image, np.float32(np.nan))
        for image, valid in ((pair.reference, pair.reference_valid), (pair.moving, pair.moving_valid))
    )
    return ecc(*images, np.eye(3), motion=motion, max_iterations=iterations, epsilon=-1.0).iterations


def with_opencv(pair: Pair, motion: str, *, blur_px: int = BLUR_PX) -> np.ndarray:
    """Align with `findTransformECC`, from the identity."""
    return _find_transform_ecc(pair, motion, ITERATIONS, EPSILON, blur_px)


def with_opencv_unblurred(pair: Pair, motion: str) -> np.ndarray:
    """Align with `findTransformECC` without its Gaussian."""
    return _find_transform_ecc(pair, motion, ITERATIONS, EPSILON, 1)


def iterate_opencv(pair: Pair, motion: str, iterations: int) -> int:
    """Iterate from the identity; a negative epsilon leaves the number of iterations as the only end."""
    _find_transform_ecc(pair, motion, iterations, -1.0, BLUR_PX)
    return iterations


def _find_transform_ecc(pair: Pair, motion: str, iterations: int, epsilon: float, blur_px: int) -> np.ndarray:
    start = np.eye(3 if motion == "homography" else 2, 3, dtype=np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, iterations, epsilon)
    how = (start, OPENCV_MOTIONS[motion], stop)
    if pair.reference_valid is None and pair.moving_valid is None:
        _, found = cv2.findTransformECC(pair.reference, pair.moving, *how, None, blur_px)
    else:
        masks = _as_bytes(pair)
        _, found = cv2.findTransformECCWithMask(pair.reference, pair.moving, *masks, *how, blur_px)
    return homography(found)


def with_opencv_multiscale(pair: Pair, motion: str) -> np.ndarray:
    """Align with `findTransformECCMultiScale` of OpenCV 5: four levels, from the identity."""
    start = np.eye(3 if motion == "homography" else 2, 3, dtype=np.float32)
    how = cv2.ECCParameters()  # what is not set here is the default: 4 levels, linear interpolation
    how.motionType, how.gaussFiltSize = OPENCV_MOTIONS[motion], BLUR_PX
    how.criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ITERATIONS, EPSILON)
    masks = () if pair.reference_valid is None and pair.moving_valid is None else _as_bytes(pair)
    _, found = cv2.findTransformECCMultiScale(pair.reference, pair.moving, start, how, *masks)
    return homography(found)


def _as_bytes(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    reference, moving = (
        np.full(pair.shape, 255, np.uint8) if valid is None else valid.astype(np.uint8) * np.uint8(255)
        for valid in (pair.reference_valid, pair.moving_valid)
    )
    return reference, moving


def with_skimage(pair: Pair, motion: str) -> np.ndarray:
    """Align with `phase_cross_correlation`; with masks it finds whole pixels only."""
    if pair.reference_valid is None or pair.moving_valid is None:
        shift, *_ = phase_cross_correlation(pair.reference, pair.moving, upsample_factor=SUBPIXEL)
    else:
        shift, *_ = phase_cross_correlation(
            pair.reference,
            pair.moving,
            reference_mask=pair.reference_valid,
            moving_mask=pair.moving_valid,
        )
    return np.array([[1, 0, -shift[1]], [0, 1, -shift[0]], [0, 0, 1]], float)


def with_arosics(pair: Pair, motion: str) -> np.ndarray:
    """Align with the global co-registration of AROSICS, its default window in the middle of the image."""
    import arosics
    import geoarray

    def located(values: np.ndarray) -> geoarray.GeoArray:
        return geoarray.GeoArray(
            values, geotransform=(5e5, 1.0, 0.0, 4e6, 0.0, -1.0), projection="EPSG:32643"
        )

    masks = {"mask_baddata_ref": pair.reference_valid, "mask_baddata_tgt": pair.moving_valid}
    found = arosics.COREG(
        located(pair.reference),
        located(pair.moving),
        CPUs=1,
        progress=False,
        q=True,
        **{name: located(~valid) for name, valid in masks.items() if valid is not None},
    )
    found.calculate_spatial_shifts()
    if not found.success:
        raise NotAlignedError("AROSICS found no shift")
    shift = found.coreg_info["corrected_shifts_px"]
    return np.array([[1, 0, -shift["x"]], [0, 1, -shift["y"]], [0, 0, 1]], float)


OURS = Method("ours", with_ours, MOTIONS, iterate_ours, finds_start=True)
OPENCV = Method("OpenCV findTransformECC", with_opencv, tuple(OPENCV_MOTIONS), iterate_opencv)
OPENCV_UNBLURRED = Method(
    "OpenCV findTransformECC, no blur",
    with_opencv_unblurred,
    tuple(OPENCV_MOTIONS),
    trials_share=0.25,
    timed=False,
)
METHODS = [OURS, OPENCV, OPENCV_UNBLURRED]
if hasattr(cv2, "findTransformECCMultiScale"):
    METHODS.append(
        Method(
            "OpenCV findTransformECCMultiScale",
            with_opencv_multiscale,
            tuple(OPENCV_MOTIONS),
            finds_start=True,
        )
    )
SKIMAGE = Method("scikit-image phase correlation", with_skimage, ("translation",), finds_start=True)
METHODS.append(SKIMAGE)
if importlib.util.find_spec("arosics") is not None:
    METHODS.append(Method("AROSICS", with_arosics, ("translation",)))

FROM_FAR = [replace(OURS, align=partial(with_ours, max_shift_px=FAR_PX)), *METHODS[1:]]
FROM_FAR = [method for method in FROM_FAR if method.finds_start]
"""Those that find shifts and turns of many pixels by themselves."""


def absent() -> list[str]:
    """Return the peers that are not installed here, with why they count."""
    missing = []
    if importlib.util.find_spec("arosics") is None:
        missing.append("AROSICS (not installed; it needs GDAL's Python bindings)")
    if not hasattr(cv2, "findTransformECCMultiScale"):
        missing.append(f"OpenCV findTransformECCMultiScale (OpenCV {cv2.__version__}; it came with 5.0)")
    return missing
