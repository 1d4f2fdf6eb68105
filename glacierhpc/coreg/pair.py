"""Alignment of one image to another: what is asked, what comes back, and the verdict.

How the matrix is found is in `search`; stacks of scenes are in `stack`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np

from glacierhpc.coreg.descent import AUTO, SearchOptions
from glacierhpc.coreg.prepared import Prepared, prepare
from glacierhpc.coreg.search import Search, search
from glacierhpc.errors import InputError, unknown_name
from glacierhpc.kernels.motions import MOTIONS, as_homography, corners

# structure that moves (snow lines, sunlight) may correlate better unaligned, by chance: real scenes by up to 0.2
MAX_CORRELATION_LOSS = 0.3
MOTION_CHOICES = (*MOTIONS, AUTO)
MIN_SIDE_PX = 16  # smaller images have fewer independent pixels than a homography has parameters


@dataclass(frozen=True)
class AlignmentResult:
    """What is known about one aligned pair; a failure is a result with `ok` False and a `reason`."""

    ok: bool
    reason: str
    """Empty when ok."""
    matrix: np.ndarray
    """(3, 3) float64, reference pixel (x, y, 1) to moving pixel; NaN when not ok."""
    rho: float
    """Correlation coefficient of the textures after alignment, NaN if it was never reached."""
    rho_before: float
    """The same with no alignment; NaN where the images do not overlap so."""
    iterations: int
    """Of all levels together."""
    shift_px: float
    """Length of the displacement at the reference's centre."""
    shift_row_px: float
    shift_col_px: float
    motion: str
    overlap_share: float
    """Pixels valid in both, as a share of the smaller image's valid pixels."""
    seconds: float
    error_px: float = float("nan")
    """Predicted root mean square error of the corners, px, from the scatter between blocks of the image; NaN when
    not ok, or from too few blocks."""
    vectors: np.ndarray = field(default_factory=lambda: np.empty((0, 5)))
    """(n, 5) float64: x, y of a block's centre in the reference, px; the offset x, y left there, px (NaN where the
    block does not determine it); the weight in [0, 1] that the block had."""


def align_pair(
    reference: np.ndarray | Prepared,
    moving: np.ndarray | Prepared,
    *,
    motion: str = "translation",
    reference_valid: np.ndarray | None = None,
    moving_valid: np.ndarray | None = None,
    stable: np.ndarray | None = None,
    max_shift_px: float = 64.0,
    max_iterations: int = 100,
    epsilon: float = 1e-6,
    min_correlation: float = 0.2,
    min_overlap_share: float = 0.05,
    max_error_px: float = 0.4,
    start: np.ndarray | None = None,
    robust: bool = True,
) -> AlignmentResult:
    """Align one image to a reference by enhanced correlation coefficient maximisation.

    The start is the best whole-pixel shift within `max_shift_px` at low resolution, refined from level to level.
    Where the two show the same all over, all pixels count alike; else texture is compared, not brightness, and parts
    that do not belong to the common picture (cloud, new snow, moving ice) lose their weight.
    Use the motion with the fewest parameters that the sensor needs; terrain-corrected satellite scenes
    differ by a translation. Does not resample: see `glacierhpc.kernels.warp.warp`.

    Parameters
    ----------
    reference, moving : (y, x) float32, or Prepared
        Any unit; NaN is invalid, so must be fill values such as 0: stripes of them that no mask hides are followed, and
        fit well. Shapes may differ. `prepare` an image that is aligned more than once.
    motion : {"translation", "euclidean", "similarity", "affine", "homography", "auto"}
        2, 3, 4, 6 or 8 parameters; "auto" takes the fewest, up to six, that the evidence supports: one with more must
        move a corner by more than 0.1 px, and by more than six times its predicted error.
    reference_valid, moving_valid : (y, x) bool, optional
        Where each image may be used (no cloud, no nodata).
    stable : (y, x) bool, optional
        Where the ground does not move, on the reference's grid; without it moving ice pulls the result.
    max_shift_px : float, default 64
        Largest accepted displacement of any corner.
    max_iterations : int
        Per level.
    epsilon : float
        Smallest rise of the correlation that is worth another iteration.
    min_correlation : float, default 0.2
        Below it the result is not ok.
    min_overlap_share : float, default 0.05
        Of the smaller image's valid pixels.
    max_error_px : float, default 0.4
        Largest accepted error of the corners, as the scatter between blocks predicts it. Of real scenes beyond it, a
        shift put in was missed by 3 px in the median; of those below 0.1 px by 0.02 px.
    start : (2, 3) or (3, 3) float, optional
        A matrix right within about a pixel, if one is known: the search at low resolution is left out.
    robust : bool, default True
        False lets every valid pixel vote alike, whatever it shows.

    Returns
    -------
    AlignmentResult
        Whatever the pixels are: all masked, flat, NaN, without overlap.

    Raises
    ------
    InputError
        For an unknown motion, arrays of the wrong rank, shape or kind, or limits that allow nothing.

    References
    ----------
    Evangelidis & Psarakis (2008), IEEE TPAMI 30(10), doi:10.1109/TPAMI.2008.113
    """
    started = time.perf_counter()
    reference, moving = _image("reference", reference), _image("moving", moving)
    reference_valid = _mask("reference_valid", reference_valid, reference.shape)
    moving_valid = _mask("moving_valid", moving_valid, moving.shape)
    stable = _mask("stable", stable, reference.shape)
    _check(motion, max_shift_px, max_iterations)
    trial = _Trial(motion, tuple(reference.shape))
    if min(*reference.shape, *moving.shape) < MIN_SIDE_PX:
        found = trial.failed(f"an image has fewer than {MIN_SIDE_PX} rows or columns")
    else:
        options = SearchOptions(motion, max_shift_px, max_iterations, epsilon, min_overlap_share, robust)
        images = _ready(reference, _both(reference_valid, stable)), _ready(moving, moving_valid)
        found = _result(trial, search(*images, options, None if start is None else as_homography(start)))
        if found.ok:
            reason = _objection(
                found, trial.shape, max_shift_px, min_correlation, min_overlap_share, max_error_px
            )
            found = _refused(found, reason) if reason else found
    return replace(found, seconds=time.perf_counter() - started)


