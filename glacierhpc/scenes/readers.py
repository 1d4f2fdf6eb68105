"""Reading one band of one scene onto a grid, with odc-stac or stackstac, and trying again when a server fails.

Which scenes are read and where they go is `acquire`'s business. A read error is an error here, never nodata.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import rasterio
import rasterio.errors
from odc.geo.converters import rio_geobox
from odc.geo.geobox import GeoBox
from odc.geo.overlap import compute_reproject_roi
from odc.loader import RasterLoadParams, RasterSource, RioReader
from odc.loader._rio import LocalContext, _do_read
from rasterio.enums import Resampling

from glacierhpc.errors import InputError, missing_package, redact, unknown_name
from glacierhpc.grid import Grid
from glacierhpc.scenes.collections import southern_twin
from glacierhpc.scenes.remote.faults import Fault
from glacierhpc.scenes.remote.files import RemoteFile, pause_s
from glacierhpc.scenes.remote.policy import RetryPolicy
from glacierhpc.scenes.remote.vsi import gdal_file
from glacierhpc.scenes.signing import Signer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadRequest:
    """One band of one scene on one grid."""

    href: str
    """Unsigned URL or path."""
    grid: Grid
    band_index: int = 1
    crs: str | None = None
    """The file's CRS if the catalogue states it."""
    dtype: str = "uint16"
    nodata: float | None = 0.0
    resampling: str = "bilinear"
    loader: str = "odc"


class ReadFailed(Exception):
    """An asset could not be read: the reason for a person, and how often it was tried."""

    def __init__(self, reason: str, attempts: int) -> None:
        super().__init__(reason, attempts)
        self.reason, self.attempts = reason, attempts


OWN_MEMORY = ("/vsicurl/http", "/vsis3/", "/vsigs/", "/vsiaz/", "/vsiadls/", "/vsioss/", "/vsiswift/")
"""How names begin of which GDAL remembers a failed open; a colon parts them, so none has one."""


def gdal_options(policy: RetryPolicy, *, again: bool = False) -> dict[str, Any]:
    """Return the GDAL settings for reading rasters, and those for its own network access (``s3://``, ``/vsi``).

    Parameters
    ----------
    again : bool
        For a second try: GDAL keeps one failed open, and what it got of a file, for the life of the process
        (github.com/OSGeo/gdal/issues/8922), so nothing may come from its cache.
    """
    options = {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_HTTP_MAX_RETRY": "2",
        "GDAL_HTTP_RETRY_DELAY": str(max(policy.backoff_s, 0.05)),
        "GDAL_HTTP_RETRY_CODES": "429,500,502,503,504",
        "GDAL_HTTP_TIMEOUT": str(max(1, round(policy.timeout_s))),
        "GDAL_HTTP_CONNECTTIMEOUT": str(max(1, round(min(20, policy.timeout_s)))),
        "GDAL_HTTP_MULTIRANGE": "SERIAL",  # the parallel form has no retry
        "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
        "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
        "VSI_CACHE": "TRUE",
        "VSI_CACHE_SIZE": "5000000",
        "GDAL_MAX_RAW_BLOCK_CACHE_SIZE": "67108864",  # larger windows are read tile by tile, each waited for
        "GDAL_NUM_THREADS": "1",
        "PROJ_NETWORK": "OFF",
    }
    if again:
        options["CPL_VSIL_CURL_NON_CACHED"] = ":".join(OWN_MEMORY)
    return options


def read_with_retries(
    request: ReadRequest, signer: Signer, policy: RetryPolicy, *, sleep: Callable[[float], None] = time.sleep
) -> tuple[np.ndarray, int]:
    """Read one band, signing at every request and trying again as long as it may help.

    Over HTTP a block that fails is asked for again by itself, see `remote.files`; the file is begun anew only
    where its content is at fault.

    Returns
    -------
    (y, x) array of ``request.dtype``, and the number of tries it took.

    Raises
    ------
    ReadFailed
        After the last try, or at once where another try cannot help (a missing or damaged file).
    GlacierError
        If there is no access token to be had.
    """
    ends, tries = time.monotonic() + policy.deadline_s, 0
    for attempt in range(1, policy.max_attempts + 1):
        try:
            if not request.href.startswith(("http://", "https://")):
                return _read_here(request, policy, again=attempt > 1), attempt
            file = RemoteFile(request.href, signer, policy, ends=ends, sleep=sleep)
            try:
                return _read_remote(request, file, policy), tries + 1 + file.failures
            finally:
                tries += max(1, file.failures)
        except Fault as fault:  # its block has been tried again already
            if fault.kind != "changed" or attempt == policy.max_attempts:
                raise ReadFailed(fault.reason, tries) from fault
        except (*_READ_ERRORS, OSError, RuntimeError) as err:
            text = _innermost(err)
            if attempt == policy.max_attempts or not _may_pass(request.href, text, attempt):
                raise ReadFailed(_explain(text), max(attempt, tries)) from err
            log.info("try %d of %s failed (%s)", attempt, redact(request.href), redact(text))
        if time.monotonic() > ends:
            raise ReadFailed(f"not read within {policy.deadline_s:g} s", max(attempt, tries))
        sleep(pause_s(policy, attempt))
    raise AssertionError("unreachable")


