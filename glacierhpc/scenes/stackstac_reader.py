"""stackstac's reader of one asset, made to close what it opened; needs the optional package."""

from __future__ import annotations

from typing import Any

import numpy as np
from rasterio.windows import Window
from stackstac.rio_reader import AutoParallelRioReader


class ClosingReader(AutoParallelRioReader):  # type: ignore[misc]  # the package has no types
    """Reads one window and closes the file, also when that fails.

    stackstac's own lets go of its datasets and leaves the rest to Python, which keeps them as long as anybody looks
    at the error, and ends the process with messages about them.
    """

    def read(self, window: Window, **options: Any) -> np.ndarray:
        """Return the window's pixels; GDAL holds nothing of the file afterwards."""
        try:
            return super().read(window, **options)
        finally:
            self._close_now()

    def _close_now(self) -> None:
        opened = getattr(
            self._dataset, "_threadlocal", self._dataset
        )  # of this thread, the only one that reads
        for part in (getattr(opened, name, None) for name in ("vrt", "ds")):
            if part is not None:
                part.close()
        self.close()
