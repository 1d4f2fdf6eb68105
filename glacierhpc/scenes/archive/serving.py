"""Serves an embedded archive: `rustac serve` as its STAC API, `files` for its pixels; makes no scenes."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from glacierhpc.errors import GlacierError, InputError, missing_package
from glacierhpc.scenes.archive import guard
from glacierhpc.scenes.archive.counts import ServerStatistics
from glacierhpc.scenes.archive.faults import Faults
from glacierhpc.scenes.archive.file_process import FileProcess
from glacierhpc.scenes.archive.files import CONTAINER

log = logging.getLogger(__name__)
_START_LIMIT_S = 20.0
_PORT_ATTEMPTS = 5


@dataclass(frozen=True)
class ServedArchive:
    """An archive that is being served."""

    folder: Path
    stac_url: str
    """Root of the STAC API."""
    files_url: str
    """``http://host:port/<container>``; below it lie the archive's files."""
    token_url: str
    """``{token_url}/<account>/<container>`` gives a token; any account and container will do."""
    process: FileProcess
    faults: Faults
    """What the file server does wrong at the start; `set_faults` changes from here."""

    def statistics(self) -> ServerStatistics:
        """Return what the file server was asked since its start or the last reset."""
        return self.process.statistics()

    def reset_statistics(self) -> None:
        """Start counting anew; the numbers by which faults are drawn start anew, too."""
        self.process.reset_statistics()

    def set_faults(self, **changes: Any) -> None:
        """Serve with other faults: those of the start with these changes, ``set_faults(always={"*_SR_B3.TIF":
        "html"})``.

        Without arguments the faults of the start are back.
        """
        self.process.set_faults(replace(self.faults, **changes))


@contextmanager
def serve(
    folder: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token_lifetime_s: float | None = None,
    delay_s: float = 0.0,
    bytes_per_s: float | None = None,
    fail_rate: float = 0.0,
    fail_kinds: Sequence[str] = ("503", "429", "truncate", "html", "timeout"),
    fail_first: int = 0,
    always: Mapping[str, str] | None = None,
    retry_after_s: float = 0.0,
    hang_s: float = 30.0,
    seed: int = 0,
) -> Iterator[ServedArchive]:
    """Serve an archive while the context lasts.

    The STAC API is a real one (`rustac serve`, memory backend; it searches by area, time, collection and id
    and ignores ``query`` and ``filter``). Faults and tokens concern files only. Nothing that was started
    outlives this process, even if it is killed.

    Parameters
    ----------
    folder : path
        From `create`, or any folder with ``collection.json`` and ``items/``.
    host : str
    port : int
        Of the STAC API; 0 takes a free one. The file server always takes a free one.
    token_lifetime_s : float, optional
        Demand tokens that live so long; None demands none.
    delay_s, bytes_per_s, fail_rate, fail_kinds, fail_first, always, retry_after_s, hang_s, seed
        See `Faults`.

    Yields
    ------
    ServedArchive

    Raises
    ------
    InputError
        If the folder is no archive, a fault is not known, or the port is taken.
    GlacierError
        If the STAC API does not start.
    """
    folder = Path(folder)
    if not (folder / "collection.json").is_file() or not (folder / "items").is_dir():
        raise InputError(
            f"{str(folder)!r} has no collection.json and items/, so there is nothing to serve; "
            "make an archive with: glacierhpc archive create FOLDER"
        )
    faults = Faults(
        delay_s=delay_s,
        bytes_per_s=bytes_per_s,
        fail_rate=fail_rate,
        fail_kinds=tuple(fail_kinds),
        fail_first=fail_first,
        always=dict(always or {}),
        retry_after_s=retry_after_s,
        hang_s=hang_s,
        seed=seed,
    )
    files = FileProcess(folder, host=host, token_lifetime_s=token_lifetime_s, faults=faults)
    try:
        files_url = f"{files.url}/{CONTAINER}"
        with (
            tempfile.TemporaryDirectory(prefix="glacierhpc-archive-") as scratch,
            _stac_api(_absolute(folder, files_url, Path(scratch)), host, port) as stac_url,
        ):
            yield ServedArchive(folder, stac_url, files_url, f"{files.url}/token", files, faults)
    finally:
        files.stop()


def _absolute(folder: Path, files_url: str, scratch: Path) -> list[Path]:
    """Write the archive's collection and items with hrefs that point at the file server."""
    collection = json.loads((folder / "collection.json").read_text(encoding="utf-8"))
    collection["links"] = []
    features = []
    for path in sorted((folder / "items").glob("*.json")):
        item = json.loads(path.read_text(encoding="utf-8"))
        item["links"] = []
        for asset in item["assets"].values():
            asset["href"] = urljoin(f"{files_url}/items/", asset["href"])
        features.append(item)
    if not features:
        raise InputError(f"{str(folder / 'items')!r} holds no items; make the archive again.")
    paths = [scratch / "collection.json", scratch / "items.json"]
    for path, value in zip(
        paths, (collection, {"type": "FeatureCollection", "features": features}), strict=True
    ):
        path.write_text(json.dumps(value), encoding="utf-8")
    return paths


@contextmanager
def _stac_api(documents: Sequence[Path], host: str, port: int) -> Iterator[str]:
    """Run `rustac serve` on the documents while the context lasts; yields its URL."""
    process, url = _start(documents, host, port)
    try:
        yield url
    finally:
        _stop(process)


def _start(documents: Sequence[Path], host: str, port: int) -> tuple[subprocess.Popen[bytes], str]:
    last = ""
    for _ in range(1 if port else _PORT_ATTEMPTS):
        number = port or _free_port(host)
        if port and not _is_free(host, port):
            raise InputError(f"port {port!r} of {host!r} is taken; write another port, or 0 for a free one.")
        command = [_rustac(), "serve", "--addr", f"http://{host}:{number}/", "--bind", f"{host}:{number}"]
        command += map(str, documents)
        output = documents[0].with_name("rustac.log")
        with output.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-I", str(guard.__file__), *command],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=sink,
            )
        url = f"http://{host}:{number}/"
        try:
            if _answers(process, url):
                log.debug("STAC API at %s", url)
                return process, url
        except BaseException:
            _stop(process)
            raise
        _stop(process)
        last = output.read_text(encoding="utf-8", errors="replace")[-1500:]
    raise GlacierError(
        f"the STAC API did not start with: {' '.join(command)}; its last words: {last.strip()!r}"
    )


def _rustac() -> str:
    """Return the path of the `rustac` command, that of this Python's environment first."""
    beside = shutil.which("rustac", path=sysconfig.get_path("scripts"))
    found = beside or shutil.which("rustac")
    if found is None:
        raise missing_package("rustac", "imagery")
    return found


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until the API answers; False if it ends or takes too long."""
    end = time.monotonic() + _START_LIMIT_S
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # loopback never goes through a proxy
    while time.monotonic() < end and process.poll() is None:
        try:
            with opener.open(url, timeout=2.0):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.02)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
