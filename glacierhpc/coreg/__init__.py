"""Co-registration: one pair of images, or all scenes of a cube against a common reference.

Start with `align_pair`; `align_cube` applies it to a cube on disk. A scene that cannot be aligned is a
result with a reason, never an exception. The arithmetic is in `glacierhpc.kernels`.
"""

from glacierhpc.coreg.cube import align_cube
from glacierhpc.coreg.pair import AlignmentResult, align_pair
from glacierhpc.coreg.reference import reference_image
from glacierhpc.coreg.residual import local_offsets, stable_residual_px

__all__ = [
    "AlignmentResult",
    "align_cube",
    "align_pair",
    "local_offsets",
    "reference_image",
    "stable_residual_px",
]
