"""Datasets on remote files that outlive what they were opened in: GDAL must never follow a dangling address."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from glacierhpc.errors import InputError
from glacierhpc.scenes.bearer import PlainSigner
from glacierhpc.scenes.readers import ReadFailed, ReadRequest, read_with_retries
from glacierhpc.scenes.remote import vsi
from glacierhpc.scenes.remote.policy import RetryPolicy
from tests.conftest import ROOT
from tests.scenes.rasters import GRID, numbers, write_raster
from tests.scenes.remote.scripted import scripted

LATE = """
import contextlib, sys, threading, time
import rasterio
from glacierhpc.scenes.remote.files import RemoteFile
from glacierhpc.scenes.remote.policy import RetryPolicy
from glacierhpc.scenes.remote.vsi import gdal_file
from glacierhpc.scenes.bearer import PlainSigner

kept = []

def work():
    file = RemoteFile(sys.argv[1], PlainSigner(), RetryPolicy(), ends=time.monotonic() + 300)
    with rasterio.Env(), gdal_file(file) as seen:
        kept.append(rasterio.open(seen.path, sharing=False))

for _ in range(10):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
filler = [bytearray(56) for _ in range(200_000)]
while kept:
    with contextlib.suppress(Exception):  # the bridge does not know it any more
        kept.pop().close()
print("alive")
"""


def test_a_dataset_may_outlive_its_thread(tmp_path: Path) -> None:
    """In a process of its own: without the care taken, it dies of a segmentation fault."""
    content = write_raster(tmp_path / "a.tif", numbers(7)).read_bytes()
    with scripted(content) as told:
        done = subprocess.run(
            [sys.executable, "-c", LATE, told.href], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
    assert done.stdout == "alive\n", (done.returncode, done.stderr[-2000:])


@pytest.mark.parametrize("loader", ["odc", "stackstac"])
def test_a_read_leaves_nothing_open_whether_it_fails_or_not(tmp_path: Path, loader: str) -> None:
    content = write_raster(tmp_path / "a.tif", numbers(7)).read_bytes()
    policy = RetryPolicy(max_attempts=1, backoff_s=0.01, timeout_s=30.0, deadline_s=300.0)
    before = set(vsi._OPEN)
    with scripted(content) as told:
        request = ReadRequest(told.href, GRID, crs=GRID.crs, loader=loader)
        read_with_retries(request, PlainSigner(), policy)
        assert before == vsi._OPEN
    half = len(content) // 2
    with scripted(content[:half] + bytes(len(content) - half)) as told, pytest.raises(ReadFailed) as caught:
        read_with_retries(replace(request, href=told.href), PlainSigner(), policy)
    assert before == vsi._OPEN, caught  # while who caught it still looks at the error


def test_a_rasterio_without_the_bridge_is_told_with_the_one_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio._vsiopener", None)
    monkeypatch.delitem(sys.modules, "glacierhpc.scenes.remote.vsi")
    with pytest.raises(InputError, match=r"pip install 'rasterio>=1.4,<1.5'"):
        importlib.import_module("glacierhpc.scenes.remote.vsi")
