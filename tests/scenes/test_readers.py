"""When a read is tried again, with what pauses and which token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import rasterio.errors

from glacierhpc.scenes import readers
from glacierhpc.scenes.readers import ReadFailed, ReadRequest, RetryPolicy, gdal_options, read_with_retries
from tests.scenes.rasters import GRID

URL = "https://account.blob.core.windows.net/container/a.tif"


class CountingSigner:
    """Hands out a new token after each renewal; `dead` tokens count as expired."""

    def __init__(self) -> None:
        self.tokens, self.dead = 1, set()

    def sign(self, href: str) -> str:
        return f"{href}?sig={self.tokens}"

    def renew(self, href: str) -> None:
        self.tokens += 1

    def expired(self, signed: str) -> bool:
        return signed in self.dead


@pytest.fixture
def attempt(monkeypatch):
    """Read with a loader that fails as told, then succeeds; return URLs tried and pauses."""

    def run(failures: list[str], *, href: str = URL, signer: Any = None, attempts: int = 5) -> Any:
        left, tried, pauses, options = list(failures), [], [], []

        def loader(request: ReadRequest, policy: RetryPolicy) -> np.ndarray:
            tried.append(request.href)
            options.append(rasterio.env.getenv().get("CPL_VSIL_CURL_NON_CACHED"))
            if left:
                raise rasterio.errors.RasterioIOError(left.pop(0))
            return np.ones(GRID.shape, np.uint16)

        monkeypatch.setitem(readers.LOADERS, "odc", loader)
        request = ReadRequest(href, GRID)
        policy = RetryPolicy(attempts, 0.5, 60)
        result = read_with_retries(request, signer or CountingSigner(), policy, sleep=pauses.append)
        return result, tried, pauses, options

    return run


@pytest.mark.parametrize("text", ["HTTP response code: 403", "HTTP response code: 401"])
def test_a_refused_token_is_renewed(attempt, text):
    (_, attempts), tried, *_ = attempt([text])
    assert attempts == 2 and tried == [f"{URL}?sig=1", f"{URL}?sig=2"]


def test_a_number_in_a_name_refuses_nothing(attempt):
    _, tried, *_ = attempt(["'/data/403/scene_20180401_0403.tif' HTTP response code: 503"])
    assert tried == [f"{URL}?sig=1", f"{URL}?sig=1"]


def test_an_expired_token_is_recognised_by_its_date_not_by_the_message(attempt):
    signer = CountingSigner()
    signer.dead = {f"{URL}?sig=1"}
    _, tried, *_ = attempt(["Read failed. See previous exception for details."], signer=signer)
    assert tried == [f"{URL}?sig=1", f"{URL}?sig=2"]


def test_other_failures_keep_the_token_and_go_past_gdals_memory(attempt):
    _, tried, pauses, options = attempt(["HTTP response code: 503", "Read failed", "timed out"])
    assert set(tried) == {f"{URL}?sig=1"} and len(tried) == 4
    assert options == [None] + ["/vsicurl/http"] * 3
    assert all(0 <= pause <= 0.5 * 2**number for number, pause in enumerate(pauses, start=1))


def test_pauses_are_drawn_from_the_whole_range():
    policy = RetryPolicy(backoff_s=1.0)
    drawn = [readers._pause_s(policy, 3) for _ in range(400)]
    assert min(drawn) < 1 and max(drawn) > 7 and max(drawn) <= 8
    assert max(readers._pause_s(policy, 20) for _ in range(50)) <= 60


def test_what_cannot_pass_is_not_tried_again_and_again(attempt):
    with pytest.raises(ReadFailed) as caught:
        attempt(["HTTP response code: 404"] * 9)
    assert caught.value.attempts == 2 and caught.value.reason.startswith("the file is not there")
    with pytest.raises(ReadFailed) as caught:
        attempt(["Read failed"] * 9, href="/data/a.tif")
    assert caught.value.attempts == 1
    with pytest.raises(ReadFailed) as caught:
        attempt(["HTTP response code: 503"] * 9, attempts=3)
    assert caught.value.attempts == 3 and "sig=" not in caught.value.reason


def test_every_request_has_a_time_limit():
    options = gdal_options(RetryPolicy(timeout_s=7))
    assert options["GDAL_HTTP_TIMEOUT"] == "7" and options["GDAL_HTTP_CONNECTTIMEOUT"] == "7"
    assert gdal_options(RetryPolicy(timeout_s=60))["GDAL_HTTP_CONNECTTIMEOUT"] == "20"
