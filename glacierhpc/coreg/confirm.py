"""A second opinion on an aligned scene: the residual of small windows, and their median offset instead.

How the matrix was found is in `search`, how windows are measured in `residual`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from glacierhpc.coreg.pair import AlignmentResult
from glacierhpc.coreg.residual import fitting_window_px, local_offsets, stable_residual_px
from glacierhpc.kernels.motions import shift_matrix
from glacierhpc.kernels.warp import warp

# a right alignment raises the residual by its noise, 0.1 px; wrong ones of real scenes raised it by 0.66 px and more
MAX_RESIDUAL_RISE_PX = 0.4
MAX_WINDOWS = 32  # their median has an error of 0.03 px; more would cost more time than the alignment
WINDOW_PASSES = 3  # windows that are far apart share less and see their offset a fifth too short


def confirmed(
    reference: np.ndarray,
    moving: np.ndarray,
    result: AlignmentResult,
    stable: np.ndarray | None,
    window_px: int,
    max_shift_px: float,
) -> tuple[AlignmentResult, dict[str, float]]:
    """Check a result by the residual, which knows nothing of how it was found.

    Where it leaves the ground further apart than it was, something that moved was followed (an ice front, say):
    the median offset of the windows takes its place, which few windows that moved cannot pull, and where that
    is no better, or further than `max_shift_px`, the scene is refused. Windows that had an offset before and
    have none after count as further apart. Where no residual can be measured before, the correlation decides.
    """
    usable = np.isfinite(reference) & np.isfinite(moving)
    window_px = fitting_window_px(usable if stable is None else usable & stable, window_px)

    def offsets(image: np.ndarray) -> np.ndarray:
        return local_offsets(reference, image, window_px=window_px, stable=stable, most=MAX_WINDOWS)

    def residual_of(matrix: np.ndarray) -> float:
        # moving a scene costs windows at its rim: what is left of them may be few, but is heard
        return stable_residual_px(offsets(warp(moving, matrix, kernel="cubic")[0]), least=1)

    unmoved = offsets(moving)
    before = stable_residual_px(unmoved)
    after = residual_of(result.matrix) if result.ok else float("nan")
    if result.ok and _rose(before, after):
        by_windows = _shifted(result, *np.median(unmoved, axis=0))
        for _ in range(WINDOW_PASSES - 1):
            left = offsets(warp(moving, by_windows.matrix, kernel="cubic")[0])
            if len(left):
                by_windows = _shifted(result, *(by_windows.matrix[:2, 2] + np.median(left, axis=0)))
        again = residual_of(by_windows.matrix)
        if not _rose(before, again) and by_windows.shift_px <= max_shift_px:
            result, after = by_windows, again
        else:
            reason = _contradiction(before, after, by_windows.shift_px, max_shift_px, stable is not None)
            result = replace(result, ok=False, reason=reason, matrix=np.full((3, 3), np.nan))
    return result, {"residual_before_px": before, "residual_px": after}


def _rose(before: float, after: float) -> bool:
    """Return whether a residual that was measured before is now higher, or can no longer be measured."""
    return bool(np.isfinite(before) and not after <= before + MAX_RESIDUAL_RISE_PX)


def _contradiction(before: float, after: float, shift_px: float, max_shift_px: float, stable: bool) -> str:
    where = "on stable ground " if stable else ""
    now = f"rose from {before:.2f} to {after:.2f} px" if np.isfinite(after) else "cannot be measured any more"
    further = shift_px > max_shift_px
    windows = f", and windows moved by {shift_px:.1f} px, over {max_shift_px:g} px" if further else ""
    return f"the residual {where}{now}{windows}"


def _shifted(result: AlignmentResult, x: float, y: float) -> AlignmentResult:
    """Return the result with another displacement in place of its matrix; its correlation is not known."""
    return replace(
        result,
        matrix=shift_matrix(x, y),
        motion="translation",
        rho=float("nan"),
        shift_px=float(np.hypot(x, y)),
        shift_col_px=float(x),
        shift_row_px=float(y),
    )
