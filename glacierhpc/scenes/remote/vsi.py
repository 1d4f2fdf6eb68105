"""A remote file as a path that GDAL can open, through rasterio's bridge for Python files.

GDAL's own HTTP client keeps a failed open for the life of the process, knows no ``Retry-After`` and cannot sign anew
in the middle of a file; with this none of its requests ever reaches a server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import rasterio
from rasterio.env import get_gdal_config

from glacierhpc.errors import InputError
from glacierhpc.scenes.remote.files import RemoteFile

try:  # the public form, open(opener=), gives no path
    from rasterio._vsiopener import MultiByteRangeResource, _opener_registration
    from rasterio.abc import MultiByteRangeResourceContainer
except ImportError as err:
    raise InputError(
        f"rasterio {rasterio.__version__} has no bridge to GDAL that remote files can take; install one of the "
        "versions this was made for: pip install 'rasterio>=1.4,<1.5'"
    ) from err

_INSTEAD = {
    "HTTPS_PROXY": ("GDAL_HTTP_PROXY", "GDAL_HTTPS_PROXY", "GDAL_HTTP_PROXYUSERPWD", "GDAL_PROXY_AUTH"),
    "~/.netrc": ("GDAL_HTTP_USERPWD", "GDAL_HTTP_NETRC_FILE"),
    "REQUESTS_CA_BUNDLE": ("GDAL_HTTP_CAPATH", "GDAL_HTTP_UNSAFESSL"),  # rasterio itself sets GDAL_CURL_CA_BUNDLE
    "archive.timeout_s": ("GDAL_HTTP_TIMEOUT", "GDAL_HTTP_CONNECTTIMEOUT"),
    "acquire.max_attempts and acquire.backoff_s": ("GDAL_HTTP_MAX_RETRY", "GDAL_HTTP_RETRY_DELAY"),
    "hrefs that begin with /vsicurl/": (
        "GDAL_HTTP_HEADERS", "GDAL_HTTP_HEADER_FILE", "GDAL_HTTP_BEARER", "GDAL_HTTP_AUTH", "GDAL_HTTP_COOKIE",
        "GDAL_HTTP_COOKIEFILE", "GDAL_HTTP_SSLCERT", "GDAL_HTTP_SSLKEY", "GDAL_HTTP_USERAGENT",
    ),
}  # fmt: skip
"""GDAL's settings of its HTTP client, by what has their effect here."""


def ignored_settings() -> dict[str, str]:
    """Return the settings of GDAL's HTTP client that this machine makes in vain, and what to use in their place."""
    return {
        name: instead
        for instead, names in _INSTEAD.items()
        for name in names
        if get_gdal_config(name) is not None
    }


@contextmanager
def gdal_file(file: RemoteFile) -> Iterator[GdalFile]:
    """Yield what GDAL sees of a remote file, as long as the block lasts."""
    name = PurePosixPath(unquote(urlsplit(file.href).path)).name or "file"
    bridge = GdalFile(file, f"/remote/{name}")
    with _opener_registration(bridge.name, bridge) as path:
        bridge.path = path
        try:
            yield bridge
        finally:
            file.close()


_OPEN: set[_Cursor] = set()
"""Cursors that GDAL has not closed. It holds them by their bare address, and rasterio's bridge keeps them by thread: a
dataset that outlives its thread would read freed memory when it is closed. None is left after 10,000 reads, a fifth
of them failed; one that is left is small, for its file has let go of all bytes."""


class _Cursor:
    """A place in a file, as GDAL's callbacks expect it; they must never see an exception."""

    def __init__(self, bridge: GdalFile) -> None:
        self._bridge, self._at = bridge, 0
        _OPEN.add(self)

    def __enter__(self) -> _Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        """Be let go of; the file stays open for the next cursor."""
        _OPEN.discard(self)

    def read(self, count: int = -1) -> bytes:
        body = self._bridge.bytes_of([(self._at, max(count, 0))])[0]
        self._at += len(body)
        return body

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._bridge.file.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def get_byte_ranges(self, offsets: list[int], sizes: list[int]) -> list[bytes]:
        places = list(zip(map(int, offsets), map(int, sizes)))
        bodies = self._bridge.bytes_of(places)
        # what is short would be read beyond its end; the error is kept and told after the read
        return [body.ljust(size, b"\0") for body, (_, size) in zip(bodies, places)]


class GdalFile:
    """Gives GDAL the one file, and keeps what went wrong on the way."""

    def __init__(self, file: RemoteFile, name: str) -> None:
        self.file, self.name, self.path = file, name, ""
        self.problem: Exception | None = None
        """What no callback may raise: a read is good only if this is None at its end."""

    def bytes_of(self, places: list[tuple[int, int]]) -> list[bytes]:
        if self.problem is None:
            try:
                if len(places) == 1:
                    return [self.file.read(*places[0])]
                return self.file.read_many(places)
            except Exception as err:  # noqa: BLE001 - told after the read
                self.problem = err
        return [b""] * len(places)

    def open(self, path: str, mode: str = "rb", **_: object) -> _Cursor:
        if path != self.name or mode[0] != "r":
            raise FileNotFoundError(path)
        if self.problem is None:
            try:
                self.file.open()
                return _Cursor(self)
            except Exception as err:  # noqa: BLE001 - told after the read
                self.problem = err
        raise FileNotFoundError(path)

    def isfile(self, path: str) -> bool:
        return path == self.name

    def isdir(self, path: str) -> bool:
        return False

    def ls(self, path: str) -> list[str]:
        return [self.name]

    def mtime(self, path: str) -> int:
        return 0

    def size(self, path: str) -> int:
        return self.file.size

    def rm(self, path: str) -> None:
        """Nothing is ever removed."""


# the bridge looks at the class to see what a file can do
MultiByteRangeResource.register(_Cursor)
MultiByteRangeResourceContainer.register(GdalFile)
