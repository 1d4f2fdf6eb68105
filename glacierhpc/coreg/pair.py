"""Alignment of one image to another: what is asked, what comes back, and the verdict.

How the matrix is found is in `search`; series of scenes are in `cube`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from glacierhpc.coreg.search import Search, SearchOptions, search
from glacierhpc.errors import InputError, unknown_name
from glacierhpc.kernels.ecc import MOTIONS, corners

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


def align_pair(
    reference: np.ndarray,
    moving: np.ndarray,
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
) -> AlignmentResult:
    """Align one image to a reference by enhanced correlation coefficient maximisation.

    Texture is compared, not brightness: both images lose their local mean and are clipped first. The start
    is the best whole-pixel shift within `max_shift_px` at low resolution, refined from level to level.
    Use the motion with the fewest parameters that the sensor needs; terrain-corrected satellite scenes
    differ by a translation. Does not resample: see `glacierhpc.kernels.warp.warp`.

    Parameters
    ----------
    reference, moving : (y, x) float32
        Any unit; NaN is invalid. Shapes may differ.
    motion : {"translation", "euclidean", "affine", "homography"}
        2, 3, 6 or 8 parameters.
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

    Returns
    -------
    AlignmentResult
        Whatever the pixels are: all masked, flat, NaN, without overlap.

    Raises
    ------
    InputError
        For an unknown motion or arrays of the wrong rank or shape.

    References
    ----------
    Evangelidis & Psarakis (2008), IEEE TPAMI 30(10), doi:10.1109/TPAMI.2008.113
    """
    started = time.perf_counter()
    _check(reference, moving, motion, reference_valid, moving_valid, stable)
    trial = _Trial(motion, tuple(reference.shape))
    if min(*reference.shape, *moving.shape) < MIN_SIDE_PX:
        found = trial.failed(f"an image has fewer than {MIN_SIDE_PX} rows or columns")
    else:
        options = SearchOptions(motion, max_shift_px, max_iterations, epsilon, min_overlap_share)
        found = _result(
            trial,
            search(
                _masked(reference, _both(reference_valid, stable)), _masked(moving, moving_valid), options
            ),
        )
        if found.ok:
            found = _judge(found, trial.shape, max_shift_px, min_correlation, min_overlap_share)
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


def _check(
    reference: np.ndarray,
    moving: np.ndarray,
    motion: str,
    reference_valid: np.ndarray | None,
    moving_valid: np.ndarray | None,
    stable: np.ndarray | None,
) -> None:
    if motion not in MOTIONS:
        raise unknown_name("motion", motion, MOTIONS)
    if reference.ndim != 2 or moving.ndim != 2:
        raise InputError(
            f"reference {reference.shape} and moving {moving.shape} must be (y, x): give one band at a time"
        )
    masks = {"reference_valid": reference_valid, "moving_valid": moving_valid, "stable": stable}
    for name, mask in masks.items():
        shape = moving.shape if name == "moving_valid" else reference.shape
        if mask is not None and mask.shape != shape:
            raise InputError(f"`{name}` has shape {mask.shape}; its image has {shape}: they must be equal")


def _both(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    if first is None or second is None:
        return first if second is None else second
    return np.logical_and(first, second)


def _masked(image: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """Return a float32 copy with NaN where it may not be used."""
    values = np.array(image, np.float32, order="C")
    usable = np.isfinite(values) if valid is None else np.isfinite(values) & valid.astype(bool)
    values[~usable] = np.nan
    return values


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
        motion=trial.motion,
        overlap_share=found.overlap_share,
        seconds=0.0,
        **known,  # type: ignore[arg-type]
    )


def _judge(
    found: AlignmentResult,
    shape: tuple[int, ...],
    max_shift_px: float,
    min_correlation: float,
    min_overlap_share: float,
) -> AlignmentResult:
    """Refuse a result that is not credible; its correlation and shift stay on record."""
    points = corners(shape)
    moved = found.matrix @ points
    reach = float(np.hypot(*(moved[:2] / moved[2] - points[:2])).max())
    area = float(np.linalg.det(found.matrix[:2, :2]))
    if not found.overlap_share >= min_overlap_share:
        reason = f"overlap {found.overlap_share:.3f} is below {min_overlap_share:g}"
    elif not found.rho >= min_correlation:
        reason = f"correlation {found.rho:.3f} is below {min_correlation:g}"
    elif not reach <= max_shift_px:
        reason = f"a corner moves by {reach:.1f} px, over {max_shift_px:g} px"
    elif (moved[2] <= 0).any() or not 0.5 < area < 2.0:
        reason = f"the matrix is not a small change: it scales areas by {area:.2f}"
    else:
        return found
    return replace(found, ok=False, reason=reason, matrix=np.full((3, 3), np.nan))