def _read_here(request: ReadRequest, policy: RetryPolicy, *, again: bool) -> np.ndarray:
    """Read by GDAL's own means: files, and the stores it has its own clients for."""
    with rasterio.Env(**gdal_options(policy, again=again)):
        return LOADERS[request.loader](request, policy)


def _read_remote(request: ReadRequest, file: RemoteFile, policy: RetryPolicy) -> np.ndarray:
    """Read a file over HTTP; what went wrong on the way is raised whatever GDAL made of it."""
    with rasterio.Env(**gdal_options(policy)), gdal_file(file) as seen:
        try:
            image = LOADERS[request.loader](replace(request, href=seen.path), policy)
        except (*_READ_ERRORS, OSError, RuntimeError) as err:
            if seen.problem is None:
                raise
            raise seen.problem from err
        if seen.problem is not None:
            raise seen.problem
        return image


def read_odc(request: ReadRequest, policy: RetryPolicy) -> np.ndarray:
    """Read through odc-stac's loader: the whole grid at once, copied where the pixels fit, else warped."""
    grid = _in_scene_hemisphere(request)
    settings = RasterLoadParams(
        dtype=request.dtype,
        fill_value=request.nodata,
        src_nodata_fallback=request.nodata,
        use_overviews=False,
        resampling=request.resampling,
        fail_on_error=True,
    )
    fill = request.nodata if request.nodata is not None else _no_value(request.dtype)
    image = np.full(grid.shape, fill, request.dtype)
    source = RasterSource(request.href, band=request.band_index)
    CheckedReader(source, LocalContext()).read(settings, grid.geobox, dst=image)
    return image


class CheckedReader(RioReader):
    """odc-stac's reader on a file that has been looked at first.

    A connection that breaks inside the header leaves a file without its place on Earth, which GDAL only warns of;
    odc-stac then finds no overlap and returns nodata. Met with `archive serve` cutting answers short.
    """

    def read(
        self,
        cfg: RasterLoadParams,
        dst_geobox: GeoBox,
        *,
        dst: np.ndarray | None = None,
        selection: Any = None,
    ) -> tuple[tuple[slice, slice], np.ndarray]:
        """Read onto a grid; raise `OSError` where the file does not say where it lies."""
        with rasterio.open(self._src.uri, sharing=False) as source:
            refuse_without_place(source)
            if self._src.band > source.count:
                raise OSError(f"band index {self._src.band} of a file of {source.count}")
            # the tolerance in pixels below which a shift is no reason to resample: odc-stac's own two values
            overlap = compute_reproject_roi(rio_geobox(source), dst_geobox, ttol=0.9 if cfg.nearest else 0.05)
            return _do_read(rasterio.band(source, self._src.band), cfg, dst_geobox, overlap, dst=dst)


def refuse_without_place(source: rasterio.DatasetReader) -> None:
    """Raise OSError for a file without CRS or transform."""
    if source.crs is None or source.transform.is_identity:
        raise OSError("the header was cut short or has no CRS and transform")


def read_stackstac(request: ReadRequest, policy: RetryPolicy) -> np.ndarray:
    """Read through stackstac, which knows single-band files and CRSs with an EPSG code."""
    try:
        import stackstac
        from stackstac.rio_reader import DEFAULT_GDAL_ENV

        from glacierhpc.scenes.stackstac_reader import ClosingReader
    except ImportError as err:
        raise missing_package("stackstac", "imagery") from err
    if request.band_index != 1:
        raise InputError(
            f"{redact(request.href)!r} holds several bands in one file, which stackstac cannot read; "
            "write acquire.loader: odc"
        )
    grid = _in_scene_hemisphere(request)
    left, bottom, right, top = grid.bounds
    fill = request.nodata if request.nodata is not None else _no_value(request.dtype)
    stack = stackstac.stack(
        [_minimal_item(request, grid)],
        assets=["band"],
        epsg=_epsg(grid.crs),
        resolution=(abs(grid.transform[0]), abs(grid.transform[4])),
        bounds=(left, bottom, right, top),
        snap_bounds=False,
        resampling=Resampling[request.resampling],
        chunksize=max(grid.shape),
        dtype=np.dtype(request.dtype),
        fill_value=np.dtype(request.dtype).type(fill),
        rescale=False,
        xy_coords=False,
        properties=False,
        band_coords=False,
        gdal_env=DEFAULT_GDAL_ENV.updated(always=gdal_options(policy)),
        errors_as_nodata=(),
        reader=ClosingReader,
    )
    with rasterio.open(request.href) as source:
        refuse_without_place(source)
    return np.asarray(stack.data[0, 0].compute(scheduler="synchronous"))


