"""When a read by GDAL's own means is tried again, and with what pauses; over HTTP see `remote`."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import rasterio.errors

from glacierhpc.scenes import readers
from glacierhpc.scenes.archive import serve
from glacierhpc.scenes.bearer import PlainSigner
from glacierhpc.scenes.readers import ReadFailed, ReadRequest, gdal_options, read_with_retries
from glacierhpc.scenes.remote.files import pause_s
from glacierhpc.scenes.remote.policy import RetryPolicy
from tests.scenes.rasters import GRID, numbers, small_archive, write_raster

STORE = "s3://bucket/a.tif"


@pytest.fixture
def attempt(monkeypatch):
    """Read with a loader that fails as told, then succeeds; return URLs tried and pauses."""

    def run(failures: list[str], *, href: str = STORE, attempts: int = 5) -> Any:
        left, tried, pauses = list(failures), [], []

        def loader(request: ReadRequest, policy: RetryPolicy) -> np.ndarray:
            tried.append(request.href)
            if left:
                raise rasterio.errors.RasterioIOError(left.pop(0))
            return np.ones(GRID.shape, np.uint16)

        monkeypatch.setitem(readers.LOADERS, "odc", loader)
        request = ReadRequest(href, GRID)
        policy = RetryPolicy(attempts, 0.5, 60)
        result = read_with_retries(request, PlainSigner(), policy, sleep=pauses.append)
        return result, tried, pauses

    return run


def test_a_read_by_gdals_own_client_is_tried_again_after_growing_pauses(attempt):
    (_, attempts), tried, pauses = attempt(["HTTP response code: 503", "Read failed", "timed out"])
    assert attempts == 4 and tried == [STORE] * 4
    assert all(0 <= pause <= 0.5 * 2**number for number, pause in enumerate(pauses, start=1))


@pytest.mark.parametrize("way", ["/vsicurl/{url}/a.tif", "s3:/{container}/a.tif"])
def test_a_failed_open_by_gdals_own_client_poisons_nothing(tmp_path, monkeypatch, way):
    """GDAL remembers that a file was not to be had, for the life of the process."""
    small_archive(tmp_path)
    wanted = numbers(1, GRID.shape)
    write_raster(tmp_path / "a.tif", wanted)
    with serve(tmp_path, fail_first=8, fail_kinds=("503",)) as served:
        url = urlsplit(served.files_url)
        monkeypatch.setenv("AWS_S3_ENDPOINT", url.netloc)
        for name, value in {"HTTPS": "NO", "VIRTUAL_HOSTING": "FALSE", "NO_SIGN_REQUEST": "YES"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        request = ReadRequest(way.format(url=served.files_url, container=url.path), GRID)
        image, tries = read_with_retries(request, PlainSigner(), RetryPolicy(8, 0.01, 30))
    np.testing.assert_array_equal(image, wanted)
    assert tries > 1


def test_pauses_are_drawn_from_the_whole_range():
    policy = RetryPolicy(backoff_s=1.0)
    drawn = [pause_s(policy, 3) for _ in range(400)]
    assert min(drawn) < 1 and max(drawn) > 7 and max(drawn) <= 8
    assert max(pause_s(policy, 20) for _ in range(50)) <= 60


def test_what_cannot_pass_is_not_tried_again_and_again(attempt):
    with pytest.raises(ReadFailed) as caught:
        attempt(["HTTP response code: 404"] * 9)
    assert caught.value.attempts == 2 and caught.value.reason.startswith("the file is not there")
    with pytest.raises(ReadFailed) as caught:
        attempt(["Read failed"] * 9, href="/data/a.tif")
    assert caught.value.attempts == 1
    with pytest.raises(ReadFailed) as caught:
        attempt(["HTTP response code: 503"] * 9, attempts=3)
    assert caught.value.attempts == 3


def test_a_reason_does_not_name_the_file_as_gdal_does(attempt):
    with pytest.raises(ReadFailed) as caught:
        attempt(["'/vsis3/bucket/a.tif' not recognized as being in a supported file format."], attempts=1)
    assert "vsis3" not in caught.value.reason and "not an image" in caught.value.reason


def test_every_request_has_a_time_limit():
    options = gdal_options(RetryPolicy(timeout_s=7))
    assert options["GDAL_HTTP_TIMEOUT"] == "7" and options["GDAL_HTTP_CONNECTTIMEOUT"] == "7"
    assert gdal_options(RetryPolicy(timeout_s=60))["GDAL_HTTP_CONNECTTIMEOUT"] == "20"
