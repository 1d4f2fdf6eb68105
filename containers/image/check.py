"""Look whether an image works: what is imported, a kernel against its known answer, nothing compiled anew.

Run by %test of deeplearning.def, and by hand: apptainer exec deeplearning.sif python /opt/glacierhpc/image/check.py;
with the word kernels behind it, no packages are imported that these do not need.
"""

from __future__ import annotations

import importlib
import sys

import numpy as np

PACKAGES = ("cv2", "dask", "distributed", "geopandas", "horovod.torch", "numba", "odc.stac", "rasterio", "stackstac",
            "tensorboard", "torch", "wandb", "xarray", "zarr")  # fmt: skip


def check_kernel() -> str:
    """Shift a plane by a known part of a pixel: bilinear interpolation gives it back exactly.

    Raises
    ------
    SystemExit
        If the answer is wrong, or the kernel was compiled although the image brings it.
    """
    from glacierhpc.kernels import warp

    y, x = np.mgrid[0:64, 0:64].astype(np.float32)
    shift = np.array([[1.0, 0.0, 0.25], [0.0, 1.0, -0.5]])
    moved, valid = warp.warp(2 * x + 3 * y, shift, kernel="linear")
    inner = (slice(8, 56), slice(8, 56))
    wrong = np.abs(moved - (2 * (x + 0.25) + 3 * (y - 0.5)))[inner].max()
    if not valid[inner].all() or wrong > 1e-4:
        raise SystemExit(f"the kernel gives a plane back {wrong} off; this image computes wrongly")
    return f"right to {wrong:.1g}"


def compiled() -> list[str]:
    """Return the kernels that this process compiled, although the image should bring them."""
    from numba.core.dispatcher import Dispatcher

    from glacierhpc import kernels

    found = []
    for name in ("warp", "pyramid", "masks", "filters"):
        module = importlib.import_module(f"{kernels.__name__}.{name}")
        for each in vars(module).values():
            if isinstance(each, Dispatcher) and each.stats.cache_misses:
                found.append(each.py_func.__qualname__)
    return found


if __name__ == "__main__":
    if sys.argv[1:] != ["kernels"]:
        for package in PACKAGES:
            importlib.import_module(package)
        sys.stdout.write(f"{len(PACKAGES)} packages are imported\n")
    sys.stdout.write(f"a kernel is {check_kernel()}\n")
    if compiled():
        raise SystemExit(f"{', '.join(compiled())} had to be compiled; the image's own were not found")