Loader = Callable[[ReadRequest, RetryPolicy], np.ndarray]
LOADERS: dict[str, Loader] = {"odc": read_odc, "stackstac": read_stackstac}


def check_loader(name: str) -> None:
    """Raise InputError for a loader that does not exist."""
    if name not in LOADERS:
        raise unknown_name("acquire.loader", name, LOADERS)


def _in_scene_hemisphere(request: ReadRequest) -> Grid:
    """The grid in the scene's own UTM hemisphere, where it is the same zone: then pixels are copied."""
    shift = southern_twin(request.crs, request.grid.crs) if request.crs else None
    if not shift:
        return request.grid
    a, b, c, d, e, f = request.grid.transform
    return Grid(str(request.crs), (a, b, c, d, e, f + shift), request.grid.shape)


def _no_value(dtype: str) -> float:
    return float("nan") if np.dtype(dtype).kind == "f" else 0.0


def _minimal_item(request: ReadRequest, grid: Grid) -> dict[str, Any]:
    """What stackstac needs to know of a scene: it reads ``proj:epsg`` only, not STAC 1.1's ``proj:code``."""
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "scene",
        "bbox": list(grid.bounds_lonlat()),
        "geometry": None,
        "properties": {"datetime": "2000-01-01T00:00:00Z", "proj:epsg": _epsg(grid.crs)},
        "assets": {"band": {"href": request.href, "type": "image/tiff"}},
        "links": [],
    }


def _epsg(crs: str) -> int:
    found = re.fullmatch(r"EPSG:(\d+)", crs.upper())
    if not found:
        raise InputError(
            f"the grid's CRS {crs!r} has no EPSG code, which stackstac needs; write acquire.loader: odc"
        )
    return int(found[1])


def _innermost(err: BaseException) -> str:
    """The first cause in the chain: rasterio and stackstac wrap what GDAL said."""
    while err.__cause__ is not None:
        err = err.__cause__
    return str(err)


# a file that opens without its place is a warning by default, an error under -W error
_READ_ERRORS = (rasterio.errors.RasterioError, rasterio.errors.NotGeoreferencedWarning)
_PERMANENT = re.compile(
    r"HTTP response code: (400|404|405|410|416)|No such file|does not exist|Permission denied|band index"
)


def _may_pass(href: str, text: str, attempt: int) -> bool:
    """Servers recover from anything but a missing file; a local file never changes its mind.

    A missing file is asked for once more, past GDAL's memory of it, which may be older than the file.
    """
    if not href.startswith(("http://", "https://", "s3://", "/vsi")):
        return False
    return attempt == 1 or not _PERMANENT.search(text)


_REASONS: Mapping[str, str] = {
    r"HTTP response code: 404|No such file|does not exist": "the file is not there",
    r"(?:response|error) code ?: ?40[13]\b": "access refused; check archive.signing",
    r"HTTP response code: 429": "the server asks to slow down (HTTP 429); lower acquire.read_threads",
    r"HTTP response code: (5\d\d)": "the server failed",
    r"imed out|imeout": "no answer in time; raise archive.timeout_s",
    r"not recognized as being in a supported file format|not a TIFF|not recognized": (
        "what came is not an image (an error page, or a damaged file)"
    ),
    r"Read failed|no geotransform|cut short|TIFFRead|[Dd]ecod|Zip|expected|truncat|Got \d+ bytes": (
        "the file is damaged or was cut short"
    ),
    r"Could not resolve|Connection refused|Couldn't connect|curl": "no connection to the server",
}


def _explain(text: str) -> str:
    said = redact(_PLACES.sub("", text)).strip().splitlines()[0][:160] if text.strip() else "no message"
    for pattern, reason in _REASONS.items():
        if re.search(pattern, text):
            return f"{reason} [{said}]"
    return said


_PLACES = re.compile(r"'?/vsi\w+/\S*?(?=[':,]|\s|$)'?:? ?")
"""The path that GDAL knows a remote file by: of no use to a person, and other for every file."""
