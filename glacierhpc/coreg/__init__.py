"""Co-registration: one pair of images, a stack of them, or all scenes of a cube.

Start with `align_pair`. `align_stack` places many images at once: links to the medians of their seasons and between
scenes, one adjustment of all links, a check by small windows; `align_cube` does so for a cube on disk and resamples
every scene once, or not at all. A scene that cannot be aligned is a result with a reason, never an exception. The
arithmetic on pixels is in `glacierhpc.kernels`.
"""

from glacierhpc.coreg.aligned import scene_transform
from glacierhpc.coreg.cube import align_cube
from glacierhpc.coreg.links import Link, closure
from glacierhpc.coreg.network import Network, adjust
from glacierhpc.coreg.pair import AlignmentResult, align_pair
from glacierhpc.coreg.reference import reference_image
from glacierhpc.coreg.residual import local_offsets, stable_residual_px
from glacierhpc.coreg.stack import StackResult, align_stack

__all__ = [
    "AlignmentResult",
    "Link",
    "Network",
    "StackResult",
    "adjust",
    "align_cube",
    "align_pair",
    "align_stack",
    "closure",
    "local_offsets",
    "reference_image",
    "scene_transform",
    "stable_residual_px",
]