@dataclass(frozen=True)
class _Trial:
    motion: str
    shape: tuple[int, ...]

    def failed(self, reason: str, **known: float) -> AlignmentResult:
        nan = float("nan")
        empty = {"rho": nan, "rho_before": nan, "iterations": 0, "overlap_share": 0.0}
        nothing = {"shift_px": nan, "shift_row_px": nan, "shift_col_px": nan}
        return AlignmentResult(
            ok=False,
            reason=reason,
            matrix=np.full((3, 3), nan),
            motion=self.motion,
            seconds=0.0,
            **{**empty, **nothing, **known},  # type: ignore[arg-type]
        )


def _image(name: str, image: np.ndarray | Prepared) -> np.ndarray | Prepared:
    if isinstance(image, Prepared):
        return image
    image = np.asanyarray(image)  # a masked array is filled in `prepare`
    if image.ndim != 2:
        raise InputError(f"`{name}` has shape {image.shape}, it must be (y, x): give one band at a time")
    if image.dtype.kind not in "biuf":
        raise InputError(f"`{name}` is of {image.dtype}; give real numbers, such as float32")
    return image


def _mask(name: str, mask: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    if mask is None:
        return None
    mask = np.asarray(mask)
    if mask.shape != shape:
        raise InputError(f"`{name}` has shape {mask.shape}; its image has {shape}: they must be equal")
    if mask.dtype.kind == "f" and np.isnan(mask).any():
        raise InputError(f"`{name}` has NaN, which is neither valid nor not; write {name} == 1")
    return mask


def _check(motion: str, max_shift_px: float, max_iterations: int) -> None:
    if motion not in MOTION_CHOICES:
        raise unknown_name("motion", motion, MOTION_CHOICES)
    if not max_shift_px > 0:
        raise InputError(f"`max_shift_px` is {max_shift_px!r}; it must be above 0 px, such as 64")
    if max_iterations < 1:
        raise InputError(f"`max_iterations` is {max_iterations!r}; at least 1 is needed, such as 100")


def _both(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    if first is None or second is None:
        return first if second is None else second
    return np.logical_and(first, second)


def _ready(image: np.ndarray | Prepared, valid: np.ndarray | None) -> Prepared:
    if isinstance(image, Prepared):
        return image if valid is None else prepare(image.image, valid)
    return prepare(image, valid)


def _result(trial: _Trial, found: Search) -> AlignmentResult:
    known = {"rho": found.rho, "rho_before": found.rho_before, "iterations": found.iterations}
    if found.reason:
        return trial.failed(found.reason, overlap_share=found.overlap_share, **known)
    x, y = (trial.shape[1] - 1) / 2, (trial.shape[0] - 1) / 2
    u, v, w = found.matrix @ np.array([x, y, 1.0])
    dx, dy = float(u / w - x), float(v / w - y)
    return AlignmentResult(
        ok=True,
        reason="",
        matrix=found.matrix,
        shift_px=float(np.hypot(dx, dy)),
        shift_row_px=dy,
        shift_col_px=dx,
        motion=found.motion,
        overlap_share=found.overlap_share,
        seconds=0.0,
        error_px=found.error_px,
        vectors=found.vectors,
        **known,  # type: ignore[arg-type]
    )


def _objection(
    found: AlignmentResult,
    shape: tuple[int, ...],
    max_shift_px: float,
    min_correlation: float,
    min_overlap_share: float,
    max_error_px: float,
) -> str:
    """Return why a result is not credible, or nothing."""
    points = corners(shape)
    moved = found.matrix @ points
    reach = float(np.hypot(*(moved[:2] / moved[2] - points[:2])).max())
    (a, b, _), (c, d, _), _ = found.matrix.tolist()
    area = a * d - b * c
    if not found.overlap_share >= min_overlap_share:
        return f"overlap {found.overlap_share:.3f} is below {min_overlap_share:g}"
    if not found.rho >= min_correlation:
        return f"correlation {found.rho:.3f} is below {min_correlation:g}"
    if found.rho < found.rho_before - MAX_CORRELATION_LOSS:
        return f"the correlation fell from {found.rho_before:.3f} to {found.rho:.3f}"
    if (moved[2] <= 0).any() or not 0.5 < area < 2.0:
        return f"the matrix is not a small change: it scales areas by {area:.2f}"
    if not reach <= max_shift_px:
        return f"a corner moves by {reach:.1f} px, over {max_shift_px:g} px"
    if found.error_px > max_error_px:
        return f"the blocks of the image disagree: the predicted error is {found.error_px:.1f} px"
    return ""


def _refused(found: AlignmentResult, reason: str) -> AlignmentResult:
    """Return the result without its matrix; its correlation and shift stay on record."""
    return replace(found, ok=False, reason=reason, matrix=np.full((3, 3), np.nan), error_px=float("nan"))
